"""The contract of a source, as tests that the author of one subclasses: the reading half of a log.

What must live here: what every ``Source`` promises to an app on another log.  What must not: writing through the
protocol, which a source doesn't have; the author says how records come to be there.  Needs pytest.

    class TestMySource(SourceContract):
        @asynccontextmanager
        async def sources(self):
            yield source, feed          # an open source with the topic "readings" of two partitions, and
                                        # async feed(partition, [values]): what makes records appear in it
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from streams.core.capability import Guarantee, derive_source
from streams.core.log import Source
from streams.core.record import Fetched, Position, TopicPartition

__all__ = ["FIRST", "SECOND", "Feed", "SourceContract"]

Feed = Callable[[int, list[bytes]], Awaitable[None]]

FIRST = TopicPartition("readings", 0)
SECOND = TopicPartition("readings", 1)
PATIENCE_S = 30.0


class SourceContract:
    """Subclass it and implement ``sources``; pytest does the rest."""

    def sources(self) -> AbstractAsyncContextManager[tuple[Source, Feed]]:
        """A new source, open, and what feeds it."""
        raise NotImplementedError

    def run(self, scenario: Callable[[Source, Feed], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with self.sources() as (source, feed):
                await scenario(source, feed)

        asyncio.run(opened())

    def test_its_guarantee_follows_from_what_it_declares(self) -> None:
        async def scenario(source: Source, feed: Feed) -> None:
            declared = source.capabilities
            derived = derive_source(declared).guarantee
            assert (derived is Guarantee.EXACTLY_ONCE) == (declared.replayable and declared.ordered)

        self.run(scenario)

    def test_its_topics_have_partitions_and_an_identity_that_stays(self) -> None:
        async def scenario(source: Source, feed: Feed) -> None:
            before = (await source.topics())["readings"]
            await feed(0, [b"1"])
            after = (await source.topics())["readings"]
            assert (before.spec.partitions, before.identity) == (2, after.identity)

        self.run(scenario)

    def test_the_end_is_one_that_a_reader_reaches(self) -> None:
        async def scenario(source: Source, feed: Feed) -> None:
            await feed(0, [b"1", b"2", b"3"])
            assert await values(source, FIRST) == [b"1", b"2", b"3"]
            assert await values(source, SECOND) == []

        self.run(scenario)

    def test_reading_again_gives_the_same_records_in_the_same_order(self) -> None:
        async def scenario(source: Source, feed: Feed) -> None:
            for number in range(20):
                await feed(0, [b"%d" % number])
            once = await batches(source, FIRST)
            again = await batches(source, FIRST)
            assert rows(once) == rows(again)
            assert [value for _, value in rows(once)] == [b"%d" % number for number in range(20)]

        self.run(scenario)

    def test_a_reader_goes_on_at_its_position(self) -> None:
        async def scenario(source: Source, feed: Feed) -> None:
            await feed(0, [b"1", b"2", b"3"])
            seen = rows(await batches(source, FIRST))
            for index, (offset, _) in enumerate(seen):
                left = await batches(source, FIRST, Position.at(offset))
                assert rows(left) == seen[index:]

        self.run(scenario)

    def test_a_time_leads_to_the_first_record_that_isn_t_older(self) -> None:
        async def scenario(source: Source, feed: Feed) -> None:
            await feed(0, [b"1", b"2", b"3"])
            found = await batches(source, FIRST)
            times = [time for batch in found for time in batch.records.timestamps]
            at_first = await source.offsets_at({FIRST: min(times)})
            assert rows(await batches(source, FIRST, at_first[FIRST])) == rows(found)
            behind = await source.offsets_at({FIRST: max(times) + 1, SECOND: 0})
            bounds = await source.bounds([FIRST, SECOND])
            assert behind == {at: bounds[at].end for at in (FIRST, SECOND)}

        self.run(scenario)

    def test_a_reader_that_waits_is_woken_by_a_record(self) -> None:
        async def scenario(source: Source, feed: Feed) -> None:
            bounds = await source.bounds([FIRST])
            reader = source.reader({FIRST: bounds[FIRST].end})
            waiting = asyncio.ensure_future(reader.fetch([FIRST], max_records=10, wait_s=PATIENCE_S))
            await feed(0, [b"late"])
            async with asyncio.timeout(PATIENCE_S):
                (batch,) = await waiting
                while not len(batch.records):  # it may tell of a gap first
                    (batch,) = await reader.fetch([FIRST], max_records=10, wait_s=PATIENCE_S)
            assert batch.records.values == [b"late"]
            assert reader.ends()[FIRST].reached(Position.at(batch.next_offset))
            await reader.close()

        self.run(scenario)

    def test_only_the_partitions_that_are_wanted_are_read(self) -> None:
        async def scenario(source: Source, feed: Feed) -> None:
            bounds = await source.bounds([FIRST, SECOND])
            await feed(0, [b"1"])
            await feed(1, [b"2"])
            reader = source.reader({at: each.start for at, each in bounds.items()})
            async with asyncio.timeout(PATIENCE_S):
                found = await reader.fetch([SECOND], max_records=10, wait_s=PATIENCE_S)
            assert [batch.partition for batch in found] == [SECOND]
            await reader.close()

        self.run(scenario)


async def batches(source: Source, at: TopicPartition, position: Position | None = None) -> list[Fetched]:
    """Everything from ``position`` (the start, when left out) to the end."""
    bounds = (await source.bounds([at]))[at]
    reached = bounds.start if position is None else position
    reader = source.reader({at: reached})
    found: list[Fetched] = []
    async with asyncio.timeout(PATIENCE_S):
        while not reached.reached(bounds.end):
            for batch in await reader.fetch([at], max_records=7, wait_s=PATIENCE_S):
                found.append(batch)
                reached = reached.advanced(batch.lane, batch.next_offset)
    await reader.close()
    return found


def rows(found: list[Fetched]) -> list[tuple[int, bytes | None]]:
    return [row for batch in found for row in zip(batch.offsets, batch.records.values, strict=True)]


async def values(source: Source, at: TopicPartition) -> list[bytes | None]:
    return [value for _, value in rows(await batches(source, at))]
