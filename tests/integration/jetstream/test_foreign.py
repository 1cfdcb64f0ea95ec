"""Streams of others as source and target of apps on another log: the contracts, and what is special of such streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import nats
import pytest
from nats.js import JetStreamContext

from streams.connectors.jetstream import foreign_reader, foreign_sink
from streams.connectors.jetstream.foreign import ForeignJetStream
from streams.connectors.jetstream.foreign_burst import send
from streams.connectors.jetstream.foreign_reader import ForeignReader
from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.log_sink import sink_on
from streams.core.capability import Guarantee, derive_sink, derive_source
from streams.core.log import Append, Reader, Sink, Source, TopicSpec
from streams.core.record import Fetched, Position, Records, TopicPartition
from streams.errors import ConfigurationError, Fenced, LogUnavailable, PositionLost, TopicRecreated
from streams.testing.log_scenarios import task_ref
from streams.testing.sink_contract import ALERTS, Read, SinkContract
from streams.testing.source_contract import Feed, SourceContract, batches, rows, values
from tests.brokers.nats.server import NatsServer

PATIENCE_S = 60.0


@asynccontextmanager
async def server_of(server: NatsServer) -> AsyncGenerator[JetStreamContext]:
    """nats-py, as anybody uses it.

    Each test has a server of its own: one (2.15) that makes a stream under the name of one that was just deleted may
    give it that one's messages.
    """
    client = await nats.connect(server.url)
    try:
        yield client.jetstream(timeout=30)
    finally:
        await client.close()


@asynccontextmanager
async def foreign(
    server: NatsServer, settings: str = "", scheme: str = "jetstream"
) -> AsyncGenerator[ForeignJetStream]:
    log = ForeignJetStream(f"{scheme}://{server.url.removeprefix('nats://')}{settings}")
    await log.open()
    try:
        yield log
    finally:
        await log.close()


async def create(stream: JetStreamContext, name: str, *subjects: str, **config: Any) -> None:
    """As ``add_stream``, for settings that nats-py doesn't know as well."""
    request = {"name": name, "subjects": list(subjects), "storage": "file", **config}
    answer = await stream._nc.request(f"$JS.API.STREAM.CREATE.{name}", json.dumps(request).encode(), timeout=30)
    assert "error" not in json.loads(answer.data), answer.data


async def held(stream: JetStreamContext, name: str) -> list[Any]:
    """Every message of a stream, in order."""
    last = (await stream.stream_info(name)).state
    found = []
    for seq in range(max(1, last.first_seq), last.last_seq + 1):
        try:
            found.append(await stream.get_msg(name, seq))
        except nats.js.errors.NotFoundError:
            continue
    return found


def alerts(*pairs: tuple[bytes, bytes | None]) -> list[Append]:
    keys, given = [key for key, _ in pairs], [value for _, value in pairs]
    return [Append(ALERTS, Records(list(keys), list(given), [1000] * len(pairs)))]


@pytest.fixture(autouse=True)
def _on_server(request: pytest.FixtureRequest, nats_own: NatsServer) -> None:
    if request.instance is not None:
        request.instance.server = nats_own


