"""Buffered inputs: marks between records, pieces, positions, and which input has its turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import FOREVER, NEVER, Batch, Origin
from streams.core.inputs import Decoded, Input, choose
from streams.core.record import START, Fetched, Headers, Position, Records, TopicPartition
from streams.core.watermark import MARK_HEADER, Mark, SourceWatermark, encode_mark

AT = TopicPartition("in", 0)


class Plain:
    """A source whose values are numbers, which are their event times as well; the text "bad" doesn't decode."""

    def decode(self, fetched: Fetched, first: int, end: int) -> Decoded:
        decoded = Decoded([], [], [], [])
        rows: list[int] = []
        for row in range(first, end):
            value = fetched.records.values[row]
            assert value is not None
            if value == b"bad":
                decoded.failures.append((row, ValueError("bad"), "decode"))
                continue
            rows.append(row)
            decoded.keys.append(fetched.records.keys[row])
            decoded.values.append(int(value))
            decoded.times.append(int(value))
        decoded.rows = rows
        return decoded

    def failed(self, origin: Origin, failures: Sequence[Any]) -> None: ...

    def process(self, batch: Batch) -> None: ...


def an_input(position: Position = START, name: str = "in", *, aligned: bool = True) -> Input:
    at = TopicPartition(name, 0)
    return Input(at, position, Plain(), SourceWatermark(0), timed=True, aligned=aligned, idle_after_ms=None)


def fetched(values: Sequence[int | str | Mark], first: int = 0, *, gap: int = 1, behind: int = 0) -> Fetched:
    """A batch whose offsets are ``gap`` apart; a Mark stands in-band."""
    headers: list[Headers | None] = [((MARK_HEADER, b""),) if isinstance(v, Mark) else None for v in values]
    raw: list[bytes | None] = [encode_mark(v) if isinstance(v, Mark) else str(v).encode() for v in values]
    offsets = [first + gap * index for index in range(len(values))]
    records = Records([None] * len(values), raw, [0] * len(values), headers)
    return Fetched(AT, offsets, records, offsets[-1] + 1 + behind if offsets else first)


def drain(source: Input, limit: int) -> list[int]:
    """Take everything, piece by piece."""
    taken: list[int] = []
    while True:
        source.settle_marks()
        if not source.waiting:
            return taken
        piece = source.take(limit)
        assert 1 <= piece.row_count <= limit
        source.position = piece.position
        taken += piece.values


values_st = st.lists(
    st.one_of(st.integers(0, 50), st.just("bad"), st.integers(0, 50).map(lambda n: Mark("", n))), max_size=20
)


@given(values_st, st.integers(1, 5), st.integers(1, 3), st.integers(0, 3))
def test_pieces_hold_every_record_once_in_order_and_the_position_follows(
    values: list[int | str | Mark], limit: int, gap: int, behind: int
) -> None:
    source = an_input()
    batch = fetched(values, gap=gap, behind=behind)
    source.accept(batch)
    assert drain(source, limit) == [value for value in values if isinstance(value, int)]
    assert source.position.offset() == batch.next_offset
    assert source.waiting == 0


@given(values_st, st.integers(0, 20), st.integers(1, 5))
def test_a_batch_that_comes_again_is_dropped_up_to_where_the_input_stands(
    values: list[int | str | Mark], overlap: int, limit: int
) -> None:
    source = an_input()
    source.accept(fetched(values))
    taken = drain(source, limit)
    again = values[-overlap:] if overlap else []
    source.accept(fetched([*again, 7], first=len(values) - len(again)))
    assert drain(source, limit) == [7]
    assert taken == [value for value in values if isinstance(value, int)]


def test_an_input_goes_on_behind_its_position() -> None:
    source = an_input(Position.at(2))
    source.accept(fetched([10, 11, 12, 13]))
    assert drain(source, 10) == [12, 13]


def test_behind_a_mark_the_position_is_that_of_what_waits_and_behind_the_last_one_that_of_the_batch() -> None:
    source = an_input()
    source.accept(fetched([Mark("", 4), 5, Mark("", 6)], gap=3, behind=2))
    assert source.settle_marks()
    assert source.position.offset() == 1, "of the record at 3 nothing has come yet"
    source.position = source.take(1).position
    assert source.position.offset() == 6, "the mark at 6 wasn't heard yet"
    assert source.settle_marks()
    assert source.position.offset() == 6 + 1 + 2


def test_the_times_of_a_piece_are_those_of_its_rows_and_a_row_that_does_not_decode_has_none() -> None:
    source = an_input()
    source.accept(fetched([3, "bad", 5]))
    assert list(source.take(3).times_by_row()) == [3, NEVER, 5]


def test_a_mark_counts_when_its_turn_comes_and_not_before() -> None:
    source = an_input()
    source.accept(fetched([1, Mark("", 40), 2]))
    assert source.watermark.watermark < 40
    source.take(1)
    source.settle_marks()
    assert source.watermark.watermark == 40


def test_gaps_that_the_log_skipped_are_passed_over_only_when_nothing_waits_before_them() -> None:
    source = an_input()
    source.accept(fetched([1, 2], behind=5))
    assert source.position == START
    source.position = source.take(1).position
    assert source.position.offset() == 1
    source.position = source.take(1).position
    assert source.position.offset() == 7
    empty = Fetched(AT, [], Records(), 20)
    source.accept(empty)
    assert source.position.offset() == 20


def test_a_piece_ends_where_a_timer_is_due() -> None:
    source = an_input()
    source.accept(fetched([1, 5, 3, 9, 2]))
    assert 9 not in source.take(10, until=6).values


def test_the_input_with_the_lowest_timestamp_has_its_turn_up_to_the_next_one_s() -> None:
    one, two = an_input(name="one"), an_input(name="two")
    one.accept(fetched([5, 6, 30]))
    two.accept(fetched([10, 11]))
    chosen = choose([one, two], lambda each: False)
    assert chosen is not None
    assert chosen == (one, 10)
    assert chosen[0].take(10, before=chosen[1]).values == [5, 6]


def test_nothing_is_chosen_while_an_input_that_is_behind_may_hold_something_lower() -> None:
    one, two = an_input(name="one"), an_input(name="two")
    one.accept(fetched([5]))
    assert choose([one, two], lambda each: each is two) is None
    assert choose([one, two], lambda each: False) == (one, FOREVER)
    assert choose([an_input()], lambda each: True) is None


def test_an_input_that_is_not_aligned_does_not_wait_for_its_turn() -> None:
    one, asked = an_input(name="one"), an_input(name="asked", aligned=False)
    one.accept(fetched([5]))
    asked.accept(fetched([99]))
    chosen = choose([one, asked], lambda each: False)
    assert chosen is not None
    assert chosen[0] is asked
