"""How much a task takes at once, and when it asks for a commit.  The operators around it are probes."""

from __future__ import annotations

import pytest

from streams.core.capability import Limits
from streams.core.checkpoint import Checkpoint
from streams.core.log import TopicSpec
from streams.core.record import Position, TopicPartition
from streams.core.state import KeyedState, UnencodableState
from streams.core.store import StoreState
from streams.state.memory import MemoryDisk, MemoryStore
from tests.core.probes import (
    Probe,
    a_source,
    a_task,
    commit,
    feed,
    in_a_row,
    run,
)

# ── how much is taken at once ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("piece_records", "limit", "expected"),
    [(10, 100, [1, 2, 4, 8, 10, 10]), (100, 10, [1, 2, 4, 8, 10, 10]), (1, 100, [1] * 35), (100, 1, [1] * 35)],
)
def test_pieces_double_from_one_record_on_up_to_what_is_planned_and_what_a_commit_takes(
    piece_records: int, limit: int, expected: list[int]
) -> None:
    source, probe = in_a_row()
    task = a_task(source, probe, piece_records=piece_records, limits=Limits(max_commit_records=limit))
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
    task = a_task(source, probe, piece_records=16, limits=Limits(max_commit_records=100))
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
    task = a_task(source, probe, piece_records=5)
    feed(task, range(9))
    assert task.wanted() == [TopicPartition("in", 0)]
    feed(task, [9])
    assert task.wanted() == []


# ── when a commit is asked for ──────────────────────────────────────────────────────────────────────────────────────


def test_the_first_commit_comes_with_the_first_change_and_later_ones_when_enough_is_dirty() -> None:
    source, probe = in_a_row(puts=1)
    task = a_task(source, probe, dirty_entries=5)
    feed(task, range(30))
    run(task)
    assert (probe.made[0].sizes, task.must_commit) == ([1], True)
    commit(task)
    run(task)
    assert probe.made[0].sizes[1:] == [2, 3], "the next piece may not go beyond the bound"
    assert task.must_commit
    commit(task)
    run(task)
    assert probe.made[0].sizes[3:] == [5]


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


def test_a_state_keeps_as_many_values_in_memory_as_the_plan_allows_by_what_a_sample_of_them_weighs() -> None:
    source, probe = in_a_row(puts=1_000)
    task = a_task(source, probe, state_cache_bytes=1_000_000, weighed_values=5)
    state = task.states["rows"]
    assert isinstance(state, KeyedState)
    budget = state._budget
    assert (budget.sample, budget.entries) == (5, 500)


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
    # What the task before left: another number for the state, and a state that is no more.
    store.apply({}, StoreState("log", 3, 6, {"gone": Position.at(3)}, {"rows": 5}))
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
    assert (state.changelogs, state.prefixes) == ({"gone": Position.at(3), "rows": Position.at(1)}, {"rows": 5})
    assert a_task(*in_a_row()).store_state({}).as_of_ms == 0, "nothing was captured"
    again = a_task(*in_a_row(puts=1), store=store, checkpoint=made)
    assert again.watermark == 5
    assert again.inputs[0].watermark.watermark == 5
    assert again.inputs[0].position == Position.at(1)


def test_a_piece_never_holds_more_than_the_slice_has_room_for_though_nothing_came_of_the_ones_before() -> None:
    source, probe = in_a_row()
    task = a_task(source, probe, limits=Limits(max_commit_records=10))
    feed(task, range(100))
    for _ in range(8):
        task.step()
    task.context.send("out", [None] * 5, [b""] * 5, [0] * 5)
    task.step()
    assert probe.made[0].sizes[-2:] == [10, 5]


def test_what_goes_to_internal_topics_has_a_limit_of_its_own_where_the_log_packs_it() -> None:
    source, probe = in_a_row(into=[TopicSpec("again", 2, "repartition"), TopicSpec("out")])
    task = a_task(source, probe, limits=Limits(max_commit_records=2, max_packed_records=3))
    for topic, full in (("again", False), ("again", False), ("out", False), ("out", True)):
        task.context.send(topic, [b"k"], [b""], [0])
        assert task.outputs.full == full
