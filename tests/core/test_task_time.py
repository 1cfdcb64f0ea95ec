"""How event time moves in a task, and which record comes next.  The operators around it are probes."""

from __future__ import annotations

from typing import Any

import pytest

from streams.core.batch import NEVER
from streams.core.checkpoint import Checkpoint
from streams.core.log import TopicSpec
from streams.core.plan import Captured
from streams.core.record import Fetched, Position, Records, TopicPartition
from streams.core.task import Task
from streams.core.watermark import MARK_HEADER, Mark, decode_mark, encode_mark
from tests.core.probes import (
    Holding,
    Mailing,
    Ordered,
    Probe,
    Timed,
    a_source,
    a_task,
    commit,
    feed,
    in_a_row,
    run,
)

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
    commit(task)
    task.tick(15)
    assert [each.watermark.idle for each in task.inputs] == [True, True]
    assert task.dirty, "that one is idle already doesn't undo that the other has become so"


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
    two = Probe(name="two", upstream=[one], kind=Timed, due=[17, 30, 40])
    task = a_task(source, one, two)
    assert (one.made[0].delay_ms, two.made[0].delay_ms) == (0, 5)
    feed(task, [9, 35])
    task.step()
    assert (task.watermark, one.made[0].fired) == (9, [])
    run(task)
    assert one.made[0].fired == [(10, 10, 9), (30, 30, 29)]
    assert two.made[0].fired == [(17, 17, 21), (30, 30, 34)], "due at just the watermark"
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
    assert (again.watermark, again.dirty) == (25, True)
    assert again.checkpoint.advancing == 25, "until this is committed"
    assert commit(again).checkpoint.advancing is None
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


def test_marks_hold_where_nothing_in_the_task_holds_event_time_back() -> None:
    source, out = in_a_row(into=[TopicSpec("again", 2, "repartition")])
    task = a_task(source, out)
    feed(task, [50])
    run(task)
    assert [mark.watermark for _, _, mark, _ in marks(commit(task))] == [50, 50]


def feed_marks(task: Task, *sent: Mark) -> None:
    partition = TopicPartition("in", 0)
    first = task.inputs[0].buffered.offset()
    records = Records(
        [None] * len(sent), [encode_mark(mark) for mark in sent], [0] * len(sent), [((MARK_HEADER, b""),)] * len(sent)
    )
    end = first + len(sent)
    task.accept(Fetched(partition, range(first, end), records, end), 0)
    task.ends = {**task.ends, partition: Position.at(end)}


def test_event_time_behind_a_repartition_topic_is_what_all_its_writers_promise() -> None:
    upstream: dict[str, Any] = {"upstream_tasks": {"in": ["u-0", "u-1"]}}
    sources = [a_source("in", idle_after_ms=10), a_source("two")]
    task = a_task(*sources, **upstream)
    feed(task, [90], "two")
    feed_marks(task, Mark("u-0", 50))
    assert task.step(), "a mark is something to do, and to be committed"
    assert task.dirty
    run(task)
    assert task.watermark == NEVER
    made = commit(task).checkpoint
    again = a_task(*sources, checkpoint=made, **upstream)
    feed_marks(again, Mark("u-1", 40))
    run(again)
    assert again.watermark == 40
    again.tick(0)
    again.tick(1_000)
    assert not again.inputs[0].watermark.idle, "only its writers know whether they are"


# ── which record comes next ─────────────────────────────────────────────────────────────────────────────────────────


def test_records_of_several_inputs_come_in_the_order_of_their_times() -> None:
    sources = [a_source("in"), a_source("two")]
    probe = Probe(name="probe", upstream=sources)
    task = a_task(*sources, probe)
    feed(task, [1, 2, 5, 6, 9, 10, 11])
    feed(task, [3, 4, 7, 8, 12], "two")
    run(task)
    assert [time for batch in probe.made[0].batches for time in batch.times] == list(range(1, 13))
    # How far event time may come within a piece is what the other input allows.
    assert {batch.origin.ceiling for batch in probe.made[0].batches if batch.origin and 9 in batch.times} == {8}


def test_requests_and_records_take_turns() -> None:
    sources = [a_source("in"), a_source("asked", aligned=False, timed=False)]
    probe = Probe(name="probe", upstream=sources)
    task = a_task(*sources, probe, piece_records=1)
    feed(task, [1, 2, 3])
    feed(task, [70, 80], "asked")
    run(task)
    assert [batch.times for batch in probe.made[0].batches] == [[70], [1], [80], [2], [3]]
    assert task.watermark == 3, "requests don't move event time"


