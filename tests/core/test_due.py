"""Where a piece ends because a timer is due: right before the record that makes it due, and not behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from streams.core.batch import Batch, Origin
from streams.core.inputs import Decoded, Input
from streams.core.record import START, Fetched, Records, TopicPartition
from streams.core.watermark import SourceWatermark

AT = TopicPartition("in", 0)


class Times:
    """A source whose values are their own event times."""

    def decode(self, fetched: Fetched, first: int, end: int) -> Decoded:
        times = [int(value or b"0") for value in fetched.records.values[first:end]]
        return Decoded([None] * len(times), list(times), times, range(first, end))

    def failed(self, origin: Origin, failures: Sequence[Any]) -> None: ...

    def process(self, batch: Batch) -> None: ...


def waiting(times: Sequence[int]) -> Input:
    source = Input(AT, START, Times(), SourceWatermark(0), timed=True, aligned=True, idle_after_ms=None)
    records = Records([None] * len(times), [b"%d" % time for time in times], list(times))
    source.accept(Fetched(AT, list(range(len(times))), records, len(times)))
    return source


@pytest.mark.parametrize(
    ("times", "until", "first"),
    [
        ([1, 5, 6, 9], 6, [1, 5]),  # a record at the very time at which the timer is due makes it due
        ([1, 5, 7, 9], 6, [1, 5]),
        ([1, 5, 5, 5], 6, [1, 5, 5, 5]),
        ([6, 6, 1], 6, [6]),  # the first one goes anyhow: whoever takes it has let the timer fire
        ([1, 6], 6, [1]),
        ([9, 1, 6, 2], 6, [9, 1]),
    ],
)
def test_a_piece_holds_no_record_but_the_first_from_the_time_on_at_which_a_timer_is_due(
    times: list[int], until: int, first: list[int]
) -> None:
    source = waiting(times)
    assert source.take(10, until=until).values == first
    rest: list[int] = []
    while source.waiting:
        rest += source.take(10).values
    assert first + rest == times


def test_a_piece_holds_records_up_to_the_time_of_another_input_s_next_one() -> None:
    source = waiting([1, 5, 6, 9])
    assert source.take(10, before=6).values == [1, 5, 6]
