"""The engine of the embedded log: a write and its limits, tasks, topics, retention's marks, threads, recovery."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from streams.connectors.embedded import EmbeddedConfig, EmbeddedLog, engine
from streams.connectors.embedded.blocks import decode_head
from streams.connectors.embedded.catalog import Mark
from streams.connectors.embedded.retention import thinned, wants_mark
from streams.connectors.embedded.storage import Storage
from streams.core.log import Commit, TopicSpec
from streams.core.record import START, TopicPartition
from streams.errors import CommitUnknown, ConfigurationError, DataError, LogUnavailable, TopicMismatch, TopicRecreated
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


# ── retention's marks ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("marks_max", [3, 4, 100])
def test_marks_are_set_as_retention_asks_for_them_and_thinned_above_their_limit_and_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marks_max: int
) -> None:
    monkeypatch.setattr(engine, "MARKS_MAX", marks_max)
    spec = TopicSpec("kept", retention_bytes=16 * 1_000)
    expected: list[Mark] = []

    async def first(log: EmbeddedLog) -> None:
        await log.create_topics([spec])
        partition = log._engine.partition(TopicPartition("kept", 0))
        for _ in range(30):
            last = expected[-1] if expected else None
            if wants_mark(spec, last, 5, partition.total_bytes):
                expected.append(Mark(partition.end, 5, partition.total_bytes))
                if len(expected) > marks_max:
                    expected[:] = thinned(expected)
            await log.append([append(partition.at, bytes(300))])
            assert partition.meta.marks == expected
        assert log._engine.partition(ORDERS).meta.marks == [], "nothing is ever removed there"

    async def again(log: EmbeddedLog) -> None:
        assert log._engine.partition(TopicPartition("kept", 0)).meta.marks == expected

    run(tmp_path, first)
    assert 2 <= len(expected) <= max(marks_max, 10)
    run(tmp_path, again)


# ── threads, syncs, recovery ────────────────────────────────────────────────────────────────────────────────────────


def test_the_log_works_beside_the_event_loop_in_one_thread_of_its_own_and_syncs_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    sync = Storage.sync

    def noted(self: Storage, number: int) -> None:
        threads.append(threading.current_thread().name)
        sync(self, number)

    monkeypatch.setattr(Storage, "sync", noted)

    async def main() -> None:
        log = EmbeddedLog(f"embedded:{tmp_path}")
        await log.open()
        await log.create_topics([TopicSpec("orders")])
        await asyncio.gather(*(log.append([append(ORDERS, b"1")]) for _ in range(20)))
        count = len(threads)
        await log._engine.synced({})
        assert len(threads) == count, "nothing was written since the last sync"
        assert set(threads) == {"log-sync_0"}
        beside = [log._engine.in_thread(lambda: threading.current_thread().name) for _ in range(20)]
        assert set(await asyncio.gather(*beside)) == {"log-side_0"}
        await log.close()

    asyncio.run(main())


def test_a_sync_that_fails_is_named_as_the_cause_of_what_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = LogUnavailable("the disk is gone")

    async def main() -> None:
        log = EmbeddedLog(f"embedded:{tmp_path}")
        await log.open()
        await log.create_topics([TopicSpec("orders")])
        with monkeypatch.context() as patched:
            patched.setattr(log._engine._flusher, "_sync", raises)
            with pytest.raises(CommitUnknown) as unknown:
                await log.append([append(ORDERS, b"1")])
        assert unknown.value.__cause__ is why
        await log.close()

    def raises(number: int) -> None:
        raise why

    asyncio.run(main())


def test_after_a_failure_reading_goes_on_as_it_is_and_the_next_write_opens_the_database_anew(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        running = log._engine
        await log.append([append(ORDERS, b"1")])
        before = running.incarnation
        for failures in (1, 2):
            running.storage.failure = LogUnavailable("the disk is gone")
            [batch] = await log.reader({ORDERS: START}).fetch([ORDERS], max_records=9, wait_s=0)
            assert batch.records.values == [b"1"] * failures
            assert running.storage.failure is not None
            assert running.incarnation == before + failures - 1
            await log.append([append(ORDERS, b"1")])
            assert running.storage.failure is None
            assert running.incarnation == before + failures

    run(tmp_path, work)
