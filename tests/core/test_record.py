"""Positions and columns of records, against plain dicts and lists."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.core.log import distance_on
from streams.core.message import Message
from streams.core.record import START, Fetched, Headers, Position, Positions, Records, TopicPartition

lanes_st = st.dictionaries(st.integers(0, 2), st.integers(0, 5))


@given(lanes_st, lanes_st)
def test_positions_are_compared_lane_by_lane_and_a_lane_that_is_not_named_stands_at_0(
    here: dict[int, int], there: dict[int, int]
) -> None:
    position, end = Position(here), Position(there)
    gaps = [there.get(lane, 0) - here.get(lane, 0) for lane in range(3)]
    assert position.reached(end) == all(gap <= 0 for gap in gaps)
    assert position.distance(end) == sum(gap for gap in gaps if gap > 0)
    assert [position.offset(lane) for lane in range(3)] == [here.get(lane, 0) for lane in range(3)]


@given(lanes_st, st.integers(0, 2), st.integers(0, 5))
def test_a_position_advances_in_one_lane_and_never_moves_back(here: dict[int, int], lane: int, offset: int) -> None:
    advanced = Position(here).advanced(lane, offset)
    assert advanced.lanes == here | {lane: max(offset, here.get(lane, 0))}


def test_a_position_is_made_of_an_offset_and_stands_in_lane_0_unless_it_says() -> None:
    assert Position.at(7) == Position({0: 7})
    assert Position.at(7, 2) == Position({2: 7})
    assert (Position.at(7).offset(), START.offset(), Position.at(7, 2).offset(2)) == (7, 0, 7)


columns_st = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=3),
        st.none() | st.binary(max_size=3),
        st.integers(),
        st.none() | st.just((("h", b"1"),)),
    ),
    max_size=4,
)


def records(rows: list[tuple[bytes | None, bytes | None, int, Headers | None]]) -> Records:
    """With no column of headers where no row has any."""
    headers = [row[3] for row in rows] if any(row[3] for row in rows) else None
    return Records([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], headers)


@given(columns_st, columns_st)
def test_columns_are_joined_row_by_row_headers_or_not(
    first: list[tuple[bytes | None, bytes | None, int, Headers | None]],
    second: list[tuple[bytes | None, bytes | None, int, Headers | None]],
) -> None:
    joined = records(first)
    joined.extend(records(second))
    assert joined == records(first + second)
    assert len(joined) == len(first) + len(second)
    assert joined.size_bytes() == sum(len(key or b"") + len(value or b"") for key, value, _, _ in first + second)
    assert len(Fetched(TopicPartition("t", 0), range(9), joined, 9)) == len(joined)


@given(st.lists(st.integers(0, 9), unique=True).map(sorted), st.integers(0, 12), st.integers(0, 2), st.booleans())
def test_a_batch_since_a_position_is_what_lies_in_its_lane_from_there_on(
    offsets: list[int], seen: int, lane: int, headed: bool
) -> None:
    headers: list[Headers | None] | None = [(("h", b"%d" % at),) for at in offsets] if headed else None
    whole = Records([b"k%d" % at for at in offsets], [b"v%d" % at for at in offsets], list(offsets), headers)
    batch = Fetched(TopicPartition("t", 0), offsets, whole, 11, lane)
    left = batch.since(Position({lane: seen, lane + 1: 100}))
    kept = [at for at in offsets if at >= seen]
    assert list(left.offsets) == left.records.timestamps == kept
    assert left.records.keys == [b"k%d" % at for at in kept]
    assert left.records.values == [b"v%d" % at for at in kept]
    assert left.records.headers == (None if headers is None else [(("h", b"%d" % at),) for at in kept])
    assert (left.partition, left.lane) == (batch.partition, lane)
    assert left.next_offset == (11 if kept == offsets else max(11, seen))
    assert (left is batch) == (kept == offsets)


def test_a_partition_reads_as_its_topic_and_number() -> None:
    assert str(TopicPartition("orders", 3)) == "orders[3]"


def test_a_message_shows_the_first_header_of_a_name() -> None:
    message = Message("t", None, None, 0, (("a", b"1"), ("b", b"2"), ("b", b"3")))
    assert (message.header("b"), message.header("c")) == (b"2", None)


def test_what_lies_between_two_positions_is_counted_by_the_log_where_it_can() -> None:
    class Counting:
        def distance(self, partition: TopicPartition, since: Position, end: Position) -> int:
            return 42

        async def backlog(self, positions: Positions) -> dict[TopicPartition, int]:
            return {}

    here, there, partition = Position.at(2), Position.at(9), TopicPartition("t", 0)
    assert distance_on(object(), partition, here, there) == 7
    assert distance_on(Counting(), partition, here, there) == 42