@pytest.fixture
def batches_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is on several servers."""
    monkeypatch.setattr(foreign_sink, "in_batches", lambda config: bool(config.get("allow_atomic")))


# ── the contracts ───────────────────────────────────────────────────────────────────────────────────────────────────


class TestAnExistingStreamAsSource(SourceContract):
    server: NatsServer

    @asynccontextmanager
    async def sources(self) -> AsyncGenerator[tuple[Source, Feed]]:
        async with server_of(self.server) as stream, foreign(self.server, "?subjects=r.0.*,r.1.>") as log:
            await create(stream, "readings", "r.>")

            async def feed(partition: int, fed: list[bytes]) -> None:
                for value in fed:
                    await stream.publish("r.other", b"none of ours")
                    await stream.publish(f"r.{partition}.x", value)

            yield log, feed


class TestATopicOfAnotherAppAsSource(SourceContract):
    server: NatsServer

    @asynccontextmanager
    async def sources(self) -> AsyncGenerator[tuple[Source, Feed]]:
        async with server_of(self.server):
            log = JetStreamLog(self.server.url)
            await log.open()
            await log.create_topics([TopicSpec("readings", partitions=2)])

            async def feed(partition: int, fed: list[bytes]) -> None:
                at = TopicPartition("readings", partition)
                await log.append([Append(at, Records([b"key"] * len(fed), list(fed), [1000] * len(fed)))])

            async with foreign(self.server) as source:
                yield source, feed
            await log.close()


class TargetContract(SinkContract):
    server: NatsServer
    config: ClassVar[dict[str, Any]] = {}

    @asynccontextmanager
    async def sinks(self) -> AsyncGenerator[tuple[Sink, Read]]:
        async with server_of(self.server) as stream, foreign(self.server) as log:
            await create(stream, "alerts", "a", **self.config)
            await log.create_topics([TopicSpec("alerts")])

            async def read() -> list[bytes | None]:
                return [message.data for message in await held(stream, "alerts")]

            yield sink_on(log, "alerts"), read


class TestAnExistingStreamAsTarget(TargetContract): ...


@pytest.mark.usefixtures("batches_everywhere")
class TestAStreamThatAllowsAtomicBatchesAsTarget(TargetContract):
    config: ClassVar[dict[str, Any]] = {"allow_atomic": True}


class TestATopicOfOursOnAnotherServerAsTarget(SinkContract):
    server: NatsServer

    @asynccontextmanager
    async def sinks(self) -> AsyncGenerator[tuple[Sink, Read]]:
        async with server_of(self.server), foreign(self.server) as log:
            await log.create_topics([TopicSpec("alerts")])

            async def read() -> list[bytes | None]:
                return await values(log, ALERTS)

            yield sink_on(log, "alerts"), read


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

ORDERS = TopicPartition("orders", 0)


def run(server: NatsServer, scenario: Any, settings: str = "", scheme: str = "jetstream") -> None:
    async def opened() -> None:
        async with server_of(server) as stream, foreign(server, settings, scheme) as log:
            await scenario(stream, log)

    asyncio.run(opened())


async def until_it_fails(reader: Reader) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await reader.fetch([ORDERS], max_records=10, wait_s=1)


def headers_of(batch: Fetched, row: int) -> dict[str, bytes]:
    assert batch.records.headers is not None
    return dict(batch.records.headers[row] or ())


def test_a_message_brings_its_subject_its_sequence_and_its_headers(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>")
        await stream.publish("orders.7.created", b"1", headers={"Nats-Msg-Id": "m", "X-Trace": "t"})
        await stream.publish("orders.7.removed", b"2")
        await stream.publish("orders.8.created", b"3", headers={"Streams-Key": "eight", "Streams-Time": "5"})
        (batch,) = await batches(log, ORDERS)
        assert batch.records.keys == [b"orders.7.created", b"eight"]
        assert batch.records.values == [b"1", b"3"]
        assert batch.records.timestamps[0] > 1_000_000_000_000
        assert batch.records.timestamps[1] == 5
        assert headers_of(batch, 0) == {
            "Nats-Subject": b"orders.7.created",
            "Nats-Sequence": b"1",
            "Nats-Msg-Id": b"m",
            "X-Trace": b"t",
        }
        assert headers_of(batch, 1) == {"Nats-Subject": b"orders.8.created", "Nats-Sequence": b"3"}
        assert derive_source(log.capabilities).guarantee is Guarantee.EXACTLY_ONCE

    run(nats_own, scenario, "?subjects=orders.*.created")


def test_a_subject_need_not_be_the_key(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>")
        await stream.publish("orders.7", b"1")
        assert (await batches(log, ORDERS))[0].records.keys == [None]

    run(nats_own, scenario, "?key=none")


def test_reading_can_begin_with_the_last_message_of_each_subject(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>")
        for number in range(6):
            await stream.publish(f"orders.{number % 2}", b"%d" % number)
        await stream.publish("orders.9", b"9")
        found = await batches(log, ORDERS)
        assert [value for _, value in rows(found)] == [b"4", b"5", b"9"]
        # From there on everything is read.
        end = (await log.bounds([ORDERS]))[ORDERS].end
        for number in range(4):
            await stream.publish("orders.0", b"more %d" % number)
        assert [value for _, value in rows(await batches(log, ORDERS, end))] == [b"more %d" % n for n in range(4)]

    run(nats_own, scenario, "?start=last_per_subject")


def test_what_was_purged_unread_is_reported_and_what_others_wrote_isn_t(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>")
        for number in range(10):
            await stream.publish("orders.ours" if number % 3 == 0 else "orders.theirs", b"%d" % number)
        await stream.purge_stream("orders", subject="orders.theirs")
        assert [value for _, value in rows(await batches(log, ORDERS))] == [b"0", b"3", b"6", b"9"]
        await stream.purge_stream("orders", seq=5)
        with pytest.raises(PositionLost) as lost:
            await batches(log, ORDERS, Position.at(2))
        assert (lost.value.position, lost.value.first) == (2, 7)

    run(nats_own, scenario, "?subjects=orders.ours")


def test_a_stream_that_keeps_so_many_of_each_subject_has_holes_and_nothing_is_lost(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>", max_msgs_per_subject=1)
        for number in range(10):
            await stream.publish(f"orders.{number % 3}", b"%d" % number)
        assert (await stream.stream_info("orders")).state.first_seq == 8
        assert [value for _, value in rows(await batches(log, ORDERS, Position.at(2)))] == [b"7", b"8", b"9"]

    run(nats_own, scenario)


def test_retention_that_overtakes_a_reader_is_reported_by_it(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>")
        await stream.publish("orders.1", b"1")
        reader = log.reader({ORDERS: Position()})
        (first,) = await reader.fetch([ORDERS], max_records=1, wait_s=PATIENCE_S)
        assert first.records.values == [b"1"]
        await reader._drop(reader._partitions[ORDERS])  # type: ignore[attr-defined]  # its connection is lost
        await stream.publish("orders.2", b"2")
        await stream.publish("orders.3", b"3")
        await stream.purge_stream("orders", seq=3)
        with pytest.raises(PositionLost):
            await until_it_fails(reader)
        await reader.close()

    run(nats_own, scenario)


@pytest.mark.parametrize("filtered", [False, True])
def test_what_was_purged_unread_is_reported_though_nothing_comes_after_it(
    nats_own: NatsServer, monkeypatch: pytest.MonkeyPatch, filtered: bool
) -> None:
    monkeypatch.setattr(foreign_reader, "LOOK_S", 0.1)

    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>")
        if filtered:
            await stream.publish("orders.theirs", b"0")
        told = [await stream.publish_async("orders.ours", bytes(10)) for _ in range(3_000)]
        await asyncio.gather(*told)
        reader = log.reader({ORDERS: Position()})
        assert await reader.fetch([ORDERS], max_records=10, wait_s=PATIENCE_S)
        await stream.purge_stream("orders", subject="orders.ours")
        with pytest.raises(PositionLost) as lost:
            await until_it_fails(reader)
        assert lost.value.position < lost.value.first
        await reader.close()

    run(nats_own, scenario, "?subjects=orders.ours" if filtered else "")


def test_a_quiet_subject_is_not_taken_for_lost_when_limits_remove_what_others_write(
    nats_own: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_reader, "LOOK_S", 0.1)

    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>", max_msgs=3)
        await stream.publish("orders.ours", b"1")
        reader = log.reader({ORDERS: Position()})
        assert await reader.fetch([ORDERS], max_records=10, wait_s=PATIENCE_S)
        for _ in range(5):
            for number in range(10):
                await stream.publish("orders.theirs", b"%d" % number)
            moved: list[Fetched] = []
            while not moved:
                moved = list(await reader.fetch([ORDERS], max_records=10, wait_s=1))
            assert [len(batch) for batch in moved] == [0]
        await stream.publish("orders.ours", b"2")
        found: list[bytes | None] = []
        while not found:
            for batch in await reader.fetch([ORDERS], max_records=10, wait_s=1):
                found += batch.records.values
        assert found == [b"2"]
        await reader.close()

    run(nats_own, scenario, "?subjects=orders.ours")


def test_a_bucket_whose_values_went_unread_has_holes_and_nothing_is_lost(
    nats_own: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_reader, "LOOK_S", 0.1)

    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>", max_msgs_per_subject=1)
        told = [await stream.publish_async(f"orders.{number}", bytes(10)) for number in range(3_000)]
        await asyncio.gather(*told)
        reader = log.reader({ORDERS: Position()})
        assert await reader.fetch([ORDERS], max_records=10, wait_s=PATIENCE_S)
        await stream.purge_stream("orders")
        reached = 0
        while reached <= 3_000:
            for batch in await reader.fetch([ORDERS], max_records=1000, wait_s=1):
                reached = batch.next_offset
        await reader.close()

    run(nats_own, scenario)


def test_a_stream_that_was_made_anew_is_another_one(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>")
        await stream.publish("orders.1", b"1")
        identity = (await log.topics(["orders"]))["orders"].identity
        reader = log.reader({ORDERS: Position()})
        assert len(await reader.fetch([ORDERS], max_records=1, wait_s=PATIENCE_S)) == 1
        await stream.delete_stream("orders")
        await create(stream, "orders", "orders.>", storage="memory")
        assert (await log.topics(["orders"]))["orders"].identity != identity
        with pytest.raises(TopicRecreated):
            await until_it_fails(reader)
        await reader.close()

    run(nats_own, scenario)


def test_the_position_of_a_quiet_subject_moves_along_with_the_stream(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>")
        await stream.publish("orders.ours", b"1")
        for number in range(20):
            await stream.publish("orders.theirs", b"%d" % number)
        found = await batches(log, ORDERS)
        assert [value for _, value in rows(found)] == [b"1"]
        assert found[-1].next_offset == 22

    run(nats_own, scenario, "?subjects=orders.ours")


def test_a_position_doesn_t_move_over_what_the_consumer_hasn_t_got_yet(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>")
        await stream.publish("orders.theirs", b"0")
        reader = log.reader({ORDERS: Position()})
        assert isinstance(reader, ForeignReader)
        (passed,) = await reader.fetch([ORDERS], max_records=10, wait_s=PATIENCE_S)
        assert (len(passed), passed.next_offset) == (0, 2)
        await reader._drop(reader._partitions[ORDERS])

        async def held_up(each: object) -> None:
            """As on a server that is behind the stream's leader."""

        with patch.object(reader, "_pull", held_up):
            await reader.fetch([ORDERS], max_records=10, wait_s=0)
            await stream.publish("orders.ours", b"1")
            await stream.publish("orders.theirs", b"2")
            reader._partitions[ORDERS].end = 4
            assert await reader.fetch([ORDERS], max_records=10, wait_s=0) == []
        reader._partitions[ORDERS].asked = 0
        found: list[bytes | None] = []
        async with asyncio.timeout(PATIENCE_S):
            while not found:
                found = [
                    value
                    for batch in await reader.fetch([ORDERS], max_records=10, wait_s=1)
                    for value in batch.records.values
                ]
        assert found == [b"1"]
        await reader.close()

    run(nats_own, scenario, "?subjects=orders.ours")


