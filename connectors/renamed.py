"""One topic of another log, under the name that the app has for it.

What must live here: the one name in place of the other, in both directions.  What must not: anything about either log.

An app knows a topic by its name alone; two logs may each have a topic of one name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar, cast

from streams.connectors.log_sink import HasSinks, sink_on
from streams.core.capability import Capabilities
from streams.core.log import (
    Append,
    Foreign,
    Log,
    Reader,
    Sink,
    SinkWriter,
    TaskRef,
    TopicInfo,
    TopicSpec,
    distance_on,
)
from streams.core.record import Bounds, Fetched, Position, Positions, TopicPartition
from streams.errors import PositionLost

__all__ = ["Askable", "ForeignTopic", "foreign_topic"]


class Askable(Protocol):
    """The part of a log that everybody has who reads it: an app, or a tool through the worker that holds it."""

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]: ...
    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]: ...


L = TypeVar("L", bound=Askable)


def foreign_topic(log: L, spec: TopicSpec) -> L | ForeignTopic:
    """A log, for whoever asks for ``spec`` by the app's name for it."""
    return ForeignTopic(log, spec.name, spec.name_there) if spec.there else log


class ForeignTopic:
    """A ``Foreign`` with sinks, for one topic, as far as ``log`` is one.  name: the app's.  there: the log's."""

    def __init__(self, log: Askable, name: str, there: str) -> None:
        self._log = cast(Foreign, log)
        self._name = name
        self._there = there

    @property
    def url(self) -> str:
        return self._log.url

    @property
    def capabilities(self) -> Capabilities:
        return self._log.capabilities

    def partition_for(self, key: bytes, partitions: int) -> int:
        return self._log.partition_for(key, partitions)

    async def close(self) -> None:
        await self._log.close()

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]:
        """At most this one, whatever is asked for."""
        info = (await self._log.topics([self._there])).get(self._there)
        if info is None or (names is not None and self._name not in names):
            return {}
        return {self._name: TopicInfo(replace(info.spec, name=self._name), info.identity)}

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        await self._log.create_topics([replace(spec, name=self._there, there="") for spec in specs])

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        found = await self._log.bounds([self._away(at) for at in partitions])
        return {self._home(at): bounds for at, bounds in found.items()}

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Positions:
        found = await self._log.offsets_at({self._away(at): time for at, time in times.items()})
        return {self._home(at): position for at, position in found.items()}

    def reader(self, positions: Positions) -> Reader:
        return _Reader(self._log.reader({self._away(at): position for at, position in positions.items()}), self)

    def distance(self, partition: TopicPartition, since: Position, end: Position) -> int:
        return distance_on(self._log, self._away(partition), since, end)

    def sink(self, topic: str) -> Sink:
        return _Sink(sink_on(cast("Log | HasSinks", self._log), self._there), self)

    def _away(self, at: TopicPartition) -> TopicPartition:
        return TopicPartition(self._there, at.partition)

    def _home(self, at: TopicPartition) -> TopicPartition:
        return TopicPartition(self._name, at.partition)


class _Reader:
    def __init__(self, reader: Reader, topic: ForeignTopic) -> None:
        self._reader = reader
        self._topic = topic

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        wanted = [self._topic._away(at) for at in partitions]
        try:
            found = await self._reader.fetch(wanted, max_records=max_records, wait_s=wait_s)
        except PositionLost as error:  # what becomes of it hangs on the topic's name
            lost = self._topic._home(TopicPartition(error.topic, error.partition))
            raise PositionLost(
                topic=lost.topic, partition=lost.partition, position=error.position, first=error.first
            ) from error
        return [replace(batch, partition=self._topic._home(batch.partition)) for batch in found]

    def ends(self) -> Positions:
        return {self._topic._home(at): end for at, end in self._reader.ends().items()}

    async def close(self) -> None:
        await self._reader.close()


class _Sink:
    def __init__(self, sink: Sink, topic: ForeignTopic) -> None:
        self._sink = sink
        self._topic = topic

    @property
    def capabilities(self) -> Capabilities:
        return self._sink.capabilities

    async def fence(self, task: TaskRef) -> SinkWriter:
        return _SinkWriter(await self._sink.fence(task), self._topic)


class _SinkWriter:
    def __init__(self, writer: SinkWriter, topic: ForeignTopic) -> None:
        self._writer = writer
        self._topic = topic

    @property
    def delivered(self) -> bytes | None:
        return self._writer.delivered

    async def deliver(self, appends: Sequence[Append], delivered: bytes) -> None:
        renamed = [Append(self._topic._away(append.partition), append.records) for append in appends]
        await self._writer.deliver(renamed, delivered)

    async def close(self) -> None:
        await self._writer.close()
