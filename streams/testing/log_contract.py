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

import pytest

from streams.core.log import Append, Commit, Log, TopicSpec
from streams.core.record import START, Position, Records, TopicPartition
from streams.errors import CommitUnknown, ConfigurationError, DataError, Fenced, RetryableError, TopicMismatch
from streams.testing.log_contract_reading import ReadingTests, RemovingTests
from streams.testing.log_scenarios import (
    COUNTS,
    ORDERS,
    OTHERS,
    TOPICS,
    YEARS_MS,
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

__all__ = ["LogContract", "append", "entries_of", "fetch", "numbered", "read_all", "records", "task_ref", "values_of"]

MAX_RECORD_BYTES_TRIED = 64 * 2**20


class LogContract(ReadingTests, RemovingTests):
    """Subclass it, implement ``make_log`` and ``reopen_log``; pytest does the rest."""

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
            writer = await log.fence(task_ref(0))
            assert writer.checkpoint is None
            positions = await writer.commit(
                Commit(b"one", [append(ORDERS, b"1", b"2"), append(OTHERS, b"3"), append(COUNTS, b"4")])
            )
            assert {COUNTS} <= set(positions) <= {ORDERS, OTHERS, COUNTS}
            assert await values_of(log, ORDERS) == [b"1", b"2"]
            assert await values_of(log, OTHERS) == [b"3"]
            bounds = await log.bounds(positions)
            assert {at: each.end for at, each in bounds.items() if not each.end.reached(positions[at])} == {}
            assert await values_of(log, COUNTS, positions[COUNTS]) == []
            assert await values_of(log, COUNTS) == [b"4"]
            assert await log.checkpoint(task_ref(0)) == b"one"
            assert await log.checkpoint(task_ref(1)) is None

        self.run(scenario)

    def test_a_commit_may_hold_nothing_but_a_checkpoint(self) -> None:
        async def scenario(log: Log) -> None:
            writer = await log.fence(task_ref(0))
            assert await writer.commit(Commit(b"")) == {}
            assert await log.checkpoint(task_ref(0)) == b""
            await writer.commit(Commit(b"two", [Append(ORDERS, Records())]))
            assert await log.checkpoint(task_ref(0)) == b"two"

        self.run(scenario)

    def test_a_new_owner_gets_the_last_checkpoint_of_the_old_one(self) -> None:
        async def scenario(log: Log) -> None:
            writer = await log.fence(task_ref(0))
            await writer.commit(Commit(b"one"))
            await writer.commit(Commit(b"two"))
            await writer.close()
            assert (await log.fence(task_ref(0))).checkpoint == b"two"

        self.run(scenario)

    def test_a_stale_owner_cannot_commit_and_stores_nothing(self) -> None:
        async def scenario(log: Log) -> None:
            stale = await log.fence(task_ref(0))
            await stale.commit(Commit(b"one", [append(ORDERS, b"1")]))
            owner = await log.fence(task_ref(0))
            with pytest.raises(Fenced):
                await stale.commit(Commit(b"stale", [append(ORDERS, b"stale"), append(OTHERS, b"stale")]))
            assert await log.checkpoint(task_ref(0)) == b"one"
            await owner.commit(Commit(b"two", [append(ORDERS, b"2")]))
            assert await values_of(log, ORDERS) == [b"1", b"2"]
            assert await values_of(log, OTHERS) == []

        self.run(scenario)

    def test_what_a_fence_hands_out_is_final_whatever_the_old_owner_is_doing(self) -> None:
        async def scenario(log: Log) -> None:
            stale = await log.fence(task_ref(0))
            racing = asyncio.create_task(stale.commit(Commit(b"late", [append(ORDERS, b"late")])))
            owner = await log.fence(task_ref(0))
            outcome = (await asyncio.gather(racing, return_exceptions=True))[0]
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, RetryableError), "a claim in the middle of a commit is nobody's mistake"
                assert owner.checkpoint is None or isinstance(outcome, CommitUnknown)
            else:
                assert owner.checkpoint == b"late"
            assert await log.checkpoint(task_ref(0)) == owner.checkpoint
            assert await values_of(log, ORDERS) == ([b"late"] if owner.checkpoint else [])

        self.run(scenario)

    def test_fencing_one_task_leaves_the_others_alone(self) -> None:
        async def scenario(log: Log) -> None:
            first = await log.fence(task_ref(0))
            second = await log.fence(task_ref(1))
            await log.fence(task_ref(0))
            await second.commit(Commit(b"second"))
            with pytest.raises(Fenced):
                await first.commit(Commit(b"first"))

        self.run(scenario)

    def test_a_closed_writer_cannot_commit(self) -> None:
        async def scenario(log: Log) -> None:
            writer = await log.fence(task_ref(0))
            await writer.close()
            with pytest.raises(Fenced):
                await writer.commit(Commit(b"one", [append(ORDERS, b"1")]))
            assert await values_of(log, ORDERS) == []

        self.run(scenario)

    def test_a_task_that_is_forgotten_starts_anew_and_its_owner_is_fenced(self) -> None:
        async def scenario(log: Log) -> None:
            writer = await log.fence(task_ref(0))
            other = await log.fence(task_ref(1))
            await writer.commit(Commit(b"one"))
            await log.forget([task_ref(0), task_ref(99)])
            assert await log.checkpoint(task_ref(0)) is None
            with pytest.raises(Fenced):
                await writer.commit(Commit(b"two"))
            anew = await log.fence(task_ref(0))
            assert anew.checkpoint is None
            await anew.commit(Commit(b"three"))
            await other.commit(Commit(b"other"))

        self.run(scenario)

    def test_many_writers_commit_at_once_and_nothing_is_lost_or_doubled(self) -> None:
        async def scenario(log: Log) -> None:
            async def work(number: int) -> None:
                writer = await log.fence(task_ref(number))
                for turn in range(5):
                    at = TopicPartition("orders", number % 2)
                    await writer.commit(Commit(b"%d" % turn, [append(at, b"%d-%d" % (number, turn))]))

            await asyncio.gather(*(work(number) for number in range(8)))
            found = await values_of(log, ORDERS) + await values_of(log, OTHERS)
            assert sorted(map(bytes, filter(None, found))) == [
                b"%d-%d" % (number, turn) for number in range(8) for turn in range(5)
            ]
            assert [await log.checkpoint(task_ref(number)) for number in range(8)] == [b"4"] * 8

        self.run(scenario)

    def test_a_commit_that_is_cancelled_happened_whole_or_not_at_all(self) -> None:
        async def scenario(log: Log) -> None:
            writer = await log.fence(task_ref(0))
            committing = asyncio.create_task(
                writer.commit(Commit(b"one", [append(ORDERS, b"1"), append(OTHERS, b"1")]))
            )
            await asyncio.sleep(0)
            committing.cancel()
            await asyncio.gather(committing, return_exceptions=True)
            checkpoint = (await log.fence(task_ref(0))).checkpoint
            expected = [b"1"] if checkpoint == b"one" else []
            assert await values_of(log, ORDERS) == expected
            assert await values_of(log, OTHERS) == expected

        self.run(scenario)

    # Life

    def test_everything_is_there_after_opening_again(self) -> None:
        async def first(log: Log) -> tuple[str, str, Position, list[int], Position]:
            await log.append([append(ORDERS, *numbered(0, 6))])
            await log.append([append(COUNTS, b"1", key=b"gone"), append(COUNTS, None, key=b"gone")])
            writer = await log.fence(task_ref(0))
            await writer.commit(Commit(b"one", [append(ORDERS, b"6")]))
            await log.fence(task_ref(1))
            offsets = [offset for batch in await read_all(log, ORDERS) for offset in batch.offsets]
            await log.trim({ORDERS: Position.at(offsets[2])})
            end = (await log.bounds([COUNTS]))[COUNTS].end
            await self.maintain(log, now_ms() + YEARS_MS)
            return log.identity, (await log.topics())["orders"].identity, log.compaction_floor(COUNTS), offsets, end

        async def main() -> None:
            async with self.opened() as log:
                identity, topic_identity, floor, offsets, end = await first(log)
            again = self.reopen_log(log)
            if again is None:
                pytest.skip("the log doesn't outlive its process")
            await again.open()
            try:
                assert again.identity == identity
                await again.create_topics(TOPICS)  # as a worker does at each start
                topics = await again.topics()
                assert [topics[spec.name].spec for spec in TOPICS] == TOPICS
                assert topics["orders"].identity == topic_identity
                bounds = await again.bounds([ORDERS, COUNTS])
                assert bounds[ORDERS].start == Position.at(offsets[2])
                assert bounds[ORDERS].end.reached(Position.at(offsets[6] + 1))  # there may be marks of the log's own
                assert await values_of(again, ORDERS) == numbered(2, 5)
                assert again.compaction_floor(COUNTS) == floor
                assert bounds[COUNTS].end == end
                assert await again.checkpoint(task_ref(0)) == b"one"
                assert (await again.fence(task_ref(0))).checkpoint == b"one"
                assert (await again.fence(task_ref(1))).checkpoint is None
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
            if self.shared:
                pytest.skip("new logs are topics of one server here")
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
            writer = await log.fence(task_ref(0))
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
