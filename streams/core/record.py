"""Records in columns, and where they stand on a log.

What must live here: the plain data that moves between a log and a task.  What must not: I/O, codecs.

The unit that moves is a batch of one partition as columns.  ``Records`` is what a producer hands in,
``Fetched`` is what a reader hands out: the same columns, with the offsets that the log gave them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

Headers = tuple[tuple[str, bytes], ...]


class TopicPartition(NamedTuple):
    """One ordered sequence of records."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a reader goes on in a partition: for each lane the offset of the next record.

    Most logs have the one lane 0.  A lane that isn't named stands at its start (offset 0).  A position is
    never a count: compaction, transaction markers and packed blocks leave gaps between offsets.
    """

    lanes: dict[int, int] = {}

    @classmethod
    def at(cls, offset: int, lane: int = 0) -> Position:
        return cls({lane: offset})

    def offset(self, lane: int = 0) -> int:
        return self.lanes.get(lane, 0)

    def advanced(self, lane: int, offset: int) -> Position:
        """The position after this one once ``lane`` goes on at ``offset``.  Never moves back."""
        if offset <= self.lanes.get(lane, -1):
            return self
        return Position({**self.lanes, lane: offset})

    def reached(self, end: Position) -> bool:
        """True when nothing before ``end`` is left to read."""
        return all(self.lanes.get(lane, 0) >= offset for lane, offset in end.lanes.items())

    def distance(self, end: Position) -> int:
        """Offsets between here and ``end`` over all lanes: an upper bound of the records between."""
        return sum(max(0, offset - self.lanes.get(lane, 0)) for lane, offset in end.lanes.items())


START = Position()


@dataclass(slots=True)
class Records:
    """Records of one partition as columns of equal length, in order.

    ``timestamps`` are milliseconds since the epoch.  ``headers`` is None when no record has any.
    A value of None is a tombstone.
    """

    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)
    headers: list[Headers | None] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def size_bytes(self) -> int:
        """Bytes of all keys and values; headers are left out."""
        return sum(map(len, filter(None, self.keys))) + sum(map(len, filter(None, self.values)))

    def extend(self, other: Records) -> None:
        """Append the records of ``other``."""
        if other.headers is not None or self.headers is not None:
            mine: list[Headers | None] = self.headers if self.headers is not None else [None] * len(self)
            mine.extend(other.headers if other.headers is not None else [None] * len(other))
            self.headers = mine
        self.keys.extend(other.keys)
        self.values.extend(other.values)
        self.timestamps.extend(other.timestamps)


@dataclass(slots=True)
class Fetched:
    """A batch that a reader hands out: records of one lane of one partition, with ascending offsets.

    ``offsets`` is a range where they have no gaps.  ``next_offset`` is where the lane goes on after the batch:
    past the last record, and past whatever the log skipped behind it (markers, compacted records).
    """

    partition: TopicPartition
    offsets: Sequence[int]
    records: Records
    next_offset: int
    lane: int = 0

    def __len__(self) -> int:
        return len(self.records)

    def since(self, position: Position) -> Fetched:
        """The batch without what lies before ``position``: a reader may hand out again what was read before."""
        seen = position.offset(self.lane)
        if not len(self) or self.offsets[0] >= seen:
            return self
        first, records = bisect_left(self.offsets, seen), self.records
        headers = None if records.headers is None else records.headers[first:]
        left = Records(records.keys[first:], records.values[first:], records.timestamps[first:], headers)
        return Fetched(self.partition, self.offsets[first:], left, max(seen, self.next_offset), self.lane)


@dataclass(slots=True, frozen=True)
class Bounds:
    """What a partition holds now: the first position that can be read, and the end of what is committed."""

    start: Position
    end: Position


Positions = Mapping[TopicPartition, Position]
