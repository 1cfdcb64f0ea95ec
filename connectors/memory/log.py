"""A log in memory, with everything that the ``Log`` protocol promises but durability.

What must live here: the protocol, and waiting.  What must not: the contents (``broker``).

No threads, no chance, and no time but the event loop's own: under a virtual clock a run is a function of its seed.
A write happens in one step, without an await in it: it can't be cut in half by a cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from streams.connectors.alone import Alone
from streams.connectors.memory.broker import MemoryBroker, MemoryPartition
from streams.connectors.memory.rules import partition_for
from streams.connectors.since import first_since
from streams.connectors.waiting import fetch_or_wait
from streams.core.capability import Capabilities, Durability, Limits
from streams.core.log import Append, Commit, TaskRef, TopicInfo, TopicSpec
from streams.core.membership import Member, Membership, Wanted
from streams.core.record import Bounds, Fetched, Position, Positions, TopicPartition
from streams.errors import Fenced, LogUnavailable

__all__ = ["MemoryLog", "MemoryReader", "MemoryTaskWriter"]

CAPABILITIES = Capabilities(
    replayable=True,
    ordered=True,
    durable=Durability.NONE,
    transactional=True,
    fences=True,
    detects_recreation=True,
)


class MemoryReader:
    """A ``Reader`` of a broker's partitions."""

    def __init__(self, log: MemoryLog, positions: Positions) -> None:
        self._log = log
        self._offsets = {at: position.offset() for at, position in positions.items()}
        self._partitions: dict[TopicPartition, MemoryPartition] = {at: log.broker.partition(at) for at in positions}
        self._arrived = asyncio.Event()
        for partition in self._partitions.values():
            partition.watchers[self._arrived] = None

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        async def look() -> list[Fetched]:
            return self._collect(partitions, max_records)

        return await fetch_or_wait(look, self._arrived, wait_s)

    def _collect(self, partitions: Collection[TopicPartition], max_records: int) -> list[Fetched]:
        self._log.check_open()
        found: list[Fetched] = []
        for at in partitions:
            batch = self._partitions[at].read(self._offsets[at], max_records)
            if batch is not None:
                found.append(batch)
        # Only now, when nothing can raise any more: else the batches before an error would be passed over.
        for batch in found:
            self._offsets[batch.partition] = batch.next_offset
        return found

    def ends(self) -> Positions:
        return {at: Position.at(partition.end) for at, partition in self._partitions.items()}

    async def close(self) -> None:
        for partition in self._partitions.values():
            partition.watchers.pop(self._arrived, None)


class MemoryTaskWriter:
    """A ``TaskWriter``: holds the generation that its fence gave it."""

    def __init__(self, log: MemoryLog, task: str) -> None:
        held = log.broker.fence(task)
        self._log = log
        self._task = task
        self._generation = held.generation
        self._closed = False
        self.checkpoint = held.checkpoint

    async def commit(self, commit: Commit) -> Positions:
        self._log.check_open()
        if self._closed:
            raise Fenced(f"memory: the writer of task {self._task!r} is closed; fence the task anew")
        return self._log.broker.write(
            commit.appends,
            self._log.limits,
            task=self._task,
            generation=self._generation,
            checkpoint=commit.checkpoint,
        )

    async def close(self) -> None:
        self._closed = True


class MemoryLog:
    """A client of a ``MemoryBroker``; clients of one broker see the same log.

    limits: those of bytes are enforced; that of records is for the runtime, which commits earlier.
    """

    def __init__(
        self,
        broker: MemoryBroker | None = None,
        *,
        limits: Limits | None = None,
        tombstone_retention_ms: int = 24 * 3600 * 1000,
    ) -> None:
        self.broker = broker if broker is not None else MemoryBroker()
        self._limits = limits if limits is not None else Limits()
        self._tombstone_retention_ms = tombstone_retention_ms
        self._open = False

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def url(self) -> str:
        return "memory:"

    @property
    def identity(self) -> str:
        return self.broker.identity

    def check_open(self) -> None:
        if not self._open:
            raise LogUnavailable("memory: the log is closed; open it first")

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False
        for topic in self.broker.topics.values():
            for partition in topic.partitions:
                partition.wake()  # else a fetch of this client would wait for a log that is gone

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]:
        self.check_open()
        return self.broker.infos(names)

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        self.check_open()
        self.broker.create_topics(specs)

    async def delete_topics(self, names: Collection[str]) -> None:
        self.check_open()
        self.broker.delete_topics(names)

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        self.check_open()
        held = map(self.broker.partition, partitions)
        return {one.at: Bounds(start=Position.at(one.start), end=Position.at(one.end)) for one in held}

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Positions:
        return await first_since(self, times)

    def reader(self, positions: Positions) -> MemoryReader:
        self.check_open()
        return MemoryReader(self, positions)

    def membership(self, group: str, member: Member, wanted: Wanted) -> Membership:
        return Alone(wanted)

    async def members(self, group: str) -> Sequence[Member]:
        return ()

    async def fence(self, task: TaskRef) -> MemoryTaskWriter:
        self.check_open()
        return MemoryTaskWriter(self, task.name)

    async def checkpoint(self, task: TaskRef) -> bytes | None:
        self.check_open()
        held = self.broker.tasks.get(task.name)
        return held.checkpoint if held is not None else None

    async def forget(self, tasks: Collection[TaskRef]) -> None:
        self.check_open()
        for task in tasks:
            self.broker.forget(task.name)

    async def append(self, appends: Sequence[Append]) -> Positions:
        self.check_open()
        return self.broker.write(appends, self._limits)

    async def trim(self, positions: Positions) -> None:
        self.check_open()
        for at, position in positions.items():
            self.broker.partition(at).trim(position.offset())

    def compaction_floor(self, partition: TopicPartition) -> Position:
        return Position.at(self.broker.partition(partition).floor)

    def partition_for(self, key: bytes, partitions: int) -> int:
        return partition_for(key, partitions)

    async def maintain(self, now_ms: int) -> None:
        """Apply retention and compaction as of ``now_ms``, all at once."""
        self.check_open()
        self.broker.maintain(now_ms, self._tombstone_retention_ms)
