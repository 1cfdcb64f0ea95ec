"""What retention removes: a pure decision over marks.

What must live here: when a mark is set, and where a partition is to start.  What must not: removing (``maintenance``).

Looking into each block for its age would read back everything that is removed.  So a partition keeps marks: every
so often (a sixteenth of what it retains) the offset, append time and bytes so far.  The stretch from one mark to the
next is removed as a whole, once its last record is too old or what follows it is enough.  Time is the wall time of
the append, never a record's own timestamp, which its producer may have set to anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from streams.connectors.embedded.catalog import Mark
from streams.core.log import TopicSpec

__all__ = ["MARKS_MAX", "decide_start", "thinned", "wants_mark", "without_removed"]

_PARTS = 16
MARKS_MAX = 256


def wants_mark(spec: TopicSpec, last: Mark | None, append_ms: int, bytes_before: int) -> bool:
    """True when the block about to be appended is to begin a new stretch."""
    if spec.retention_ms is None and spec.retention_bytes is None:
        return False
    if last is None:
        return True
    if spec.retention_ms is not None and append_ms - last.append_ms > spec.retention_ms // _PARTS:
        return True
    return spec.retention_bytes is not None and bytes_before - last.bytes_before > spec.retention_bytes // _PARTS


def thinned(marks: Sequence[Mark]) -> list[Mark]:
    """Every second mark, the first and the last among them: for a log whose maintenance never runs."""
    return [*marks[:-1:2], marks[-1]] if marks else []


def decide_start(
    spec: TopicSpec,
    marks: Sequence[Mark],
    *,
    start: int,
    end: int,
    total_bytes: int,
    last_append_ms: int,
    now_ms: int,
) -> int:
    """The offset that the partition is to start at: ``start`` or later.

    Keeps at least ``retention_bytes`` and everything younger than ``retention_ms``; by size alone the last stretch
    always stays.
    """
    new_start = start
    for index, mark in enumerate(marks):
        if mark.offset >= end:
            break
        is_last = index + 1 == len(marks)
        stretch_end = end if is_last else min(end, marks[index + 1].offset)
        # Nothing in a stretch is younger than the start of the next one.
        newest_ms = last_append_ms if is_last else marks[index + 1].append_ms
        behind_bytes = 0 if is_last else total_bytes - marks[index + 1].bytes_before
        too_old = spec.retention_ms is not None and newest_ms <= now_ms - spec.retention_ms
        enough = spec.retention_bytes is not None and not is_last and behind_bytes >= spec.retention_bytes
        if not (too_old or enough):
            break
        new_start = max(new_start, stretch_end)
    return new_start


def without_removed(marks: Sequence[Mark], start: int) -> list[Mark]:
    """The marks that still say something about a partition that starts at ``start``."""
    first = 0
    while first + 1 < len(marks) and marks[first + 1].offset <= start:
        first += 1
    return list(marks[first:])
