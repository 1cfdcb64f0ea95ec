"""Tables as operators: a table kept by a topic, and the join of a stream with a table.

A table is a keyed state.  Its writers and readers are in one subtopology, so that each partition has one writer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from streams.core.batch import Batch
from streams.core.context import TaskContext
from streams.core.graph import Emit, Processor
from streams.core.mapping import FAILED, map_batch
from streams.core.state import StateSpec
from streams.operators.aggregate import drop_keyless
from streams.operators.base import Operator


@dataclass(frozen=True, eq=False, kw_only=True)
class TableWriter(Operator):
    """Keeps the last value of each key; None deletes.  Hands the batch on, as the table's changes.

    recode_key: the stream's key bytes to the table's, where they differ.
    """

    state: StateSpec
    recode_key: Callable[[bytes], bytes] | None = None

    @property
    def states(self) -> Sequence[StateSpec]:
        return (self.state,)

    def label(self) -> str:
        return f"table {self.state.name}"

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return _WriterWork(self, context, emit)


class _WriterWork:
    def __init__(self, node: TableWriter, context: TaskContext, emit: Emit) -> None:
        self._node = node
        self._context = context
        self._emit = emit
        self._state = context.keyed(node.state.name)

    def process(self, batch: Batch) -> None:
        batch = drop_keyless(batch, self._context, self._node)
        keys, batch = recode_keys(batch, self._node.recode_key, self._context, self._node)
        self._state.values.update(zip(keys, batch.values, strict=True))
        self._state.dirty.update(keys)
        if batch.values:
            self._emit(batch)


def recode_keys(
    batch: Batch, recode: Callable[[bytes], bytes] | None, context: TaskContext, node: Operator
) -> tuple[list[Any], Batch]:
    """The keys as the table writes them, and the batch without records whose key doesn't decode."""
    if recode is None:
        return batch.keys, batch
    keys, failed = map_batch(recode, batch.keys)
    if failed:
        batch = context.failures.drop(batch, failed, node.name, node.policy)
        keys = [key for key in keys if key is not FAILED]
    return keys, batch


@dataclass(frozen=True, eq=False, kw_only=True)
class TableJoin(Operator):
    """Pairs each value with the table's row of its key, as the table stands when the record is taken.

    recode_key: the stream's key bytes to the table's, where they differ.
    inner: a value without a row is left out; else it is joined with None.
    join: (value, row) to what is emitted.
    """

    state: StateSpec
    recode_key: Callable[[bytes], bytes] | None
    inner: bool
    join: Callable[[Any, Any], Any]

    @property
    def states(self) -> Sequence[StateSpec]:
        return (self.state,)

    def label(self) -> str:
        return f"join table {self.state.name}"

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return _JoinWork(self, context, emit)


class _JoinWork:
    def __init__(self, node: TableJoin, context: TaskContext, emit: Emit) -> None:
        self._node = node
        self._context = context
        self._emit = emit
        self._state = context.keyed(node.state.name)

    def process(self, batch: Batch) -> None:
        node = self._node
        batch = drop_keyless(batch, self._context, node)
        keys, batch = recode_keys(batch, node.recode_key, self._context, node)
        table = self._state.prepare(keys)
        rows = [table[key] for key in keys]
        if node.inner and None in rows:
            mask = [row is not None for row in rows]
            batch = batch.select(mask)
            rows = [row for row in rows if row is not None]
        values, failed = map_batch(node.join, batch.values, rows)
        out = batch.with_values(values)
        if failed:
            out = self._context.failures.drop(out, failed, node.name, node.policy)
        if out.values:
            self._emit(out)
