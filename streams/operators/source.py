"""Source: records of a topic come in, are decoded and get their event times.

Whole batches are decoded when they are buffered; a record that can't be decoded meets the policy when its turn comes,
so that its dead letter and its position are in one commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from streams.core.batch import Batch, Origin
from streams.core.context import TaskContext
from streams.core.duration import to_epoch_ms
from streams.core.graph import Emit, Start
from streams.core.inputs import Decoded
from streams.core.log import TopicSpec
from streams.core.mapping import FAILED, decode_batch, has_none, map_batch
from streams.core.message import Message
from streams.core.record import Fetched, Headers
from streams.operators.base import Operator


@dataclass(frozen=True, eq=False, kw_only=True)
class Source(Operator):
    """Reads ``topic``.

    decode: bytes to value.  key: a record as it came to the key that it is read under, encoded; None keeps its own.
    topic_header: which header names the topic that a transport had it on.
    timestamp: value to event time, None takes the record's own.
    timed, aligned: see ``core.graph.SourceNode``.
    on_lost: what to do when records were removed before they were read.  start: where to begin without a position.
    tombstones: True hands records without a value on as None (tables); else they are counted and left out.
    """

    topic: TopicSpec
    decode: Callable[[bytes], Any]
    key: Callable[[Message], bytes] | None = None
    topic_header: str = ""
    timestamp: Callable[[Any], Any] | None = None
    slack_ms: int = 0
    idle_after_ms: int | None = None
    timed: bool = True
    aligned: bool = True
    tombstones: bool = False
    on_lost: Literal["fail", "earliest"] = "fail"
    start: Start = "earliest"

    @property
    def reads(self) -> TopicSpec:
        return self.topic

    @property
    def writes(self) -> Sequence[TopicSpec]:
        return (self.policy.dead_letters,) if self.policy.dead_letters is not None else ()

    def label(self) -> str:
        return f"read {self.topic.name}"

    def build(self, context: TaskContext, emit: Emit) -> SourceWork:
        return SourceWork(self, context, emit)


class SourceWork:
    """A source at work."""

    def __init__(self, node: Source, context: TaskContext, emit: Emit) -> None:
        self._node = node
        self._context = context
        self.process = emit

    def decode(self, fetched: Fetched, first: int, end: int) -> Decoded:
        node, records = self._node, fetched.records
        keys, raw, times = records.keys, records.values, records.timestamps
        rows: Sequence[int] = range(first, end)
        if first or end < len(raw):
            keys, raw, times = keys[first:end], raw[first:end], times[first:end]
        values, failed = decode_batch(node.decode, raw)
        failures = [(first + index, error, "decode") for index, error in failed]
        if failures:
            keys, values, times, rows = _keep(keys, values, times, rows, [value is not FAILED for value in values])
        if not node.tombstones and has_none(raw):
            before = len(values)
            keys, values, times, rows = _keep(keys, values, times, rows, [raw[row - first] is not None for row in rows])
            self._context.count("tombstones", before - len(values))
        if node.key is not None:
            found, failed = map_batch(node.key, [self._message(fetched, row) for row in rows])
            keys = found
            if failed:
                failures += [(rows[index], error, "key") for index, error in failed]
                keys, values, times, rows = _keep(keys, values, times, rows, [key is not FAILED for key in found])
        if node.timestamp is not None:
            found, failed = map_batch(_event_time, [node.timestamp] * len(values), values)
            times = found
            if failed:
                failures += [(rows[index], error, "timestamp") for index, error in failed]
                keys, values, times, rows = _keep(keys, values, times, rows, [time is not FAILED for time in found])
        failures.sort(key=lambda failure: failure[0])
        return Decoded(keys, values, times, rows, failures)

    def _message(self, fetched: Fetched, row: int) -> Message:
        records = fetched.records
        headers: Headers = (records.headers[row] if records.headers is not None else None) or ()
        key = records.keys[row]
        topic = next((content for name, content in headers if name == self._node.topic_header), key or b"")
        return Message(topic.decode(errors="replace"), key, records.values[row], records.timestamps[row], headers)

    def failed(self, origin: Origin, failures: Sequence[tuple[int, Exception, str]]) -> None:
        for row, error, operator in failures:
            self._context.failures.handle(origin, row, error, f"{self._node.topic.name}: {operator}", self._node.policy)


def _event_time(extract: Callable[[Any], Any], value: Any) -> int:
    return to_epoch_ms(extract(value))


def _keep(
    keys: list[bytes | None], values: list[Any], times: list[int], rows: Sequence[int], mask: Sequence[bool]
) -> tuple[list[bytes | None], list[Any], list[int], Sequence[int]]:
    kept = Batch(keys, values, times, rows, None).select(mask)
    return kept.keys, kept.values, kept.times, kept.rows
