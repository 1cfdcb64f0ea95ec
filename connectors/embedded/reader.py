"""Reading partitions: from block to block, by their keys.

What must live here: the cursors of one reader, and how blocks become batches.  What must not: writing.

A block's key is where the one before it ended, so a cursor fetches the next block by its exact key.  It only has to
search at its start, and where compaction has merged the block that it was about to read.  Reads block the event
loop for as long as RocksDB takes to hand out a block: microseconds, and less than a trip to a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from itertools import pairwise

from streams.connectors.embedded.blocks import Block, block_records
from streams.connectors.embedded.catalog import Partition, find_block
from streams.connectors.embedded.engine import Engine
from streams.connectors.waiting import fetch_or_wait
from streams.core.record import Fetched, Position, Positions, TopicPartition
from streams.errors import DataError, PositionLost, TopicRecreated

__all__ = ["EmbeddedReader"]

SHARE_BYTES_MAX = 2**20
"""Of one partition in one fetch; a block may overrun it."""
FETCH_BYTES_MAX = 16 * 2**20
"""Of all partitions in one fetch; the others come first in the next one."""


class _Cursor:
    """Where the reader stands in one partition, and a block that it has read ahead."""

    __slots__ = ("ahead", "offset", "partition")

    def __init__(self, partition: Partition, offset: int) -> None:
        self.partition = partition
        self.offset = offset
        self.ahead: tuple[int, Block, int] | None = None


class EmbeddedReader:
    """A ``Reader`` of the embedded log."""

    def __init__(self, engine: Engine, positions: Positions) -> None:
        self._engine = engine
        self._cursors = {at: _Cursor(engine.partition(at), position.offset()) for at, position in positions.items()}
        self._first = 0
        self._arrived = asyncio.Event()
        for cursor in self._cursors.values():
            cursor.partition.watchers[self._arrived] = None

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        async def look() -> list[Fetched]:
            await self._engine.readable()
            return self._collect(partitions, max_records)

        return await fetch_or_wait(look, self._arrived, wait_s)

    def ends(self) -> Positions:
        return {at: Position.at(cursor.partition.visible) for at, cursor in self._cursors.items()}

    async def close(self) -> None:
        for cursor in self._cursors.values():
            cursor.partition.watchers.pop(self._arrived, None)

    def _collect(self, partitions: Collection[TopicPartition], max_records: int) -> list[Fetched]:
        cursors = [self._cursors[at] for at in partitions]
        # The partitions that the limit of bytes cut off last time come first.
        first = self._first
        found: list[Fetched] = []
        size_bytes = 0
        for index in range(len(cursors)):
            cursor = cursors[(first + index) % len(cursors)]
            if size_bytes >= FETCH_BYTES_MAX:
                self._first = first + index
                break
            share = self._share(cursor, max_records)
            if share is not None:
                batch, share_bytes = share
                found.append(batch)
                size_bytes += share_bytes
        # Only now, when nothing can raise any more: else the batches before an error would be passed over.
        for batch in found:
            self._cursors[batch.partition].offset = batch.next_offset
        return found

    def _share(self, cursor: _Cursor, max_records: int) -> tuple[Fetched, int] | None:
        """The next batch of one partition and its stored size; None when nothing is left to read now."""
        partition = cursor.partition
        offset, visible = cursor.offset, partition.visible
        self._check(partition, offset)
        if offset >= visible:
            return None
        base, block, total_bytes = self._block(cursor, offset)
        offsets, records = block_records(base, block, offset)
        offset = block.next_offset
        parts = [offsets]
        # Small blocks make one batch; a block that doesn't fit any more is kept for the next one.
        while offset < visible and len(records) < max_records and total_bytes < SHARE_BYTES_MAX:
            base, block, size_bytes = self._block(cursor, offset)
            if len(records) + len(block.values) > max_records:
                cursor.ahead = (base, block, size_bytes)
                break
            offsets, more = block_records(base, block, offset)
            records.extend(more)
            parts.append(offsets)
            total_bytes += size_bytes
            offset = block.next_offset
        return Fetched(partition.at, _joined(parts), records, offset), total_bytes

    def _check(self, partition: Partition, offset: int) -> None:
        at = partition.at
        if partition.deleted:
            raise TopicRecreated(f"{at}: the topic was deleted while it was read; start the task again")
        if offset < partition.meta.start:
            raise PositionLost(topic=at.topic, partition=at.partition, position=offset, first=partition.meta.start)
        if offset > partition.end:
            raise DataError(
                f"{at}: the reader stands at {offset} but the log ends at {partition.end}: it lost its tail or was "
                f"replaced; reset the reader, or bring the right log back"
            )

    def _block(self, cursor: _Cursor, offset: int) -> tuple[int, Block, int]:
        """The block that covers ``offset``: its base, itself, its stored size."""
        ahead, cursor.ahead = cursor.ahead, None
        if ahead is not None and ahead[0] == offset:
            return ahead
        partition = cursor.partition
        storage = self._engine.storage
        with storage.faults:
            return find_block(storage.db, partition, offset)


def _joined(parts: list[Sequence[int]]) -> Sequence[int]:
    """The offsets of all parts: a range where they have no gaps."""
    if len(parts) == 1:
        return parts[0]
    ranges = [part for part in parts if isinstance(part, range)]
    if len(ranges) == len(parts) and all(part.stop == after.start for part, after in pairwise(ranges)):
        return range(ranges[0].start, ranges[-1].stop)
    return [offset for part in parts for offset in part]
