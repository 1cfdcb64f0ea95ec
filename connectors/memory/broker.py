"""The contents of a log in memory: topics, partitions, checkpoints.

What must live here: plain data and what changes it, all of it synchronous.  What must not: waiting (``log``).

A broker outlives the ``MemoryLog`` clients that share it, as a server outlives its clients: a simulated worker is
killed by dropping its client.  Every method either does all that it says or raises and does nothing.  No chance
and no clock of its own: identities are numbered, the time comes from ``now_ms``.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from streams.connectors.memory.rules import check_columns, check_record_sizes, check_spec
from streams.core.capability import Limits
from streams.core.log import Append, TopicInfo, TopicSpec
from streams.core.record import Fetched, Headers, Position, Records, TopicPartition
from streams.errors import ConfigurationError, DataError, Fenced, PositionLost, TopicRecreated

__all__ = ["MemoryBroker", "MemoryPartition"]


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryPartition:
    """The records of one partition, as columns with ascending offsets."""

    def __init__(self, at: TopicPartition, identity: str) -> None:
        self.at = at
        self.identity = identity
        self.deleted = False
        self.start = 0
        self.end = 0
        self.floor = 0
        self.offsets: list[int] = []
        self.keys: list[bytes | None] = []
        self.values: list[bytes | None] = []
        self.timestamps: list[int] = []
        self.headers: list[Headers | None] = []
        self.appended_ms: list[int] = []
        # A dict, not a set: those who wait are woken in the order of their coming, so that a seed replays.
        self.watchers: dict[asyncio.Event, None] = {}

    def append(self, records: Records, now_ms: int) -> None:
        """Add records behind the end and wake the readers."""
        count = len(records)
        self.offsets.extend(range(self.end, self.end + count))
        self.keys.extend(records.keys)
        self.values.extend(records.values)
        self.timestamps.extend(records.timestamps)
        self.headers.extend(records.headers if records.headers is not None else [None] * count)
        # Retention looks for the first record that is young enough: the times have to ascend.
        self.appended_ms.extend([max(now_ms, self.appended_ms[-1] if self.appended_ms else 0)] * count)
        self.end += count
        self.wake()

    def wake(self) -> None:
        for event in self.watchers:
            event.set()

    def read(self, offset: int, max_records: int) -> Fetched | None:
        """Up to ``max_records`` from ``offset`` on; None at the end.

        Raises PositionLost below the start, DataError above the end, TopicRecreated once the topic was deleted.
        """
        if self.deleted:
            raise TopicRecreated(f"{self.at}: the topic was deleted while it was read; start the task again")
        if offset < self.start:
            raise PositionLost(topic=self.at.topic, partition=self.at.partition, position=offset, first=self.start)
        if offset > self.end:
            raise DataError(
                f"{self.at}: the reader stands at {offset} but the log ends at {self.end}: it lost its tail or was "
                f"replaced; reset the reader, or bring the right log back"
            )
        if offset == self.end:
            return None
        first = bisect_left(self.offsets, offset)
        last = min(first + max_records, len(self.offsets))
        offsets: Sequence[int] = self.offsets[first:last]
        if offsets and offsets[-1] - offsets[0] == len(offsets) - 1:
            offsets = range(offsets[0], offsets[-1] + 1)
        headers = self.headers[first:last]
        return Fetched(
            partition=self.at,
            offsets=offsets,
            records=Records(
                self.keys[first:last],
                self.values[first:last],
                self.timestamps[first:last],
                headers if any(headers) else None,
            ),
            next_offset=self.end if last == len(self.offsets) else self.offsets[last],
        )

    def trim(self, offset: int) -> None:
        """Free what lies before ``offset``; never moves back, never past the end."""
        offset = min(offset, self.end)
        if offset <= self.start:
            return
        self.start = offset
        self._keep(range(bisect_left(self.offsets, offset), len(self.offsets)))

    def compact(self, tombstone_horizon_ms: int) -> None:
        """Keep the last record of each key, and no tombstone that was appended up to the horizon."""
        last = {key: offset for key, offset in zip(self.keys, self.offsets) if key is not None}
        kept: list[int] = []
        for index, (key, offset) in enumerate(zip(self.keys, self.offsets)):
            if key is not None and last[key] != offset:
                continue
            if key is not None and self.values[index] is None and self.appended_ms[index] <= tombstone_horizon_ms:
                self.floor = max(self.floor, offset + 1)
                continue
            kept.append(index)
        self._keep(kept)

    def _keep(self, indexes: Collection[int]) -> None:
        self.offsets = [self.offsets[index] for index in indexes]
        self.keys = [self.keys[index] for index in indexes]
        self.values = [self.values[index] for index in indexes]
        self.timestamps = [self.timestamps[index] for index in indexes]
        self.headers = [self.headers[index] for index in indexes]
        self.appended_ms = [self.appended_ms[index] for index in indexes]


@dataclass(slots=True)
class MemoryTopic:
    """A topic: how it is to be, and its partitions."""

    spec: TopicSpec
    identity: str
    partitions: list[MemoryPartition]


@dataclass(slots=True)
class MemoryTask:
    """What the log keeps of a task.  ``generation`` grows with each fence and is never forgotten."""

    generation: int = 0
    checkpoint: bytes | None = None


@dataclass(slots=True)
class MemoryBroker:
    """Everything that one log in memory holds.

    identity: the log's name for ever.
    now_ms: the wall clock that retention goes by; the simulator passes its own.
    """

    identity: str = "memory-1"
    now_ms: Callable[[], int] = _wall_clock_ms
    topics: dict[str, MemoryTopic] = field(default_factory=dict[str, MemoryTopic])
    tasks: dict[str, MemoryTask] = field(default_factory=dict[str, MemoryTask])
    created: int = 0

    def partition(self, at: TopicPartition) -> MemoryPartition:
        topic = self.topics.get(at.topic)
        if topic is None:
            raise ConfigurationError(f"memory: there is no topic {at.topic!r}; create it first")
        if not 0 <= at.partition < len(topic.partitions):
            raise ConfigurationError(f"memory: {at} doesn't exist; {at.topic!r} has {len(topic.partitions)} partitions")
        return topic.partitions[at.partition]

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        held = {name: topic.spec for name, topic in self.topics.items()}
        for spec in specs:
            check_spec(spec, held)
            held[spec.name] = spec
        for name, spec in held.items():
            if name not in self.topics:
                self._create(spec)

    def _create(self, spec: TopicSpec) -> None:
        self.created += 1
        identity = f"{self.identity}-topic-{self.created}"
        ats = [TopicPartition(spec.name, number) for number in range(spec.partitions)]
        self.topics[spec.name] = MemoryTopic(spec, identity, [MemoryPartition(at, identity) for at in ats])

    def delete_topics(self, names: Iterable[str]) -> None:
        for name in names:
            topic = self.topics.pop(name, None)
            for partition in topic.partitions if topic is not None else ():
                partition.deleted = True
                partition.wake()

    def infos(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        held = self.topics.items()
        return {name: TopicInfo(it.spec, it.identity) for name, it in held if names is None or name in names}

    def fence(self, task: str) -> MemoryTask:
        """Take ``task`` over: the generation that is returned is the only one that can commit."""
        held = self.tasks.setdefault(task, MemoryTask())
        held.generation += 1
        return held

    def forget(self, task: str) -> None:
        """Drop the checkpoint of ``task``.  Its generation stays and grows: the running owner is fenced by it."""
        held = self.tasks.get(task)
        if held is not None:
            held.generation += 1
            held.checkpoint = None

    def write(
        self,
        appends: Sequence[Append],
        limits: Limits,
        *,
        task: str | None = None,
        generation: int = 0,
        checkpoint: bytes | None = None,
    ) -> dict[TopicPartition, Position]:
        """Store appends and the checkpoint as one; the position behind each partition written."""
        if task is not None and self.tasks[task].generation != generation:
            raise Fenced(f"memory: task {task!r} was taken over by another owner; nothing was stored")
        partitions = [self.partition(append.partition) for append in appends]
        self._check_limits(appends, limits)
        now_ms = self.now_ms()
        for partition, append in zip(partitions, appends):
            partition.append(append.records, now_ms)
        if task is not None:
            self.tasks[task].checkpoint = checkpoint
        return {partition.at: Position.at(partition.end) for partition in partitions}

    def _check_limits(self, appends: Sequence[Append], limits: Limits) -> None:
        size_bytes = 0
        for append in appends:
            check_columns(append.partition, append.records)
            size_bytes += check_record_sizes(append.partition, append.records, limits.max_record_bytes)
        if size_bytes > limits.max_commit_bytes + limits.max_record_bytes:
            raise DataError(
                f"memory: {size_bytes} bytes in one write, more than one record above the log's max_commit_bytes="
                f"{limits.max_commit_bytes}; let one record expand to less, or raise the limit"
            )

    def maintain(self, now_ms: int, tombstone_retention_ms: int) -> None:
        """Apply retention and compaction as of ``now_ms``."""
        for topic in self.topics.values():
            spec = topic.spec
            for partition in topic.partitions:
                if spec.retention_ms is not None:
                    young = bisect_left(partition.appended_ms, now_ms - spec.retention_ms + 1)
                    partition.trim(partition.end if young == len(partition.offsets) else partition.offsets[young])
                if spec.retention_bytes is not None:
                    partition.trim(_first_to_keep(partition, spec.retention_bytes))
                if spec.compact:
                    partition.compact(now_ms - tombstone_retention_ms)


def _first_to_keep(partition: MemoryPartition, retention_bytes: int) -> int:
    """The least offset from which on no more than ``retention_bytes`` are stored; the last record always stays."""
    total = 0
    for index in range(len(partition.offsets) - 1, -1, -1):
        total += len(partition.keys[index] or b"") + len(partition.values[index] or b"")
        if total > retention_bytes:
            return partition.offsets[min(index + 1, len(partition.offsets) - 1)]
    return partition.start
