"""The waist: what the engine asks of a log, of a foreign source and of a foreign sink.

What must live here: protocols and the plain data in their signatures.  What must not: any implementation.

A **log** is the commit point and the coordinator of an app.  One commit is one atomic write of outputs,
changelog and checkpoint: a WriteBatch of the embedded log, a Kafka transaction, a JetStream atomic batch.

    fence(task) ──▶ TaskWriter ── commit ──▶ commit ──▶ … ── close
                       │ .checkpoint: what the last commit of any owner left
                       └ after a later fence(task) of anybody: every commit raises Fenced, nothing is stored

A checkpoint is bytes to the log; what is in it is the core's business (``core.checkpoint``).  Since a claim is a
commit without effects, a log needs no call for it, and the topology record is the checkpoint of a control task.

A foreign **source** is the reading half of a log.  A foreign **sink** is its fenced, committing half: the
delivered position is the checkpoint that the delivery task keeps *at the target*.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from streams.core.capability import Capabilities, Limits
from streams.core.membership import Member, Membership, TaskRef, Wanted
from streams.core.record import Bounds, Fetched, Position, Positions, Records, TopicPartition

TopicKind = Literal["user", "repartition", "changelog", "outbox", "journal"]


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic is to be.  Internal kinds never lose unread records: the runtime trims them itself.

    retention_ms, retention_bytes: None keeps everything.  compact: keep the last record of each key.
    timestamps: "create" keeps those that records are sent with, "append" puts the time of their arrival in their place.
    config: (name, value) settings that only the log itself understands; others pass them over.
    location: URL of the foreign log or transport that holds it; "" for the app's own log.
    address: of a topic at an edge (``core.edge``), what it is called there: a subject, a topic filter; "" on a log.
    there: what a topic on a foreign log is called there, where the app calls it otherwise; else "".
    owner: of internal kinds, the app that writes and reads it; a log that keeps each app apart goes by it.
    """

    name: str
    partitions: int = 1
    kind: TopicKind = "user"
    retention_ms: int | None = None
    retention_bytes: int | None = None
    compact: bool = False
    location: str = ""
    timestamps: Literal["create", "append"] = "create"
    config: tuple[tuple[str, str], ...] = ()
    address: str = ""
    there: str = ""
    owner: str = field(default="", compare=False)

    @property
    def name_there(self) -> str:
        """What it is called on the log that holds it."""
        return self.there or self.name


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is.  ``identity`` changes when the topic is deleted and created again."""

    spec: TopicSpec
    identity: str


@dataclass(slots=True)
class Append:
    """Records for one partition, in order."""

    partition: TopicPartition
    records: Records


@dataclass(slots=True)
class Commit:
    """Everything that one commit makes true, or nothing of it.

    checkpoint: replaces the task's checkpoint.
    appends: outputs, repartition records, changelogs, outbox; the order within a partition is kept.
    positions: the input positions that ``checkpoint`` holds, for the log's own tools (consumer-group offsets).
    """

    checkpoint: bytes
    appends: Sequence[Append] = ()
    positions: Positions = field(default_factory=dict)


@runtime_checkable
class Reader(Protocol):
    """Reads a fixed set of partitions, each from its own position.  One reader belongs to one task's claim."""

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        """Batches of the given partitions only, each partition in order; empty after ``wait_s`` without any.

        Returns as soon as there is something.  ``max_records`` bounds each partition's share, except that a
        single stored block may overrun it.  Only committed records are seen.  The reader's own position moves
        on; a batch may repeat records (after a reconnect), and the task drops what lies before its position.  A batch
        without records tells of a gap: its ``next_offset`` is behind it.
        Raises PositionLost, LogCorrupt, LogUnavailable.
        """
        ...

    def ends(self) -> Positions:
        """The end of each partition as last known, without I/O.  A task at the end has nothing to wait for."""
        ...

    async def close(self) -> None: ...


class Source(Protocol):
    """The reading half: partitions that can be read again from a position."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]:
        """The topics of these names that exist, by name; every one for None."""
        ...

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """First and end position of each.  The end is one that a reader is certain to reach: read with it as the
        target, and nothing that was committed before the call is missed."""
        ...

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Positions:
        """For each partition the position of the first record that isn't older than a time in ms; the end where there
        is none.  It may mean reading the partition."""
        ...

    def reader(self, positions: Positions) -> Reader:
        """A reader that goes on at ``positions``.  Reading below the first record raises PositionLost."""
        ...


class Foreign(Source, Protocol):
    """What is asked of a log that holds topics of an app whose own log is another."""

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        ...

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create what is missing; raise TopicMismatch, naming both values, where one exists otherwise."""
        ...

    def partition_for(self, key: bytes, partitions: int) -> int:
        """The partition of a key among ``partitions``: the log's native partitioner, the same for every writer."""
        ...

    async def close(self) -> None: ...


