"""The contract of a log, as tests that the author of one subclasses.

What must live here: what every ``Log`` promises, checked from outside through the protocol only.  What must not:
anything that is true of one implementation.  Needs pytest.

    class TestMyLog(LogContract):
        def make_log(self) -> Log:
            return MyLog(...)                # new and empty, not opened

        def reopen_log(self, log: Log) -> Log | None:
            return MyLog(...)                # what ``log``, closed by now, was kept in; None if it keeps nothing

Choose small limits in ``make_log`` where they can be chosen: records of ``max_record_bytes`` are sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TypeVar

import pytest

from streams.core.log import Append, Commit, Log, Reader, TopicSpec
from streams.core.record import START, Fetched, Headers, Position, Records, TopicPartition
from streams.errors import ConfigurationError, DataError, Fenced, PositionLost, RetryableError, TopicMismatch

__all__ = ["LogContract", "append", "read_all", "records"]

T = TypeVar("T")
Scenario = Callable[[Log], Awaitable[T]]

ORDERS = TopicPartition("orders", 0)
OTHERS = TopicPartition("orders", 1)
COUNTS = TopicPartition("counts", 0)
TOPICS = [TopicSpec("orders", partitions=2), TopicSpec("counts", kind="changelog", compact=True)]

# Generous: how long a log may take to do what it was asked for, never how long a test takes.
PATIENCE_S = 30.0
YEARS_MS = 10 * 365 * 24 * 3600 * 1000
MAX_RECORD_BYTES_TRIED = 64 * 2**20


def records(
    *values: bytes | None, keys: Sequence[bytes | None] | None = None, headers: list[Headers | None] | None = None
) -> Records:
    """Columns with these values; the timestamps are 1000, 1001, …."""
    count = len(values)
    known: list[bytes | None] = [b"key"] * count
    return Records(list(keys) if keys is not None else known, list(values), list(range(1000, 1000 + count)), headers)


def append(at: TopicPartition, *values: bytes | None, key: bytes | None = b"key") -> Append:
    """An append of records that all have one key."""
    return Append(at, records(*values, keys=[key] * len(values)))


def numbered(first: int, count: int) -> list[bytes | None]:
    return [b"%d" % number for number in range(first, first + count)]


async def read_all(
    log: Log, at: TopicPartition, position: Position | None = None, *, max_records: int = 1000
) -> list[Fetched]:
    """Every batch from ``position`` (the start, when left out) to the end of ``at``, as one reader gets them."""
    bounds = (await log.bounds([at]))[at]
    reader = log.reader({at: bounds.start if position is None else position})
    batches: list[Fetched] = []
    reached = bounds.start if position is None else position
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not reached.reached(bounds.end):
                for batch in await reader.fetch([at], max_records=max_records, wait_s=PATIENCE_S):
                    batches.append(batch)
                    reached = reached.advanced(batch.lane, batch.next_offset)
    finally:
        await reader.close()
    return batches


async def values_of(log: Log, at: TopicPartition, position: Position | None = None) -> list[bytes | None]:
    return [value for batch in await read_all(log, at, position) for value in batch.records.values]


async def entries_of(log: Log, at: TopicPartition) -> list[tuple[bytes | None, bytes | None]]:
    batches = await read_all(log, at)
    return [entry for batch in batches for entry in zip(batch.records.keys, batch.records.values)]


async def fetch(reader: Reader, *partitions: TopicPartition, max_records: int = 1000) -> list[Fetched]:
    """The next batches, waiting for them."""
    async with asyncio.timeout(PATIENCE_S):
        return list(await reader.fetch(partitions, max_records=max_records, wait_s=PATIENCE_S))


class LogContract:
    """Subclass it, implement ``make_log`` and ``reopen_log``; pytest does the rest."""

    def make_log(self) -> Log:
        """A log that is new and empty; the test opens and closes it."""
        raise NotImplementedError

    def reopen_log(self, log: Log) -> Log | None:
        """A log on what ``log`` left behind, not opened; None where a log doesn't outlive its process."""
        raise NotImplementedError

    async def maintain(self, log: Log, now_ms: int) -> bool:
        """Have retention and compaction done as of ``now_ms``; return False where a server does that, some time."""
        await log.maintain(now_ms)
        return True

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Log]:
        log = self.make_log()
        await log.open()
        try:
            await log.create_topics(TOPICS)
            yield log
        finally:
            await log.close()

    def run(self, scenario: Scenario[T]) -> T:
        """Run ``scenario`` on a new log with the topics that these tests use."""

        async def main() -> T:
            async with self.opened() as log:
                return await scenario(log)

        return asyncio.run(main())

    # Topics

    def test_a_topic_that_was_created_is_listed_as_it_was_declared(self) -> None:
        async def scenario(log: Log) -> None:
            topics = await log.topics()
            assert [topics[spec.name].spec for spec in TOPICS] == TOPICS
            assert topics["orders"].identity != topics["counts"].identity

        self.run(scenario)

    def test_creating_a_topic_again_changes_nothing(self) -> None:
        async def scenario(log: Log) -> None:
            identity = (await log.topics())["orders"].identity
            await log.append([append(ORDERS, b"1")])
            await log.create_topics(TOPICS)
            assert (await log.topics())["orders"].identity == identity
            assert await values_of(log, ORDERS) == [b"1"]

        self.run(scenario)

    def test_a_topic_declared_otherwise_is_refused_and_both_values_are_named(self) -> None:
        async def scenario(log: Log) -> None:
            with pytest.raises(TopicMismatch, match=r"orders.*partitions.*2.*5"):
                await log.create_topics([TopicSpec("fresh"), TopicSpec("orders", partitions=5)])
            assert "fresh" not in await log.topics(), "half of a refused call was carried out"

        self.run(scenario)

    def test_a_topic_that_is_created_anew_is_empty_and_has_another_identity(self) -> None:
        async def scenario(log: Log) -> None:
            identity = (await log.topics())["orders"].identity
            await log.append([append(ORDERS, b"1")])
            await log.delete_topics(["orders", "never-was"])
            assert "orders" not in await log.topics()
            await log.create_topics(TOPICS)
            assert (await log.topics())["orders"].identity != identity
            assert await values_of(log, ORDERS) == []
            await log.append([append(ORDERS, b"2")])
            assert await values_of(log, ORDERS) == [b"2"]

        self.run(scenario)

    def test_writing_to_what_does_not_exist_is_refused_by_name(self) -> None:
        async def scenario(log: Log) -> None:
            with pytest.raises(ConfigurationError, match="nowhere"):
                await log.append([append(TopicPartition("nowhere", 0), b"1")])
            with pytest.raises(ConfigurationError, match="orders"):
                await log.append([append(ORDERS, b"1"), append(TopicPartition("orders", 7), b"1")])
            assert await values_of(log, ORDERS) == [], "half of a refused write was stored"

        self.run(scenario)

    # Records

    def test_records_come_back_as_they_were_in_order_with_ascending_offsets(self) -> None:
        async def scenario(log: Log) -> None:
            written = records(b"a", None, b"", b"d", keys=[b"k", b"k", None, b""])
            written.headers = [None, (("cause", b"x"), ("cause", b"\x00\xff")), None, (("empty", b""),)]
            written.timestamps = [5, 3, -1, 2**53]
            await log.append([Append(ORDERS, written)])
            batches = await read_all(log, ORDERS)
            got = Records()
            for batch in batches:
                got.extend(batch.records)
            assert (got.keys, got.values, got.timestamps) == (written.keys, written.values, written.timestamps)
            assert got.headers == written.headers
            offsets = [offset for batch in batches for offset in batch.offsets]
            assert len(offsets) == 4
            assert offsets == sorted(set(offsets))
            assert batches[-1].next_offset > offsets[-1]

        self.run(scenario)

    def test_records_without_headers_come_back_without(self) -> None:
        async def scenario(log: Log) -> None:
            await log.append([append(ORDERS, b"a")])
            assert [batch.records.headers for batch in await read_all(log, ORDERS)] == [None]

        self.run(scenario)

    def test_the_lists_of_a_batch_belong_to_who_fetched_it(self) -> None:
        async def scenario(log: Log) -> None:
            await log.append([append(ORDERS, b"a", b"b")])
            for batch in await read_all(log, ORDERS):
                batch.records.values.clear()
                batch.records.keys.clear()
            assert await values_of(log, ORDERS) == [b"a", b"b"]

        self.run(scenario)

    def test_appends_of_one_write_keep_their_order_within_a_partition(self) -> None:
        async def scenario(log: Log) -> None:
            await log.append([append(ORDERS, b"1"), append(OTHERS, b"x"), append(ORDERS, b"2", b"3")])
            assert await values_of(log, ORDERS) == [b"1", b"2", b"3"]
            assert await values_of(log, OTHERS) == [b"x"]

        self.run(scenario)

    def test_a_write_returns_the_position_behind_its_last_record(self) -> None:
        async def scenario(log: Log) -> None:
            first = await log.append([append(ORDERS, b"1", b"2"), append(OTHERS, b"x")])
            assert set(first) == {ORDERS, OTHERS}
            await log.append([append(ORDERS, b"3")])
            assert await values_of(log, ORDERS, first[ORDERS]) == [b"3"]
            assert await values_of(log, OTHERS, first[OTHERS]) == []

        self.run(scenario)

    def test_a_write_of_thousands_of_records_comes_back_whole(self) -> None:
        async def scenario(log: Log) -> None:
            count = min(2345, log.limits.max_commit_records)
            await log.append([append(ORDERS, *numbered(0, count))])
            assert await values_of(log, ORDERS) == numbered(0, count)

        self.run(scenario)

    def test_a_record_of_the_largest_size_is_taken_and_a_larger_one_refused_with_the_setting_named(self) -> None:
        async def scenario(log: Log) -> None:
            limit = log.limits.max_record_bytes
            if limit > MAX_RECORD_BYTES_TRIED:
                pytest.skip(f"max_record_bytes is {limit}; give make_log a smaller one")
            largest = bytes(limit - len(b"key"))
            await log.append([append(ORDERS, largest)])
            with pytest.raises(DataError, match="max_record_bytes"):
                await log.append([append(OTHERS, b"small"), append(ORDERS, largest + b"!")])
            assert await values_of(log, ORDERS) == [largest]
            assert await values_of(log, OTHERS) == [], "half of a refused write was stored"

        self.run(scenario)

    def test_every_key_has_one_partition_and_every_partition_gets_keys(self) -> None:
        log = self.make_log()
        keys = [b"user-%d" % number for number in range(1000)]
        assert {log.partition_for(key, 7) for key in keys} == set(range(7))
        assert [log.partition_for(key, 7) for key in keys] == [self.make_log().partition_for(key, 7) for key in keys]

    # Commits

    def test_a_commit_stores_records_of_several_partitions_and_the_checkpoint(self) -> None:
        async def scenario(log: Log) -> None:
            writer = await log.fence("task-0", 0)
            assert writer.checkpoint is None
            positions = await writer.commit(
                Commit(b"one", [append(ORDERS, b"1", b"2"), append(OTHERS, b"3"), append(COUNTS, b"4")])
            )
            assert set(positions) == {ORDERS, OTHERS, COUNTS}
            assert await values_of(log, ORDERS) == [b"1", b"2"]
            assert await values_of(log, OTHERS) == [b"3"]
            assert await values_of(log, COUNTS) == [b"4"]
            assert await log.checkpoint("task-0") == b"one"
            assert await log.checkpoint("task-1") is None

        self.run(scenario)

    def test_a_commit_may_hold_nothing_but_a_checkpoint(self) -> None:
        async def scenario(log: Log) -> None:
            writer = await log.fence("task-0", 0)
            assert await writer.commit(Commit(b"")) == {}
            assert await log.checkpoint("task-0") == b""
            await writer.commit(Commit(b"two", [Append(ORDERS, Records())]))
            assert await log.checkpoint("task-0") == b"two"

        self.run(scenario)

    def test_a_new_owner_gets_the_last_checkpoint_of_the_old_one(self) -> None:
        async def scenario(log: Log) -> None:
            writer = await log.fence("task-0", 0)
            await writer.commit(Commit(b"one"))
            await writer.commit(Commit(b"two"))
            await writer.close()
            assert (await log.fence("task-0", 0)).checkpoint == b"two"

        self.run(scenario)

    def test_a_stale_owner_cannot_commit_and_stores_nothing(self) -> None:
        async def scenario(log: Log) -> None:
            stale = await log.fence("task-0", 0)
            await stale.commit(Commit(b"one", [append(ORDERS, b"1")]))
            owner = await log.fence("task-0", 0)
            with pytest.raises(Fenced):
                await stale.commit(Commit(b"stale", [append(ORDERS, b"stale"), append(OTHERS, b"stale")]))
            assert await log.checkpoint("task-0") == b"one"
            await owner.commit(Commit(b"two", [append(ORDERS, b"2")]))
            assert await values_of(log, ORDERS) == [b"1", b"2"]
            assert await values_of(log, OTHERS) == []

        self.run(scenario)

    def test_what_a_fence_hands_out_is_final_whatever_the_old_owner_is_doing(self) -> None:
        async def scenario(log: Log) -> None:
            stale = await log.fence("task-0", 0)
            racing = asyncio.create_task(stale.commit(Commit(b"late", [append(ORDERS, b"late")])))
            owner = await log.fence("task-0", 0)
            outcome = (await asyncio.gather(racing, return_exceptions=True))[0]
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, Fenced)
                assert owner.checkpoint is None
            else:
                assert owner.checkpoint == b"late"
            assert await log.checkpoint("task-0") == owner.checkpoint
            assert await values_of(log, ORDERS) == ([b"late"] if owner.checkpoint else [])

        self.run(scenario)

    def test_fencing_one_task_leaves_the_others_alone(self) -> None:
        async def scenario(log: Log) -> None:
            first = await log.fence("task-0", 0)
            second = await log.fence("task-1", 1)
            await log.fence("task-0", 0)
            await second.commit(Commit(b"second"))
            with pytest.raises(Fenced):
                await first.commit(Commit(b"first"))

        self.run(scenario)

    def test_a_closed_writer_cannot_commit(self) -> None:
        async def scenario(log: Log) -> None:
            writer = await log.fence("task-0", 0)
            await writer.close()
            with pytest.raises(Fenced):
                await writer.commit(Commit(b"one", [append(ORDERS, b"1")]))
            assert await values_of(log, ORDERS) == []

        self.run(scenario)

    def test_a_task_that_is_forgotten_starts_anew_and_its_owner_is_fenced(self) -> None:
        async def scenario(log: Log) -> None:
            writer = await log.fence("task-0", 0)
            other = await log.fence("task-1", 1)
            await writer.commit(Commit(b"one"))
            await log.forget(["task-0", "never-was"])
            assert await log.checkpoint("task-0") is None
            with pytest.raises(Fenced):
                await writer.commit(Commit(b"two"))
            anew = await log.fence("task-0", 0)
            assert anew.checkpoint is None
            await anew.commit(Commit(b"three"))
            await other.commit(Commit(b"other"))

        self.run(scenario)

    def test_many_writers_commit_at_once_and_nothing_is_lost_or_doubled(self) -> None:
        async def scenario(log: Log) -> None:
            async def work(number: int) -> None:
                writer = await log.fence(f"task-{number}", number)
                for turn in range(5):
                    at = TopicPartition("orders", number % 2)
                    await writer.commit(Commit(b"%d" % turn, [append(at, b"%d-%d" % (number, turn))]))

            await asyncio.gather(*(work(number) for number in range(8)))
            found = await values_of(log, ORDERS) + await values_of(log, OTHERS)
            assert sorted(map(bytes, filter(None, found))) == [
                b"%d-%d" % (number, turn) for number in range(8) for turn in range(5)
            ]
            assert [await log.checkpoint(f"task-{number}") for number in range(8)] == [b"4"] * 8

        self.run(scenario)

    def test_a_commit_that_is_cancelled_happened_whole_or_not_at_all(self) -> None:
        async def scenario(log: Log) -> None:
            writer = await log.fence("task-0", 0)
            committing = asyncio.create_task(
                writer.commit(Commit(b"one", [append(ORDERS, b"1"), append(OTHERS, b"1")]))
            )
            await asyncio.sleep(0)
            committing.cancel()
            await asyncio.gather(committing, return_exceptions=True)
            checkpoint = (await log.fence("task-0", 0)).checkpoint
            expected = [b"1"] if checkpoint == b"one" else []
            assert await values_of(log, ORDERS) == expected
            assert await values_of(log, OTHERS) == expected

        self.run(scenario)

    # Reading

    def test_a_reader_goes_on_at_its_position(self) -> None:
        async def scenario(log: Log) -> None:
            await log.append([append(ORDERS, *numbered(0, 10))])
            batches = await read_all(log, ORDERS)
            offsets = [offset for batch in batches for offset in batch.offsets]
            for index in (0, 1, 7, 9):
                assert await values_of(log, ORDERS, Position.at(offsets[index])) == numbered(index, 10 - index)
            assert await values_of(log, ORDERS, Position.at(batches[-1].next_offset)) == []

        self.run(scenario)

    def test_batches_follow_one_another_whatever_their_size(self) -> None:
        async def scenario(log: Log) -> None:
            for first in range(0, 50, 5):
                await log.append([append(ORDERS, *numbered(first, 5))])
            for max_records in (1, 3, 7, 1000):
                batches = await read_all(log, ORDERS, max_records=max_records)
                assert [value for batch in batches for value in batch.records.values] == numbered(0, 50)
                for before, batch in pairwise(batches):
                    assert batch.offsets[0] >= before.next_offset > before.offsets[-1]

        self.run(scenario)

    def test_a_fetch_reads_the_partitions_it_is_given_and_no_others(self) -> None:
        async def scenario(log: Log) -> None:
            reader = log.reader({ORDERS: START, OTHERS: START})
            await log.append([append(ORDERS, b"1"), append(OTHERS, b"2")])
            assert [batch.partition for batch in await fetch(reader, OTHERS)] == [OTHERS]
            assert [batch.partition for batch in await fetch(reader, ORDERS, OTHERS)] == [ORDERS]
            assert list(await reader.fetch([ORDERS, OTHERS], max_records=10, wait_s=0)) == []
            await reader.close()

        self.run(scenario)

    def test_a_full_partition_does_not_keep_others_waiting(self) -> None:
        async def scenario(log: Log) -> None:
            count = min(500, log.limits.max_commit_records)
            for _ in range(4):
                await log.append([append(ORDERS, *numbered(0, count))])
            await log.append([append(OTHERS, b"urgent")])
            reader = log.reader({ORDERS: START, OTHERS: START})
            seen: set[TopicPartition] = set()
            for _ in range(2):
                seen.update(batch.partition for batch in await fetch(reader, ORDERS, OTHERS, max_records=10))
            assert OTHERS in seen
            await reader.close()

        self.run(scenario)

    def test_a_fetch_waits_and_wakes_when_a_commit_arrives(self) -> None:
        async def scenario(log: Log) -> None:
            reader = log.reader({ORDERS: START, OTHERS: START})
            waiting = asyncio.create_task(fetch(reader, ORDERS, OTHERS))
            await asyncio.sleep(0)
            writer = await log.fence("task-0", 0)
            assert not waiting.done()
            await writer.commit(Commit(b"one", [append(OTHERS, b"1")]))
            assert [(batch.partition, batch.records.values) for batch in await waiting] == [(OTHERS, [b"1"])]
            await reader.close()

        self.run(scenario)

    def test_a_fetch_returns_empty_when_nothing_comes(self) -> None:
        async def scenario(log: Log) -> None:
            reader = log.reader({ORDERS: START, OTHERS: START})
            await log.append([append(OTHERS, b"1")])
            assert list(await reader.fetch([ORDERS], max_records=10, wait_s=0.01)) == []
            assert list(await reader.fetch([ORDERS], max_records=10, wait_s=0)) == []
            await reader.close()

        self.run(scenario)

    def test_a_fetch_that_is_cancelled_skips_nothing(self) -> None:
        async def scenario(log: Log) -> None:
            reader = log.reader({ORDERS: START})
            waiting = asyncio.create_task(fetch(reader, ORDERS))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await log.append([append(ORDERS, b"1")])
            assert [batch.records.values for batch in await fetch(reader, ORDERS)] == [[b"1"]]
            await reader.close()

        self.run(scenario)

    def test_readers_do_not_disturb_one_another(self) -> None:
        async def scenario(log: Log) -> None:
            await log.append([append(ORDERS, b"1")])
            first, second = log.reader({ORDERS: START}), log.reader({ORDERS: START})
            assert [batch.records.values for batch in await fetch(first, ORDERS)] == [[b"1"]]
            await first.close()
            assert [batch.records.values for batch in await fetch(second, ORDERS)] == [[b"1"]]
            await second.close()

        self.run(scenario)

    def test_bounds_say_where_a_partition_starts_and_ends(self) -> None:
        async def scenario(log: Log) -> None:
            empty = (await log.bounds([ORDERS, OTHERS]))[ORDERS]
            assert empty.start.reached(empty.end)
            written = (await log.append([append(ORDERS, b"1", b"2")]))[ORDERS]
            bounds = await log.bounds([ORDERS])
            assert set(bounds) == {ORDERS}
            assert bounds[ORDERS].end == written
            assert not bounds[ORDERS].start.reached(bounds[ORDERS].end)

        self.run(scenario)

    def test_a_reader_knows_the_ends_of_its_partitions(self) -> None:
        async def scenario(log: Log) -> None:
            written = await log.append([append(ORDERS, b"1", b"2")])
            reader = log.reader({ORDERS: START, OTHERS: START})
            position = START
            for batch in await fetch(reader, ORDERS):
                position = position.advanced(batch.lane, batch.next_offset)
            assert set(reader.ends()) == {ORDERS, OTHERS}
            assert position.reached(reader.ends()[ORDERS])
            assert reader.ends()[ORDERS].reached(written[ORDERS])
            await reader.close()

        self.run(scenario)

    def test_reading_beyond_the_end_is_an_error_and_not_a_wait(self) -> None:
        async def scenario(log: Log) -> None:
            await log.append([append(ORDERS, b"1")])
            end = (await log.bounds([ORDERS]))[ORDERS].end
            lane, offset = next(iter(end.lanes.items()))
            reader = log.reader({ORDERS: end.advanced(lane, offset + 1000)})
            with pytest.raises(DataError):
                await fetch(reader, ORDERS)
            await reader.close()

        self.run(scenario)

    # Removing

    def test_trimming_moves_the_start_and_reading_below_it_is_an_error_with_the_numbers(self) -> None:
        async def scenario(log: Log) -> None:
            written = (await log.append([append(ORDERS, *numbered(0, 6)), append(OTHERS, b"x")]))[ORDERS]
            offsets = [offset for batch in await read_all(log, ORDERS) for offset in batch.offsets]
            await log.trim({ORDERS: Position.at(offsets[4])})
            bounds = (await log.bounds([ORDERS]))[ORDERS]
            assert bounds.start == Position.at(offsets[4])
            assert bounds.end == written
            assert await values_of(log, ORDERS) == numbered(4, 2)
            assert await values_of(log, OTHERS) == [b"x"]
            reader = log.reader({ORDERS: Position.at(offsets[1])})
            with pytest.raises(PositionLost) as lost:
                await fetch(reader, ORDERS)
            assert (lost.value.position, lost.value.first) == (offsets[1], offsets[4])
            await reader.close()

        self.run(scenario)

    def test_trimming_never_moves_back_nor_past_the_end(self) -> None:
        async def scenario(log: Log) -> None:
            end = (await log.append([append(ORDERS, *numbered(0, 6))]))[ORDERS]
            offsets = [offset for batch in await read_all(log, ORDERS) for offset in batch.offsets]
            await log.trim({ORDERS: Position.at(offsets[4])})
            await log.trim({ORDERS: Position.at(offsets[2])})
            assert await values_of(log, ORDERS) == numbered(4, 2)
            await log.trim({ORDERS: Position.at(end.offset() + 1000)})
            assert (await log.bounds([ORDERS]))[ORDERS].end == end
            await self.maintain(log, _now_ms())
            assert (await log.bounds([ORDERS]))[ORDERS].end == end
            await log.append([append(ORDERS, b"after")])
            assert await values_of(log, ORDERS) == [b"after"]

        self.run(scenario)

    def test_retention_by_time_goes_by_the_append_and_not_by_the_records_own_time(self) -> None:
        async def scenario(log: Log) -> None:
            await log.create_topics([TopicSpec("brief", retention_ms=3600_000), TopicSpec("kept")])
            brief, kept = TopicPartition("brief", 0), TopicPartition("kept", 0)
            await log.append([append(brief, *numbered(0, 3)), append(kept, *numbered(0, 3))])  # timestamps of 1970
            if not await self.maintain(log, _now_ms()):
                pytest.skip("the log maintains itself")
            assert await values_of(log, brief) == numbered(0, 3)
            end = (await log.bounds([brief]))[brief].end
            await self.maintain(log, _now_ms() + YEARS_MS)
            assert await values_of(log, brief) == []
            assert (await log.bounds([brief]))[brief].end == end
            assert await values_of(log, kept) == numbered(0, 3)

        self.run(scenario)

    def test_retention_by_size_keeps_the_newest(self) -> None:
        async def scenario(log: Log) -> None:
            await log.create_topics([TopicSpec("small", retention_bytes=20_000)])
            small = TopicPartition("small", 0)
            for number in range(50):
                await log.append([append(small, b"%06d" % number + bytes(2000))])
            if not await self.maintain(log, _now_ms()):
                pytest.skip("the log maintains itself")
            left = await values_of(log, small)
            assert 1 <= len(left) < 30
            assert [value[:6] for value in left if value] == [b"%06d" % n for n in range(50 - len(left), 50)]

        self.run(scenario)

    def test_compaction_keeps_the_last_record_of_each_key_and_the_end(self) -> None:
        async def scenario(log: Log) -> None:
            for turn in range(20):
                keys = [b"key-%d" % number for number in range(10)]
                values = [b"%d-%d" % (turn, number) for number in range(10)]
                await log.append([Append(COUNTS, records(*values, keys=keys))])
            before = await read_all(log, COUNTS)
            bounds = (await log.bounds([COUNTS]))[COUNTS]
            if not await self.maintain(log, _now_ms()):
                pytest.skip("the log maintains itself")
            after = await read_all(log, COUNTS)
            last = {
                key: (offset, value)
                for batch in before
                for offset, key, value in zip(batch.offsets, batch.records.keys, batch.records.values)
            }
            found = [
                (key, (offset, value))
                for batch in after
                for offset, key, value in zip(batch.offsets, batch.records.keys, batch.records.values)
            ]
            assert len(found) == 10, "each key once"
            assert dict(found) == last, "the last record of each key, at the offset that it always had"
            assert after[-1].next_offset == before[-1].next_offset
            assert (await log.bounds([COUNTS]))[COUNTS] == bounds
            middle = found[4][1][0]
            assert len(await values_of(log, COUNTS, Position.at(middle))) == 6
            assert len(await values_of(log, COUNTS, Position.at(middle + 1))) == 5

        self.run(scenario)

    def test_a_reader_in_the_middle_of_a_compaction_goes_on(self) -> None:
        async def scenario(log: Log) -> None:
            for number in range(20):
                await log.append([append(COUNTS, b"%d" % number, key=b"key-%d" % (number % 2))])
            reader = log.reader({COUNTS: START})
            first = await fetch(reader, COUNTS, max_records=3)
            reached = first[-1].next_offset
            if not await self.maintain(log, _now_ms()):
                pytest.skip("the log maintains itself")
            end = (await log.bounds([COUNTS]))[COUNTS].end
            last: dict[bytes | None, bytes | None] = {}
            while not Position.at(reached).reached(end):
                for batch in await fetch(reader, COUNTS, max_records=3):
                    assert all(offset >= reached for offset in batch.offsets)
                    reached = batch.next_offset
                    last.update(zip(batch.records.keys, batch.records.values))
            assert last == {b"key-0": b"18", b"key-1": b"19"}
            await reader.close()

        self.run(scenario)

    def test_tombstones_stay_for_a_while_and_their_end_is_recorded(self) -> None:
        async def scenario(log: Log) -> None:
            await log.append([append(COUNTS, b"1", key=b"gone"), append(COUNTS, b"2", key=b"kept")])
            deleted = (await log.append([append(COUNTS, None, key=b"gone")]))[COUNTS]
            assert log.compaction_floor(COUNTS) == Position.at(0)
            if not await self.maintain(log, _now_ms()):
                pytest.skip("the log maintains itself")
            assert await entries_of(log, COUNTS) == [(b"kept", b"2"), (b"gone", None)]
            assert log.compaction_floor(COUNTS) == Position.at(0)
            await self.maintain(log, _now_ms() + YEARS_MS)
            assert await entries_of(log, COUNTS) == [(b"kept", b"2")]
            assert log.compaction_floor(COUNTS) == deleted, "a store that stands before the tombstone must know"
            assert (await log.bounds([COUNTS]))[COUNTS].end == deleted
            await log.append([append(COUNTS, b"3", key=b"gone")])
            assert await entries_of(log, COUNTS) == [(b"kept", b"2"), (b"gone", b"3")]

        self.run(scenario)

    # Life

    def test_everything_is_there_after_opening_again(self) -> None:
        async def first(log: Log) -> tuple[str, str, Position]:
            await log.append([append(ORDERS, *numbered(0, 6))])
            await log.append([append(COUNTS, b"1", key=b"gone"), append(COUNTS, None, key=b"gone")])
            writer = await log.fence("task-0", 0)
            await writer.commit(Commit(b"one", [append(ORDERS, b"6")]))
            await log.fence("task-1", 1)
            await log.trim({ORDERS: Position.at(2)})
            await self.maintain(log, _now_ms() + YEARS_MS)
            return log.identity, (await log.topics())["orders"].identity, log.compaction_floor(COUNTS)

        async def main() -> None:
            async with self.opened() as log:
                identity, topic_identity, floor = await first(log)
            again = self.reopen_log(log)
            if again is None:
                pytest.skip("the log doesn't outlive its process")
            await again.open()
            try:
                assert again.identity == identity
                topics = await again.topics()
                assert [topics[spec.name].spec for spec in TOPICS] == TOPICS
                assert topics["orders"].identity == topic_identity
                bounds = (await again.bounds([ORDERS]))[ORDERS]
                assert (bounds.start, bounds.end) == (Position.at(2), Position.at(7))
                assert await values_of(again, ORDERS) == numbered(2, 5)
                assert again.compaction_floor(COUNTS) == floor
                assert (await again.bounds([COUNTS]))[COUNTS].end == Position.at(2)
                assert await again.checkpoint("task-0") == b"one"
                assert (await again.fence("task-0", 0)).checkpoint == b"one"
                assert (await again.fence("task-1", 1)).checkpoint is None
                await again.append([append(ORDERS, b"7")])
                assert await values_of(again, ORDERS) == numbered(2, 6)
            finally:
                await again.close()

        asyncio.run(main())

    def test_two_new_logs_have_two_identities_where_a_log_outlives_its_process(self) -> None:
        async def main() -> None:
            async with self.opened() as log:
                identity = log.identity
            if self.reopen_log(log) is None:
                pytest.skip("the log doesn't outlive its process")
            async with self.opened() as other:
                assert other.identity != identity

        asyncio.run(main())

    def test_closing_twice_is_the_same_as_once(self) -> None:
        async def scenario(log: Log) -> None:
            await log.close()

        self.run(scenario)

    def test_a_closed_log_refuses_to_write_and_wakes_who_waits(self) -> None:
        async def scenario(log: Log) -> None:
            reader = log.reader({ORDERS: START})
            writer = await log.fence("task-0", 0)
            waiting = asyncio.create_task(fetch(reader, ORDERS))
            await asyncio.sleep(0)
            await log.close()
            with pytest.raises(RetryableError):
                await waiting
            with pytest.raises(RetryableError):
                await writer.commit(Commit(b"one"))
            with pytest.raises(RetryableError):
                await log.append([append(ORDERS, b"1")])

        self.run(scenario)

    def test_what_a_log_says_of_itself_is_what_these_tests_have_shown(self) -> None:
        capabilities = self.make_log().capabilities
        assert capabilities.replayable
        assert capabilities.ordered
        assert capabilities.transactional
        assert capabilities.fences


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
