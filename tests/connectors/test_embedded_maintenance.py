"""Retention, trimming and compaction of the embedded log beside commits, and what they give back to the disk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from streams.connectors.embedded import EmbeddedConfig, EmbeddedLog, maintenance
from streams.core.log import Append, TopicSpec
from streams.core.record import START, Position, Records, TopicPartition
from streams.errors import PositionLost
from streams.testing.log_contract import append, entries_of, fetch, numbered, read_all, values_of

T = TypeVar("T")
ORDERS = TopicPartition("orders", 0)
COUNTS = TopicPartition("counts", 0)
HOUR_MS = 3600_000


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ms


def run(path: Path, work: Callable[[EmbeddedLog, Clock], Awaitable[T]], **settings: bool | int) -> T:
    async def main() -> T:
        clock = Clock()
        defaults: dict[str, bool | int] = {"durable": False, "compaction_min_bytes": 1}
        config = EmbeddedConfig(str(path), **{**defaults, **settings})  # type: ignore[arg-type]
        log = EmbeddedLog(config, now_ms=clock)
        await log.open()
        try:
            return await work(log, clock)
        finally:
            await log.close()

    return asyncio.run(main())


def changes(turn: int, keys: int) -> Append:
    """One record for each key; every seventh key is deleted in odd turns."""
    names: list[bytes | None] = [b"key-%05d" % number for number in range(keys)]
    values: list[bytes | None] = [
        None if turn % 2 and number % 7 == 0 else b"%d-%d" % (turn, number) for number in range(keys)
    ]
    return Append(COUNTS, Records(names, values, [turn] * keys))


def stored_blocks(log: EmbeddedLog, at: TopicPartition) -> int:
    partition = log._engine.partition(at)
    keys = log._engine.storage.db.keys(from_key=partition.key(0))
    return sum(1 for key in keys if isinstance(key, bytes) and key < partition.key(2**63))


async def last_values(log: EmbeddedLog) -> dict[bytes | None, bytes | None]:
    return dict(await entries_of(log, COUNTS))


def test_retention_by_time_removes_what_was_appended_too_long_ago(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("orders", retention_ms=10 * HOUR_MS)])
        for hour in range(30):
            await log.append([append(ORDERS, b"%d" % hour)])
            clock.now_ms += HOUR_MS
        await log.maintain(clock.now_ms)
        left = [int(value or b"") for value in await values_of(log, ORDERS)]
        assert left == list(range(left[0], 30))
        assert left[0] <= 20, "something younger than the retention is gone"
        assert left[0] >= 19, "something older than the retention by more than its sixteenth is left"
        assert stored_blocks(log, ORDERS) == len(left)
        with pytest.raises(PositionLost):
            await fetch(log.reader({ORDERS: START}), ORDERS)

    run(tmp_path, work)


def test_retention_goes_on_after_opening_again(tmp_path: Path) -> None:
    async def write(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("orders", retention_ms=HOUR_MS, retention_bytes=2**40)])
        await log.append([append(ORDERS, *numbered(0, 10))])

    async def expire(log: EmbeddedLog, clock: Clock) -> None:
        await log.maintain(clock.now_ms + HOUR_MS - 1)
        assert await values_of(log, ORDERS) == numbered(0, 10)
        await log.maintain(clock.now_ms + HOUR_MS)
        assert await values_of(log, ORDERS) == []

    async def look(log: EmbeddedLog, clock: Clock) -> None:
        bounds = (await log.bounds([ORDERS]))[ORDERS]
        assert (bounds.start, bounds.end) == (Position.at(10), Position.at(10))
        assert stored_blocks(log, ORDERS) == 0
        await log.append([append(ORDERS, *numbered(10, 5))])
        await log.maintain(clock.now_ms)
        assert await values_of(log, ORDERS) == numbered(10, 5)

    run(tmp_path, write)
    run(tmp_path, expire)
    run(tmp_path, look)
    run(tmp_path, lambda log, clock: _ends_at(log, 15))


async def _ends_at(log: EmbeddedLog, end: int) -> None:
    assert (await log.bounds([ORDERS]))[ORDERS].end == Position.at(end)


def test_a_clock_that_was_set_back_does_not_make_records_older(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("orders", retention_ms=HOUR_MS)])
        start_ms = clock.now_ms
        await log.append([append(ORDERS, b"1")])
        clock.now_ms = start_ms - 10 * HOUR_MS
        await log.append([append(ORDERS, b"2")])
        await log.maintain(start_ms + HOUR_MS - 1)
        assert await values_of(log, ORDERS) == [b"1", b"2"]

    run(tmp_path, work)


def test_retention_by_size_keeps_at_least_that_much(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("orders", retention_bytes=100_000)])
        for _ in range(300):
            await log.append([append(ORDERS, bytes(1000))])
            await log.maintain(clock.now_ms)
        left = len(await values_of(log, ORDERS))
        assert 95 <= left <= 115

    run(tmp_path, work)


def test_without_maintenance_the_marks_of_a_partition_stay_few(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("orders", retention_bytes=1600)])
        for number in range(2000):
            await log.append([append(ORDERS, b"%0200d" % number)])
        assert len(log._engine.partition(ORDERS).meta.marks) <= 256
        await log.maintain(clock.now_ms)
        left = await values_of(log, ORDERS)
        assert 6 <= len(left) < 200, "bytes are those of blocks, with some overhead"
        assert left[-1] == b"%0200d" % 1999

    run(tmp_path, work)


def test_a_trim_in_the_middle_of_a_block_keeps_the_rest_of_it(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("orders", kind="repartition")])
        for first in range(0, 100, 10):
            await log.append([append(ORDERS, *numbered(first, 10))])
        await log.trim({ORDERS: Position.at(57)})
        await log.maintain(clock.now_ms)
        assert stored_blocks(log, ORDERS) == 5
        assert await values_of(log, ORDERS) == numbered(57, 43)
        await log.trim({ORDERS: Position.at(60)})
        await log.maintain(clock.now_ms)
        assert stored_blocks(log, ORDERS) == 4
        await log.trim({ORDERS: Position.at(100)})
        await log.maintain(clock.now_ms)
        assert stored_blocks(log, ORDERS) == 0

    run(tmp_path, work)
    run(tmp_path, lambda log, clock: _ends_at(log, 100))


def test_compaction_merges_small_blocks_and_reads_as_before(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("counts", kind="changelog", compact=True)])
        for number in range(600):
            await log.append([append(COUNTS, b"%d" % number, key=b"key-%d" % (number % 400))])
        expected = await last_values(log)
        await log.maintain(clock.now_ms)
        assert log.maintained.compacted == 1
        assert stored_blocks(log, COUNTS) == 1
        entries = await entries_of(log, COUNTS)
        assert len(entries) == 400
        assert dict(entries) == expected
        assert (await log.bounds([COUNTS]))[COUNTS].end == Position.at(600)
        for offset in (0, 199, 200, 201, 399, 598, 599):
            found = await read_all(log, COUNTS, Position.at(offset))
            assert [one for batch in found for one in batch.offsets] == list(range(max(200, offset), 600))

    run(tmp_path, work)


def test_compaction_rewrites_a_partition_only_when_as_much_is_new(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("counts", kind="changelog", compact=True)])
        for turn in range(64):
            await log.append([append(COUNTS, bytes(1000), key=b"key-%d" % turn)])
            await log.maintain(clock.now_ms)
        assert 5 <= log.maintained.compacted <= 10, "the cost of compaction doesn't grow with the logarithm"

    run(tmp_path, work)


def test_a_compaction_in_many_passes_and_calls_comes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "STEP_BYTES", 20_000)
    monkeypatch.setattr(maintenance, "CALL_BYTES", 50_000)

    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("counts", kind="changelog", compact=True)])
        for turn in range(10):
            await log.append([changes(turn, 2000)])
        expected = await last_values(log)
        for _ in range(400):
            await log.maintain(clock.now_ms)
        assert log.maintained.compacted > 1, "one pass held all keys"
        entries = await entries_of(log, COUNTS)
        assert dict(entries) == expected
        assert 2000 <= len(entries) <= 4000, "as much may be new as is clean"

    run(tmp_path, work, compaction_max_keys=900)


def test_tombstones_keep_their_own_age_when_blocks_are_merged(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("counts", kind="changelog", compact=True)])
        await log.append([append(COUNTS, None, key=b"old")])
        for number in range(50):  # always new traffic, which is merged into one block with the tombstone
            clock.now_ms += HOUR_MS
            await log.append([append(COUNTS, bytes(100), key=b"busy-%d" % number)])
            await log.append([append(COUNTS, None, key=b"new-%d" % number)])
            await log.maintain(clock.now_ms)
        clock.now_ms += HOUR_MS
        await log.append([append(COUNTS, bytes(100_000), key=b"last")])
        await log.maintain(clock.now_ms)
        tombstones = [key for key, value in await entries_of(log, COUNTS) if value is None]
        # Deleted an hour after one another, the last one an hour ago; they stay for ten hours.
        assert tombstones == [b"new-%d" % number for number in range(41, 50)]
        floor = log.compaction_floor(COUNTS).offset()
        assert floor == 1 + 2 * 41, "behind the last tombstone that was dropped"

    run(tmp_path, work, tombstone_retention_ms=10 * HOUR_MS)


def test_tombstones_go_without_new_traffic_too(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("counts", kind="changelog", compact=True)])
        await log.append([append(COUNTS, b"1", key=b"gone"), append(COUNTS, None, key=b"gone")])
        await log.maintain(clock.now_ms)
        assert await entries_of(log, COUNTS) == [(b"gone", None)]
        await log.maintain(clock.now_ms + HOUR_MS - 1)
        assert await entries_of(log, COUNTS) == [(b"gone", None)]
        await log.maintain(clock.now_ms + HOUR_MS)
        assert await entries_of(log, COUNTS) == []
        assert [batch.next_offset for batch in await read_all(log, COUNTS, START)] == [2]

    run(tmp_path, work, tombstone_retention_ms=HOUR_MS)


def test_commits_reads_and_deletions_go_on_beside_maintenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "STEP_BYTES", 5_000)

    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("counts", kind="changelog", compact=True), TopicSpec("orders")])
        writing = True
        turns = 0
        gone = asyncio.Event()

        async def write() -> None:
            nonlocal writing, turns
            while turns < 60:
                await log.append([changes(turns, 200), append(ORDERS, b"%d" % turns)])
                turns += 1
                gone.clear()
                await gone.wait()  # maintenance takes a step for each topic that comes and goes
            writing = False

        async def maintain() -> None:
            while writing:
                await log.maintain(clock.now_ms)

        async def come_and_go() -> None:
            while writing:
                await log.create_topics([TopicSpec("brief", compact=True)])
                await log.append([append(TopicPartition("brief", 0), *numbered(0, 200))])
                await asyncio.sleep(0)
                await log.delete_topics(["brief"])
                gone.set()

        async def read() -> dict[bytes | None, bytes | None]:
            found: dict[bytes | None, bytes | None] = {}
            reader = log.reader({COUNTS: START})
            reached = 0
            while writing or Position.at(reached) != reader.ends()[COUNTS]:
                for batch in await reader.fetch([COUNTS], max_records=150, wait_s=0.01):
                    assert not batch.offsets or batch.offsets[0] >= reached
                    reached = batch.next_offset
                    found.update(zip(batch.records.keys, batch.records.values))
            await reader.close()
            return found

        results = await asyncio.gather(write(), maintain(), come_and_go(), read())
        assert results[3] == await last_values(log)
        assert log.maintained.compacted >= 1
        assert await values_of(log, ORDERS) == numbered(0, turns)
        await log.delete_topics(["brief"])
        db = log._engine.storage.db
        numbers = {topic.number for topic in log._engine.topics.values()}
        stored = {bytes(key)[:4] for key in db.keys(from_key=b"\0\0\0\1") if isinstance(key, bytes)}
        assert stored <= {number.to_bytes(4, "big") for number in numbers}, "a deleted topic came back to life"

    run(tmp_path, work)


def test_a_maintenance_that_is_cancelled_anywhere_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "STEP_BYTES", 3_000)
    chance = random.Random(7)

    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("counts", kind="changelog", compact=True, retention_bytes=2**30)])
        for turn in range(40):
            await log.append([changes(turn, 300)])
            expected = await last_values(log)
            running = asyncio.create_task(log.maintain(clock.now_ms))
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert await last_values(log) == expected
        await log.maintain(clock.now_ms)
        assert await last_values(log) == expected

    run(tmp_path, work)


def test_the_space_of_removed_records_goes_back_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "RECLAIM_BYTES_MIN", 2**20)

    def stored_bytes() -> int:
        return sum(file.stat().st_size for file in (tmp_path / "db").iterdir() if file.suffix == ".sst")

    async def work(log: EmbeddedLog, clock: Clock) -> None:
        await log.create_topics([TopicSpec("orders", kind="repartition"), TopicSpec("brief")])
        for _ in range(60):
            await log.append([append(ORDERS, *[bytes(1000)] * 1000)])
            await log.append([append(TopicPartition("brief", 0), *[bytes(1000)] * 500)])
        assert stored_bytes() > 50_000_000
        await log.trim({ORDERS: Position.at(59_000)})
        await log.delete_topics(["brief"])
        await log.maintain(clock.now_ms)
        assert log.maintained.reclaimed == 1
        assert stored_bytes() < 10_000_000
        assert len(await values_of(log, ORDERS)) == 1000

    run(tmp_path, work)
