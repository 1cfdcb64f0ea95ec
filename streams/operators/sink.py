"""Sinks: values are encoded and leave for a topic, in the commit of the task.

``Sink`` writes to a topic of the app's log, ``Repartition`` to an internal one, with the key that it computes; what
reads it on the other side is a source like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from streams.core.batch import Batch, headers_of
from streams.core.context import TaskContext
from streams.core.graph import Emit, Processor
from streams.core.log import TopicSpec
from streams.core.mapping import decode_batch, has_none, map_batch
from streams.core.outputs import RecordTooLarge
from streams.operators.base import Operator


def _encode_optional(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes | None]:
    """``encode`` for columns in which None is a tombstone."""

    def encode_one(value: Any) -> bytes | None:
        return None if value is None else encode(value)

    return encode_one


def _keyed(context: TaskContext, batch: Batch, key: Callable[[Any], bytes], node: Operator) -> Batch:
    """The batch under the keys that ``key`` computes of its values."""
    keys, failed = map_batch(key, batch.values)
    keyed = Batch(keys, batch.values, batch.times, batch.rows, batch.origin)
    return context.failures.drop(keyed, failed, node.name, node.policy) if failed else keyed


def _send(context: TaskContext, topic: str, batch: Batch, node: Operator) -> None:
    """Send encoded values, with the headers of the records that they come from; what is too large meets the policy."""
    while True:
        try:
            context.send(topic, batch.keys, batch.values, batch.times, headers_of(batch))
            return
        except RecordTooLarge as error:
            batch = context.failures.drop(batch, [(error.index, error)], node.name, node.policy)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sink(Operator):
    """Writes to ``topic``; a value of None is written as a tombstone.

    key: a value to the key that it is written under, encoded; None keeps that of the stream.
    recode_key: the stream's key bytes to the topic's, where the two differ.
    """

    topic: TopicSpec
    encode: Callable[[Any], bytes]
    key: Callable[[Any], bytes] | None = None
    recode_key: Callable[[bytes], bytes] | None = None

    @property
    def writes(self) -> Sequence[TopicSpec]:
        return (self.topic,)

    def label(self) -> str:
        return f"write {self.topic.name}"

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return _SinkWork(self, context)


class _SinkWork:
    def __init__(self, node: Sink, context: TaskContext) -> None:
        self._node = node
        self._context = context
        self._encode_or_none = _encode_optional(node.encode)

    def process(self, batch: Batch) -> None:
        node = self._node
        if node.key is not None:
            batch = _keyed(self._context, batch, node.key, node)
        encode = self._encode_or_none if has_none(batch.values) else node.encode
        encoded, failed = map_batch(encode, batch.values)
        out = batch.with_values(encoded)
        if failed:
            out = self._context.failures.drop(out, failed, node.name, node.policy)
        if node.recode_key is not None:
            keys, failed = decode_batch(node.recode_key, out.keys)
            out = Batch(keys, out.values, out.times, out.rows, out.origin)
            if failed:
                out = self._context.failures.drop(out, failed, node.name, node.policy)
        if out.values:
            _send(self._context, node.topic.name, out, node)


@dataclass(frozen=True, eq=False, kw_only=True)
class Repartition(Operator):
    """Writes to the internal ``topic`` under the key, encoded, that ``key`` computes of each value."""

    topic: TopicSpec
    key: Callable[[Any], bytes]
    encode: Callable[[Any], bytes]

    @property
    def writes(self) -> Sequence[TopicSpec]:
        return (self.topic,)

    def label(self) -> str:
        return f"key_by → {self.topic.name}"

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        encode, key = self.encode, self.key

        def work(batch: Batch) -> None:
            keyed = _keyed(context, batch, key, self)
            encoded, failed = map_batch(encode, keyed.values)
            out = keyed.with_values(encoded)
            if failed:
                out = context.failures.drop(out, failed, self.name, self.policy)
            if out.values:
                _send(context, self.topic.name, out, self)

        return _Work(work)


class _Work:
    def __init__(self, work: Callable[[Batch], None]) -> None:
        self.process = work