@pytest.mark.parametrize(
    ("settings", "config", "words"),
    [
        ("", {"retention": "workqueue"}, "has the retention 'workqueue': a message goes once others have acknowledged"),
        ("", {"retention": "interest"}, "has the retention 'interest'"),
        ("?subjects=bills.*", {}, "stream orders has no subject 'bills.\\*'; it has orders.>"),
    ],
)
def test_a_stream_that_can_t_be_read_as_asked_is_refused(
    nats_own: NatsServer, settings: str, config: dict[str, Any], words: str
) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "orders", "orders.>", **config)
        with pytest.raises(ConfigurationError, match=words):
            await log.bounds([ORDERS])

    run(nats_own, scenario, settings)


# ── delivering ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def fed(log: ForeignJetStream, number: int = 0) -> Any:
    await log.create_topics([TopicSpec("alerts")])
    return await sink_on(log, "alerts").fence(task_ref(number))


def test_the_subject_is_made_of_the_key(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "alerts", "alerts.>")
        writer = await fed(log)
        await writer.deliver(alerts((b"a b", b"1"), (b"c.d", None)), b"p")
        one, other = await held(stream, "alerts")
        assert (one.subject, one.data, one.headers["Streams-Key"]) == ("alerts.a=20b", b"1", "a b")
        assert (other.subject, other.data, "Streams-Tombstone" in other.headers) == ("alerts.c.d", None, True)
        assert derive_sink(sink_on(log, "alerts").capabilities).guarantee is Guarantee.EXACTLY_ONCE

    run(nats_own, scenario, "?subject=alerts.{key}")


