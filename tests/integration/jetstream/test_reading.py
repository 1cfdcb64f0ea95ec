"""How a reader goes on from pull to pull, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import nats as nats_py
import pytest

from streams.connectors.jetstream import reader as reading
from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.reader import JetStreamReader, Partition
from streams.core.log import TopicSpec
from streams.core.record import START, Fetched, TopicPartition
from streams.errors import LogCorrupt, PositionLost
from streams.testing.log_scenarios import append, fetch
from tests.brokers.nats.server import NatsServer

PATIENCE_S = 60.0


def play(scene: Callable[[JetStreamLog], Awaitable[None]], url: str) -> None:
    async def run() -> None:
        log = JetStreamLog(url)
        await log.open()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await scene(log)
        finally:
            await log.close()

    asyncio.run(run())


@pytest.mark.parametrize("size", [10, 3000])
def test_one_consumer_serves_from_pull_to_pull_whether_they_end_by_number_or_by_bytes(
    nats: NatsServer, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(reading, "PULL_RECORDS", 10)
    monkeypatch.setattr(reading, "PULL_BYTES", 20_000)
    at = TopicPartition(unique("pulls"), 0)

    async def scene(log: JetStreamLog) -> None:
        await log.create_topics([TopicSpec(at.topic)])
        values = [b"%d" % number + bytes(size) for number in range(300)]
        await log.append([append(at, *values)])
        reader = log.reader({at: START})
        seen: list[bytes | None] = []
        consumers = set()
        while len(seen) < len(values):
            for batch in await fetch(reader, at):
                seen += batch.records.values
            consumers.add(reader._partitions[at].consumer)
        assert seen == values
        assert len(consumers) == 1, "it was made anew"
        await reader.close()

    play(scene, nats.url)


def test_what_arrives_while_gaps_are_looked_into_is_handed_out_only_when_it_was_looked_into_as_well(
    nats: NatsServer, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = TopicPartition(unique("gaps"), 0)
    keep_up = JetStreamReader._keep_up

    async def slowly(reader: JetStreamReader, each: Partition) -> Fetched | None:
        """The messages behind the gap come now, and not before."""
        while not each.waiting:
            await reader._pull(each)
            reader._arrived.clear()
            await reader._arrived.wait()
        return await keep_up(reader, each)

    async def scene(log: JetStreamLog) -> None:
        await log.create_topics([TopicSpec(at.topic)])
        await log.append([append(at, b"0")])
        reader = log.reader({at: START})
        assert [batch.records.values for batch in await fetch(reader, at)] == [[b"0"]]
        await reader._drop(reader._partitions[at])
        await log.append([append(at, b"1", b"2", b"3")])
        await reader._open(reader._partitions[at])  # a new consumer, with no pull under way: it has nothing yet
        await log._api.call(f"STREAM.PURGE.{at.topic}", {"seq": 4})
        monkeypatch.setattr(JetStreamReader, "_keep_up", slowly)
        with pytest.raises(PositionLost) as lost:
            await fetch(reader, at)
        assert (lost.value.position, lost.value.first) == (2, 4)
        await reader.close()

    play(scene, nats.url)


async def read_on(reader: JetStreamReader, at: TopicPartition) -> None:
    while True:
        await reader.fetch([at], max_records=100, wait_s=0.2)


@pytest.mark.parametrize("partitions", [1, 2])
def test_what_was_purged_unread_is_reported_though_nothing_comes_after_it(
    nats: NatsServer, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, partitions: int
) -> None:
    """With a second partition the stream's first record is one of others: it doesn't show what is gone."""
    monkeypatch.setattr(reading, "LOOK_S", 0.1)
    at = TopicPartition(unique("purged"), 0)

    async def scene(log: JetStreamLog) -> None:
        await log.create_topics([TopicSpec(at.topic, partitions)])
        if partitions > 1:
            await log.append([append(TopicPartition(at.topic, 1), b"theirs")])
        for _ in range(4):
            await log.append([append(at, *[bytes(10)] * 800)])
        reader = log.reader({at: START})
        assert await fetch(reader, at, max_records=100)
        await log._api.purge(at.topic, f"{at.topic}.0")
        with pytest.raises(PositionLost) as lost:
            await read_on(reader, at)
        assert (lost.value.topic, lost.value.partition) == at
        assert lost.value.position < lost.value.first
        await reader.close()

    play(scene, nats.url)


def test_what_came_and_went_while_nobody_asked_is_reported(
    nats: NatsServer, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a task stands still for longer than a request of its reader lasts."""
    monkeypatch.setattr(reading, "LOOK_S", 0.1)
    monkeypatch.setattr(reading, "EXPIRES_S", 1.5)
    monkeypatch.setattr(reading, "HEARTBEAT_S", 0.5)
    at = TopicPartition(unique("asleep"), 0)

    async def scene(log: JetStreamLog) -> None:
        await log.create_topics([TopicSpec(at.topic)])
        await log.append([append(at, b"1")])
        reader = log.reader({at: START})
        assert await fetch(reader, at)
        each = reader._partitions[at]
        while each.asked:  # noqa: ASYNC110 - an answer of the server counts it down
            await asyncio.sleep(0.05)
        await log.append([append(at, b"2")])
        await log._api.purge(at.topic, f"{at.topic}.0")
        with pytest.raises(PositionLost) as lost:
            await read_on(reader, at)
        assert (lost.value.position, lost.value.first) == (2, 3)
        await reader.close()

    play(scene, nats.url)


