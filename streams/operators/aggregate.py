"""Aggregates per key, without and with windows.

The accumulators of a batch's keys are read at once; after that each record costs a look into a dict.  With windows,
each open window is a dict of its own.  Whether a record is late is decided by the watermark as it stood when the record
was read (``Origin.watermark_before``), so the result doesn't depend on where a batch ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from streams.core.batch import FOREVER, Batch, emitted
from streams.core.context import TaskContext
from streams.core.graph import Emit, Processor
from streams.core.mapping import FAILED, Failures, has_none, map_batch
from streams.core.state import KeyedState, StateSpec
from streams.core.window import Windows
from streams.operators.base import Operator


class Fold(Protocol):
    """What an aggregate does to its accumulators.  ``fold`` leaves the accumulator as it was when it raises.

    counts: accumulator and result are the number of records, whatever is in them.
    """

    @property
    def name(self) -> str: ...
    @property
    def counts(self) -> bool: ...
    def initial(self) -> Any: ...
    def fold(self, accumulator: Any, value: Any) -> Any: ...
    def result(self, accumulator: Any) -> Any: ...
    def encode(self, accumulator: Any) -> bytes: ...
    def decode(self, stored: bytes) -> Any: ...


class MissingKey(ValueError):
    """A record without a key reached an operator that groups by key."""

    def __init__(self) -> None:
        super().__init__("the record has no key to group by; put a key_by in front")


@dataclass(frozen=True, eq=False, kw_only=True)
class Aggregate(Operator):
    """Folds the values of each key; emits the result after each record."""

    state: StateSpec
    fold: Fold

    @property
    def states(self) -> Sequence[StateSpec]:
        return (self.state,)

    def label(self) -> str:
        return f"aggregate {self.state.name}"

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return _AggregateWork(self, context, emit)


class _AggregateWork:
    def __init__(self, node: Aggregate, context: TaskContext, emit: Emit) -> None:
        self._node = node
        self._context = context
        self._emit = emit
        self._state: KeyedState[Any] = context.keyed(node.state.name)

    def process(self, batch: Batch) -> None:
        batch = drop_keyless(batch, self._context, self._node)
        state, node = self._state, self._node
        keys: list[Any] = batch.keys
        accumulators = state.prepare(keys)
        failed: Failures = []
        if node.fold.counts:
            results = count_on(accumulators, keys)
        else:
            results, failed = map_batch(updater(accumulators, node.fold), keys, batch.values)
        state.dirty.update(keys)
        out = batch.with_values(results)
        if failed:
            out = self._context.failures.drop(out, failed, node.name, node.policy)
        if out.values:
            self._emit(out)


def count_on(values: dict[bytes, Any], keys: Sequence[bytes]) -> list[int]:
    """Add one to the count of each key, and return it as it is then; nothing of the user's runs, so nothing fails."""
    counts: list[int] = []
    keep = counts.append
    for key in keys:
        values[key] = count = (values[key] or 0) + 1
        keep(count)
    return counts


def updater(values: dict[bytes, Any], fold: Fold) -> Callable[[bytes, Any], Any]:
    """One record's step on the prepared accumulators ``values``: fold, keep, and the result to emit."""
    add, result, initial = fold.fold, fold.result, fold.initial

    def update(key: bytes, value: Any) -> Any:
        accumulator = values[key]
        values[key] = accumulator = add(initial() if accumulator is None else accumulator, value)
        return result(accumulator)

    return update


def folder(values: dict[bytes, Any], fold: Fold) -> Callable[[bytes, Any], None]:
    """As ``updater``, where nobody asks for the result after each record."""
    add, initial = fold.fold, fold.initial

    def update(key: bytes, value: Any) -> None:
        accumulator = values[key]
        values[key] = add(initial() if accumulator is None else accumulator, value)

    return update


def drop_keyless(batch: Batch, context: TaskContext, node: Operator) -> Batch:
    """The batch without records that have no key, which meet the policy."""
    if not has_none(batch.keys):
        return batch
    failed: list[tuple[int, Exception]] = [(i, MissingKey()) for i, key in enumerate(batch.keys) if key is None]
    return context.failures.drop(batch, failed, node.name, node.policy)


@dataclass(frozen=True, eq=False, kw_only=True)
class WindowAggregate(Operator):
    """Folds the values of each key in each window.

    Its children are ports: "updates" (the result after each record), "final" (once, when the window closes) and
    "late" (records that came after one of their windows had closed, once each); at least one of them.
    ports: the kinds of children it has; results nobody takes aren't computed.
    wrap: (result, window start, window end) to the value that is emitted; finish: the same from the accumulator.
    """

    state: StateSpec
    fold: Fold
    windows: Windows
    grace_ms: int
    wrap: Callable[[Any, int, int], Any]
    finish: Callable[[Any, int, int], Any]
    ports: set[str]

    @property
    def states(self) -> Sequence[StateSpec]:
        return (self.state,)

    @property
    def holds_ms(self) -> int:
        return self.grace_ms

    def label(self) -> str:
        return f"window {self.windows.label} {self.state.name}"

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return _WindowWork(self, context, emit)