def test_a_stream_with_several_subjects_asks_which_one_is_meant(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "alerts", "alerts.>")
        with pytest.raises(ConfigurationError, match=r"takes alerts.>; say which one .*\?subject=alerts.\{key\}"):
            await log.create_topics([TopicSpec("alerts")])

    run(nats_own, scenario)


@pytest.mark.usefixtures("batches_everywhere")
@pytest.mark.parametrize("config", [{}, {"allow_atomic": True}], ids=["chained", "batches"])
def test_others_may_write_to_the_same_stream_at_the_same_time(nats_own: NatsServer, config: dict[str, Any]) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "alerts", "a", "b", **config)
        stop = asyncio.Event()

        async def others() -> int:
            count = 0
            while not stop.is_set():
                await stream.publish("b", b"%d" % count)
                count += 1
                await asyncio.sleep(0.004)  # who never pauses leaves no room: docs/nats.md
            return count

        writing = asyncio.ensure_future(others())

        async def ours(task: int) -> None:
            writer = await fed(log, task)
            for start in range(0, 400, 100):
                pairs = [(b"%d" % task, b"%d" % number) for number in range(start, start + 100)]
                await writer.deliver(alerts(*pairs), b"%d" % start)
            await writer.close()

        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(ours(0), ours(1))
        stop.set()
        theirs = await writing
        found = await held(stream, "alerts")
        for task in (b"0", b"1"):
            ours_there = [m.data for m in found if (m.headers or {}).get("Streams-Key", "").encode() == task]
            assert ours_there == [b"%d" % number for number in range(400)]
        assert len([m for m in found if m.subject == "b"]) == theirs

    run(nats_own, scenario, "?subject=a")


