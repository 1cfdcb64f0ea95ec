"""One write of the embedded log: its limits, what its blocks say of time and size, tasks, topics and their numbers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from streams.connectors.embedded import EmbeddedConfig, EmbeddedLog
from streams.connectors.embedded.blocks import decode_head
from streams.core.log import Commit, TopicSpec
from streams.core.record import START, TopicPartition
from streams.errors import ConfigurationError, DataError, LogUnavailable, TopicMismatch, TopicRecreated
from streams.testing.log_contract import append, task_ref

ORDERS = TopicPartition("orders", 0)


def run(
    path: Path, work: Callable[[EmbeddedLog], Awaitable[None]], times_ms: list[int] | None = None, **settings: int
) -> None:
    async def main() -> None:
        clock = iter(times_ms or [])
        log = EmbeddedLog(
            EmbeddedConfig(str(path), durable=False, **settings),  # type: ignore[arg-type]
            now_ms=(lambda: next(clock)) if times_ms is not None else lambda: 5,
        )
        await log.open()
        try:
            await log.create_topics([TopicSpec("orders")])
            await work(log)
        finally:
            await log.close()

    asyncio.run(main())


def heads(log: EmbeddedLog, *bases: int) -> list[tuple[int, int, int, int]]:
    """Of the blocks at ``bases``: where the next one starts, its time, the bytes before it, its size."""
    partition = log._engine.partition(ORDERS)
    stored: list[Any] = [log._engine.storage.db[partition.key(base)] for base in bases]
    found = [decode_head(value) for value in stored]
    return [(it.next_offset, it.append_ms, it.bytes_before, len(value)) for it, value in zip(found, stored)]


def test_blocks_of_a_write_follow_one_another_in_offsets_and_bytes_and_their_time_never_falls(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        await log.append([append(ORDERS, b"1", b"2"), append(ORDERS), append(ORDERS, b"3")])
        await log.append([append(ORDERS, b"4")])
        await log.append([append(ORDERS, b"5")])
        first, second, third, fourth = heads(log, 0, 2, 3, 4)
        assert [block[0] for block in (first, second, third, fourth)] == [2, 3, 4, 5]
        assert [block[1] for block in (first, second, third, fourth)] == [50, 50, 50, 60], "a clock that was set back"
        sizes = [block[3] for block in (first, second, third, fourth)]
        assert [block[2] for block in (first, second, third, fourth)] == [sum(sizes[:count]) for count in range(4)]
        partition = log._engine.partition(ORDERS)
        assert (partition.end, partition.visible, partition.total_bytes) == (5, 5, sum(sizes))
        assert partition.last_append_ms == 60

    run(tmp_path, work, times_ms=[50, 20, 60])


def test_a_write_is_taken_up_to_one_record_above_the_limit_and_no_byte_further(tmp_path: Path) -> None:
    sizes: list[int] = []

    async def measure(log: EmbeddedLog) -> None:
        await log.append([append(ORDERS, bytes(400)), append(ORDERS, bytes(400))])
        sizes.append(log._engine.partition(ORDERS).total_bytes)

    async def refused(log: EmbeddedLog) -> None:
        with pytest.raises(DataError, match=f"{sizes[0]} bytes in one write"):
            await log.append([append(ORDERS, bytes(400)), append(ORDERS, bytes(400))])
        assert log._engine.partition(ORDERS).end == 0

    run(tmp_path / "measured", measure)
    run(tmp_path / "taken", measure, max_commit_bytes=sizes[0] - 500, max_record_bytes=500)
    run(tmp_path / "refused", refused, max_commit_bytes=sizes[0] - 501, max_record_bytes=500)


def test_the_generation_of_a_task_grows_with_each_fence_and_each_time_it_is_forgotten(tmp_path: Path) -> None:
    async def first(log: EmbeddedLog) -> None:
        writer = await log.fence(task_ref(0))
        assert writer.checkpoint is None
        await writer.commit(Commit(b"one"))
        await log.forget([task_ref(0), task_ref(0), task_ref(1)])
        assert [log._engine.generation(task_ref(number).name) for number in range(3)] == [2, 1, 0]
        assert await log.checkpoint(task_ref(0)) is None

    async def again(log: EmbeddedLog) -> None:
        assert [log._engine.generation(task_ref(number).name) for number in range(3)] == [2, 1, 0]
        await log.fence(task_ref(0))
        assert log._engine.generation(task_ref(0).name) == 3

    run(tmp_path, first)
    run(tmp_path, again)


def test_no_two_topics_ever_have_one_number_and_one_that_is_deleted_takes_its_records_along(tmp_path: Path) -> None:
    async def first(log: EmbeddedLog) -> None:
        await log.create_topics([TopicSpec("a"), TopicSpec("orders"), TopicSpec("b")])
        assert {name: topic.number for name, topic in log._engine.topics.items()} == {"orders": 1, "a": 2, "b": 3}
        await log.append([append(ORDERS, b"1")])
        partition, key = log._engine.partition(ORDERS), log._engine.partition(ORDERS).key(0)
        reader = log.reader({ORDERS: START})
        await log.delete_topics(["orders", "b", "orders", "never-was"])
        await log.delete_topics(["never-was"])
        assert partition.deleted
        assert log._engine.storage.db.get(key) is None
        with pytest.raises(TopicRecreated):
            await reader.fetch([ORDERS], max_records=1, wait_s=0)

    async def again(log: EmbeddedLog) -> None:
        await log.create_topics([TopicSpec("a"), TopicSpec("c")])
        assert {name: topic.number for name, topic in log._engine.topics.items()} == {"a": 2, "orders": 4, "c": 5}
        assert list(await log.topics(["c", "none"])) == ["c"]
        assert sorted(await log.topics()) == ["a", "c", "orders"]
        with pytest.raises(TopicMismatch):
            await log.create_topics([TopicSpec("d"), TopicSpec("d", partitions=2)])

    run(tmp_path, first)
    run(tmp_path, again)


def test_what_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        for at, words in (
            (TopicPartition("orders", 1), r"orders\[1\] doesn't exist; 'orders' has 1 partitions"),
            (TopicPartition("orders", -1), r"orders\[-1\] doesn't exist"),
            (TopicPartition("none", 0), "no topic 'none'"),
        ):
            with pytest.raises(ConfigurationError, match=words):
                await log.append([append(ORDERS, b"1"), append(at, b"1")])
        assert log._engine.partition(ORDERS).end == 0

    run(tmp_path, work)


def test_a_log_has_an_identity_and_takes_calls_once_it_is_open_and_goes_by_the_time_of_its_machine(
    tmp_path: Path,
) -> None:
    log = EmbeddedLog(f"embedded:{tmp_path / 'deep' / 'log'}")
    with pytest.raises(LogUnavailable, match="open it first"):
        assert log.identity

    async def main() -> None:
        with pytest.raises(LogUnavailable, match="closed"):
            await log.topics()
        await log.open()
        assert log.identity
        before = time.time_ns() // 1_000_000
        assert before <= log._engine.now_ms() <= time.time_ns() // 1_000_000
        await log.close()
        await log.close()
        with pytest.raises(LogUnavailable, match="closed"):
            await log.append([append(ORDERS, b"1")])

    asyncio.run(main())
