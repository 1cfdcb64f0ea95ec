"""Dedupe: of the values with the same id only the first within a span of event time passes.

What was seen is kept in buckets of one span each, and a bucket goes when no record of interest can meet it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from streams.core.batch import FOREVER, Batch
from streams.core.context import TaskContext
from streams.core.graph import Emit, Processor
from streams.core.mapping import map_batch
from streams.core.state import StateSpec
from streams.core.window import decode_start, encode_start
from streams.operators.base import Operator


@dataclass(frozen=True, eq=False, kw_only=True)
class Dedupe(Operator):
    """Lets a value pass if none with the same ``id_of`` came within ``within_ms`` of event time before or after it.

    A record so late that its span is forgotten passes.
    """

    state: StateSpec
    id_of: Callable[[Any], bytes]
    within_ms: int

    @property
    def states(self) -> Sequence[StateSpec]:
        return (self.state,)

    def label(self) -> str:
        return f"dedupe {self.state.name}"

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return _DedupeWork(self, context, emit)


def dedupe_state(name: str) -> StateSpec:
    return StateSpec(name, "windowed", encode_start, decode_start, "dedupe/1")


class _DedupeWork:
    def __init__(self, node: Dedupe, context: TaskContext, emit: Emit) -> None:
        self._node = node
        self._context = context
        self._emit = emit
        self._delay_ms = context.processor_delay_ms
        self._state = context.windowed(node.state.name)

    def process(self, batch: Batch) -> None:
        ids, failed = map_batch(self._node.id_of, batch.values)
        if failed:
            good = self._context.failures.drop(batch.with_values(ids), failed, self._node.name, self._node.policy)
            ids = good.values
            batch = batch.without([index for index, _ in failed])
        origin, now = batch.origin, self._context.watermark
        mask = [
            self._is_first(each, time, (now if origin is None else origin.watermark_before(row)) - self._delay_ms)
            for each, time, row in zip(ids, batch.times, batch.rows, strict=True)
        ]
        passed = batch.select(mask)
        self._context.count("duplicates", len(batch) - len(passed))
        if passed.values:
            self._emit(passed)

    def _is_first(self, identity: bytes, time: int, watermark: int) -> bool:
        """``watermark`` as it stood before the record: what it has closed is forgotten, wherever the batch began."""
        within = self._node.within_ms
        bucket = time - time % within
        for start in (bucket - within, bucket, bucket + within):
            if start in self._state.open and self._closes(start) > watermark:
                seen = self._state.segment(start).get(identity)
                if seen is not None and abs(seen - time) < within:
                    return False
        if self._closes(bucket) > watermark:
            self._state.segment(bucket).put(identity, time)
        return True

    def _closes(self, start: int) -> int:
        return start + 2 * self._node.within_ms

    def deadline(self) -> int:
        earliest = self._state.earliest()
        return FOREVER if earliest is None else self._closes(earliest)

    def advance(self, watermark: int) -> bool:
        while (earliest := self._state.earliest()) is not None and self._closes(earliest) <= watermark:
            count = self._context.outputs.room
            if len(self._state.drain(earliest, count)) >= count:
                return False
        return True
