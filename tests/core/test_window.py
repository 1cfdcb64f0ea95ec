"""Windows against their definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import hopping, tumbling
from streams.core.window import Windows, decode_start, encode_start
from streams.errors import ConfigurationError


@given(st.integers(-500, 500), st.integers(1, 60), st.integers(1, 60))
def test_a_time_is_in_exactly_the_windows_that_hold_it(time: int, size: int, step: int) -> None:
    size = max(size, step)
    expected = [start for start in range(-700, 700) if start % step == 0 and start <= time < start + size]
    assert list(Windows(size, step).starts(time)) == expected


@given(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62))
def test_starts_sort_as_bytes_as_they_do_as_numbers(one: int, other: int) -> None:
    assert (encode_start(one) < encode_start(other)) == (one < other)
    assert decode_start(encode_start(one)) == one


def test_labels_name_size_and_step() -> None:
    assert tumbling("1h").label == "1h"
    assert hopping("1h", "10m").label == "1h-each-10m"
    assert hopping("1h", "1h") == tumbling("1h")


def test_windows_that_would_lose_records_or_hold_none_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="records between two windows would vanish"):
        hopping("10m", "1h")
    for wrong in (0, "0s", "-1s"):
        with pytest.raises(ConfigurationError):
            tumbling(wrong)
    with pytest.raises(ConfigurationError):
        hopping("1h", 0)


def test_a_window_of_a_millisecond_is_a_window_and_one_of_nothing_is_named() -> None:
    assert tumbling("1ms") == Windows(1, 1)
    assert hopping("2ms", "1ms") == Windows(2, 1)
    with pytest.raises(ConfigurationError, match="a tumbling window must be longer than 0"):
        tumbling("0s")
    with pytest.raises(ConfigurationError, match="a hopping window must be longer than 0"):
        hopping("0s", "1s")
    with pytest.raises(ConfigurationError, match="a hopping window's step must be longer than 0"):
        hopping("1s", "0s")


def test_a_start_is_eight_bytes() -> None:
    assert encode_start(0).hex() == "8000000000000000"
    assert decode_start(encode_start(-1)) == -1
