"""A batch in flight between the operators of one task.

What must live here: the columns that operators pass on, and the way back from a row to the record it came from.
What must not: codecs, state, policy.

Operators never change a batch or its columns; they make new columns, so that a batch may go down several
branches.  Keys stay in the bytes of the wire: grouping, joining and routing need no more, and only who hands a
key to user code decodes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, compress
from typing import Any

from streams.core.record import Fetched, Headers

NEVER = -(2**62)
"""A watermark before all time."""
FOREVER = 2**62
"""A watermark behind all time."""


class Origin:
    """Where the rows of a batch were read, and the watermark as it stood at each row.

    A piece covers the rows from ``first`` on.  ``before`` is the task's watermark before the piece, ``after`` the
    one behind it.  Between the two the watermark rises with the running maximum of the piece's ``times`` less
    ``slack_ms``, up to ``ceiling`` (what the task's other inputs allow), so that lateness depends on the order of
    records on the log and never on where a batch happened to end.
    """

    __slots__ = ("_watermarks", "after", "before", "ceiling", "fetched", "first", "slack_ms", "times")

    def __init__(
        self,
        fetched: Fetched,
        first: int,
        times: Sequence[int],
        *,
        before: int,
        after: int,
        ceiling: int,
        slack_ms: int,
    ) -> None:
        self.fetched = fetched
        self.first = first
        self.times = times
        self.before = before
        self.after = after
        self.ceiling = ceiling
        self.slack_ms = slack_ms
        self._watermarks: list[int] | None = None

    def watermark_before(self, row: int) -> int:
        """The task's watermark as it stood before the record at ``row`` was read: what decides whether it is late."""
        return self.before if self.before == self.after else self._running()[row - self.first]

    def watermark_at(self, row: int) -> int:
        """The task's watermark once the record at ``row`` was read: timers due by it come before the record."""
        return self.before if self.before == self.after else self._running()[row - self.first + 1]

    def _running(self) -> list[int]:
        if self._watermarks is None:
            peaks = accumulate(self.times, max, initial=self.before + self.slack_ms)
            self._watermarks = [max(self.before, min(peak - self.slack_ms, self.ceiling)) for peak in peaks]
        return self._watermarks


class Batch:
    """Columns of equal length.

    keys: the record keys as bytes of the wire, None where there is none.
    values: decoded values.  times: event times in ms.
    rows: for each element the index of its record in ``origin.fetched``.
    ``origin`` is None for what a window or a timer emitted: then ``rows`` has no meaning.
    """

    __slots__ = ("keys", "origin", "rows", "times", "values")

    def __init__(
        self,
        keys: list[bytes | None],
        values: list[Any],
        times: list[int],
        rows: Sequence[int],
        origin: Origin | None,
    ) -> None:
        self.keys = keys
        self.values = values
        self.times = times
        self.rows = rows
        self.origin = origin

    def __len__(self) -> int:
        return len(self.values)

    def with_values(self, values: list[Any]) -> Batch:
        return Batch(self.keys, values, self.times, self.rows, self.origin)

    def select(self, mask: Sequence[Any]) -> Batch:
        """The elements whose place in ``mask`` is true."""
        return Batch(
            list(compress(self.keys, mask)),
            list(compress(self.values, mask)),
            list(compress(self.times, mask)),
            list(compress(self.rows, mask)),
            self.origin,
        )

    def take(self, indexes: Sequence[int]) -> Batch:
        """The elements at the given indexes, in their order; one may be taken more than once."""
        if len(indexes) == len(self.values) and list(indexes) == list(range(len(indexes))):
            return self
        return Batch(
            [self.keys[index] for index in indexes],
            [self.values[index] for index in indexes],
            [self.times[index] for index in indexes],
            [self.rows[index] for index in indexes],
            self.origin,
        )

    def without(self, failed: Sequence[int]) -> Batch:
        """Everything but the elements at the given indexes."""
        if not failed:
            return self
        mask = bytearray(b"\x01" * len(self.values))
        for index in failed:
            mask[index] = 0
        return self.select(mask)


def emitted(keys: list[bytes | None], values: list[Any], times: list[int]) -> Batch:
    """A batch that no single record stands behind: a closed window, a timer."""
    return Batch(keys, values, times, range(len(values)), None)


OWN_HEADERS = "streams."
"""How names of headers begin that mean something to this project: they don't go on with what follows from a record."""


def headers_at(origin: Origin | None, row: int) -> Headers:
    """The headers that a record came with, but for the project's own; none for what a window or a timer emitted."""
    found = origin.fetched.records.headers if origin is not None else None
    return tuple(each for each in (found[row] or ()) if not each[0].startswith(OWN_HEADERS)) if found else ()


def headers_of(batch: Batch) -> list[Headers | None] | None:
    """The headers of each element's record; None where no record has any."""
    if batch.origin is None or batch.origin.fetched.records.headers is None:
        return None
    return [headers_at(batch.origin, row) or None for row in batch.rows]
