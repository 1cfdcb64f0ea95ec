"""Commits on a real broker, beyond the contract: large ones, odd ones, and those that can't be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from streams.connectors.kafka.log import KafkaLog
from streams.core.log import Append, Commit, TopicSpec
from streams.core.membership import TaskRef
from streams.core.record import START, Headers, Records, TopicPartition
from streams.errors import ConfigurationError, DataError, Fenced, LogUnavailable
from tests.brokers.kafka.broker import KafkaBroker
from tests.guarantees.kafka_log.reading import records_of

PATIENCE_S = 60.0
AT_2013, AT_2200 = 1_357_000_000_000, 7_258_118_400_000


@asynccontextmanager
async def opened(bootstrap: str, query: str = "") -> AsyncIterator[KafkaLog]:
    log = KafkaLog(f"kafka://{bootstrap}?{query}")
    await log.open()
    try:
        yield log
    finally:
        await log.close()


def task_of(app: str, slot: int = 0) -> TaskRef:
    return TaskRef(app, slot, f"{app}-{slot}")


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_a_commit_of_many_batches_and_of_the_largest_records_reads_back_equal(
    kafka: KafkaBroker, unique: Callable[[str], str], compression: str
) -> None:
    """By another client, and by ours.  Half of it can't be compressed."""
    topic, app = unique("topic"), unique("app")
    chance = random.Random(5)
    largest = 1_000_000
    appends = []
    for partition in range(3):
        headers: list[Headers | None] = []
        records = Records([], [], [], headers)
        for number in range(400):
            size = chance.choice([0, 1, 100, 10_000])
            records.keys.append(chance.choice([None, b"", b"key %d" % number]))
            records.values.append(chance.choice([None, b"", b"a" * size, chance.randbytes(size)]))
            records.timestamps.append(chance.choice([0, AT_2013, AT_2200]) + number)
            headers.append(chance.choice([None, (("name", b"value"), ("name", b""), ("\N{SNOWMAN}", b"\xff"))]))
        records.keys[7], records.values[7], headers[7] = b"k", chance.randbytes(largest - 1), None
        at = TopicPartition(topic, partition)
        appends += [Append(at, records), Append(at, Records([b"last"], [b"one"], [AT_2013]))]

    async def check() -> None:
        async with opened(kafka.bootstrap, f"compression={compression}&max_record_bytes={largest}") as log:
            await log.create_topics([TopicSpec(topic, 3)])
            writer = await log.fence(task_of(app))
            ends = await writer.commit(Commit(b"checkpoint", appends))
            for partition in range(3):
                at = TopicPartition(topic, partition)
                records, last = appends[2 * partition].records, appends[2 * partition + 1].records
                assert records.headers is not None
                wanted = [
                    *zip(records.keys, records.values, records.timestamps, records.headers, strict=True),
                    (last.keys[0], last.values[0], last.timestamps[0], None),
                ]
                theirs = await records_of(kafka.bootstrap, topic, partition)
                assert [
                    (each.key, each.value, each.timestamp, tuple(each.headers) or None) for each in theirs
                ] == wanted
                assert ends[at].offset() == theirs[-1].offset + 1
                reader = log.reader({at: START})
                ours: list[tuple[bytes | None, bytes | None, int, Headers | None]] = []
                async with asyncio.timeout(PATIENCE_S):
                    while len(ours) < len(wanted):
                        for batch in await reader.fetch([at], max_records=1000, wait_s=1.0):
                            held = batch.records
                            ours += zip(
                                held.keys,
                                held.values,
                                held.timestamps,
                                held.headers or [None] * len(batch),
                                strict=True,
                            )
                assert ours == wanted
                await reader.close()
            await writer.close()

    asyncio.run(check())


