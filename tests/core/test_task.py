"""A task as pure code: slices, captures and what a crash between any two of them leaves to do.

The log is a dict of lists here; a crash throws away the task and everything that wasn't committed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import App, ProcessContext, State, tumbling
from streams.core.capability import Limits
from streams.core.checkpoint import claimed, decode_checkpoint, encode_checkpoint
from streams.core.plan import Plan
from streams.core.record import Fetched, Position, Records, TopicPartition
from streams.core.task import Task
from streams.state.memory import MemoryDisk, MemoryStore

IN = TopicPartition("in", 0)
FAR = 10_000


class Seen(State):
    n: int = 0


def windows(app: App) -> None:
    source = app.stream("in", timestamp=lambda v: v["t"], idle_after=None)
    source.window(tumbling("10ms")).count().final().map(lambda v: [v["window_start"], v["count"]]).to("out")


def timers(app: App) -> None:
    source = app.stream("in", timestamp=lambda v: v["t"], idle_after=None)

    @source.process(state=Seen)
    def watch(value: Any, state: Seen, ctx: ProcessContext) -> None:
        state.n += 1
        ctx.timer("quiet", after="9ms")

    @watch.on_timer("quiet")
    def quiet(state: Seen, ctx: ProcessContext) -> None:
        ctx.emit([ctx.key, ctx.time, state.n])
        state.clear()

    watch.to("out")


def expanding(app: App) -> None:
    source = app.stream("in", timestamp=lambda v: v["t"], idle_after=None)
    source.flat_map(lambda v: [v["t"]] * (v["t"] % 7)).to("out")


class World:
    """The log, the store, and a task that lives on them until it crashes."""

    def __init__(self, declare: Callable[[App], None], limit: int) -> None:
        app = App("tasks")
        declare(app)
        blueprint = app.build()
        [self.subtopology] = blueprint.subtopologies
        self.plan = Plan(
            app=app.name,
            limits=Limits(max_commit_records=limit),
            partitions=blueprint.partitions,
            partitioner=lambda key, count: 0,
            upstream_tasks=blueprint.upstream_tasks,
        )
        self.records: list[tuple[str, int]] = []
        self.log: dict[TopicPartition, list[tuple[bytes | None, bytes | None]]] = {}
        self.checkpoint: bytes | None = None
        self.disk = MemoryDisk()
        self.commits = 0
        self.largest = 0
        self.start()

    def start(self) -> None:
        previous = None if self.checkpoint is None else decode_checkpoint(self.checkpoint)
        checkpoint = claimed(previous, log_id="log", topology=1)
        self.checkpoint = encode_checkpoint(checkpoint)
        self.store = MemoryStore(self.disk)
        self.task = Task(self.subtopology, 0, plan=self.plan, checkpoint=checkpoint, store=self.store)

    def crash(self) -> None:
        self.store.close()
        self.start()

    def feed(self) -> None:
        """Hand the task what it hasn't buffered, in one batch."""
        first = self.task.inputs[0].buffered.offset()
        values: list[bytes | None] = [msgspec.json.encode({"t": time}) for _, time in self.records[first:]]
        keys: list[bytes | None] = [key.encode() for key, _ in self.records[first:]]
        records = Records(keys, values, [0] * len(keys))
        self.task.accept(Fetched(IN, range(first, len(self.records)), records, len(self.records)), 0)
        self.task.ends = {IN: Position.at(len(self.records))}

    def commit(self) -> None:
        captured = self.task.capture(0)
        outputs = 0
        ends: dict[TopicPartition, Position] = {}
        for append in captured.appends:
            kept = self.log.setdefault(append.partition, [])
            kept.extend(zip(append.records.keys, append.records.values, strict=True))
            ends[append.partition] = Position.at(len(kept))
            if append.partition.topic == "out":
                outputs += len(append.records)
        self.largest = max(self.largest, outputs)
        self.checkpoint = encode_checkpoint(captured.checkpoint)
        self.task.committed(captured, ends)
        self.commits += 1

    def run(self, crashes: list[int]) -> list[tuple[bytes | None, bytes | None]]:
        """Work until all is done; crash after so many steps, again and again."""
        waits = list(crashes)
        steps = 0
        self.feed()
        while True:
            if waits and steps >= waits[0]:
                waits.pop(0)
                steps = 0
                self.crash()
                self.feed()
            if self.task.must_commit:
                self.commit()
                continue
            worked = self.task.step()
            steps += 1
            if not worked and not self.task.must_commit:
                if self.task.dirty:
                    self.commit()
                if not waits or steps > 200:
                    return self.log.get(TopicPartition("out", 0), [])


