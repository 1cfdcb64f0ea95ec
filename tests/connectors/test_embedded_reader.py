"""What one fetch of the embedded log holds: limits, turns, what is read ahead, offsets with and without gaps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from streams.connectors.embedded import EmbeddedLog
from streams.connectors.embedded import reader as reading
from streams.connectors.embedded.catalog import find_block
from streams.core.log import TopicSpec
from streams.core.record import START, Position, TopicPartition
from streams.errors import TopicRecreated
from streams.testing.log_contract import append

AT = [TopicPartition("orders", number) for number in range(4)]
OTHER = TopicPartition("other", 0)


def run(path: Path, work: Callable[[EmbeddedLog], Awaitable[None]]) -> None:
    """Run ``work`` on a log with the topics orders and other, without syncs."""

    async def main() -> None:
        log = EmbeddedLog(f"embedded:{path}?durable=false")
        await log.open()
        try:
            await log.create_topics([TopicSpec("orders", partitions=len(AT)), TopicSpec("other")])
            await work(log)
        finally:
            await log.close()

    asyncio.run(main())


async def blocks(log: EmbeddedLog, at: TopicPartition, *contents: Sequence[bytes]) -> int:
    """A block for each of ``contents``; the stored size of the last one."""
    for values in contents:
        before = log._engine.partition(at).total_bytes
        await log.append([append(at, *values)])
    return log._engine.partition(at).total_bytes - before


async def fetched(reader: reading.EmbeddedReader, *partitions: TopicPartition, most: int = 100) -> list[Any]:
    return list(await reader.fetch(partitions, max_records=most, wait_s=0))


def test_partitions_come_in_the_order_asked_and_a_limit_of_bytes_lets_the_others_go_first_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(log: EmbeddedLog) -> None:
        for at in AT:
            size = await blocks(log, at, *[[bytes(300)]] * 9)
        # One block of each partition in a fetch, so that each limit is met exactly.  All but the first of a partition,
        # with no bytes before it, are stored in as many bytes.
        monkeypatch.setattr(reading, "SHARE_BYTES_MAX", size)
        for limit, turns in (
            (size, [[0], [1], [2], [3], [0]]),
            (2 * size, [[0, 1], [2, 3], [0, 1]]),
            (2 * size + 1, [[0, 1, 2], [3, 0, 1], [2, 3, 0]]),
        ):
            monkeypatch.setattr(reading, "FETCH_BYTES_MAX", limit)
            reader = log.reader(dict.fromkeys(AT, Position.at(1)))
            for turn in turns:
                batches = await fetched(reader, *AT)
                assert [batch.partition.partition for batch in batches] == turn
                assert [len(batch) for batch in batches] == [1] * len(turn)

    run(tmp_path, work)


def test_a_batch_ends_with_the_last_block_that_fits_whole(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        await blocks(log, AT[0], *[[b"1", b"2", b"3"]] * 4)
        for most, lengths in ((2, [3, 3, 3, 3]), (5, [3, 3, 3, 3]), (6, [6, 6]), (7, [6, 6]), (12, [12])):
            reader = log.reader({AT[0]: START})
            batches = [(await fetched(reader, AT[0], most=most))[0] for _ in lengths]
            assert [len(batch) for batch in batches] == lengths
            assert [offset for batch in batches for offset in batch.offsets] == list(range(12))
            assert await fetched(reader, AT[0], most=most) == []

    run(tmp_path, work)


def test_a_block_is_read_once_even_if_it_had_to_wait_for_the_next_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []

    def counted(*arguments: Any, find: Any = find_block) -> Any:
        found.append(arguments[2])
        return find(*arguments)

    async def work(log: EmbeddedLog) -> None:
        await blocks(log, AT[0], *[[b"1", b"2", b"3"]] * 3)
        monkeypatch.setattr(reading, "find_block", counted)
        reader = log.reader({AT[0]: START})
        for _ in range(3):
            await fetched(reader, AT[0], most=4)
        assert found == [0, 3, 6]

    run(tmp_path, work)


def test_what_a_fetch_that_failed_read_ahead_does_not_hide_what_comes_before_it(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        await blocks(log, AT[0], [b"1", b"2", b"3"], [b"4", b"5", b"6"])
        reader = log.reader({AT[0]: START, OTHER: START})
        await log.delete_topics(["other"])
        with pytest.raises(TopicRecreated):
            await fetched(reader, AT[0], OTHER, most=4)
        (batch,) = await fetched(reader, AT[0], most=4)
        assert batch.records.values == [b"1", b"2", b"3"]

    run(tmp_path, work)


def test_a_fetch_of_nothing_is_empty_and_a_reader_may_be_closed_twice(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        reader = log.reader({AT[0]: START})
        assert await fetched(reader) == []
        await reader.close()
        await reader.close()

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        ([range(2, 5)], range(2, 5)),
        ([[2, 4]], [2, 4]),
        ([range(2, 5), range(5, 6), range(6, 9)], range(2, 9)),
        ([range(2, 5), range(6, 7)], [2, 3, 4, 6]),
        ([range(2, 5), [5, 7]], [2, 3, 4, 5, 7]),
        ([[0], range(1, 3)], [0, 1, 2]),
        ([range(2), range(2, 3), range(4, 5)], [0, 1, 2, 4]),
    ],
)
def test_offsets_of_blocks_make_a_range_where_they_have_no_gaps(
    parts: list[Sequence[int]], joined: Sequence[int]
) -> None:
    assert reading._joined(parts) == joined
