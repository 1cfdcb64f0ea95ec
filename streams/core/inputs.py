"""The inputs of a task: buffers of decoded records, and the order in which they are taken.

What must live here: dropping what was seen, splitting batches at in-band watermarks, choosing the input whose next
record has the lowest timestamp, cutting a piece out of it.  What must not: processing (``core.task``), fetching
(``runtime``).

    fetched ──▶ accept: drop what lies before the position, decode, split at marks ──▶ runs and marks, in order
    take    ──▶ a piece: rows of one run, as many as may go before another input has its turn
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import msgspec

from streams.core.batch import FOREVER, NEVER, Batch, Origin
from streams.core.record import Fetched, Position, TopicPartition
from streams.core.watermark import MARK_HEADER, InputWatermark, Mark, decode_mark


@dataclass(slots=True)
class Decoded:
    """A batch as columns over its rows; what couldn't be decoded stands in ``failures`` and has no element."""

    keys: list[bytes | None]
    values: list[Any]
    times: list[int]
    rows: Sequence[int]
    failures: list[tuple[int, Exception, str]] = field(default_factory=list)


class SourceProcessor(Protocol):
    """A source at work: decodes batches when they are buffered; what doesn't decode meets the policy when taken."""

    def decode(self, fetched: Fetched, first: int, end: int) -> Decoded:
        """Decode the rows from ``first`` to ``end`` of a batch, and find their event times."""
        ...

    def failed(self, origin: Origin, failures: Sequence[tuple[int, Exception, str]]) -> None:
        """Let the rows that couldn't be decoded meet the policy of the stream."""
        ...

    def process(self, batch: Batch) -> None: ...


@dataclass(slots=True)
class Run:
    """Rows of a batch that wait to be processed; ``cursor`` counts the elements and ``row`` the rows taken."""

    fetched: Fetched
    decoded: Decoded
    row: int
    end: int
    cursor: int = 0


@dataclass(slots=True)
class Piece:
    """What is processed at once: elements of one input, and where it stands afterwards."""

    input: Input
    fetched: Fetched
    first: int
    keys: list[bytes | None]
    values: list[Any]
    times: list[int]
    rows: Sequence[int]
    failures: list[tuple[int, Exception, str]]
    position: Position
    row_count: int

    def times_by_row(self) -> Sequence[int]:
        """The event time of each row from ``first`` on; NEVER for those that have no element."""
        if len(self.times) == self.row_count:
            return self.times
        aligned = [NEVER] * self.row_count
        for row, time in zip(self.rows, self.times, strict=True):
            aligned[row - self.first] = time
        return aligned


