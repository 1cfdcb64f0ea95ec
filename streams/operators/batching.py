"""Batches as values: up to so many values in a list, or what came within a span of wall-clock time.

Values that wait are state: a restart goes on with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from streams.core.batch import FOREVER, Batch, emitted
from streams.core.context import TaskContext
from streams.core.graph import Emit, Processor
from streams.core.state import KeyedState, StateSpec
from streams.operators.base import Operator


@dataclass(frozen=True, eq=False, kw_only=True)
class Batching(Operator):
    """Collects ``count`` values of the task into a list, or fewer once the first has waited ``within_ms``.

    A list carries the key and the time of its last value.
    """

    state: StateSpec
    count: int
    within_ms: int | None

    @property
    def states(self) -> Sequence[StateSpec]:
        return (self.state,)

    def label(self) -> str:
        return f"batch {self.count}"

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return _BatchingWork(self, context, emit)


def batching_state(name: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any], codec: str) -> StateSpec:
    """One entry for each waiting value, in order: (key, time, value)."""
    pack, unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(tuple[bytes | None, int, bytes]).decode

    def encode_entry(entry: tuple[bytes | None, int, Any]) -> bytes:
        key, time, value = entry
        return pack((key, time, encode(value)))

    def decode_entry(stored: bytes) -> tuple[bytes | None, int, Any]:
        key, time, value = unpack(stored)
        return key, time, decode(value)

    return StateSpec(name, "keyed", encode_entry, decode_entry, f"batching/1/{codec}", of_keys=False)


class _BatchingWork:
    def __init__(self, node: Batching, context: TaskContext, emit: Emit) -> None:
        self._node = node
        self._emit = emit
        self._state: KeyedState[Any] = context.keyed(node.state.name)
        self._waiting = [entry for _, entry in self._state.scan()]
        self._first = 0
        last = [int.from_bytes(key, "big") for key, _ in self._state.scan()]
        if last:
            self._first = last[0]
        self._since_ms: int | None = None

    def process(self, batch: Batch) -> None:
        for entry in zip(batch.keys, batch.times, batch.values, strict=True):
            self._state.put(_sequence(self._first + len(self._waiting)), entry)
            self._waiting.append(entry)
            if len(self._waiting) >= self._node.count:
                self._send()

    def _send(self) -> None:
        key, time, _ = self._waiting[-1]
        values = [value for _, _, value in self._waiting]
        for number in range(self._first, self._first + len(values)):
            self._state.delete(_sequence(number))
        self._first += len(values)
        self._waiting = []
        self._since_ms = None
        self._emit(emitted([key], [values], [time]))

    def holding(self) -> int:
        """The earliest event time that waits: the task's watermark doesn't pass it, or the list would come late."""
        if not self._waiting or self._node.within_ms is None:
            return FOREVER
        earliest: int = min(time for _, time, _ in self._waiting)
        return earliest

    def tick(self, now_ms: int) -> bool:
        if not self._waiting or self._node.within_ms is None:
            return False
        if self._since_ms is None:
            self._since_ms = now_ms
        if now_ms - self._since_ms < self._node.within_ms:
            return False
        self._send()
        return True


def _sequence(number: int) -> bytes:
    return number.to_bytes(8, "big")
