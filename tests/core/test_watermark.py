"""The arithmetic of event time: never back, held by the slowest, freed by idleness."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import NEVER
from streams.core.watermark import Mark, MarkedWatermark, SourceWatermark, combine, decode_mark, encode_mark


def test_a_source_follows_its_highest_timestamp_less_its_slack() -> None:
    watermark = SourceWatermark(10)
    assert watermark.watermark == NEVER
    watermark.observe(100)
    watermark.observe(50)
    assert watermark.watermark == 90


def test_a_promise_of_a_producer_counts_without_slack() -> None:
    watermark = SourceWatermark(10)
    watermark.heard(Mark("", 100))
    assert watermark.watermark == 100
    watermark.heard(Mark("", 40))
    assert watermark.watermark == 100


def test_a_source_is_idle_until_it_is_heard_of_again() -> None:
    watermark = SourceWatermark(0)
    assert watermark.silent()
    assert watermark.idle
    assert not watermark.silent(), "nothing new"
    watermark.observe(5)
    assert not watermark.idle


def test_an_upstream_task_that_was_not_heard_of_holds_the_minimum_at_never() -> None:
    watermark = MarkedWatermark(["a", "b"])
    watermark.heard(Mark("a", 100))
    assert watermark.watermark == NEVER
    watermark.heard(Mark("b", 30))
    assert watermark.watermark == 30
    watermark.heard(Mark("stranger", 5))
    assert watermark.watermark == 30


def test_an_idle_upstream_task_is_left_out_and_comes_back() -> None:
    watermark = MarkedWatermark(["a", "b"])
    watermark.heard(Mark("a", 100))
    watermark.heard(Mark("b", 30, idle=True))
    assert watermark.watermark == 100
    assert not watermark.idle
    watermark.heard(Mark("a", 100, idle=True))
    assert watermark.idle
    watermark.heard(Mark("b", 40))
    assert (watermark.idle, watermark.watermark) == (False, 40)


def test_a_mark_never_takes_a_promise_back() -> None:
    watermark = MarkedWatermark(["a"])
    watermark.heard(Mark("a", 100))
    watermark.heard(Mark("a", 50))
    assert watermark.watermark == 100


def test_the_least_input_that_is_not_idle_decides_and_never_moves_back() -> None:
    one, two = SourceWatermark(0), SourceWatermark(0)
    one.observe(10)
    two.observe(30)
    assert combine([one, two], NEVER) == 10
    one.silent()
    assert combine([one, two], 10) == 30
    one.observe(12)
    assert combine([one, two], 30) == 30
    one.silent()
    two.silent()
    assert combine([one, two], 30) == 30
    assert combine([], 7) == 7


steps = st.lists(
    st.one_of(
        st.tuples(st.just("observe"), st.integers(0, 1), st.integers(0, 100)),
        st.tuples(st.just("mark"), st.integers(0, 1), st.integers(0, 100)),
        st.tuples(st.just("silent"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@given(steps)
def test_whatever_happens_the_task_s_watermark_only_rises_and_survives_being_saved(
    events: list[tuple[str, int, int]],
) -> None:
    inputs: list[SourceWatermark | MarkedWatermark] = [SourceWatermark(5), MarkedWatermark(["a", "b"])]
    watermark = NEVER
    for what, which, value in events:
        if what == "observe":
            inputs[0].observe(value)
        elif what == "mark":
            inputs[1].heard(Mark("ab"[which], value, idle=value % 7 == 0))
        elif what == "silent":
            inputs[which].silent()
        else:
            saved = [each.save() for each in inputs]
            again: list[SourceWatermark | MarkedWatermark] = [
                SourceWatermark(5, saved[0]),
                MarkedWatermark(["a", "b"], saved[1]),
            ]
            assert [(each.watermark, each.idle) for each in again] == [(e.watermark, e.idle) for e in inputs]
            inputs = again
        now = combine(inputs, watermark)
        assert now >= watermark
        watermark = now


def test_a_mark_comes_back_as_it_was_written() -> None:
    mark = Mark("task-3", -7, True, 4, 99)
    assert decode_mark(encode_mark(mark)) == mark


def test_an_input_that_follows_marks_knows_no_silence() -> None:
    assert not MarkedWatermark(["u"]).silent()