def test_others_who_write_without_a_pause_are_told_of_and_nothing_is_lost(
    nats_own: NatsServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.connectors.jetstream.foreign_sink.CROWDED_TURNS", 3)

    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "alerts", "a", "b")

        async def others() -> None:
            while "without a pause" not in caplog.text:
                await stream.publish("b", b"x")

        async def ours() -> int:
            writer, count = await fed(log), 0
            while "without a pause" not in caplog.text:
                await writer.deliver(alerts((b"k", b"%d" % count)), b"%d" % count)
                count += 1
            await writer.close()
            return count

        async with asyncio.timeout(PATIENCE_S):
            count, _ = await asyncio.gather(ours(), others())
        found = [m.data for m in await held(stream, "alerts") if m.subject == "a"]
        assert found == [b"%d" % number for number in range(count)]

    with caplog.at_level("WARNING", "streams"):
        run(nats_own, scenario, "?subject=a")


@pytest.mark.usefixtures("batches_everywhere")
@pytest.mark.parametrize("config", [{}, {"allow_atomic": True}], ids=["chained", "batches"])
@pytest.mark.parametrize("arrives", ["never", "before the claim", "after the claim", "in part"])
def test_a_burst_of_a_former_owner_counts_once_whenever_it_arrives(
    nats_own: NatsServer, config: dict[str, Any], arrives: str
) -> None:
    if arrives == "in part" and config:
        pytest.skip("a batch is stored as a whole")

    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "alerts", "a", **config)
        stale = await fed(log)
        await stale.deliver(alerts((b"k", b"0")), b"after 0")
        kept: list[Any] = []

        async def stand_still(*what: Any, **how: Any) -> Any:
            kept.append((what, how))
            raise LogUnavailable("stopped by the test, right before it sends")

        with patch.object(foreign_sink, "send", stand_still), pytest.raises(LogUnavailable):
            await stale.deliver(alerts(*((b"k", b"%d" % number) for number in range(1, 8))), b"after 7")

        async def arrive(messages: int | None = None) -> Any:
            ((connection, burst, name, part, where), how) = kept[0]
            return await send(connection, burst, name, part[:messages], where, **how)

        if arrives == "before the claim":
            await arrive()
        if arrives == "in part":
            await arrive(3)
        owner = await fed(log)
        assert owner.delivered == b"after 0"
        if arrives == "after the claim":
            await arrive()
        # The outbox is cut into other portions now.
        await owner.deliver(alerts((b"k", b"1"), (b"k", b"2")), b"after 2")
        if arrives == "never":
            assert (await arrive()).refused
        with pytest.raises(Fenced):
            await stale.deliver(alerts((b"k", b"9")), b"after 9")
        next_owner = await fed(log)
        assert next_owner.delivered == b"after 2"
        await next_owner.deliver(alerts(*((b"k", b"%d" % number) for number in range(3, 10))), b"after 9")
        assert [m.data for m in await held(stream, "alerts")] == [b"%d" % number for number in range(10)]

    run(nats_own, scenario)


