"""What the log knows of its topics, partitions and tasks, in memory and as stored.

What must live here: the stored form of everything that isn't a block, and the state of a partition.  What must
not: writing (``engine``), deciding what to remove (``retention``, ``compaction``).

    META t <topic>              TopicRecord          META c <task>    checkpoint, as it was handed in
    META p <topic no.> <part.>  PartitionMeta        META g <task>    generation, 8 bytes
    META n                      last topic number given; numbers are never used again
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from struct import Struct
from typing import Any

import msgspec
from rocksdict import Rdict, ReadOptions

from streams.connectors.embedded.blocks import (
    Block,
    block_key,
    decode_block,
    decode_head,
    offset_of_key,
    partition_end_key,
)
from streams.connectors.embedded.storage import META
from streams.core.log import TopicInfo, TopicKind, TopicSpec
from streams.core.record import TopicPartition
from streams.errors import LogCorrupt

__all__ = [
    "LAST_TOPIC_NUMBER",
    "Mark",
    "Partition",
    "PartitionMeta",
    "Topic",
    "checkpoint_key",
    "decode_count",
    "encode_count",
    "find_block",
    "floor_block",
    "generation_key",
    "load_partition",
    "load_topics",
    "new_topic",
    "partition_key",
    "topic_key",
]

LAST_TOPIC_NUMBER = META + b"n"
_PARTITION = Struct(">II")
_COUNT = Struct(">Q")
encode_count = _COUNT.pack


def decode_count(stored: bytes | None) -> int:
    return int(_COUNT.unpack(stored)[0]) if stored is not None else 0


def topic_key(name: str) -> bytes:
    return META + b"t" + name.encode()


def partition_key(topic: int, partition: int) -> bytes:
    return META + b"p" + _PARTITION.pack(topic, partition)


def checkpoint_key(task: str) -> bytes:
    return META + b"c" + task.encode()


def generation_key(task: str) -> bytes:
    return META + b"g" + task.encode()


class TopicRecord(msgspec.Struct, array_like=True, frozen=True):
    """A topic as stored.  Fields are only ever added at the end."""

    number: int
    identity: str
    name: str
    partitions: int
    kind: TopicKind
    retention_ms: int | None
    retention_bytes: int | None
    compact: bool


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """Where a stretch of a partition starts, when it was appended, and how many bytes came before it."""

    offset: int
    append_ms: int
    bytes_before: int


class PartitionMeta(msgspec.Struct, array_like=True):
    """What is stored of a partition beside its blocks.  Fields are only ever added at the end.

    start: the first offset that can be read.
    floor: tombstones below it may be gone.
    end, total_bytes: as of the last time that blocks were removed: the last ones may have been among them.
    cleaned_to, clean_bytes: up to where compaction has come, and what is left there.
    cleaned_total: total_bytes at cleaned_to.  cleaned_ms: when the last pass ended.
    oldest_tombstone_ms: when the oldest tombstone that compaction left was appended.
    marks: see ``retention``.
    """

    start: int = 0
    floor: int = 0
    end: int = 0
    total_bytes: int = 0
    cleaned_to: int = 0
    clean_bytes: int = 0
    cleaned_total: int = 0
    cleaned_ms: int = 0
    oldest_tombstone_ms: int | None = None
    marks: list[Mark] = []


_encode = msgspec.msgpack.Encoder().encode
_decode_topic = msgspec.msgpack.Decoder(TopicRecord).decode
_decode_meta = msgspec.msgpack.Decoder(PartitionMeta).decode


class Partition:
    """One partition while the log is open.

    end: behind the last record written.  visible: behind the last one that readers may see: in durable mode what
    has been synced.  total_bytes: of all blocks ever appended.  freed_to: blocks before it are removed already.
    """

    __slots__ = (
        "at",
        "deleted",
        "end",
        "freed_bytes",
        "freed_to",
        "last_append_ms",
        "meta",
        "number",
        "topic",
        "total_bytes",
        "visible",
        "watchers",
    )

    def __init__(self, topic: Topic, number: int) -> None:
        self.topic = topic
        self.number = number
        self.at = TopicPartition(topic.spec.name, number)
        self.meta = PartitionMeta()
        self.end = 0
        self.visible = 0
        self.total_bytes = 0
        self.last_append_ms = 0
        self.freed_to = 0
        self.freed_bytes = 0
        self.deleted = False
        self.watchers: dict[asyncio.Event, None] = {}

    def key(self, offset: int) -> bytes:
        return block_key(self.topic.number, self.number, offset)

    def meta_entry(self, meta: PartitionMeta) -> tuple[bytes, bytes]:
        """Key and value under which ``meta`` is stored for this partition."""
        return partition_key(self.topic.number, self.number), _encode(meta)

    @property
    def live_bytes(self) -> int:
        """About what the stored blocks take."""
        if self.topic.spec.compact:
            return self.meta.clean_bytes + self.total_bytes - self.meta.cleaned_total
        return self.total_bytes - self.freed_bytes

    def show(self, end: int) -> None:
        """Let readers see what lies before ``end``, and wake them."""
        if end > self.visible:
            self.visible = end
            self.wake()

    def wake(self) -> None:
        for event in self.watchers:
            event.set()


class Topic:
    """One topic while the log is open."""

    __slots__ = ("identity", "number", "partitions", "spec")

    def __init__(self, spec: TopicSpec, identity: str, number: int) -> None:
        self.spec = spec
        self.identity = identity
        self.number = number
        self.partitions = [Partition(self, partition) for partition in range(spec.partitions)]

    @property
    def info(self) -> TopicInfo:
        return TopicInfo(self.spec, self.identity)


def new_topic(spec: TopicSpec, identity: str, number: int) -> tuple[Topic, bytes]:
    """A topic and its stored form."""
    record = TopicRecord(
        number=number,
        identity=identity,
        name=spec.name,
        partitions=spec.partitions,
        kind=spec.kind,
        retention_ms=spec.retention_ms,
        retention_bytes=spec.retention_bytes,
        compact=spec.compact,
    )
    return Topic(spec, identity, number), _encode(record)


def _stored_topics(db: Rdict) -> Iterator[TopicRecord]:
    options = ReadOptions()
    options.set_iterate_upper_bound(META + b"u")
    found = db.iter(options)
    found.seek(META + b"t")
    while found.valid():
        yield _decode_topic(found.value())
        found.next()
    # At a block that doesn't read back the iteration just ends; only the status tells it from the end.
    found.status()


def load_topics(db: Rdict) -> dict[str, Topic]:
    """Every topic with its partitions as stored.  Blocks.  Raises LogCorrupt, and what rocksdict raises."""
    topics: dict[str, Topic] = {}
    try:
        for record in _stored_topics(db):
            spec = TopicSpec(
                name=record.name,
                partitions=record.partitions,
                kind=record.kind,
                retention_ms=record.retention_ms,
                retention_bytes=record.retention_bytes,
                compact=record.compact,
            )
            topic = topics[record.name] = Topic(spec, record.identity, record.number)
            for partition in topic.partitions:
                load_partition(db, partition)
    except (msgspec.MsgspecError, ValueError) as error:
        raise LogCorrupt(
            f"{db.path()}: what is stored of a topic doesn't read back ({error}); restore the log from a backup"
        ) from error
    return topics


def load_partition(db: Rdict, partition: Partition) -> None:
    """Set what is known of ``partition`` from what is stored.  Everything stored is visible."""
    stored: bytes | None = db.get(partition_key(partition.topic.number, partition.number))
    meta = partition.meta = _decode_meta(stored) if stored is not None else PartitionMeta()
    end, total, append_ms = meta.end, max(meta.total_bytes, meta.cleaned_total), 0
    last = floor_block(db, partition, partition_end_key(partition.topic.number, partition.number))
    if last is not None:
        head = decode_head(last[1])
        end = max(end, head.next_offset)
        total = max(total, head.bytes_before + len(last[1]))
        append_ms = head.append_ms
    partition.end = partition.visible = end
    partition.total_bytes = total
    partition.last_append_ms = append_ms
    partition.freed_to, partition.freed_bytes = 0, 0
    if meta.start > 0:
        _find_freed(db, partition)


def _find_freed(db: Rdict, partition: Partition) -> None:
    found: Any = db.iter()
    found.seek(partition.key(0))
    if found.valid() and found.key() < partition.key(partition.end):
        partition.freed_to = offset_of_key(found.key())
        partition.freed_bytes = decode_head(found.value()).bytes_before
    else:
        found.status()
        partition.freed_to, partition.freed_bytes = partition.end, partition.total_bytes


def find_block(db: Rdict, partition: Partition, offset: int) -> tuple[int, Block, int]:
    """The block that covers ``offset``: its base, itself, its stored size.

    Raises LogCorrupt where there is none, and what rocksdict raises.
    """
    base = offset
    value: bytes | None = db.get(partition.key(offset))
    if value is None:
        found = floor_block(db, partition, partition.key(offset))
        if found is None:
            raise _missing(db, partition, offset)
        base, value = found
    try:
        block = decode_block(value)
    except ValueError as error:
        raise LogCorrupt(f"{db.path()}: {partition.at}@{base}: {error}; restore the log from a backup") from error
    if block.next_offset <= offset:
        raise _missing(db, partition, offset)
    return base, block, len(value)


def _missing(db: Rdict, partition: Partition, offset: int) -> LogCorrupt:
    return LogCorrupt(f"{db.path()}: the block of {partition.at}@{offset} is missing; restore the log from a backup")


def floor_block(db: Rdict, partition: Partition, key: bytes) -> tuple[int, bytes] | None:
    """The last block of ``partition`` that starts at or before ``key``: its base and value."""
    first = partition.key(0)
    found: Any = db.iter()
    found.seek_for_prev(key)
    if not found.valid():
        found.status()
        return None
    at: bytes = found.key()
    if at < first:
        return None
    return offset_of_key(at), found.value()