class Input:
    """One partition that a task reads.

    timed: takes part in the task's watermark; a table's topic doesn't.  aligned: waits its turn by timestamp; requests
    don't.  idle_after_ms: None never turns idle.
    """

    def __init__(
        self,
        partition: TopicPartition,
        position: Position,
        source: SourceProcessor,
        watermark: InputWatermark,
        *,
        timed: bool,
        aligned: bool,
        idle_after_ms: int | None,
    ) -> None:
        self.partition = partition
        self.position = position
        self.buffered = position
        self.source = source
        self.watermark = watermark
        self.timed = timed
        self.aligned = aligned
        self.idle_after_ms = idle_after_ms
        self.heard_at_ms: int | None = None
        self.waiting = 0
        self._queue: deque[Run | tuple[Mark, Position]] = deque()

    def accept(self, fetched: Fetched) -> None:
        """Buffer a batch.  Records before the buffered position were seen already and are dropped."""
        first = 0
        seen = self.buffered.offset(fetched.lane)
        offsets = fetched.offsets
        while first < len(offsets) and offsets[first] < seen:
            first += 1
        headers = fetched.records.headers
        if headers is not None:
            for row in range(first, len(fetched)):
                mark = _mark(headers[row], fetched.records.values[row])
                if mark is not None:
                    self._add_run(fetched, first, row)
                    self._queue.append((mark, self.buffered.advanced(fetched.lane, offsets[row] + 1)))
                    first = row + 1
        self._add_run(fetched, first, len(fetched))
        self.buffered = self.buffered.advanced(fetched.lane, fetched.next_offset)
        if not self._queue:
            self.position = self.buffered

    def _add_run(self, fetched: Fetched, first: int, end: int) -> None:
        if first < end:
            self._queue.append(Run(fetched, self.source.decode(fetched, first, end), first, end))
            self.waiting += end - first

    def settle_marks(self) -> bool:
        """Take the marks at the head of the queue; True when there were any."""
        taken = False
        while self._queue and isinstance(self._queue[0], tuple):
            mark, position = cast(tuple[Mark, Position], self._queue.popleft())
            self.watermark.heard(mark)
            self.position = position if self._queue else self.buffered
            taken = True
        return taken

    def head_time(self) -> int | None:
        """The timestamp of the next record; None when nothing waits.  Marks were settled before."""
        if not self._queue:
            return None
        run = self._queue[0]
        assert isinstance(run, Run), "marks are settled before a record is chosen"
        times = run.decoded.times
        return times[run.cursor] if run.cursor < len(times) else NEVER

    def take(self, limit: int, *, before: int = FOREVER, until: int = FOREVER) -> Piece:
        """Cut off a piece: at most ``limit`` rows, as long as their timestamps are at most ``before``, and none but
        the first from ``until`` on: there a timer is due, which must fire before that record is seen."""
        run = self._queue[0]
        assert isinstance(run, Run)
        decoded, fetched = run.decoded, run.fetched
        start, times = run.cursor, decoded.times
        stop = min(len(times), start + limit)
        if before < FOREVER:
            for index in range(start + 1, stop):
                if times[index] > before:
                    stop = index
                    break
        if until < FOREVER and stop - start > 1 and max(times[start + 1 : stop]) >= until:
            stop = next(index for index in range(start + 1, stop) if times[index] >= until)
        row = decoded.rows[stop] if stop < len(times) else run.end
        if row - run.row > limit:
            row = run.row + limit
            stop = bisect_left(decoded.rows, row, start, stop)
        failures = [failure for failure in decoded.failures if run.row <= failure[0] < row]
        position = self.position.advanced(fetched.lane, _next_offset(fetched, row))
        if row >= run.end and len(self._queue) == 1:
            position = self.buffered  # behind the gap that may follow the last record, too
        whole = start == 0 and stop == len(times)
        piece = Piece(
            self,
            fetched,
            run.row,
            decoded.keys if whole else decoded.keys[start:stop],
            decoded.values if whole else decoded.values[start:stop],
            times if whole else times[start:stop],
            decoded.rows if whole else decoded.rows[start:stop],
            failures,
            position,
            row - run.row,
        )
        self.waiting -= row - run.row
        run.cursor, run.row = stop, row
        if row >= run.end:
            self._queue.popleft()
        return piece


def _next_offset(fetched: Fetched, row: int) -> int:
    return fetched.offsets[row] if row < len(fetched) else fetched.next_offset


def _mark(headers: tuple[tuple[str, bytes], ...] | None, value: bytes | None) -> Mark | None:
    if headers and headers[0][0] == MARK_HEADER and value is not None:
        try:
            return decode_mark(value)
        except msgspec.DecodeError:
            return None  # a user's record that looks like a mark; it is decoded like any other
    return None


def choose(
    inputs: Sequence[Input], behind: Callable[[Input], bool], *, requests_first: bool = True
) -> tuple[Input, int] | None:
    """The input to take from, and the timestamp up to which it may be taken.

    The record with the lowest timestamp comes first.  An input that has nothing buffered but isn't at its end may
    still hold a lower one (``behind``), so then there is nothing to choose yet.  Inputs that aren't aligned (requests)
    take no part in that: they go first, or last, so that neither they nor the others wait for ever.
    """
    asked = next((each for each in inputs if each.waiting and not each.aligned), None)
    if asked is not None and requests_first:
        return asked, FOREVER
    chosen = _lowest([each for each in inputs if each.aligned], behind)
    return chosen if chosen is not None or asked is None else (asked, FOREVER)


def _lowest(inputs: Sequence[Input], behind: Callable[[Input], bool]) -> tuple[Input, int] | None:
    if len(inputs) == 1:
        return (inputs[0], FOREVER) if inputs[0].waiting else None
    heads = []
    for each in inputs:
        head = each.head_time()
        if head is not None:
            heads.append((head, each))
        elif behind(each):
            return None
    if not heads:
        return None
    heads.sort(key=lambda head: head[0])
    return heads[0][1], heads[1][0] if len(heads) > 1 else FOREVER