def test_a_stream_that_is_full_is_waited_for_and_nothing_is_lost(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "alerts", "a", max_msgs=5, discard="new")
        found: list[bytes] = []
        wanted = [b"%d" % number for number in range(12)]
        while len(found) < len(wanted):
            writer = await fed(log)
            done = int(writer.delivered or b"0")
            try:
                await writer.deliver(alerts(*((b"k", value) for value in wanted[done:])), b"12")
            except LogUnavailable as error:
                assert "maximum messages exceeded" in str(error)  # noqa: PT017
            taken = await held(stream, "alerts")
            assert taken, "it got nothing in, though there was room"
            found.extend(message.data for message in taken)
            await stream.purge_stream("alerts")
        assert found == wanted

    run(nats_own, scenario)


def test_what_a_work_queue_has_handed_out_is_recognised_by_its_id(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "alerts", "a", retention="workqueue")
        writer = await fed(log)

        async def lose_the_answer(*what: Any, **how: Any) -> Any:
            await send(*what, **how)
            raise LogUnavailable("stopped by the test, before it knows")

        with patch.object(foreign_sink, "send", lose_the_answer), pytest.raises(LogUnavailable):
            await writer.deliver(alerts((b"k", b"1"), (b"k", b"2")), b"after 2")
        assert [m.data for m in await held(stream, "alerts")] == [b"1", b"2"]
        await stream.purge_stream("alerts")  # as it is when somebody has taken them
        owner = await fed(log)
        assert owner.delivered is None
        await owner.deliver(alerts((b"k", b"1"), (b"k", b"2"), (b"k", b"3")), b"after 3")
        assert [m.data for m in await held(stream, "alerts")] == [b"3"]

    run(nats_own, scenario)


