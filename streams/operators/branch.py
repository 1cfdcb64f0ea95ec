"""Branches and merges: where a graph divides and comes together."""

from __future__ import annotations

from dataclasses import dataclass

from streams.core.batch import Batch
from streams.core.context import TaskContext
from streams.core.graph import Emit, Processor
from streams.operators.base import Operator


@dataclass(frozen=True, eq=False, kw_only=True)
class Merge(Operator):
    """Everything of all upstream nodes; within a task the record with the lowest timestamp is taken first."""

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return Passing(emit)


class Passing:
    """Hands batches on."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def process(self, batch: Batch) -> None:
        self._emit(batch)