@pytest.mark.parametrize(
    ("slack_ms", "expected", "befores"),
    [
        (0, "5 F10 12 13 20 F22 25 F30 30", [NEVER, 12, 12, 13, 25, 30]),
        (3, "5 12 F10 13 20 F22 25 30", [NEVER, 2, 10, 10, 22, 22]),
    ],
)
def test_a_timer_fires_before_the_record_that_makes_it_due(slack_ms: int, expected: str, befores: list[int]) -> None:
    source = a_source(slack_ms=slack_ms)
    probe = Probe(name="probe", upstream=[source], kind=Ordered, due=[10, 22, 30])
    task = a_task(source, probe)
    feed(task, [5, 12, 13, 20, 25, 30])
    run(task)
    happened = probe.made[0].happened
    assert probe.made[0].befores == befores, "a record that makes no timer due moves event time behind itself"
    assert " ".join(f"{'F' if what == 'fired' else ''}{time}" for what, time in happened) == expected


def test_a_timer_behind_a_window_is_due_so_much_later() -> None:
    source = a_source()
    late = Probe(name="late", upstream=[source], holds=5)
    probe = Probe(name="probe", upstream=[late], kind=Ordered, due=[10])
    task = a_task(source, late, probe)
    feed(task, [5, 11, 14, 15])
    run(task)
    assert probe.made[0].happened == [("record", 5), ("record", 11), ("record", 14), ("fired", 10), ("record", 15)]
    assert probe.made[0].befores == [NEVER, 5, 11, 15]


def test_a_timer_waits_for_the_input_that_is_behind() -> None:
    sources = [a_source("in"), a_source("two", aligned=False)]
    probe = Probe(name="probe", upstream=sources, kind=Ordered, due=[10])
    task = a_task(*sources, probe)
    feed(task, [5, 12, 13])
    run(task)
    assert probe.made[0].happened == [("record", 5), ("record", 12), ("record", 13)]
    feed(task, [9, 10], "two")
    run(task)
    assert probe.made[0].happened[3:] == [("record", 9), ("fired", 10), ("record", 10)]


def test_a_timer_fires_before_its_record_where_another_input_has_come_just_so_far() -> None:
    sources = [a_source("in"), a_source("two")]
    probe = Probe(name="probe", upstream=sources, kind=Ordered, due=[10])
    task = a_task(*sources, probe)
    feed(task, [5, 12])
    feed(task, [10], "two")
    run(task)
    assert probe.made[0].happened == [("record", 5), ("record", 10), ("fired", 10), ("record", 12)]


def test_a_timer_does_not_wait_for_an_input_that_is_idle() -> None:
    sources = [a_source("in"), a_source("two", idle_after_ms=10)]
    probe = Probe(name="probe", upstream=sources, kind=Ordered, due=[10])
    task = a_task(*sources, probe)
    feed(task, [1], "two")
    feed(task, [2])
    run(task)
    task.tick(100)
    feed(task, [5, 12])
    run(task)
    assert probe.made[0].happened[2:] == [("record", 5), ("fired", 10), ("record", 12)]


def test_an_operator_that_needs_no_order_is_told_at_once_how_far_event_time_has_come() -> None:
    source, probe = in_a_row(kind=Timed, due=[10, 20])
    task = a_task(source, probe)
    feed(task, [5, 25])
    run(task)
    assert probe.made[0].fired == [(10, 25, 9), (20, 25, 9)]


def test_event_time_stands_still_until_agents_have_handled_what_they_were_given() -> None:
    source, probe = in_a_row(kind=Mailing)
    task = a_task(source, probe)
    assert task.mailboxes == [probe.made[0]]
    feed(task, [5])
    assert task.step()
    assert task.mail_waits
    assert task.watermark == NEVER
    probe.made[0].mail.clear()
    assert not task.mail_waits
    assert task.step(), "event time moves on"
    assert task.watermark == 5
    assert not task.step()


def test_a_mark_alone_is_something_to_commit_whether_event_time_moves_or_not() -> None:
    task = a_task(a_source("in"), upstream_tasks={"in": ["u-0", "u-1"]})
    for mark, watermark in ((Mark("u-0", 50), NEVER), (Mark("u-1", 40), 40)):
        feed_marks(task, mark)
        assert task.step()
        assert (task.dirty, task.watermark) == (True, watermark)
        commit(task)
        assert not task.step()
        assert not task.dirty