def test_a_request_that_is_about_to_end_is_followed_by_the_next_one(
    nats: NatsServer, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what comes in between might be gone unseen, and a partition that is quiet couldn't be told from it."""
    monkeypatch.setattr(reading, "EXPIRES_S", 1.5)
    monkeypatch.setattr(reading, "HEARTBEAT_S", 0.5)
    at = TopicPartition(unique("awake"), 0)

    async def scene(log: JetStreamLog) -> None:
        await log.create_topics([TopicSpec(at.topic)])
        reader = log.reader({at: START})
        loop = asyncio.get_running_loop()
        assert await reader.fetch([at], max_records=1, wait_s=0.2) == []
        each, over = reader._partitions[at], loop.time() + 4
        while loop.time() < over:
            assert await reader.fetch([at], max_records=1, wait_s=0.05) == []
            assert each.asked
            assert not each.unasked
        await reader.close()

    play(scene, nats.url)


@pytest.mark.parametrize(
    "headers",
    [{"Streams-Time": "abc"}, {"Streams-Time": "9" * 30}, {"Streams-Packed": "AAAA"}, {"Streams-Packed": "a"}],
)
def test_a_header_that_doesn_t_read_is_an_error_that_names_the_message(
    nats: NatsServer, unique: Callable[[str], str], headers: dict[str, str]
) -> None:
    at = TopicPartition(unique("poison"), 0)

    async def scene(log: JetStreamLog) -> None:
        await log.create_topics([TopicSpec(at.topic)])
        client = await nats_py.connect(nats.url)
        stream = client.jetstream(timeout=30)
        await stream.publish(f"{at.topic}.0", b"1")
        await stream.publish(f"{at.topic}.0", b"2", headers=headers)
        await client.close()
        reader = log.reader({at: START})
        for _ in range(2):  # it isn't passed over when it is read once more
            with pytest.raises(
                LogCorrupt, match=rf"{at.topic}\[0\], message 2: .*Streams-.*nats stream rmm {at.topic} 2"
            ):
                await fetch(reader, at)
        await reader.close()
        await log._api.call(f"STREAM.MSG.DELETE.{at.topic}", {"seq": 2})
        reader = log.reader({at: START})
        assert [batch.records.values for batch in await fetch(reader, at)] == [[b"1"]]
        await reader.close()

    play(scene, nats.url)
