"""Pieces against a loop over the rows: which rows one holds, what failed among them, and where the input stands behind.

The loop takes row by row.  It knows nothing of columns and cursors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.batch import FOREVER, NEVER
from streams.core.inputs import Input, choose
from streams.core.record import START, Fetched, Records
from streams.core.watermark import Mark
from tests.core.test_inputs import AT, an_input, fetched

Row = int | str | Mark
"""A record with that event time, one that can't be decoded ("bad"), or a mark."""

rows_st = st.lists(st.integers(0, 9) | st.just("bad") | st.integers(0, 9).map(lambda time: Mark("", time)), max_size=8)
bound_st = st.just(FOREVER) | st.integers(0, 9)


@dataclass(frozen=True)
class Place:
    """A row on the log: what it is, where it stands, and where its batch goes on behind it."""

    row: Row
    batch: int
    index: int
    offset: int
    after: int

    @property
    def is_mark(self) -> bool:
        return isinstance(self.row, Mark)


def places_of(batches: list[list[Row]], gap: int, behind: int) -> list[Place]:
    places: list[Place] = []
    offset = 0
    for number, rows in enumerate(batches):
        for index, row in enumerate(rows):
            step = gap if index < len(rows) - 1 else 1 + behind
            places.append(Place(row, number, index, offset, offset + step))
            offset += step
    return places


def run_of(places: list[Place]) -> list[Place]:
    """The rows at the head that are of one batch, up to a mark."""
    return list(takewhile(lambda each: each.batch == places[0].batch and not each.is_mark, places))


def piece_of(run: list[Place], limit: int, before: int, until: int) -> list[Place]:
    """Up to ``limit`` rows, and up to a record that has to wait, unless it is the first one."""
    taken: list[Place] = []
    seen = False
    for each in run[:limit]:
        if isinstance(each.row, int):
            if seen and (each.row > before or each.row >= until):
                break
            seen = True
        taken.append(each)
    return taken


@settings(max_examples=200)
@given(
    st.lists(rows_st.filter(bool), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(1, 4), bound_st, bound_st), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(0, 2),
)
def test_a_piece_holds_the_rows_that_may_go_and_tells_what_failed_and_where_the_input_stands(
    batches: list[list[Row]], asked: list[tuple[int, int, int]], gap: int, behind: int
) -> None:
    source = an_input()
    left = places_of(batches, gap, behind)
    end = left[-1].after
    for number, rows in enumerate(batches):
        source.accept(fetched(rows, next(each.offset for each in left if each.batch == number), gap=gap, behind=behind))
    turn = 0
    while left:
        if left[0].is_mark:
            marks = list(takewhile(lambda each: each.is_mark, left))
            assert source.settle_marks()
            left = left[len(marks) :]
            assert source.position.offset() == (marks[-1].offset + 1 if left else end)
            continue
        limit, before, until = asked[turn % len(asked)]
        turn += 1
        run = run_of(left)
        expected = piece_of(run, limit, before, until)
        assert source.head_time() == next((each.row for each in run if isinstance(each.row, int)), NEVER)
        piece = source.take(limit, before=before, until=until)
        good = [(each.index, each.row) for each in expected if isinstance(each.row, int)]
        assert list(zip(piece.rows, piece.times, piece.values, piece.keys, strict=True)) == [
            (index, time, time, None) for index, time in good
        ]
        assert (piece.first, piece.row_count) == (expected[0].index, len(expected))
        assert [row for row, _, _ in piece.failures] == [each.index for each in expected if each.row == "bad"]
        assert list(piece.times_by_row()) == [NEVER if each.row == "bad" else each.row for each in expected]
        left = left[len(expected) :]
        assert source.waiting == sum(not each.is_mark for each in left)
        assert piece.position.offset() == (expected[-1].after if left else end)
        source.position = piece.position
    assert source.head_time() is None
    assert source.position.offset() == end


def test_marks_are_settled_only_where_there_are_some() -> None:
    source = an_input()
    assert not source.settle_marks()
    source.accept(fetched([5, Mark("", 7)]))
    assert not source.settle_marks()
    source.take(1)
    assert source.settle_marks()
    assert source.watermark.watermark == 7


def test_records_that_were_seen_are_dropped_together_with_their_marks() -> None:
    source = an_input()
    source.accept(fetched([5, Mark("", 7)]))
    source.take(1)
    source.settle_marks()
    source.accept(fetched([5, Mark("", 9), 6]))
    assert not source.settle_marks(), "its place was passed"
    assert source.take(5).values == [6]


inputs_st = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=2), st.booleans(), st.booleans()), min_size=1, max_size=4
)


@given(inputs_st, st.booleans())
def test_requests_go_first_or_last_and_of_the_others_the_one_with_the_lowest_time(
    given_inputs: list[tuple[list[int], bool, bool]], requests_first: bool
) -> None:
    inputs: list[Input] = []
    lagging: set[int] = set()
    for times, aligned, behind in given_inputs:
        each = an_input(START, aligned=aligned)
        each.accept(fetched(times))
        inputs.append(each)
        if behind:
            lagging.add(id(each))
    asked = [each for each in inputs if each.waiting and not each.aligned]
    aligned_ones = [each for each in inputs if each.aligned]
    heads = [(each.head_time(), each) for each in aligned_ones if each.waiting]
    waits = len(aligned_ones) > 1 and any(not each.waiting and id(each) in lagging for each in aligned_ones)
    expected = None
    if heads and not waits:
        lowest = min(time for time, _ in heads if time is not None)
        first = next(each for time, each in heads if time == lowest)
        others = [time for time, each in heads if each is not first and time is not None]
        expected = (first, min(others, default=FOREVER) if len(aligned_ones) > 1 else FOREVER)
    if asked and (requests_first or expected is None):
        expected = (asked[0], FOREVER)
    assert choose(inputs, lambda each: id(each) in lagging, requests_first=requests_first) == expected


def test_what_the_log_skipped_behind_the_last_record_is_passed_with_it_though_it_was_told_later() -> None:
    source = an_input()
    source.accept(fetched([5]))
    source.accept(Fetched(AT, [], Records(), 20))
    assert source.take(1).position.offset() == 20
