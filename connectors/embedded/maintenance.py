"""Carrying out retention, trimming and compaction, and giving space back to the disk.

What must live here: the pass, step by step.  What must not: decisions (``retention``, ``compaction``).

Reading, deciding and packing run in a thread, a few megabytes at a time; what comes of it is written from the event
loop in one WriteBatch per step, under ``engine.stepping``.  Only blocks that are visible to all and synced are
touched, so nothing here meets a commit.  After a kill each write has happened or not; the next pass starts anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from rocksdict import WriteBatch

from streams.connectors.embedded.blocks import decode_head, encode_block, topic_range
from streams.connectors.embedded.catalog import Partition, Topic, find_block, floor_block
from streams.connectors.embedded.compaction import Cleaner, Rewrite, is_due, survey
from streams.connectors.embedded.engine import Engine
from streams.connectors.embedded.retention import decide_start, without_removed

__all__ = ["Maintained", "Maintenance"]

STEP_BYTES = 4 * 2**20
"""What one step in the thread reads."""
CALL_BYTES = 64 * 2**20
"""What compaction reads in one call; the next call goes on from there."""
SINGLE_DELETES_MAX = 16
"""Above so many keys a range is cleared: each range slows down reads nearby until RocksDB merges it away."""
RECLAIM_BYTES_MIN = 256 * 2**20
"""Removed data that may stay on the disk, beside as much as is live, before RocksDB is told to merge it away."""


@dataclass(slots=True)
class Maintained:
    """What was done since the log was opened: partitions from whose start blocks were removed, passes of compaction
    that ended, and how often space was reclaimed."""

    freed: int = 0
    compacted: int = 0
    reclaimed: int = 0


class _Pass:
    """The compaction of one partition, from its survey to its end; goes on over many steps."""

    def __init__(self, partition: Partition, incarnation: int, horizon_ms: int) -> None:
        self.partition = partition
        self.incarnation = incarnation
        self.freed_to = partition.freed_to
        self.visible = partition.visible
        self.latest: dict[bytes, int] = {}
        self.end = max(partition.meta.cleaned_to, partition.meta.start)
        self.total_bytes = partition.meta.cleaned_total
        self.surveyed = False
        self.cleaner = Cleaner(self.latest, horizon_ms)
        self.cursor = partition.meta.start
        self.clean_bytes = 0
        self.oldest_tombstone_ms: int | None = None

    def holds(self, incarnation: int) -> bool:
        """False once what it has read may have changed: a topic deleted, blocks removed, the log opened anew."""
        return (
            not self.partition.deleted and self.partition.freed_to == self.freed_to and self.incarnation == incarnation
        )

    def count(self, rewrite: Rewrite) -> None:
        self.clean_bytes += rewrite.kept_bytes
        oldest = rewrite.oldest_tombstone_ms
        if oldest is not None and (self.oldest_tombstone_ms is None or oldest < self.oldest_tombstone_ms):
            self.oldest_tombstone_ms = oldest


class Maintenance:
    """Maintains the log of one engine.  One call at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running = asyncio.Lock()
        self._pass: _Pass | None = None
        self._removed_bytes = 0
        self._removed: dict[bytes, bytes] = {}
        self.done = Maintained()

    async def run(self, now_ms: int) -> None:
        """Apply retention to every partition, do a bounded piece of compaction, and reclaim space if it is time."""
        engine = self._engine
        async with self._running:
            await engine.ready()
            partitions = [partition for topic in engine.topics.values() for partition in topic.partitions]
            for partition in partitions:
                if partition.meta.marks or partition.meta.start > partition.freed_to:
                    await engine.ready()
                    async with engine.stepping:
                        if not partition.deleted:
                            self._expire(partition, now_ms)
                            await self._free(partition)
            if self._pass is not None and not self._pass.holds(engine.incarnation):
                self._pass = None
            budget = CALL_BYTES
            for partition in partitions:
                if budget > 0 and (self._pass is None or self._pass.partition is partition):
                    budget -= await self._compact(partition, now_ms, budget)
            await self._reclaim()
            if not engine.config.durable:
                await engine.in_thread(lambda: engine.storage.sync(engine.storage.number))

    def trim(self, starts: Mapping[Partition, int]) -> None:
        """Move partitions' starts on; never back, never past what is visible."""
        batch = WriteBatch(raw_mode=True)
        for partition, start in starts.items():
            start = min(start, partition.visible)
            if start > partition.meta.start:
                partition.meta.start = start
                batch.put(*partition.meta_entry(partition.meta))
        if not batch.is_empty():
            self._engine.write_soon(batch)

    def removed(self, topic: Topic) -> None:
        """The blocks of ``topic`` have been removed: their space is to be reclaimed."""
        first, end = topic_range(topic.number)
        self._removed[first] = end
        self._removed_bytes += sum(partition.live_bytes for partition in topic.partitions)

    def _expire(self, partition: Partition, now_ms: int) -> None:
        meta = partition.meta
        if not meta.marks:
            return
        start = decide_start(
            partition.topic.spec,
            meta.marks,
            start=meta.start,
            end=partition.visible,
            total_bytes=partition.total_bytes,
            last_append_ms=partition.last_append_ms,
            now_ms=now_ms,
        )
        meta.start = start
        meta.marks = without_removed(meta.marks, start)

    async def _free(self, partition: Partition) -> None:
        """Remove the blocks before the partition's start.  The block that the start lies in stays."""
        meta = partition.meta
        if meta.start <= partition.freed_to:
            return
        freed_to, freed_bytes = await self._engine.in_thread(partial(self._first_kept, partition, meta.start))
        if freed_to <= partition.freed_to:
            return
        # The last block may be among those that go, and with it what says where the partition ends.
        meta.end, meta.total_bytes = partition.end, partition.total_bytes
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(partition.key(0), partition.key(freed_to))
        batch.put(*partition.meta_entry(meta))
        self._engine.write_soon(batch)
        self._removed_bytes += max(0, freed_bytes - partition.freed_bytes)
        self._removed[partition.key(0)] = partition.key(freed_to)
        partition.freed_to, partition.freed_bytes = freed_to, freed_bytes
        self.done.freed += 1

    def _first_kept(self, partition: Partition, start: int) -> tuple[int, int]:
        """In the thread: base of the block that ``start`` lies in, and the bytes before it."""
        storage = self._engine.storage
        with storage.faults:
            found = floor_block(storage.db, partition, partition.key(start))
        if found is None:
            return partition.freed_to, partition.freed_bytes
        base, value = found
        head = decode_head(value)
        if head.next_offset <= start:
            return head.next_offset, head.bytes_before + len(value)
        return base, head.bytes_before

    def _due(self, partition: Partition, now_ms: int) -> bool:
        config = self._engine.config
        return partition.topic.spec.compact and is_due(
            partition.meta,
            total_bytes=partition.total_bytes,
            now_ms=now_ms,
            min_bytes=config.compaction_min_bytes,
            tombstone_retention_ms=config.tombstone_retention_ms,
        )

    async def _compact(self, partition: Partition, now_ms: int, budget: int) -> int:
        """Go on with the pass over ``partition``, or begin one if it is due; the bytes that were read.

        A pass that can't go on is given up without harm: each of its writes stands for itself.
        """
        engine = self._engine
        # Set again at the end: a cancelled step has read what nobody wrote, and its pass can't go on.
        current, self._pass = self._pass, None
        if current is None:
            if not self._due(partition, now_ms):
                return 0
            current = _Pass(partition, engine.incarnation, now_ms - engine.config.tombstone_retention_ms)
        read_bytes = 0
        while read_bytes < budget:
            await engine.ready()
            async with engine.stepping:
                if not current.holds(engine.incarnation):
                    return read_bytes
                if current.surveyed and current.cursor >= current.end:
                    self._finish(current, now_ms)
                    return read_bytes
                step = self._clean if current.surveyed else self._survey
                step_bytes, rewrites = await engine.in_thread(partial(step, current))
                for rewrite, value in rewrites:
                    current.count(rewrite)
                    self._write(partition, rewrite, value)
            read_bytes += step_bytes
        self._pass = current
        return read_bytes

    def _finish(self, current: _Pass, now_ms: int) -> None:
        meta = current.partition.meta
        meta.cleaned_to, meta.cleaned_total, meta.cleaned_ms = current.end, current.total_bytes, now_ms
        meta.clean_bytes, meta.oldest_tombstone_ms = current.clean_bytes, current.oldest_tombstone_ms
        batch = WriteBatch(raw_mode=True)
        batch.put(*current.partition.meta_entry(meta))
        self._engine.write_soon(batch)
        self.done.compacted += 1

    def _survey(self, current: _Pass) -> tuple[int, list[tuple[Rewrite, bytes]]]:
        """In the thread: enter the keys of some new megabytes; how many were read."""
        storage = self._engine.storage
        keys_max = self._engine.config.compaction_max_keys
        read_bytes = 0
        while current.end < current.visible and len(current.latest) < keys_max and read_bytes < STEP_BYTES:
            with storage.faults:
                base, block, size_bytes = find_block(storage.db, current.partition, current.end)
            survey(base, block, current.latest)
            current.end = block.next_offset
            current.total_bytes = block.bytes_before + size_bytes
            read_bytes += size_bytes
        current.surveyed = current.end >= current.visible or len(current.latest) >= keys_max
        return read_bytes, []

    def _clean(self, current: _Pass) -> tuple[int, list[tuple[Rewrite, bytes]]]:
        """In the thread: clean some megabytes; how many were read, and what is to be written."""
        storage = self._engine.storage
        rewrites: list[Rewrite | None] = []
        read_bytes = 0
        while current.cursor < current.end and read_bytes < STEP_BYTES:
            with storage.faults:
                base, block, size_bytes = find_block(storage.db, current.partition, current.cursor)
            current.cursor = block.next_offset
            read_bytes += size_bytes
            rewrites.append(current.cleaner.feed(base, block))
        if current.cursor >= current.end:
            rewrites.append(current.cleaner.finish())
        done = [rewrite for rewrite in rewrites if rewrite is not None]
        return read_bytes, [(rewrite, encode_block(rewrite.block) if rewrite.block else b"") for rewrite in done]

    def _write(self, partition: Partition, rewrite: Rewrite, value: bytes) -> None:
        """Put one block in the place of a run, as one write."""
        if rewrite.block is None:
            return
        meta = partition.meta
        batch = WriteBatch(raw_mode=True)
        if len(rewrite.replaced) > SINGLE_DELETES_MAX:
            batch.delete_range(partition.key(rewrite.base + 1), partition.key(rewrite.block.next_offset))
        else:
            for base in rewrite.replaced:
                batch.delete(partition.key(base))
        batch.put(partition.key(rewrite.base), value)
        if rewrite.dropped_to > meta.floor:
            meta.floor = rewrite.dropped_to
            batch.put(*partition.meta_entry(meta))
        self._engine.write_soon(batch)

    async def _reclaim(self) -> None:
        """Have RocksDB merge removed data away once it takes as much room as what is live."""
        engine = self._engine
        live = sum(partition.live_bytes for topic in engine.topics.values() for partition in topic.partitions)
        if self._removed_bytes < RECLAIM_BYTES_MIN + live:
            return
        ranges, self._removed = self._removed, {}
        self._removed_bytes = 0
        for first, end in ranges.items():
            engine.check_open()
            await engine.in_thread(partial(engine.storage.reclaim, first, end))
        self.done.reclaimed += 1
