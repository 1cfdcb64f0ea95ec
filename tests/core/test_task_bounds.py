"""A task between probes: how much it takes at once, when it asks for a commit, and how event time moves in it.

The operators around it are probes that note what they are given and do as they are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from streams.core.batch import FOREVER, NEVER, Batch
from streams.core.capability import Limits
from streams.core.checkpoint import Checkpoint
from streams.core.context import TaskContext
from streams.core.graph import Emit, Node, Subtopology
from streams.core.log import TopicSpec
from streams.core.plan import Captured, Plan
from streams.core.record import Fetched, Position, Records, TopicPartition
from streams.core.state import StateSpec, UnencodableState
from streams.core.task import Task
from streams.core.thresholds import Thresholds
from streams.core.watermark import MARK_HEADER, decode_mark
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

    in_order = False

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


def a_task(*nodes: Node, checkpoint: Checkpoint | None = None, store: MemoryStore | None = None, **plan: Any) -> Task:
    subtopology = Subtopology("a.in", list(nodes), 1, {state.name: state for node in nodes for state in node.states})
    settings: dict[str, Any] = {"limits": Limits(), "partitions": {"out": 1, "again": 2}, "upstream_tasks": {}}
    made = Plan(app="a", partitioner=lambda key, count: 0, **(settings | plan))
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


# ── how much is taken at once ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("piece_records", "limit", "expected"),
    [(10, 100, [1, 2, 4, 8, 10, 10]), (100, 10, [1, 2, 4, 8, 10, 10]), (1, 100, [1] * 35), (100, 1, [1] * 35)],
)
def test_pieces_double_from_one_record_on_up_to_what_is_planned_and_what_a_commit_takes(
    piece_records: int, limit: int, expected: list[int]
) -> None:
    source, probe = in_a_row()
    task = a_task(
        source, probe, thresholds=Thresholds(piece_records=piece_records), limits=Limits(max_commit_records=limit)
    )
    feed(task, range(35))
    run(task)
    assert probe.made[0].sizes == expected
    assert task.records_in == 35


def test_records_are_taken_one_by_one_where_two_ways_lead_to_one_node() -> None:
    source = a_source()
    ways = [Probe(name=name, upstream=[source]) for name in "xy"]
    end = Probe(name="end", upstream=ways)
    task = a_task(source, *ways, end)
    feed(task, range(5))
    run(task)
    assert end.made[0].sizes == [1] * 10


def test_what_a_record_is_seen_to_expand_to_bounds_how_many_are_taken_and_is_forgotten_slowly() -> None:
    source, probe = in_a_row(sends=10)
    task = a_task(source, probe, thresholds=Thresholds(piece_records=16), limits=Limits(max_commit_records=100))
    feed(task, range(100))
    run(task)
    probing = probe.made[0]
    assert (probing.sizes, task.must_commit) == ([1, 2, 4, 3], True)
    commit(task)
    assert not task.must_commit
    object.__setattr__(probe, "sends", 0)
    for _ in range(4):
        task.step()
    assert probing.sizes[4:] == [10, 11, 12, 13]


def test_pieces_get_smaller_while_agents_take_longer_than_a_commit_may_wait() -> None:
    source, probe = in_a_row()
    task = a_task(source, probe)
    feed(task, range(200))
    for _ in range(5):
        task.step()
    task.pace(1.0, 1.0)
    task.step()
    task.pace(1.1, 1.0)
    task.step()
    for _ in range(5):
        task.pace(1.1, 1.0)
    task.step()
    assert probe.made[0].sizes == [1, 2, 4, 8, 16, 32, 16, 1]


def test_more_is_wanted_until_two_pieces_wait() -> None:
    source, probe = in_a_row()
    task = a_task(source, probe, thresholds=Thresholds(piece_records=5))
    feed(task, range(9))
    assert task.wanted() == [TopicPartition("in", 0)]
    feed(task, [9])
    assert task.wanted() == []


# ── when a commit is asked for ──────────────────────────────────────────────────────────────────────────────────────


def test_the_first_commit_comes_with_the_first_change_and_later_ones_when_enough_is_dirty() -> None:
    source, probe = in_a_row(puts=1)
    task = a_task(source, probe, thresholds=Thresholds(dirty_entries=6))
    feed(task, range(30))
    run(task)
    assert (probe.made[0].sizes, task.must_commit) == ([1], True)
    commit(task)
    run(task)
    assert probe.made[0].sizes[1:] == [2, 4], "the next piece may not go beyond the bound"
    assert task.must_commit
    commit(task)
    run(task)
    assert probe.made[0].sizes[3:] == [6]


def test_what_changes_weigh_bounds_how_many_may_wait_for_a_commit() -> None:
    """A quarter of a commit is for them: 4,000 bytes here."""
    source, probe = in_a_row(puts=492)
    task = a_task(source, probe, limits=Limits(max_commit_bytes=16_000))
    feed(task, range(200))
    waiting = []
    for _ in range(9):
        before = len(probe.made[0].sizes)
        run(task)
        waiting.append(sum(probe.made[0].sizes[before:]))
        commit(task)
    # 16,384 bytes are guessed, and half of it believed after each commit, until it is the 500 that they weigh.
    assert waiting == [1, 1, 1, 1, 3, 7, 8, 8, 8]
    object.__setattr__(probe, "puts", 1)
    waiting = []
    for _ in range(5):
        before = len(probe.made[0].sizes)
        run(task)
        waiting.append(sum(probe.made[0].sizes[before:]))
        commit(task)
    assert waiting == [8, 16, 32, 62, 44], "an entry weighs 64 bytes at least; then there are no more records"


def test_a_value_that_the_log_would_not_take_with_its_key_is_refused_by_name() -> None:
    for puts, refused in ((76, False), (77, True)):
        source, probe = in_a_row(puts=puts)
        task = a_task(source, probe, limits=Limits(max_record_bytes=100))
        feed(task, [5])
        run(task)
        if not refused:
            commit(task)
            continue
        with pytest.raises(UnencodableState, match=r"b'00000005' in rows has 77 bytes.*at most 100"):
            task.capture(0)


def test_a_commit_says_where_everything_stands_and_the_store_stands_there_too() -> None:
    store = MemoryStore(MemoryDisk())
    source, probe = in_a_row(puts=1)
    task = a_task(source, probe, store=store, checkpoint=Checkpoint("log", 3, 7, positions={"other/0": Position.at(9)}))
    assert (task.dirty, task.must_commit, task.records_in) == (False, False, 0)
    feed(task, [5, 6])
    task.step()
    assert task.dirty
    captured = commit(task, 123)
    made = captured.checkpoint
    assert (made.epoch, made.number, made.watermark) == (3, 8, 5)
    assert made.positions == {"other/0": Position.at(9), "in/0": Position.at(1)}
    assert made.inputs["in/0"].peak == 5
    assert captured.positions == {TopicPartition("in", 0): Position.at(1)}
    assert not task.dirty
    state = store.state
    assert state is not None
    assert (state.log_id, state.epoch, state.number, state.as_of_ms) == ("log", 3, 8, 123)
    assert (state.changelogs, state.prefixes) == ({"rows": Position.at(1)}, {"rows": 1})
    again = a_task(*in_a_row(puts=1), store=store, checkpoint=made)
    assert again.watermark == 5
    assert again.inputs[0].watermark.watermark == 5
    assert again.inputs[0].position == Position.at(1)


# ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def two_inputs(**fields: Any) -> tuple[Task, Probe]:
    sources = [a_source("in", **fields), a_source("two", idle_after_ms=10)]
    probe = Probe(name="probe", upstream=sources, kind=Holding)
    return a_task(*sources, probe), probe


def test_an_input_that_is_silent_for_long_lets_event_time_go_on_without_it() -> None:
    task, _ = two_inputs()
    task.tick(100)
    feed(task, [50], now_ms=100)
    run(task)
    task.ends = {**task.ends, TopicPartition("two", 0): Position.at(0)}
    run(task)
    commit(task)
    task.tick(109)
    assert (task.watermark, task.dirty) == (NEVER, False)
    task.tick(110)
    assert (task.watermark, task.dirty) == (50, True)
    commit(task)
    task.tick(111)
    assert not task.dirty, "it is idle already"


def test_an_input_of_which_records_are_unread_is_not_idle() -> None:
    task, _ = two_inputs()
    task.tick(0)
    task.ends = {TopicPartition("two", 0): Position.at(1)}
    task.tick(1_000)
    assert not task.dirty
    task.ends = {}
    task.tick(2_000)
    assert not task.dirty, "nothing is known of its end"


def test_a_record_that_comes_makes_an_input_heard_of_and_no_other() -> None:
    task, _ = two_inputs(idle_after_ms=10)
    task.tick(0)
    feed(task, [], now_ms=5)
    feed(task, [], "two", now_ms=0)
    task.tick(10)
    assert [each.watermark.idle for each in task.inputs] == [False, True]
    assert task.dirty
    task.tick(15)
    assert [each.watermark.idle for each in task.inputs] == [True, True]


def test_a_processor_that_acts_on_the_clock_makes_its_task_dirty() -> None:
    sources = [a_source()]
    probes = [Probe(name=name, upstream=sources, kind=Holding) for name in "xy"]
    task = a_task(*sources, *probes)
    task.tick(0)
    assert not task.dirty
    for ticked in probes:
        ticked.made[0].ticked = True
        task.tick(1)
        assert task.dirty
        ticked.made[0].ticked = False
        task.tick(2)
        assert task.dirty, "until it is committed"
        commit(task)


def test_what_is_due_comes_in_its_order_whichever_operator_it_is_due_in() -> None:
    source = a_source()
    one = Probe(name="one", upstream=[source], kind=Timed, due=[10, 30], holds=5)
    # Behind a window that holds 5 ms back: its 17 is due when event time comes to 22.
    two = Probe(name="two", upstream=[one], kind=Timed, due=[17, 40])
    task = a_task(source, one, two)
    assert (one.made[0].delay_ms, two.made[0].delay_ms) == (0, 5)
    feed(task, [9, 35])
    task.step()
    assert (task.watermark, one.made[0].fired) == (9, [])
    run(task)
    assert one.made[0].fired == [(10, 10, 9), (30, 30, 29)]
    assert two.made[0].fired == [(17, 17, 21)]
    assert task.watermark == task.context.watermark == 35
    assert two.made[0].due == [40]


def test_event_time_waits_at_a_slice_that_is_full_and_the_next_task_goes_on_there() -> None:
    source = a_source()
    probe = Probe(name="probe", upstream=[source], kind=Timed, due=[10, 20, 30])
    task = a_task(source, probe)
    probe.made[0].full_after = 1
    feed(task, [25])
    run(task)
    assert (task.must_commit, task.advancing, task.watermark) == (True, 25, NEVER)
    captured = commit(task)
    assert (captured.checkpoint.advancing, captured.checkpoint.watermark) == (25, NEVER)
    again_probe = Probe(name="probe", upstream=[source], kind=Timed, due=[20, 30])
    again = a_task(source, again_probe, checkpoint=captured.checkpoint)
    assert again.advancing == 25
    assert again.step()
    assert again.advancing is None, again.watermark
    assert (again.watermark, again.dirty) == (25, True)
    assert [due for due, _, _ in again_probe.made[0].fired] == [20]


# ── marks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def marks(captured: Captured) -> list[tuple[str, int, Any, Any]]:
    found = []
    for append in captured.appends:
        for value, headers in zip(append.records.values, append.records.headers or (), strict=True):
            assert value is not None
            found.append((*append.partition, decode_mark(value), headers))
    return found


def test_each_partition_of_a_repartition_topic_hears_of_the_watermark_once_it_moves_and_not_too_often() -> None:
    source = a_source()
    late = Probe(name="late", upstream=[source], holds=3)
    out = Probe(
        name="again",
        upstream=[late],
        kind=Holding,
        into=[TopicSpec("again", 2, "repartition"), TopicSpec("out")],
    )
    task = a_task(source, late, out, checkpoint=Checkpoint("log", 4, 8), watermark_interval_ms=100)
    assert not task.mark_due(0)
    feed(task, [50])
    run(task)
    assert task.mark_due(1_000)
    found = marks(commit(task, 1_000))
    assert [(topic, partition, headers) for topic, partition, _, headers in found] == [
        ("again", 0, ((MARK_HEADER, b""),)),
        ("again", 1, ((MARK_HEADER, b""),)),
    ]
    mark = found[0][2]
    assert (mark.task, mark.watermark, mark.idle, mark.epoch, mark.number) == ("a.in-0", 47, False, 4, 9)
    assert task.caught_up
    assert not task.mark_due(9_000), "nothing has changed"
    feed(task, [60])
    run(task)
    assert not task.mark_due(1_099)
    assert marks(commit(task, 1_099)) == []
    assert not task.caught_up, "downstream hasn't heard of it"
    assert task.mark_due(1_100)
    out.made[0].held = 55
    assert [mark.watermark for _, _, mark, _ in marks(commit(task, 1_100))] == [52, 52]
    out.made[0].held = NEVER
    assert [mark.watermark for _, _, mark, _ in marks(commit(task, 1_200))] == [NEVER, NEVER]