records_st = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 60)), min_size=1, max_size=15)


@pytest.mark.parametrize("declare", [windows, timers, expanding], ids=lambda declare: str(declare.__name__))
@settings(max_examples=40)
@given(records=records_st, limit=st.integers(1, 4), crashes=st.lists(st.integers(0, 6), max_size=6))
def test_a_crash_between_any_two_steps_loses_and_doubles_nothing(
    declare: Callable[[App], None], records: list[tuple[str, int]], limit: int, crashes: list[int]
) -> None:
    straight, crashing = World(declare, 1000), World(declare, limit)
    straight.records = crashing.records = [*records, ("end", FAR)]
    assert crashing.run(crashes) == straight.run([])
    straight.store.close()
    crashing.store.close()


@pytest.mark.parametrize("limit", [1, 3])
def test_a_window_of_many_keys_closes_slice_by_slice(limit: int) -> None:
    world = World(windows, limit)
    world.records = [(f"k{n}", 5) for n in range(20)] + [("end", 100)]
    finals = world.run([])
    assert len({key for key, _ in finals}) == len(finals) == 20
    assert world.largest <= limit
    assert world.commits >= 20 // limit


def test_event_time_moves_on_only_with_the_last_slice() -> None:
    world = World(windows, 2)
    world.records = [(f"k{n}", 5) for n in range(6)] + [("end", 100)]
    world.feed()
    seen = []
    while True:
        if world.task.must_commit:
            world.commit()
            checkpoint = decode_checkpoint(world.checkpoint or b"")
            seen.append((len(world.log.get(TopicPartition("out", 0), [])), checkpoint.watermark >= 100))
            if seen[-1][0] == 6 and checkpoint.advancing is None:
                break
            continue
        if not world.task.step():
            world.commit()
            break
    written = [count for count, moved in seen if moved]
    assert all(count == 6 for count in written), "the watermark has passed the window only once all of it was written"
    assert any(not moved for _, moved in seen)


@pytest.mark.parametrize("each", [1, 50, 900])
def test_the_first_pieces_stay_within_the_limit_whatever_a_record_expands_to(each: int) -> None:
    def declare(app: App) -> None:
        source = app.stream("in", timestamp=lambda v: v["t"], idle_after=None)
        source.flat_map(lambda v: [v["t"]] * each).to("out")

    world = World(declare, 900)
    world.records = [("a", time) for time in range(2000 // each + 20)]
    assert len(world.run([])) == len(world.records) * each
    assert world.largest <= 900


def test_nothing_is_processed_between_a_full_slice_and_its_commit() -> None:
    world = World(windows, 1)
    world.records = [("a", 5), ("b", 5), ("end", 100)]
    world.feed()
    while not world.task.must_commit:
        world.task.step()
    with pytest.raises(AssertionError, match="committed before the next step"):
        world.task.step()


def test_the_store_is_never_ahead_of_the_log() -> None:
    world = World(windows, 100)
    world.records = [("a", 5)]
    world.feed()
    while not world.task.must_commit and world.task.step():
        assert world.store.state is None
    captured = world.task.capture(0)
    assert world.store.state is None, "a capture isn't a commit yet"
    world.task.committed(captured, {append.partition: Position.at(len(append.records)) for append in captured.appends})
    state = world.store.state
    assert state is not None
    assert (state.epoch, state.number) == (captured.checkpoint.epoch, captured.checkpoint.number)
    assert list(state.changelogs.values()) == [Position.at(1)]
