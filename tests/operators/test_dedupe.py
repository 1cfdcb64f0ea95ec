"""Dedupe, alone: what it lets pass, what it forgets and when, and what it counts."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.batch import FOREVER
from streams.core.capability import Limits
from streams.operators.dedupe import Dedupe, dedupe_state
from tests.operators.work import SKIP, Work, read_at

WITHIN = 10


def a_dedupe(**others: Any) -> Work:
    node = Dedupe(name="d", state=dedupe_state("d"), id_of=lambda v: str(v).encode(), within_ms=WITHIN, policy=SKIP)
    return Work(node, **others)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("xy"), st.integers(-35, 35)), max_size=12),
    st.integers(0, 12),
    st.booleans(),
)
def test_a_value_passes_unless_one_that_passed_is_near_and_not_yet_forgotten(
    records: list[tuple[str, int]], delay_ms: int, restarts: bool
) -> None:
    """The model keeps every (identity, time) that passed, and asks only whether its bucket is still open."""
    work = a_dedupe(delay_ms=delay_ms)
    passed: list[tuple[str, int]] = []
    watermark = -100
    for identity, time in records:

        def is_open(at: int, watermark: int = watermark) -> bool:
            return at - at % WITHIN + 2 * WITHIN > watermark - delay_ms

        known = [at for name, at in passed if name == identity and is_open(at)]
        expected = not any(abs(at - time) < WITHIN for at in known)
        work.context.watermark = watermark
        work.give(("k", identity, time), origin=read_at([time], before=watermark, after=max(watermark, time)))
        assert work.taken() == ([("k", identity, time)] if expected else [])
        if expected:
            passed.append((identity, time))
        watermark = max(watermark, time)
        work.processor.advance(watermark - delay_ms)
        if restarts:
            work.commit_and_restart()


def test_each_row_is_judged_by_the_watermark_before_it() -> None:
    """In one batch: what the third row repeats was forgotten at the second."""
    work = a_dedupe()
    work.give(("k", "x", 5), ("k", "y", 25), ("k", "x", 6), origin=read_at([5, 25, 6], before=0, after=25))
    assert [value for _, value, _ in work.taken()] == ["x", "y", "x"]


def test_what_no_record_stands_behind_is_judged_by_the_watermark_of_the_task() -> None:
    work = a_dedupe()
    work.context.watermark = 19
    work.give(("k", "x", 5), ("k", "x", 6))
    assert [time for _, _, time in work.taken()] == [5]
    work.context.watermark = 20
    work.give(("k", "x", 7))
    assert [time for _, _, time in work.taken()] == [7]


def test_repeats_are_counted() -> None:
    work = a_dedupe()
    work.give(("k", "x", 1), ("k", "x", 2), ("k", "y", 3), ("k", "x", 4))
    assert work.context.counters == {"duplicates": 2}


def test_a_batch_of_repeats_alone_goes_no_further() -> None:
    work = a_dedupe()
    work.give(("k", "x", 1))
    work.give(("k", "x", 2))
    assert len(work.emitted) == 1


def test_a_value_without_an_identity_meets_the_policy_and_the_others_pass() -> None:
    def refuse(value: int) -> bytes:
        if value == 2:
            raise ValueError(value)
        return str(value).encode()

    work = Work(Dedupe(name="d", state=dedupe_state("d"), id_of=refuse, within_ms=WITHIN, policy=SKIP))
    work.give(("a", 1, 1), ("b", 2, 2), ("c", 3, 3), ("d", 1, 4))
    assert work.taken() == [("a", 1, 1), ("c", 3, 3)]
    assert work.failures.skipped == {"d": 1}


def test_identities_are_forgotten_twice_the_span_after_their_bucket_began() -> None:
    work = a_dedupe()
    assert work.processor.deadline() == FOREVER
    work.give(("k", "x", 15), ("k", "y", 27))
    assert work.processor.deadline() == 30
    assert work.processor.advance(29)
    assert work.processor.deadline() == 30
    assert work.processor.advance(30)
    assert work.processor.deadline() == 40
    assert work.processor.advance(40)
    assert work.processor.deadline() == FOREVER
    assert work.states["d"].dirty_count == 2


def test_what_would_be_forgotten_at_once_is_not_kept() -> None:
    work = a_dedupe()
    work.context.watermark = 20
    work.give(("k", "x", 5))
    assert work.states["d"].dirty_count == 0
    work.give(("k", "y", 10))
    assert work.states["d"].dirty_count == 1


def test_forgetting_stops_where_the_slice_is_full_and_goes_on_in_the_next() -> None:
    work = a_dedupe(limits=Limits(max_commit_records=2))
    work.give(*(("k", name, 1) for name in "vwxyz"))
    assert not work.processor.advance(20)
    assert work.states["d"].dirty_count == 5
    work.commit_and_restart()
    assert not work.processor.advance(20)
    assert work.processor.deadline() == 20
    work.commit_and_restart()
    assert work.processor.advance(20)
    assert work.processor.deadline() == FOREVER


def test_the_state_of_a_dedupe_is_told_from_that_of_another_operator() -> None:
    assert dedupe_state("d").fingerprint == "dedupe/1"