def test_after_a_reset_what_is_delivered_again_isn_t_taken_for_a_repetition(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "alerts", "a")
        writer = await fed(log)
        await writer.deliver(alerts((b"k", b"1")), b"after 1")
        await log.forget([task_ref(0)])
        with pytest.raises(Fenced):
            await writer.deliver(alerts((b"k", b"2")), b"after 2")
        again = await fed(log)
        assert again.delivered is None
        await again.deliver(alerts((b"k", b"1")), b"after 1")
        assert [m.data for m in await held(stream, "alerts")] == [b"1", b"1"]

    run(nats_own, scenario)


def test_a_delivery_that_goes_on_meanwhile_is_forgotten_all_the_same(
    nats_own: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await create(stream, "alerts", "a")
        writer = await fed(log)
        await writer.deliver(alerts((b"k", b"1")), b"after 1")
        noted, late = foreign_sink._noted, [b"after 2", b"after 3"]

        async def overtaken(*of: Any) -> Any:
            known = await noted(*of)
            if late:
                await writer.deliver(alerts((b"k", late[0])), late.pop(0))
            return known

        monkeypatch.setattr(foreign_sink, "_noted", overtaken)
        await log.forget([task_ref(0)])
        assert (await fed(log)).delivered is None
        with pytest.raises(Fenced):
            await writer.deliver(alerts((b"k", b"4")), b"after 4")

    run(nats_own, scenario)


def test_a_stream_that_isn_t_there_becomes_a_topic_unless_more_is_said_of_it(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        await log.create_topics([TopicSpec("fresh", partitions=3)])
        assert (await stream.stream_info("fresh")).config.subjects == ["fresh.*"]
        assert (await log.topics(["fresh"]))["fresh"].spec.partitions == 3
        async with foreign(nats_own, "?subject=a.{key}") as other:
            with pytest.raises(ConfigurationError, match="there is no stream 'alerts'; create it first"):
                await other.create_topics([TopicSpec("alerts")])

    run(nats_own, scenario)


def test_the_permissions_that_the_documentation_names_are_enough(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "nats.md").read_text()
    section = text[text.index("## Streams of others") : text.index("### KV buckets")]
    named = section[section.index("```hocon") + 8 : section.index("```", section.index("```hocon") + 8)]
    settings = tmp_path / "nats.conf"
    users = (
        f'{{user: admin, password: a}}, {{user: shop, password: s, permissions: {{ {named} subscribe: "_INBOX.>" }} }}'
    )
    settings.write_text(f"authorization {{ users: [ {users} ] }}")
    server = NatsServer(tmp_path, "-c", str(settings))
    server.start()

    async def scenario() -> None:
        place = server.url.removeprefix("nats://")
        client = await nats.connect(f"nats://admin:a@{place}")
        stream = client.jetstream(timeout=30)
        await create(stream, "alerts", "alerts.*")
        await stream.publish("alerts.a", b"theirs")
        log = ForeignJetStream(f"jetstream://shop:s@{place}?subject=alerts.{{key}}")
        await log.open()
        assert [value for _, value in rows(await batches(log, ALERTS))] == [b"theirs"]
        assert (await log.offsets_at({ALERTS: 0}))[ALERTS] == Position.at(1)
        await (await fed(log)).deliver(alerts((b"k", b"ours")), b"p")
        assert [m.data for m in await held(stream, "alerts")] == [b"theirs", b"ours"]
        await log.close()
        await client.close()

    try:
        asyncio.run(scenario())
    finally:
        server.kill()


def test_a_location_that_holds_topics_is_no_log(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        with pytest.raises(ConfigurationError, match="can't be the log of an app; for that, write nats://"):
            await log.fence(task_ref(0))

    run(nats_own, scenario)