class WindowBatch(Batch):
    """A batch out of a window aggregate; ``kind`` says which of its children it is for."""

    __slots__ = ("kind",)

    def __init__(self, batch: Batch, kind: str) -> None:
        super().__init__(batch.keys, batch.values, batch.times, batch.rows, batch.origin)
        self.kind = kind


@dataclass(frozen=True, eq=False, kw_only=True)
class WindowPort(Operator):
    """One of the three streams that come out of a window aggregate: updates, finals or late."""

    kind: str

    def label(self) -> str:
        return self.kind

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return _PortWork(self.kind, emit)


class _PortWork:
    def __init__(self, kind: str, emit: Emit) -> None:
        self._kind = kind
        self._emit = emit

    def process(self, batch: Batch) -> None:
        assert isinstance(batch, WindowBatch), "only a window aggregate has ports"
        if batch.kind == self._kind:
            self._emit(batch)


class _WindowWork:
    def __init__(self, node: WindowAggregate, context: TaskContext, emit: Emit) -> None:
        self._node = node
        self._context = context
        self._emit = emit
        self._delay_ms = context.processor_delay_ms
        self._state = context.windowed(node.state.name)
        self._earliest = self._state.earliest()

    def process(self, batch: Batch) -> None:
        batch = drop_keyless(batch, self._context, self._node)
        if not batch.values:
            return
        windows, closed = self._node.windows, self._closed_after(batch)
        if windows.size_ms == windows.step_ms:
            first, last = min(batch.times), max(batch.times)
            start = first - first % windows.size_ms
            if start == last - last % windows.size_ms and start > closed:
                self._fold({start: range(len(batch))}, batch)
                return
        placed: dict[int, list[int]] = {}
        late: list[int] = []
        for index, time in enumerate(batch.times):
            for start in windows.starts(time):
                if start > closed or start > self._closed_before(batch, index):
                    placed.setdefault(start, []).append(index)
                elif not late or late[-1] != index:
                    late.append(index)
        if late:
            self._context.count("late", len(late))
            self._emit(WindowBatch(batch.take(late), "late"))
        self._fold(placed, batch)

    def _closed_after(self, batch: Batch) -> int:
        """The latest start of a window that the batch closes: only up to there may there be late ones."""
        after = self._context.watermark if batch.origin is None else batch.origin.after
        return after - self._delay_ms - self._node.windows.size_ms - self._node.grace_ms

    def _closed_before(self, batch: Batch, index: int) -> int:
        """The latest start of a window that had closed before the record at ``index`` was read."""
        origin = batch.origin
        watermark = self._context.watermark if origin is None else origin.watermark_before(batch.rows[index])
        return watermark - self._delay_ms - self._node.windows.size_ms - self._node.grace_ms

    def _fold(self, placed: Mapping[int, Sequence[int]], batch: Batch) -> None:
        """Fold the records at the given indexes into each window; updates leave in the order of the records."""
        node, context = self._node, self._context
        updates: list[tuple[int, int, Any]] = []
        refused: dict[int, Exception] = {}
        for start, indexes in placed.items():
            segment = self._state.segment(start)
            if self._earliest is None or start < self._earliest:
                self._earliest = start
            part = batch if len(indexes) == len(batch) else batch.take(indexes)
            keys: list[Any] = part.keys
            step = updater if "updates" in node.ports else folder
            results, failed = map_batch(step(segment.prepare(keys), node.fold), keys, part.values)
            segment.dirty.update(keys)
            for position, error in failed:
                refused.setdefault(indexes[position], error)
            if "updates" in node.ports:
                updates.extend(
                    (index, start, result)
                    for index, result in zip(indexes, results, strict=True)
                    if result is not FAILED
                )
        if refused:  # once for each record, however many windows refuse it
            context.failures.drop(batch, sorted(refused.items()), node.name, node.policy)
        if updates:
            if len(placed) > 1:
                updates.sort(key=lambda update: update[:2])
            size = node.windows.size_ms
            out = batch.take([index for index, _, _ in updates])
            values = [node.wrap(result, start, start + size) for _, start, result in updates]
            self._emit(WindowBatch(out.with_values(values), "updates"))

    def deadline(self) -> int:
        if self._earliest is None:
            return FOREVER
        return self._earliest + self._node.windows.size_ms + self._node.grace_ms

    def advance(self, watermark: int) -> bool:
        node, context = self._node, self._context
        while self._earliest is not None and self.deadline() <= watermark:
            if context.outputs.full:
                return False
            start, room = self._earliest, context.outputs.room
            end = start + node.windows.size_ms
            entries = self._state.drain(start, room)
            keys: list[bytes | None] = [key for key, _ in entries]
            finish = node.finish
            values = [finish(accumulator, start, end) for _, accumulator in entries]
            if entries:
                self._emit(WindowBatch(emitted(keys, values, [end - 1] * len(entries)), "final"))
            if len(entries) >= room:
                return False
            self._earliest = self._state.earliest()
        return True
