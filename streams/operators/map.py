"""Stateless operators: map, filter, flat_map, peek, and the keys made visible.

Each applies the user's function to a whole column; what the function refuses meets the policy of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from streams.core.batch import Batch
from streams.core.context import TaskContext
from streams.core.graph import Emit, Processor
from streams.core.mapping import decode_batch, map_batch
from streams.operators.base import Operator


class Stateless:
    """A processor made of one function from batch to batch; an empty batch goes no further."""

    def __init__(self, work: Callable[[Batch], Batch], emit: Emit) -> None:
        self._work = work
        self._emit = emit

    def process(self, batch: Batch) -> None:
        batch = self._work(batch)
        if batch.values:
            self._emit(batch)


@dataclass(frozen=True, eq=False, kw_only=True)
class Map(Operator):
    """Each value becomes what ``fn`` makes of it."""

    fn: Callable[[Any], Any]

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        def work(batch: Batch) -> Batch:
            values, failed = map_batch(self.fn, batch.values)
            mapped = batch.with_values(values)
            return context.failures.drop(mapped, failed, self.name, self.policy) if failed else mapped

        return Stateless(work, emit)


@dataclass(frozen=True, eq=False, kw_only=True)
class Filter(Operator):
    """Values stay for which ``predicate`` is true."""

    predicate: Callable[[Any], Any]

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        def work(batch: Batch) -> Batch:
            mask, failed = map_batch(self.predicate, batch.values)
            if failed:
                context.failures.drop(batch, failed, self.name, self.policy)
            return batch.select(mask)

        return Stateless(work, emit)


@dataclass(frozen=True, eq=False, kw_only=True)
class FlatMap(Operator):
    """Each value becomes the values that ``fn`` returns; all or none of them, if it raises halfway."""

    fn: Callable[[Any], Iterable[Any]]

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        def expand(value: Any) -> list[Any]:
            return list(self.fn(value))

        def work(batch: Batch) -> Batch:
            lists, failed = map_batch(expand, batch.values)
            if failed:
                whole = context.failures.drop(batch.with_values(lists), failed, self.name, self.policy)
            else:
                whole = batch.with_values(lists)
            return Batch(
                [key for key, made in zip(whole.keys, whole.values, strict=True) for _ in made],
                [value for made in whole.values for value in made],
                [time for time, made in zip(whole.times, whole.values, strict=True) for _ in made],
                [row for row, made in zip(whole.rows, whole.values, strict=True) for _ in made],
                whole.origin,
            )

        return Stateless(work, emit)


@dataclass(frozen=True, eq=False, kw_only=True)
class Peek(Operator):
    """Calls ``fn`` for its effect outside of the framework, at least once for each value."""

    fn: Callable[[Any], Any]

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        def work(batch: Batch) -> Batch:
            _, failed = map_batch(self.fn, batch.values)
            return context.failures.drop(batch, failed, self.name, self.policy) if failed else batch

        return Stateless(work, emit)


@dataclass(frozen=True, eq=False, kw_only=True)
class Items(Operator):
    """Each value becomes the pair (key, value)."""

    decode_key: Callable[[bytes], Any]

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        def work(batch: Batch) -> Batch:
            keys, failed = decode_batch(self.decode_key, batch.keys)
            paired = batch.with_values(list(zip(keys, batch.values, strict=True)))
            return context.failures.drop(paired, failed, self.name, self.policy) if failed else paired

        return Stateless(work, emit)
