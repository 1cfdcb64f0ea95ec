"""What a task has produced since its last commit: records by partition, counted and bounded.

What must live here: collecting, counting and size checks.  What must not: encoding, partitioning (operators).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from streams.core.capability import Limits
from streams.core.log import Append
from streams.core.record import Headers, Records, TopicPartition

GUESSED_RECORD_BYTES = 4096
"""What a record is taken to weigh before some were seen: a window may close with very many at once."""


class RecordTooLarge(ValueError):
    """An encoded record is above the log's ``max_record_bytes``.  Carries the index in its column."""

    def __init__(self, index: int, size: int, limit: int) -> None:
        self.index = index
        super().__init__(
            f"the record to send has {size} bytes, and the log takes at most {limit} (its max_record_bytes); "
            f"send less, or raise the limit in the log's URL"
        )


class Outputs:
    """The outputs of one slice.  internal: topics whose records go packed, on a log that has a limit of its own for
    them."""

    def __init__(self, limits: Limits, internal: Collection[str] = ()) -> None:
        self._limits = limits
        self._internal = frozenset(internal) if limits.max_packed_records is not None else frozenset[str]()
        self._packed = 0
        # The rest of a commit is for changelogs: what a window of small results closes with is as large as they are.
        self._bytes_max = max(1, limits.max_commit_bytes // 2)
        self._columns: dict[TopicPartition, Records] = {}
        self.count = 0
        self.size_bytes = 0
        self._record_bytes = GUESSED_RECORD_BYTES

    def check_sizes(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        headers: Sequence[Headers | None] | None = None,
    ) -> int:
        """Total bytes of keys and values; raises RecordTooLarge for the first record that the log wouldn't take."""
        limit = self._limits.max_record_bytes
        for index, each in enumerate(headers or ()):
            if each and (size := _size_of(keys[index], values[index], each)) > limit:
                raise RecordTooLarge(index, size, limit)
        total = sum(map(len, filter(None, values))) + sum(map(len, filter(None, keys)))
        if total > limit:
            for index, (key, value) in enumerate(zip(keys, values, strict=True)):
                size = len(key or b"") + len(value or b"")
                if size > limit:
                    raise RecordTooLarge(index, size, limit)
        return total

    def takes(self, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
        """True when the log takes a record with these headers."""
        return _size_of(key, value, headers) <= self._limits.max_record_bytes

    def add(
        self,
        partition: TopicPartition,
        keys: list[bytes | None],
        values: list[bytes | None],
        times: list[int],
        headers: list[Headers | None] | None = None,
        size_bytes: int = 0,
    ) -> None:
        """Take over columns for one partition.  The lists must not be changed by the caller afterwards."""
        known = self._columns.get(partition)
        records = Records(keys, values, times, headers)
        if known is None:
            self._columns[partition] = Records(list(keys), list(values), list(times), headers and list(headers))
        else:
            known.extend(records)
        self.count += len(values)
        if partition.topic in self._internal:
            self._packed += len(values)
        self.size_bytes += size_bytes

    @property
    def room(self) -> int:
        """How many more records this slice may produce; at least one, so that a slice always gets on."""
        fit = (self._bytes_max - self.size_bytes) // self._record_bytes
        return max(1, min(self._left, fit))

    @property
    def _left(self) -> int:
        left = self._limits.max_commit_records - self.count + self._packed
        if self._limits.max_packed_records is None:
            return left
        return min(left, self._limits.max_packed_records - self._packed)

    @property
    def full(self) -> bool:
        return self._left <= 0 or self.size_bytes >= self._bytes_max

    def take(self) -> list[Append]:
        """Everything collected, in order of first use, and start anew."""
        if self.count:
            self._record_bytes = max(64, self.size_bytes // self.count, self._record_bytes // 2)
        taken = [Append(partition, records) for partition, records in self._columns.items()]
        self._columns = {}
        self.count = self._packed = 0
        self.size_bytes = 0
        return taken


def _size_of(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    return len(key or b"") + len(value or b"") + sum(len(name.encode()) + len(content) for name, content in headers)
