"""Operators that note what they are given and do as they are told, and a task around them.

What must live here: the probes, and handing a task its records.  What must not: any one property of a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from streams.core.batch import FOREVER, Batch
from streams.core.capability import Limits
from streams.core.checkpoint import Checkpoint
from streams.core.context import TaskContext
from streams.core.graph import Emit, Node, Subtopology
from streams.core.log import TopicSpec
from streams.core.plan import Captured, Plan
from streams.core.record import Fetched, Position, Records, TopicPartition
from streams.core.state import StateSpec
from streams.core.task import Task
from streams.core.thresholds import PRODUCTION, Thresholds
from streams.operators.base import Operator
from streams.operators.source import Source
from streams.state.memory import MemoryDisk, MemoryStore

STATE = StateSpec("rows", "keyed", bytes, bytes, "probe/1")


class Probing:
    """Notes the sizes and values of its batches, and sends so many records for each element."""

    def __init__(self, node: Probe, context: TaskContext, emit: Emit) -> None:
        self.node, self.context, self.emit = node, context, emit
        self.batches: list[Batch] = []
        self.delay_ms = context.processor_delay_ms

    def process(self, batch: Batch) -> None:
        self.batches.append(batch)
        count = len(batch) * self.node.sends
        if count:
            self.context.send("out", [None] * count, [b""] * count, [0] * count)
        if self.node.puts:
            for time in batch.times:
                self.context.keyed("rows").put(b"%08d" % time, b"x" * self.node.puts)
        self.emit(batch)

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


class Timed(Probing):
    """``due``: event times at which it acts; ``fired``: (due, the watermark it was given, the context's)."""

    def __init__(self, node: Probe, context: TaskContext, emit: Emit) -> None:
        super().__init__(node, context, emit)
        self.due = list(node.due)
        self.fired: list[tuple[int, int, int]] = []
        self.full_after: int | None = None

    def deadline(self) -> int:
        return min(self.due, default=FOREVER)

    def advance(self, watermark: int) -> bool:
        while self.due and self.deadline() <= watermark:
            if self.full_after == len(self.fired):
                return False
            self.fired.append((self.due.pop(0), watermark, self.context.watermark))
        return True


class Ordered(Timed):
    """What happened, in its order: (what, event time).  ``befores``: the watermark before each record."""

    in_order = True

    def __init__(self, node: Probe, context: TaskContext, emit: Emit) -> None:
        super().__init__(node, context, emit)
        self.happened: list[tuple[str, int]] = []
        self.befores: list[int] = []

    def process(self, batch: Batch) -> None:
        self.happened += [("record", time) for time in batch.times]
        if batch.origin is not None:
            self.befores += [batch.origin.watermark_before(row) for row in batch.rows]

    def advance(self, watermark: int) -> bool:
        while self.due and self.deadline() <= watermark:
            due = self.due.pop(0)
            assert watermark == due, "one after the other"
            self.happened.append(("fired", due))
        return True


class Mailing(Probing):
    """As an agent: keeps what comes until somebody takes it out."""

    def __init__(self, node: Probe, context: TaskContext, emit: Emit) -> None:
        super().__init__(node, context, emit)
        self.mail: list[Batch] = []

    def process(self, batch: Batch) -> None:
        self.mail.append(batch)


class Holding(Probing):
    held = FOREVER
    ticked = False

    def holding(self) -> int:
        return self.held

    def tick(self, now_ms: int) -> bool:
        return self.ticked


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe(Operator):
    kind: type[Probing] = Probing
    sends: int = 0
    puts: int = 0
    due: Sequence[int] = ()
    holds: int = 0
    into: Sequence[TopicSpec] = ()
    made: list[Any] = field(default_factory=list)

    @property
    def states(self) -> Sequence[StateSpec]:
        return (STATE,) if self.puts else ()

    @property
    def writes(self) -> Sequence[TopicSpec]:
        return self.into

    @property
    def holds_ms(self) -> int:
        return self.holds

    def build(self, context: TaskContext, emit: Emit) -> Probing:
        self.made.append(self.kind(self, context, emit))
        made: Probing = self.made[-1]
        return made


def a_source(topic: str = "in", **fields: Any) -> Source:
    return Source(name=topic, topic=TopicSpec(topic), decode=bytes, **fields)


def a_task(
    *nodes: Node,
    checkpoint: Checkpoint | None = None,
    store: MemoryStore | None = None,
    piece_records: int = PRODUCTION.piece_records,
    dirty_entries: int = PRODUCTION.dirty_entries,
    weighed_values: int = PRODUCTION.weighed_values,
    **plan: Any,
) -> Task:
    subtopology = Subtopology("a.in", list(nodes), 1, {state.name: state for node in nodes for state in node.states})
    settings: dict[str, Any] = {"limits": Limits(), "partitions": {"out": 1, "again": 2}, "upstream_tasks": {}}
    thresholds = Thresholds(piece_records=piece_records, dirty_entries=dirty_entries, weighed_values=weighed_values)
    made = Plan(app="a", partitioner=lambda key, count: 0, thresholds=thresholds, **(settings | plan))
    return Task(
        subtopology, 0, plan=made, checkpoint=checkpoint or Checkpoint("log"), store=store or MemoryStore(MemoryDisk())
    )


def feed(task: Task, times: Sequence[int], topic: str = "in", now_ms: int = 0) -> None:
    """Hands it records with these times, and says that there are no others."""
    partition = TopicPartition(topic, 0)
    [each] = [each for each in task.inputs if each.partition == partition]
    first = each.buffered.offset()
    end = first + len(times)
    records = Records([b"k"] * len(times), [b"v"] * len(times), list(times))
    task.accept(Fetched(partition, range(first, end), records, end), now_ms)
    task.ends = {**task.ends, partition: Position.at(end)}


def commit(task: Task, now_ms: int = 0) -> Captured:
    captured = task.capture(now_ms)
    task.committed(captured, {append.partition: Position.at(len(append.records)) for append in captured.appends})
    return captured


def run(task: Task) -> None:
    while not task.must_commit and task.step():
        pass


def in_a_row(**fields: Any) -> tuple[Source, Probe]:
    source = a_source()
    return source, Probe(name="probe", upstream=[source], **fields)