def test_fencing_again_and_again_leaves_no_connections_behind(kafka: KafkaBroker, unique: Callable[[str], str]) -> None:
    topic, app = unique("topic"), unique("app")
    at = TopicPartition(topic, 0)

    async def check() -> None:
        async with opened(kafka.bootstrap) as log:
            await log.create_topics([TopicSpec(topic)])

            async def live() -> None:
                writer = await log.fence(task_of(app))
                await writer.commit(Commit(b"x", [], {at: START}))
                reader = log.reader({at: START})
                await reader.fetch([at], max_records=1, wait_s=0.0)
                await reader.close()
                await writer.close()

            await live()
            before = sum(len(node.connections) for node in log._cluster._nodes.values())
            for _ in range(5):
                await live()
            assert sum(len(node.connections) for node in log._cluster._nodes.values()) == before

    asyncio.run(check())


def test_a_commit_to_a_topic_that_was_deleted_is_an_error_and_not_waited_for_without_end(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    topic, app = unique("topic"), unique("app")
    at = TopicPartition(topic, 0)
    commit = Commit(b"2", [Append(at, Records([None], [b"x"], [1]))])

    async def check() -> None:
        settings = "transaction_timeout_ms=3000"
        async with opened(kafka.bootstrap, settings) as log, opened(kafka.bootstrap) as other:
            await log.create_topics([TopicSpec(topic)])
            writer = await log.fence(task_of(app))
            await writer.commit(Commit(b"1", commit.appends))
            await other.delete_topics([topic])
            with pytest.raises((ConfigurationError, LogUnavailable)):
                await asyncio.wait_for(writer.commit(commit), 120)
            await writer.close()
            assert await log.checkpoint(task_of(app)) == b"1"

    asyncio.run(check())


def test_what_a_topic_refuses_says_which_setting_to_change(kafka: KafkaBroker, unique: Callable[[str], str]) -> None:
    small, strict, app = unique("small"), unique("strict"), unique("app")
    kafka.create_topic(small, configs={"max.message.bytes": "1000"})
    kafka.create_topic(strict, configs={"message.timestamp.after.max.ms": "1000"})

    async def check() -> None:
        async with opened(kafka.bootstrap, "compression=none") as log:
            for topic, records, kind, said in (
                (small, Records([None], [b"x" * 2000], [1]), DataError, "max.message.bytes"),
                (strict, Records([None], [b"x"], [AT_2200]), ConfigurationError, "message.timestamp.after.max.ms"),
            ):
                writer = await log.fence(task_of(app))
                with pytest.raises(kind, match=said) as caught:
                    await writer.commit(Commit(b"no", [Append(TopicPartition(topic, 0), records)]))
                assert topic in str(caught.value)
                with pytest.raises(Fenced):
                    await writer.commit(Commit(b"nor this"))
                await writer.close()
            writer = await log.fence(task_of(app))  # which ends what was begun
            assert writer.checkpoint is None
            await writer.close()

    asyncio.run(check())


def test_commits_of_many_tasks_run_side_by_side(kafka: KafkaBroker, unique: Callable[[str], str]) -> None:
    """An open transaction of one task in an output partition keeps nobody else from committing there."""
    topic, app = unique("topic"), unique("app")
    at = TopicPartition(topic, 0)

    async def check() -> None:
        async with opened(kafka.bootstrap) as log:
            await log.create_topics([TopicSpec(topic)])

            async def work(slot: int) -> None:
                writer = await log.fence(task_of(app, slot))
                for number in range(5):
                    value = b"%d/%d" % (slot, number)
                    await writer.commit(Commit(value, [Append(at, Records([None], [value], [1]))], {at: START}))
                await writer.close()

            await asyncio.gather(*(work(slot) for slot in range(12)))
            for slot in range(12):
                assert await log.checkpoint(task_of(app, slot)) == b"%d/4" % slot
        values = [record.value for record in await records_of(kafka.bootstrap, topic)]
        assert sorted(values) == sorted(b"%d/%d" % (slot, number) for slot in range(12) for number in range(5))
        for slot in range(12):
            mine = [value for value in values if value.startswith(b"%d/" % slot)]
            assert mine == [b"%d/%d" % (slot, number) for number in range(5)]

    asyncio.run(check())
