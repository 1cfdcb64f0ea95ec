"""The embedded log: the ``Log`` protocol on a directory of this machine.

What must live here: the protocol.  What must not: how it is done (``engine``, ``reader``, ``maintenance``).

One process has the directory at a time; the lock fences other processes, the generation of a task fences other
owners within the process.  Everything is called from one event loop.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence

from rocksdict import WriteBatch

from streams.connectors.alone import Alone
from streams.connectors.embedded.blocks import topic_range
from streams.connectors.embedded.catalog import (
    LAST_TOPIC_NUMBER,
    Topic,
    decode_count,
    encode_count,
    new_topic,
    partition_key,
    topic_key,
)
from streams.connectors.embedded.config import EmbeddedConfig, parse_url
from streams.connectors.embedded.engine import Engine
from streams.connectors.embedded.maintenance import Maintained, Maintenance
from streams.connectors.embedded.reader import EmbeddedReader
from streams.connectors.memory.rules import check_spec, partition_for
from streams.connectors.since import first_since
from streams.core.capability import Capabilities, Durability, Limits
from streams.core.log import Append, Commit, TaskRef, TopicInfo, TopicSpec
from streams.core.membership import Member, Membership, Wanted
from streams.core.record import Bounds, Position, Positions, TopicPartition
from streams.errors import Fenced, LogUnavailable, RetryableError, StreamsError

__all__ = ["EmbeddedLog", "EmbeddedTaskWriter"]


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class EmbeddedTaskWriter:
    """A ``TaskWriter``: holds the generation that its fence gave it."""

    def __init__(self, engine: Engine, task: str, generation: int, checkpoint: bytes | None) -> None:
        self._engine = engine
        self._task = task
        self._generation = generation
        self._spent = False
        self.checkpoint = checkpoint

    async def commit(self, commit: Commit) -> Positions:
        if self._spent:
            raise Fenced(f"{self._engine.config.url}: the writer of task {self._task!r} is closed; fence the task anew")
        try:
            return await self._engine.write_records(
                commit.appends, task=self._task, generation=self._generation, checkpoint=commit.checkpoint
            )
        except BaseException as error:
            # After a commit whose outcome isn't known a second one could store its records twice.
            self._spent = not isinstance(error, StreamsError) or isinstance(error, RetryableError)
            raise

    async def close(self) -> None:
        self._spent = True


class EmbeddedLog:
    """A log in a directory.  Passes ``streams.testing`` LogContract.

    config: the settings, or the URL that carries them.
    now_ms: the wall clock that retention goes by.
    """

    def __init__(self, config: EmbeddedConfig | str, *, now_ms: Callable[[], int] = _wall_clock_ms) -> None:
        self.config = parse_url(config) if isinstance(config, str) else config
        self._engine = Engine(self.config, now_ms)
        self._maintenance = Maintenance(self._engine)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            replayable=True,
            ordered=True,
            durable=Durability.POWER if self.config.durable else Durability.PROCESS,
            transactional=True,
            fences=True,
            detects_recreation=True,
        )

    @property
    def limits(self) -> Limits:
        return Limits(max_commit_bytes=self.config.max_commit_bytes, max_record_bytes=self.config.max_record_bytes)

    @property
    def url(self) -> str:
        return self.config.url

    @property
    def identity(self) -> str:
        if not self._engine.storage.identity:
            raise LogUnavailable(f"{self.url}: the log has no identity yet; open it first")
        return self._engine.storage.identity

    async def open(self) -> None:
        await self._engine.open()

    async def close(self) -> None:
        await self._engine.close()

    def publish_endpoint(self, port: int, token: str) -> None:
        """Write into the lock file where other processes reach this one; ``read_holder`` reads it."""
        self._engine.check_open()
        self._engine.lock.publish_endpoint(port, token)

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]:
        self._engine.check_open()
        return {name: it.info for name, it in self._engine.topics.items() if names is None or name in names}

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        self._engine.check_open()
        held = map(self._engine.partition, partitions)
        return {one.at: Bounds(start=Position.at(one.meta.start), end=Position.at(one.visible)) for one in held}

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Positions:
        return await first_since(self, times)

    def reader(self, positions: Positions) -> EmbeddedReader:
        self._engine.check_open()
        return EmbeddedReader(self._engine, positions)

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        await self._engine.ready()
        held = {name: topic.spec for name, topic in self._engine.topics.items()}
        for spec in specs:
            check_spec(spec, held)
            held[spec.name] = spec
        missing = [spec for name, spec in held.items() if name not in self._engine.topics]
        if not missing:
            return
        with self._engine.storage.faults:
            last = decode_count(self._engine.storage.db.get(LAST_TOPIC_NUMBER))
        batch = WriteBatch(raw_mode=True)
        created: list[Topic] = []
        for number, spec in enumerate(missing, last + 1):
            topic, stored = new_topic(spec, uuid.uuid4().hex, number)
            batch.put(topic_key(spec.name), stored)
            created.append(topic)
        batch.put(LAST_TOPIC_NUMBER, encode_count(last + len(missing)))
        self._engine.storage.write(batch)
        self._engine.topics.update((topic.spec.name, topic) for topic in created)
        await self._engine.synced({})

    async def delete_topics(self, names: Collection[str]) -> None:
        # A step of compaction must not write a block behind the removal of its topic.
        await self._engine.ready()
        async with self._engine.stepping:
            self._engine.check_open()
            topics = [self._engine.topics[name] for name in dict.fromkeys(names) if name in self._engine.topics]
            if not topics:
                return
            batch = WriteBatch(raw_mode=True)
            for topic in topics:
                batch.delete(topic_key(topic.spec.name))
                batch.delete_range(*topic_range(topic.number))
                for partition in topic.partitions:
                    batch.delete(partition_key(topic.number, partition.number))
            self._engine.storage.write(batch)
            for topic in topics:
                del self._engine.topics[topic.spec.name]
                self._maintenance.removed(topic)
                for partition in topic.partitions:
                    partition.deleted = True
                    partition.wake()
        await self._engine.synced({})

    def membership(self, group: str, member: Member, wanted: Wanted) -> Membership:
        return Alone(wanted)

    async def members(self, group: str) -> Sequence[Member]:
        return ()

    async def fence(self, task: TaskRef) -> EmbeddedTaskWriter:
        generation, checkpoint = await self._engine.fence(task.name)
        return EmbeddedTaskWriter(self._engine, task.name, generation, checkpoint)

    async def checkpoint(self, task: TaskRef) -> bytes | None:
        await self._engine.readable()
        checkpoint = self._engine.stored_checkpoint(task.name)
        # It may be written and not synced yet: what is handed out must not be lost afterwards.
        await self._engine.synced({})
        return checkpoint

    async def forget(self, tasks: Collection[TaskRef]) -> None:
        await self._engine.forget(dict.fromkeys(task.name for task in tasks))

    async def append(self, appends: Sequence[Append]) -> Positions:
        return await self._engine.write_records(appends)

    async def trim(self, positions: Positions) -> None:
        """Records before each position can't be read from now on; ``maintain`` frees their space."""
        await self._engine.ready()
        self._maintenance.trim({self._engine.partition(at): position.offset() for at, position in positions.items()})

    def compaction_floor(self, partition: TopicPartition) -> Position:
        return Position.at(self._engine.partition(partition).meta.floor)

    def partition_for(self, key: bytes, partitions: int) -> int:
        return partition_for(key, partitions)

    async def maintain(self, now_ms: int) -> None:
        """Apply retention, go on with compaction and free space, as of ``now_ms``.

        What takes long runs in a thread in small steps, each of which ends in one write.  A call that is cancelled
        costs nothing but the pass that it was in.  A log that isn't durable is synced by each call.
        """
        await self._maintenance.run(now_ms)

    @property
    def maintained(self) -> Maintained:
        """What maintenance has done since the log was opened, for metrics."""
        return self._maintenance.done