class TaskWriter(Protocol):
    """The right to commit for one task, until somebody else fences it."""

    @property
    def checkpoint(self) -> bytes | None:
        """What the last commit of any owner left; None before the first.  Read after fencing, so it is final."""
        ...

    async def commit(self, commit: Commit) -> Positions:
        """Make ``commit`` true as one.  Returns, for each partition of an internal topic that was written, the position
        after its last record; for one of a user's topic where the log knows it by then (JetStream's streams take their
        records in from the app's, in a moment; ``bounds`` waits for that).

        After it returns the commit survives what ``Capabilities.durable`` says.  Raises ``Fenced`` and
        ``LogUnavailable`` (nothing was stored), ``CommitUnknown`` (may or may not have been: close this writer,
        fence anew, read the checkpoint).  After any error the writer is of no further use.
        """
        ...

    async def close(self) -> None: ...


class Log(Foreign, Protocol):
    """Commit point and coordinator of an app.  Each implementation passes ``streams.testing`` LogContract."""

    @property
    def identity(self) -> str:
        """Names this log for ever; another log at the same place has another identity.  Valid after ``open``."""
        ...

    @property
    def limits(self) -> Limits: ...

    async def open(self) -> None:
        """Connect or take the lock.  Raises LogLocked, LogUnavailable, LogCorrupt, ConfigurationError."""
        ...

    async def delete_topics(self, names: Collection[str]) -> None:
        """Remove topics with all their records.  Names that don't exist are passed over."""
        ...

    def membership(self, group: str, member: Member, wanted: Wanted) -> Membership:
        """A place among the workers of an app.  Nothing is sent before its assignments are asked for."""
        ...

    async def members(self, group: str) -> Sequence[Member]:
        """Who works in a group now, each as it introduced itself where that can be read: for tools.  One that has died
        counts until its time is up.  Empty for a log that one process has for itself."""
        ...

    async def fence(self, task: TaskRef) -> TaskWriter:
        """Take over ``task``: from the return on no former owner can commit."""
        ...

    async def checkpoint(self, task: TaskRef) -> bytes | None:
        """The committed checkpoint of a task, without taking it over: for tools."""
        ...

    async def forget(self, tasks: Collection[TaskRef]) -> None:
        """Drop the checkpoints of tasks: for reset.  A running owner is fenced by it."""
        ...

    async def append(self, appends: Sequence[Append]) -> Positions:
        """Append outside of any task, for producers.  What goes to one partition is one write on a log that can do
        so (the embedded one: all of it); after an error some partitions may have theirs.  Same errors as
        ``TaskWriter.commit``."""
        ...

    async def trim(self, positions: Positions) -> None:
        """Free what lies before each position.  Called for internal topics behind their committed readers."""
        ...

    async def maintain(self, now_ms: int) -> None:
        """Housekeeping: retention and compaction, where the log has no server that does it.  Called every few
        seconds; each call does a bounded piece of work."""
        ...

    def compaction_floor(self, partition: TopicPartition) -> Position:
        """Below this position tombstones may be gone: a store older than it must be rebuilt, not resumed.

        Without I/O: as it was when ``bounds`` were asked for, or when a reader of the partition last looked."""
        ...


@runtime_checkable
class Counts(Protocol):
    """A log whose offsets aren't those of records one by one: it counts for itself what lies between two."""

    def distance(self, partition: TopicPartition, since: Position, end: Position) -> int:
        """As ``Position.distance``, in what the log stores as one.  Without I/O."""
        ...

    async def backlog(self, positions: Positions) -> Mapping[TopicPartition, int]:
        """How much of each partition lies behind a position, counted by the log."""
        ...


def distance_on(log: object, partition: TopicPartition, since: Position, end: Position) -> int:
    """What lies between two positions, for people to look at; an upper bound on most logs."""
    return log.distance(partition, since, end) if isinstance(log, Counts) else since.distance(end)


class SinkWriter(Protocol):
    """The right to deliver for one task."""

    @property
    def delivered(self) -> bytes | None:
        """The delivery checkpoint as read *from the target* after fencing it."""
        ...

    async def deliver(self, appends: Sequence[Append], delivered: bytes) -> None:
        """Write records and the new delivery checkpoint at the target.  Errors as of ``TaskWriter.commit``."""
        ...

    async def close(self) -> None: ...


class Sink(Protocol):
    """A target outside of the app's log."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def fence(self, task: TaskRef) -> SinkWriter: ...


__all__ = [
    "Append",
    "Bounds",
    "Commit",
    "Counts",
    "Fetched",
    "Foreign",
    "Log",
    "Position",
    "Reader",
    "Records",
    "Sink",
    "SinkWriter",
    "Source",
    "TaskRef",
    "TaskWriter",
    "TopicInfo",
    "TopicKind",
    "TopicPartition",
    "TopicSpec",
    "distance_on",
]
