"""What compaction keeps: pure decisions over blocks.

What must live here: when a partition is due, which key is last where, what a run of blocks becomes.  What must not:
reading and writing (``maintenance``).

A pass first *surveys* what is new: for each key its last offset.  Then it *cleans* from the start of the partition up
to there, a run of blocks at a time, and writes each run as one block:

    [ clean ............ | new ........... ) not surveyed yet, untouched
      keep a record unless the survey knows a later one of its key
      drop a tombstone that is old enough: all earlier records of its key are gone by then

Each run is one write, in order: wherever a pass is cut off, the partition reads as before or as cleaned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.connectors.embedded.blocks import MAX_BLOCK_BYTES, MAX_BLOCK_RECORDS, VERSION, Block
from streams.connectors.embedded.catalog import PartitionMeta
from streams.core.record import Headers

__all__ = ["Cleaner", "Rewrite", "is_due", "survey"]


def is_due(meta: PartitionMeta, *, total_bytes: int, now_ms: int, min_bytes: int, tombstone_retention_ms: int) -> bool:
    """True when a pass is worth its cost: as much is new as was left of the old, or a tombstone may go.

    So each byte is rewritten a bounded number of times, and a pass for tombstones alone comes no more often than
    once per retention.
    """
    new_bytes = total_bytes - meta.cleaned_total
    if new_bytes > 0 and new_bytes >= max(min_bytes, meta.clean_bytes):
        return True
    if meta.oldest_tombstone_ms is None or meta.oldest_tombstone_ms > now_ms - tombstone_retention_ms:
        return False
    return now_ms - meta.cleaned_ms >= tombstone_retention_ms


def survey(base: int, block: Block, latest: dict[bytes, int]) -> None:
    """Enter the last offset of each key of ``block`` into ``latest``."""
    if block.keys is None:
        return
    offsets = block.offsets if block.offsets is not None else range(base, base + len(block.values))
    latest.update((key, offset) for key, offset in zip(block.keys, offsets) if key is not None)


@dataclass(slots=True)
class Rewrite:
    """What a run of blocks becomes: one block at the place of the first, which covers all of them.

    block: None when the run is a single block that stays as it is.
    replaced: bases of the other blocks of the run, to be removed in the same write.
    dropped_to: behind the last tombstone that was dropped; 0 when none was.
    oldest_tombstone_ms: of those that were kept.
    kept_bytes: of the keys and values that were kept.
    """

    base: int
    block: Block | None
    replaced: list[int]
    dropped_to: int
    oldest_tombstone_ms: int | None
    kept_bytes: int


class _Run:
    """Blocks on their way to become one."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.bases: list[int] = []
        self.keys: list[bytes | None] = []
        self.values: list[bytes | None] = []
        self.timestamps: list[int] = []
        self.headers: list[Headers | None] = []
        self.offsets: list[int] = []
        self.tombstones: list[tuple[int, int]] = []
        self.size_bytes = 0
        self.dropped = False
        self.dropped_to = 0


class Cleaner:
    """One pass over a partition: is fed its blocks in order, and says what each run of them becomes.

    latest: what the survey found.  horizon_ms: tombstones appended up to then are dropped.
    """

    def __init__(self, latest: Mapping[bytes, int], horizon_ms: int) -> None:
        self._latest = latest
        self._horizon_ms = horizon_ms
        self._run: _Run | None = None
        self._last: Block | None = None

    def feed(self, base: int, block: Block) -> Rewrite | None:
        """Take the next block; returns what the run before it becomes once the block doesn't fit into it."""
        part = self._clean(base, block)
        run, last = self._run, self._last
        self._last = block
        if run is None or last is None:
            self._run = part
            return None
        if len(run.values) + len(part.values) > MAX_BLOCK_RECORDS or run.size_bytes + part.size_bytes > MAX_BLOCK_BYTES:
            self._run = part
            return _rewrite(run, last)
        _join(run, part)
        return None

    def finish(self) -> Rewrite | None:
        """What the last run becomes."""
        run, last = self._run, self._last
        self._run = self._last = None
        return _rewrite(run, last) if run is not None and last is not None else None

    def _clean(self, base: int, block: Block) -> _Run:
        part = _Run(base)
        part.bases.append(base)
        count = len(block.values)
        latest, horizon_ms = self._latest, self._horizon_ms
        keys = block.keys if block.keys is not None else [None] * count
        headers = block.headers if block.headers is not None else [None] * count
        offsets = block.offsets if block.offsets is not None else range(base, base + count)
        ages = dict(block.tombstones or ())
        for index, (offset, key, value) in enumerate(zip(offsets, keys, block.values)):
            if key is not None:
                if latest.get(key, offset) > offset:
                    continue
                if value is None:
                    append_ms = ages.get(index, block.append_ms)
                    if append_ms <= horizon_ms:
                        part.dropped_to = offset + 1
                        continue
                    part.tombstones.append((len(part.values), append_ms))
            part.keys.append(key)
            part.values.append(value)
            part.timestamps.append(block.timestamps[index])
            part.headers.append(headers[index])
            part.offsets.append(offset)
            part.size_bytes += len(key or b"") + len(value or b"")
        part.dropped = len(part.values) < count
        return part


def _join(run: _Run, part: _Run) -> None:
    shift = len(run.values)
    run.bases.extend(part.bases)
    run.keys.extend(part.keys)
    run.values.extend(part.values)
    run.timestamps.extend(part.timestamps)
    run.headers.extend(part.headers)
    run.offsets.extend(part.offsets)
    run.tombstones.extend((index + shift, append_ms) for index, append_ms in part.tombstones)
    run.size_bytes += part.size_bytes
    run.dropped = run.dropped or part.dropped
    run.dropped_to = max(run.dropped_to, part.dropped_to)


def _rewrite(run: _Run, last: Block) -> Rewrite:
    block = None
    if run.dropped or len(run.bases) > 1:
        count = len(run.values)
        contiguous = run.offsets == list(range(run.base, run.base + count))
        block = Block(
            VERSION,
            last.next_offset,
            last.append_ms,
            last.bytes_before,
            run.keys if any(key is not None for key in run.keys) else None,
            run.values,
            run.timestamps,
            run.headers if any(run.headers) else None,
            None if contiguous else run.offsets,
            run.tombstones or None,
        )
    oldest_ms = min((append_ms for _, append_ms in run.tombstones), default=None)
    return Rewrite(run.base, block, run.bases[1:], run.dropped_to, oldest_ms, run.size_bytes)
