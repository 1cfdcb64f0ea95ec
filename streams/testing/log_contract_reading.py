"""The part of a log's contract that is about reading and removing.

What must live here: tests of readers, bounds, trimming, retention and compaction.  What must not: tests of writing.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from streams.core.log import Append, Commit, Log, TopicSpec
from streams.core.record import START, Position, TopicPartition
from streams.errors import DataError, PositionLost
from streams.testing.log_scenarios import (
    COUNTS,
    ORDERS,
    OTHERS,
    PATIENCE_S,
    YEARS_MS,
    LogTests,
    append,
    entries_of,
    fetch,
    now_ms,
    numbered,
    read_all,
    records,
    task_ref,
    values_of,
)

__all__ = ["ReadingTests", "RemovingTests"]


class ReadingTests(LogTests):
    """Readers, and where partitions start and end."""

    def test_a_reader_goes_on_at_its_position(self) -> None:
        async def scenario(log: Log) -> None:
            await log.append([append(ORDERS, *numbered(0, 10))])
            batches = await read_all(log, ORDERS)
            offsets = [offset for batch in batches for offset in batch.offsets]
            for index in (0, 1, 7, 9):
                assert await values_of(log, ORDERS, Position.at(offsets[index])) == numbered(index, 10 - index)
            assert await values_of(log, ORDERS, Position.at(batches[-1].next_offset)) == []

        self.run(scenario)

    def test_a_time_leads_to_the_first_record_that_isn_t_older(self) -> None:
        async def scenario(log: Log) -> None:
            part = records(b"1", b"2", b"3", b"4")
            part.timestamps = [100, 300, 200, 400]
            await log.append([Append(ORDERS, part)])
            offsets = [offset for batch in await read_all(log, ORDERS) for offset in batch.offsets]
            for time, index in ((0, 0), (100, 0), (101, 1), (200, 1), (300, 1), (301, 3), (400, 3)):
                found = await log.offsets_at({ORDERS: time})
                assert await values_of(log, ORDERS, found[ORDERS]) == numbered_from(index)
                assert found[ORDERS].offset() <= offsets[index]
            ends = await log.bounds([ORDERS, OTHERS])
            assert await log.offsets_at({ORDERS: 401, OTHERS: 0}) == {at: each.end for at, each in ends.items()}

        def numbered_from(index: int) -> list[bytes]:
            return [b"1", b"2", b"3", b"4"][index:]

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
            for _ in range(20):  # of the two hundred that it may take to read the full one
                if OTHERS in seen:
                    break
                seen.update(batch.partition for batch in await fetch(reader, ORDERS, OTHERS, max_records=10))
            assert OTHERS in seen
            await reader.close()

        self.run(scenario)

    def test_a_fetch_waits_and_wakes_when_a_commit_arrives(self) -> None:
        async def scenario(log: Log) -> None:
            reader = log.reader({ORDERS: START, OTHERS: START})
            waiting = asyncio.create_task(fetch(reader, ORDERS, OTHERS))
            await asyncio.sleep(0)
            writer = await log.fence(task_ref(0))
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
            async with asyncio.timeout(PATIENCE_S):
                while OTHERS not in reader.ends():  # a server may take a moment with a topic that is new
                    await reader.fetch([OTHERS], max_records=10, wait_s=0.1)
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


class RemovingTests(LogTests):
    """Trimming, retention, compaction."""

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
            await self.maintain(log, now_ms())
            assert (await log.bounds([ORDERS]))[ORDERS].end == end
            await log.append([append(ORDERS, b"after")])
            assert await values_of(log, ORDERS) == [b"after"]

        self.run(scenario)

    def test_retention_by_time_goes_by_the_append_and_not_by_the_records_own_time(self) -> None:
        async def scenario(log: Log) -> None:
            await log.create_topics([TopicSpec("brief", retention_ms=3600_000), TopicSpec("kept")])
            brief, kept = TopicPartition("brief", 0), TopicPartition("kept", 0)
            await log.append([append(brief, *numbered(0, 3)), append(kept, *numbered(0, 3))])  # timestamps of 1970
            if not await self.maintain(log, now_ms()):
                pytest.skip("the log maintains itself")
            assert await values_of(log, brief) == numbered(0, 3)
            end = (await log.bounds([brief]))[brief].end
            await self.maintain(log, now_ms() + YEARS_MS)
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
            if not await self.maintain(log, now_ms()):
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
            if not await self.compact(log, now_ms()):
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
            if not await self.compact(log, now_ms()):
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
            if log.limits.tombstones_kept_ms is not None:
                pytest.skip("this log keeps deletes for a time and can't tell up to where they are gone")
            assert log.compaction_floor(COUNTS) == Position.at(0)
            if not await self.compact(log, now_ms()):
                pytest.skip("the log maintains itself")
            assert await entries_of(log, COUNTS) == [(b"kept", b"2"), (b"gone", None)]
            assert log.compaction_floor(COUNTS) == Position.at(0)
            await self.compact(log, now_ms() + YEARS_MS)
            assert await entries_of(log, COUNTS) == [(b"kept", b"2")]
            assert log.compaction_floor(COUNTS) == deleted, "a store that stands before the tombstone must know"
            assert (await log.bounds([COUNTS]))[COUNTS].end == deleted
            await log.append([append(COUNTS, b"3", key=b"gone")])
            assert await entries_of(log, COUNTS) == [(b"kept", b"2"), (b"gone", b"3")]

        self.run(scenario)
