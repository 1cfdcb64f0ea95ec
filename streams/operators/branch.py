"""Branches and merges: where a graph divides and comes together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from streams.core.batch import Batch
from streams.core.context import TaskContext
from streams.core.graph import Emit, Processor
from streams.core.mapping import FAILED, map_batch
from streams.operators.base import Operator


@dataclass(frozen=True, eq=False, kw_only=True)
class Merge(Operator):
    """Everything of all upstream nodes; within a task the record with the lowest timestamp is taken first."""

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return Passing(emit)


@dataclass(frozen=True, eq=False, kw_only=True)
class Branch(Operator):
    """Hands each value to the child with the index of the first predicate that is true for it, or behind the last.

    Each predicate is called at most once for a value, so a value that it refuses meets the policy once.
    """

    predicates: Sequence[Callable[[Any], object]]

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return _BranchWork(self, context, emit)


class BranchBatch(Batch):
    """A batch out of a branch; ``index`` says which of its children it is for."""

    __slots__ = ("index",)

    def __init__(self, batch: Batch, index: int) -> None:
        super().__init__(batch.keys, batch.values, batch.times, batch.rows, batch.origin)
        self.index = index


class _BranchWork:
    def __init__(self, node: Branch, context: TaskContext, emit: Emit) -> None:
        self._node = node
        self._context = context
        self._emit = emit

    def process(self, batch: Batch) -> None:
        node = self._node
        for index, predicate in enumerate(node.predicates):
            mask, failed = map_batch(predicate, batch.values)
            self._hand_on(batch.select(mask), index)
            kept = batch.select([not (each or each is FAILED) for each in mask])
            if failed:
                self._context.failures.drop(batch, failed, node.name, node.policy)
            batch = kept
        self._hand_on(batch, len(node.predicates))

    def _hand_on(self, batch: Batch, index: int) -> None:
        if batch.values:
            self._emit(BranchBatch(batch, index))


@dataclass(frozen=True, eq=False, kw_only=True)
class BranchPort(Operator):
    """One of the streams that come out of a branch."""

    index: int

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return _PortWork(self.index, emit)


class _PortWork:
    def __init__(self, index: int, emit: Emit) -> None:
        self._index = index
        self._emit = emit

    def process(self, batch: Batch) -> None:
        assert isinstance(batch, BranchBatch), "only a branch has such children"
        if batch.index == self._index:
            self._emit(batch)


class Passing:
    """Hands batches on."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def process(self, batch: Batch) -> None:
        self._emit(batch)
