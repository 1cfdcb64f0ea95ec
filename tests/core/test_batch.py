"""Batches and where their rows stand, against loops over the records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import FOREVER, NEVER, Batch, Origin, emitted, headers_at, headers_of
from streams.core.record import Fetched, Headers, Records, TopicPartition


def an_origin(times: list[int], before: int, after: int, ceiling: int, slack_ms: int, first: int = 0) -> Origin:
    count = first + len(times)
    fetched = Fetched(TopicPartition("in", 0), range(count), Records([None] * count, [b""] * count, [0] * count), count)
    return Origin(fetched, first, times, before=before, after=after, ceiling=ceiling, slack_ms=slack_ms)


@given(
    st.lists(st.integers(-20, 40) | st.just(NEVER), min_size=1, max_size=6),
    st.just(NEVER) | st.integers(-10, 30),
    st.integers(-10, 40) | st.just(FOREVER),
    st.integers(0, 9),
    st.integers(0, 3),
)
def test_the_watermark_rises_row_by_row_with_the_highest_time_less_the_slack_up_to_the_ceiling(
    times: list[int], before: int, ceiling: int, slack_ms: int, first: int
) -> None:
    watermarks = [before]
    for time in times:
        watermarks.append(max(watermarks[-1], min(time - slack_ms, ceiling)))
    origin = an_origin(times, before, watermarks[-1], ceiling, slack_ms, first)
    rows = range(first, first + len(times))
    assert [origin.watermark_before(row) for row in rows] == watermarks[:-1]
    assert [origin.watermark_at(row) for row in rows] == watermarks[1:]


def test_where_the_watermark_does_not_move_it_is_the_same_for_every_row() -> None:
    """Other inputs may hold it back, or this one may not count."""
    origin = an_origin([100, 200], 5, 5, FOREVER, 0)
    assert [origin.watermark_before(row) for row in (0, 1)] == [5, 5]
    assert [origin.watermark_at(row) for row in (0, 1)] == [5, 5]


def a_batch(count: int) -> Batch:
    origin = an_origin([0] * count, 0, 0, 0, 0)
    return Batch(
        [b"k%d" % i for i in range(count)], list(range(count)), [10 * i for i in range(count)], range(count), origin
    )


def rows_of(batch: Batch) -> list[tuple[bytes | None, int, int, int]]:
    return list(zip(batch.keys, batch.values, batch.times, batch.rows, strict=True))


@given(st.integers(0, 5), st.data())
def test_elements_are_chosen_by_mask_by_index_or_by_what_failed(count: int, data: st.DataObject) -> None:
    batch = a_batch(count)
    whole = rows_of(batch)
    mask = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    indexes = data.draw(st.lists(st.integers(0, count - 1), max_size=6)) if count else []
    for chosen, expected in (
        (batch.select(mask), [row for row, stays in zip(whole, mask, strict=True) if stays]),
        (batch.take(indexes), [whole[index] for index in indexes]),
        (batch.without(sorted(set(indexes))), [row for index, row in enumerate(whole) if index not in indexes]),
    ):
        assert rows_of(chosen) == expected
        assert chosen.origin is batch.origin
    assert batch.take(range(count)) is batch
    assert batch.without([]) is batch
    assert batch.with_values([-1] * count).origin is batch.origin
    assert rows_of(batch.with_values([-1] * count)) == [(key, -1, time, row) for key, _, time, row in whole]
    assert len(batch) == count


def test_what_a_window_emits_stands_on_no_record() -> None:
    batch = emitted([b"a", None], [1, 2], [3, 4])
    assert (batch.keys, batch.values, batch.times, list(batch.rows), batch.origin) == (
        [b"a", None],
        [1, 2],
        [3, 4],
        [0, 1],
        None,
    )
    assert headers_of(batch) is None
    assert headers_at(None, 0) == ()


def test_headers_of_a_record_go_on_but_for_those_of_the_project() -> None:
    origin = an_origin([0, 0, 0], 0, 0, 0, 0)
    batch = Batch([None] * 2, [1, 2], [0, 0], [2, 0], origin)
    assert headers_of(batch) is None
    assert headers_at(origin, 0) == ()
    headers: list[Headers | None] = [(("a", b"1"), ("streams.x", b"2"), ("b", b"3")), None, (("streams.y", b"4"),)]
    origin.fetched.records.headers = headers
    assert headers_of(batch) == [None, (("a", b"1"), ("b", b"3"))]
    assert headers_at(origin, 1) == ()
