"""The log's server in a simulation: a broker that remembers everything, and checks what may be checked at once.

What must live here: what is true on the log, and the invariants of its history.  What must not: the network between it
and the workers (``sim_log``).

What a commit is, is decided here: the generation that its fence gave it must be the current one, and its number in the
sequence of its writer must be the next, so that a request that arrives twice takes effect once (as Kafka and JetStream
do it by producer sequence and by expected subject sequence).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import NamedTuple

from streams.connectors.memory.broker import MemoryBroker
from streams.core.capability import Limits
from streams.core.checkpoint import Checkpoint, decode_checkpoint
from streams.core.log import Append, Commit
from streams.core.record import Headers, Position, TopicPartition
from streams.errors import Fenced

__all__ = ["Broken", "Elsewhere", "Entry", "Request", "Server", "Snapshot"]


class Broken(AssertionError):
    """A promise of the engine was broken; found while the simulation ran."""


class Entry(NamedTuple):
    """One record as it came to the log.  ``given``: by the workload, not by the app."""

    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Headers | None
    given: bool


@dataclass(slots=True)
class Request:
    """A commit on its way: whose it is, and its number among the commits of its writer."""

    task: str
    generation: int
    sequence: int
    commit: Commit


@dataclass(slots=True)
class Snapshot:
    """The log as it stood at some moment."""

    broker: MemoryBroker
    lengths: dict[TopicPartition, int]
    made: dict[str, Checkpoint]


@dataclass(slots=True)
class Server:
    """The one log that all simulated workers share.

    limits: what it tells clients.  A commit may overrun ``max_commit_records``, since one record may: how far is noted
    in ``overrun``.
    journal: every record of each partition since its beginning, whatever was trimmed or compacted since.
    """

    now_ms: Callable[[], int]
    limits: Limits
    check: bool = True
    identity: str = "simulated"
    broker: MemoryBroker = field(init=False)
    journal: dict[TopicPartition, list[Entry]] = field(default_factory=dict)
    overrun: int = 0
    commits: int = 0
    power_cuts: int = 0
    _answers: dict[tuple[str, int], tuple[int, dict[TopicPartition, Position]]] = field(default_factory=dict)
    _made: dict[str, Checkpoint] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.broker = MemoryBroker(identity=self.identity, now_ms=self.now_ms)

    # ── what clients ask for ──────────────────────────────────────────────────────────────────────────────────────

    def fence(self, task: str) -> tuple[int, bytes | None]:
        held = self.broker.fence(task)
        return held.generation, held.checkpoint

    def commit(self, request: Request) -> dict[TopicPartition, Position]:
        """Carry out a commit, at most once.  Raises Fenced for one of a former owner, and stores nothing of it."""
        task, generation, commit = request.task, request.generation, request.commit
        self.admit(task, generation)
        done = self._answers.get((task, generation))
        if done is not None and request.sequence <= done[0]:
            return done[1]
        ends = self.broker.write(
            commit.appends, _unlimited, task=task, generation=self.generation(task), checkpoint=commit.checkpoint
        )
        self._answers[task, generation] = (request.sequence, ends)
        self.commits += 1
        self._note(commit.appends, given=False)
        self._check(task, commit)
        return ends

    def admit(self, task: str, generation: int) -> None:
        """Raise Fenced unless ``generation`` is the owner."""
        if self.generation(task) != generation:
            raise Fenced(f"simulated: task {task!r} was taken over by another owner; nothing was stored")

    def generation(self, task: str) -> int:
        return self.broker.tasks[task].generation

    def append(self, appends: Sequence[Append], *, given: bool = False) -> dict[TopicPartition, Position]:
        """An append outside of any task; ``given``: by the workload."""
        ends = self.broker.write(appends, _unlimited)
        self._note(appends, given=given)
        return ends

    def _note(self, appends: Sequence[Append], *, given: bool) -> None:
        for append in appends:
            records = append.records
            headers = records.headers if records.headers is not None else [None] * len(records)
            entries = self.journal.setdefault(append.partition, [])
            entries.extend(
                Entry(key, value, time, header, given)
                for key, value, time, header in zip(records.keys, records.values, records.timestamps, headers)
            )

    # ── what must be true all along ───────────────────────────────────────────────────────────────────────────────

    def _check(self, task: str, commit: Commit) -> None:
        outputs = sum(
            len(each.records) for each in commit.appends if self.broker.topics[each.partition.topic].spec.kind == "user"
        )
        self.overrun = max(self.overrun, outputs - self.limits.max_commit_records)
        if task.endswith(".control"):
            return
        new, old = decode_checkpoint(commit.checkpoint), self._made.get(task)
        self._made[task] = new
        if old is None or not self.check:
            return
        if new.number != old.number + 1:
            raise Broken(f"task {task}: commit {new.number} came after commit {old.number}")
        if new.epoch < old.epoch:
            raise Broken(f"task {task}: epoch {new.epoch} came after epoch {old.epoch}")
        if new.watermark < old.watermark:
            raise Broken(f"task {task}: the watermark moved back from {old.watermark} to {new.watermark}")
        for partition, before in old.positions.items():
            after = new.positions.get(partition)
            if after is None or not after.reached(before):
                raise Broken(f"task {task}: its position in {partition} moved back from {before} to {after}")

    def made(self, task: str) -> Checkpoint | None:
        """The last committed checkpoint of a task."""
        return self._made.get(task)

    # ── power failure ─────────────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self) -> Snapshot:
        """What would be left if the power failed now and nothing after this were on disk."""
        lengths = {at: len(entries) for at, entries in self.journal.items()}
        broker = MemoryBroker(identity=self.broker.identity, now_ms=self.now_ms)
        for name, topic in self.broker.topics.items():
            watchers = [partition.watchers for partition in topic.partitions]
            for partition in topic.partitions:
                partition.watchers = {}
            broker.topics[name] = deepcopy(topic)
            for partition, watching in zip(topic.partitions, watchers):
                partition.watchers = watching
        broker.tasks = deepcopy(self.broker.tasks)
        broker.created = self.broker.created
        return Snapshot(broker, lengths, dict(self._made))

    def restore(self, snapshot: Snapshot) -> None:
        """The power failed: the log is what it was then.  No client may live on."""
        self.power_cuts += 1
        self.broker.topics = snapshot.broker.topics
        self.broker.tasks = snapshot.broker.tasks
        for at, entries in self.journal.items():
            del entries[snapshot.lengths.get(at, 0) :]
        self._made = dict(snapshot.made)
        self._answers = {}


class Elsewhere(Server):
    """Another log, to which the app delivers: what its commits leave there is the position that was delivered."""

    def _check(self, task: str, commit: Commit) -> None:
        """It knows nothing of the app's checkpoints."""


_unlimited = Limits(max_commit_records=10**9, max_commit_bytes=10**12, max_record_bytes=16 * 2**20)
