"""Reading what others have written, beyond the contract: foreign batches, transactions, gaps, topics that change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streams.connectors.kafka.batches import arrived
from streams.connectors.kafka.log import KafkaLog
from streams.core.log import Append, Reader, TopicSpec
from streams.core.record import START, Fetched, Position, Records, TopicPartition
from streams.errors import ConfigurationError, DataError, PositionLost, StreamsError, TopicRecreated
from tests.brokers.kafka.broker import KafkaBroker
from tests.guarantees.kafka_log.reading import records_of

PATIENCE_S = 15.0
AT_2013, AT_2200 = 1_357_000_000_000, 7_258_118_400_000


@asynccontextmanager
async def opened(bootstrap: str, query: str = "linger_ms=0") -> AsyncIterator[KafkaLog]:
    log = KafkaLog(f"kafka://{bootstrap}?{query}")
    await log.open()
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def producing(
    bootstrap: str, transactional_id: str | None = None, **options: object
) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=transactional_id, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def read_to(reader: Reader, at: TopicPartition, end: Position) -> list[Fetched]:
    """Read until the position has reached ``end``; fails if it never does."""
    found: list[Fetched] = []
    position = START
    async with asyncio.timeout(PATIENCE_S):
        while not position.reached(end):
            for batch in await reader.fetch([at], max_records=100, wait_s=0.2):
                found.append(batch)
                position = position.advanced(batch.lane, batch.next_offset)
    return found


async def read_all(log: KafkaLog, at: TopicPartition) -> list[Fetched]:
    bounds = (await log.bounds([at]))[at]
    reader = log.reader({at: bounds.start})
    try:
        return await read_to(reader, at, bounds.end)
    finally:
        await reader.close()


def values_in(batches: Sequence[Fetched]) -> list[bytes | None]:
    return [value for batch in batches for value in batch.records.values]


async def next_values(reader: Reader, at: TopicPartition, count: int) -> list[bytes | None]:
    found: list[bytes | None] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found += values_in(await reader.fetch([at], max_records=100, wait_s=0.2))
    return found


async def first_failure(reader: Reader, at: TopicPartition) -> StreamsError:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await reader.fetch([at], max_records=100, wait_s=0.2)
            except StreamsError as error:
                return error


# ── what others write ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
def test_batches_of_another_client_read_back_as_they_were_written(
    kafka: KafkaBroker, unique: Callable[[str], str], compression: str | None
) -> None:
    topic = unique("topic")
    kafka.create_topic(topic, configs={"message.timestamp.after.max.ms": str(2**63 - 1)})
    rows: list[tuple[bytes | None, bytes | None, int, list[tuple[str, bytes | None]]]] = [
        (None, b"no key", AT_2013, []),
        (b"", b"", AT_2013 - 1, []),
        (b"deleted", None, 0, [("why", b"gone"), ("why", b"really"), ("empty", b"")]),
        (b"nothing", None, AT_2200, [("nothing", None), ("\N{GREEK SMALL LETTER ALPHA}", b"\x00\xff")]),
        *[(b"k%d" % number, b"%d" % number * 40, AT_2013 + number, []) for number in range(500)],
    ]

    async def check() -> None:
        async with producing(kafka.bootstrap, compression_type=compression, linger_ms=20) as producer:
            sent = [
                await producer.send(topic, value, key, 0, timestamp_ms=time, headers=headers)
                for key, value, time, headers in rows
            ]
            await asyncio.gather(*sent)
        async with opened(kafka.bootstrap) as log:
            found = await read_all(log, TopicPartition(topic, 0))
        read = [
            (key, value, time, (batch.records.headers or [None] * len(batch))[row])
            for batch in found
            for row, (key, value, time) in enumerate(
                zip(batch.records.keys, batch.records.values, batch.records.timestamps, strict=True)
            )
        ]
        # A header without a value has an empty one here: headers are bytes.
        assert read == [
            (key, value, time, tuple((name, content or b"") for name, content in headers) or None)
            for key, value, time, headers in rows
        ]
        assert [offset for batch in found for offset in batch.offsets] == list(range(len(rows)))

    asyncio.run(check())


def test_where_the_broker_sets_the_time_its_time_is_read(kafka: KafkaBroker, unique: Callable[[str], str]) -> None:
    topic = unique("topic")
    kafka.create_topic(topic, configs={"message.timestamp.type": "LogAppendTime"})

    async def check() -> None:
        at = TopicPartition(topic, 0)
        async with opened(kafka.bootstrap) as log:
            await log.append([Append(at, Records([None] * 3, [b"a", b"b", b"c"], [AT_2013] * 3))])
            found = [time for batch in await read_all(log, at) for time in batch.records.timestamps]
        assert found == [record.timestamp for record in await records_of(kafka.bootstrap, topic)]
        assert min(found) > AT_2013

    asyncio.run(check())


# ── transactions of others ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ended", ["commit", "abort"])
def test_a_reader_waits_where_a_transaction_is_open_and_goes_on_when_it_ends(
    kafka: KafkaBroker, unique: Callable[[str], str], ended: str
) -> None:
    topic = unique("topic")
    kafka.create_topic(topic)

    async def check() -> None:
        at = TopicPartition(topic, 0)
        async with (
            opened(kafka.bootstrap) as log,
            producing(kafka.bootstrap, unique("tx")) as open_one,
            producing(kafka.bootstrap) as other,
        ):
            await other.send_and_wait(topic, b"before", partition=0)
            await open_one.begin_transaction()
            await open_one.send_and_wait(topic, b"within", partition=0)
            await other.send_and_wait(topic, b"behind", partition=0)
            reader = log.reader({at: START})
            assert await next_values(reader, at, 1) == [b"before"]
            assert await reader.fetch([at], max_records=100, wait_s=0.3) == []
            assert reader.ends() == {at: Position.at(1)}, "what isn't stable yet is not there to be waited for"
            assert (await log.bounds([at]))[at].end == Position.at(3), "but a target lies behind it"
            await (open_one.commit_transaction() if ended == "commit" else open_one.abort_transaction())
            wanted = [b"within", b"behind"] if ended == "commit" else [b"behind"]
            assert await next_values(reader, at, len(wanted)) == wanted
            end = (await log.bounds([at]))[at].end
            await reader.close()
            again = log.reader({at: Position.at(2)})  # from the middle of what was aborted
            assert values_in(await read_to(again, at, end)) == [b"behind"]
            await again.close()

    asyncio.run(check())


def test_reading_ends_by_position_where_only_markers_and_aborted_records_are_left(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    topic = unique("topic")
    kafka.create_topic(topic)

    async def check() -> None:
        at = TopicPartition(topic, 0)
        async with opened(kafka.bootstrap) as log, producing(kafka.bootstrap, unique("tx")) as producer:
            async with producer.transaction():
                await producer.send_and_wait(topic, b"kept", partition=0)
            for _ in range(3):
                await producer.begin_transaction()
                for number in range(20):
                    await producer.send(topic, b"aborted %d" % number, partition=0)
                await producer.flush()
                await producer.abort_transaction()
            end = (await log.bounds([at]))[at].end
            assert end == Position.at(2 + 3 * 21)
            for since in (0, 1, 2, 10, 23, 60, end.offset() - 1, end.offset()):
                reader = log.reader({at: Position.at(since)})
                found = [] if since == end.offset() else await read_to(reader, at, end)
                assert values_in(found) == ([b"kept"] if since == 0 else [])
                assert await reader.fetch([at], max_records=100, wait_s=0.05) == []
                assert reader.ends() == {at: end}
                await reader.close()

    asyncio.run(check())


def test_many_transactions_of_several_producers_are_told_apart(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    """Interleaved, each second one aborted, read in answers that begin anywhere."""
    topic = unique("topic")
    kafka.create_topic(topic)

    async def check() -> None:
        at = TopicPartition(topic, 0)
        async with (
            opened(kafka.bootstrap, "fetch_partition_max_bytes=700") as log,
            producing(kafka.bootstrap, unique("a")) as first,
            producing(kafka.bootstrap, unique("b")) as second,
            producing(kafka.bootstrap) as plain,
        ):
            for turn in range(12):
                for producer in (first, second):
                    await producer.begin_transaction()
                for number in range(4):
                    for name, producer in (("a", first), ("b", second), ("p", plain)):
                        await producer.send_and_wait(topic, f"{name}{turn}/{number}".encode() * 5, partition=0)
                for index, producer in enumerate((first, second)):
                    await (producer.abort_transaction() if (turn + index) % 2 else producer.commit_transaction())
            expected = await records_of(kafka.bootstrap, topic)
            assert len(expected) == 12 * 4 * 2
            found = await read_all(log, at)
            assert values_in(found) == [record.value for record in expected]
            assert [offset for batch in found for offset in batch.offsets] == [record.offset for record in expected]

    asyncio.run(check())


# ── gaps ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_compacted_topic_is_read_to_its_end_over_gaps_and_batches_without_records(
    unique: Callable[[str], str], kafka_jars: None
) -> None:
    topic = unique("topic")
    config = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.01",
        "delete.retention.ms": "0",
        "segment.ms": "100",
        "segment.bytes": "1048576",
    }

    async def check(broker: KafkaBroker) -> None:
        at = TopicPartition(topic, 0)
        async with opened(broker.bootstrap) as log, producing(broker.bootstrap, "tx") as producer:
            for turn in range(20):
                await producer.begin_transaction()
                for number in range(10):
                    await producer.send(topic, b"%d" % turn, b"%d" % number, 0)
                await producer.send(topic, b"%d" % turn, b"only %d" % turn, 0)
                await producer.flush()
                await (producer.abort_transaction() if turn % 3 == 1 else producer.commit_transaction())
            bounds = (await log.bounds([at]))[at]
            async with asyncio.timeout(PATIENCE_S):
                while True:  # until the cleaner has been at it
                    async with producer.transaction():  # an active segment is never cleaned
                        await producer.send(topic, b"next", b"active", 0)
                    found = await read_all(log, at)
                    if sum(map(len, found)) < 60:
                        break
            reader = log.reader({at: bounds.start})
            last = {
                key: value
                for batch in await read_to(reader, at, bounds.end)
                for key, value in zip(batch.records.keys, batch.records.values, strict=True)
                if key is not None and key.isdigit()
            }
            await reader.close()
            assert last == {b"%d" % number: b"18" for number in range(10)}
            for since in range(bounds.start.offset(), bounds.end.offset(), 7):
                reader = log.reader({at: Position.at(since)})
                for batch in await read_to(reader, at, bounds.end):
                    assert all(offset >= since for offset in batch.offsets)
                await reader.close()

    with KafkaBroker({"log.cleaner.backoff.ms": "100", "log.segment.delete.delay.ms": "100"}) as broker:
        broker.create_topic(topic, configs=config)
        asyncio.run(check(broker))


def test_a_marker_that_was_compacted_away_leaves_a_gap() -> None:
    """The broker keeps the last batch of a producer when its record has gone (KIP-98): a marker without a record."""
    builder = DefaultRecordBatchBuilder(2, 0, 1, 7, 0, -1, 1000)
    builder.append(0, 1, b"\0\0\0\0", b"", [])
    raw = bytearray(builder.build())
    raw[22] |= 0x20  # attributes: a control batch
    empty = bytearray(raw[:61])
    empty[8:12] = (len(empty) - 12).to_bytes(4)
    empty[57:61] = (0).to_bytes(4)
    for batch in (raw, empty):
        seal(batch)
        (packed,) = arrived(bytes(batch), [(7, 0)], "here")
        assert packed.batch is None
        assert packed.next_offset == 1
    assert ControlRecord.parse(b"\0\0\0\0") == ABORT_MARKER


def seal(batch: bytearray) -> None:
    from aiokafka.record.util import calc_crc32c

    batch[17:21] = calc_crc32c(bytes(batch[21:])).to_bytes(4)


# ── what changes while it is read ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [1, 50])
def test_a_topic_that_is_recreated_while_it_is_read_is_not_the_same_topic(
    kafka: KafkaBroker, unique: Callable[[str], str], count: int
) -> None:
    """With fewer records than were read, and with more."""
    topic = unique("topic")

    async def check() -> None:
        at = TopicPartition(topic, 0)
        async with opened(kafka.bootstrap) as log, opened(kafka.bootstrap) as other:
            await log.create_topics([TopicSpec(topic)])
            await log.append([Append(at, Records([None] * 10, [b"old"] * 10, [1] * 10))])
            reader = log.reader({at: START})
            assert await next_values(reader, at, 10) == [b"old"] * 10
            await other.delete_topics([topic])
            await other.create_topics([TopicSpec(topic)])
            await other.append([Append(at, Records([None] * count, [b"new"] * count, [1] * count))])
            error = await first_failure(reader, at)
            assert isinstance(error, TopicRecreated), error
            assert topic in str(error)
            await reader.close()

    asyncio.run(check())


def test_a_topic_that_is_deleted_while_it_is_read_is_an_error_that_names_it(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    topic, kept = unique("topic"), unique("kept")

    async def check() -> None:
        at, beside = TopicPartition(topic, 0), TopicPartition(kept, 0)
        async with opened(kafka.bootstrap) as log, opened(kafka.bootstrap) as other:
            await log.create_topics([TopicSpec(topic), TopicSpec(kept)])
            for each in (at, beside):
                await log.append([Append(each, Records([None], [b"old"], [1]))])
            reader = log.reader({at: START, beside: START})
            await next_values(reader, at, 1)
            await other.delete_topics([topic])
            error = await first_failure(reader, at)
            assert isinstance(error, ConfigurationError | DataError), error
            assert repr(topic) in str(error)
            await reader.close()

    asyncio.run(check())


def test_records_that_are_deleted_under_a_reader_are_an_error_with_the_numbers(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    topic = unique("topic")

    async def check() -> None:
        at = TopicPartition(topic, 0)
        async with opened(kafka.bootstrap, "linger_ms=0&fetch_partition_max_bytes=500&compression=none") as log:
            await log.create_topics([TopicSpec(topic)])
            for _ in range(10):
                await log.append([Append(at, Records([None] * 10, [b"x" * 100] * 10, [1] * 10))])
            reader = log.reader({at: Position.at(5)})
            await log.trim({at: Position.at(90)})
            error = await first_failure(reader, at)
            assert isinstance(error, PositionLost), error
            assert (error.position, error.first) == (5, 90)
            await reader.close()

    asyncio.run(check())


def test_more_partitions_while_the_app_runs_are_an_error_with_both_numbers(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    """Keys would go to partitions that nobody reads."""
    topic = unique("topic")

    async def check() -> None:
        async with opened(kafka.bootstrap) as log:
            await log.create_topics([TopicSpec(topic, 2)])
            await log.maintain(0)
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
            await admin.start()
            await admin.create_partitions({topic: NewPartitions(3)})
            await admin.close()
            error: Exception | None = None
            async with asyncio.timeout(PATIENCE_S):
                while error is None:
                    try:
                        await log.maintain(0)
                    except StreamsError as caught:
                        error = caught
                    await asyncio.sleep(0)
            assert topic in str(error)
            assert "partitions is 3 on the log and 2 in the app" in str(error)

    asyncio.run(check())
