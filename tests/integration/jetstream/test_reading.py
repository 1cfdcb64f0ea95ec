"""How a reader goes on from pull to pull, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from streams.connectors.jetstream import reader as reading
from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.reader import JetStreamReader, Partition
from streams.core.log import TopicSpec
from streams.core.record import START, Fetched, TopicPartition
from streams.errors import PositionLost
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
