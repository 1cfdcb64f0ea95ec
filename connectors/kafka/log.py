"""Kafka as the log: the ``Log`` protocol on a cluster.

What must live here: the protocol.  What must not: how it is done (``writer``, ``reader``, ``topics``, ``appender``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from streams.connectors.kafka.appender import Appender
from streams.connectors.kafka.checkpoints import SLOTS_AT_ONCE, last_checkpoint, slots_topic
from streams.connectors.kafka.cluster import Cluster
from streams.connectors.kafka.config import KafkaConfig, parse_url
from streams.connectors.kafka.offsets import Offsets
from streams.connectors.kafka.partitioner import by_key, make_partitioner, partition_of
from streams.connectors.kafka.reader import KafkaReader
from streams.connectors.kafka.topics import TOMBSTONES_KEPT_MS, Topics
from streams.connectors.kafka.writer import KafkaTaskWriter, fence
from streams.connectors.memory.rules import check_columns, check_record_sizes
from streams.core.capability import Capabilities, Durability, Limits
from streams.core.log import Append, Commit, TopicInfo, TopicSpec
from streams.core.membership import Member, Membership, TaskRef, Wanted
from streams.core.record import START, Bounds, Position, Positions, TopicPartition
from streams.errors import ConfigurationError, DataError, LogUnavailable

__all__ = ["KafkaLog"]

CAPABILITIES = Capabilities(
    replayable=True,
    ordered=True,
    durable=Durability.POWER,
    transactional=True,
    fences=True,
    detects_recreation=True,
    expires_by_timestamp=True,
)


class KafkaLog:
    """A log on a Kafka cluster.  Passes ``streams.testing`` LogContract."""

    def __init__(self, config: KafkaConfig | str) -> None:
        self.config = parse_url(config) if isinstance(config, str) else config
        self._cluster = Cluster(self.config)
        self._offsets = Offsets(self._cluster)
        self._topics = Topics(self._cluster)
        self._appender: Appender | None = None
        self._slots: dict[str, int] = {}
        own = self.config.partitioner
        self.partition_for: Callable[[bytes, int], int] = partition_of if own == "murmur2" else make_partitioner(own)

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    @property
    def limits(self) -> Limits:
        config = self.config
        return Limits(
            max_commit_records=config.max_commit_records,
            max_commit_bytes=config.max_commit_bytes,
            max_record_bytes=config.max_record_bytes,
            tombstones_kept_ms=TOMBSTONES_KEPT_MS,
        )

    @property
    def url(self) -> str:
        return self._cluster.url

    @property
    def identity(self) -> str:
        return self._cluster.identity

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        await self._cluster.open()
        self._appender = Appender(self._cluster)

    async def close(self) -> None:
        if self._appender is not None:
            await self._appender.close()
            self._appender = None
        await self._cluster.close()

    # ── topics ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]:
        return await self._topics.infos(names)

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        await self._topics.create(specs)

    async def delete_topics(self, names: Collection[str]) -> None:
        await self._topics.delete(names)

    async def trim(self, positions: Positions) -> None:
        await self._topics.trim(positions)

    async def maintain(self, now_ms: int) -> None:
        """The brokers do it.  What others did to our topics meanwhile is an error here (``Topics.check``)."""
        await self._topics.check()

    def compaction_floor(self, partition: TopicPartition) -> Position:
        """Kafka can't tell; stores go by their age instead (``Limits.tombstones_kept_ms``)."""
        return START

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        return await self._offsets.bounds(partitions)

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Positions:
        found = await self._offsets.at(times)
        late = [at for at, offset in found.items() if offset < 0]
        ends = await self._offsets.bounds(late)
        return {at: ends[at].end if at in ends else Position.at(offset) for at, offset in found.items()}

    def reader(self, positions: Positions) -> KafkaReader:
        return KafkaReader(self._cluster, self._offsets, positions, max_wait_ms=self.config.fetch_max_wait_ms)

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def membership(self, group: str, member: Member, wanted: Wanted) -> Membership:
        from streams.connectors.kafka.membership import KafkaMembership

        if not by_key(self.config.partitioner):
            raise ConfigurationError(
                f"{self.url}: partitioner={self.config.partitioner} parts the records of a key, and tables, joins and "
                f"key_by need them together; give it to a log that the app only writes to"
            )
        return KafkaMembership(self._cluster, group, member, wanted)

    async def members(self, group: str) -> Sequence[Member]:
        from streams.connectors.kafka.group_roster import members_of

        return await members_of(self._cluster, group)

    async def fence(self, task: TaskRef) -> KafkaTaskWriter:
        await self._ensure_slot(task)
        return await fence(self._cluster, self._offsets, task, self._check)

    async def _ensure_slot(self, task: TaskRef) -> None:
        if self._slots.get(task.group, 0) <= task.slot:
            slots = (task.slot // SLOTS_AT_ONCE + 1) * SLOTS_AT_ONCE
            await self._topics.ensure_slots(slots_topic(task.group), slots)
            self._slots[task.group] = slots

    async def checkpoint(self, task: TaskRef) -> bytes | None:
        topic = slots_topic(task.group)
        known = (await self._cluster.refresh([topic])).get(topic)
        if known is None or task.slot not in known.leaders:
            return None
        return await last_checkpoint(self._cluster, self._offsets, task)

    async def forget(self, tasks: Collection[TaskRef]) -> None:
        for task in tasks:
            if await self.checkpoint(task) is None:
                continue
            writer = await self.fence(task)
            try:
                await writer.forget()
            finally:
                await writer.close()

    async def append(self, appends: Sequence[Append]) -> Positions:
        if self._appender is None:
            raise LogUnavailable(f"{self.url}: the log is closed; open it first")
        return await self._appender.append(appends, self._check(Commit(b"", appends)))

    def _check(self, commit: Commit) -> int:
        """The size of a commit.  Raises DataError for what it must not hold."""
        total = len(commit.checkpoint)
        for append in commit.appends:
            check_columns(append.partition, append.records)
            total += check_record_sizes(append.partition, append.records, self.config.max_record_bytes)
        if total > self.config.max_commit_bytes + self.config.max_record_bytes:
            raise DataError(
                f"{self.url}: a commit of {total} bytes is more than one record above max_commit_bytes="
                f"{self.config.max_commit_bytes}; let one record expand to less, or raise it in the log's URL"
            )
        return total
