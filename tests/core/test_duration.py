"""Durations and event times: what users write, as whole milliseconds."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.duration import FIRST_MS, LAST_MS, format_duration_ms, parse_duration_ms, to_epoch_ms
from streams.errors import ConfigurationError


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        ("500ms", 500),
        ("10s", 10_000),
        ("10m", 600_000),
        ("1h", 3_600_000),
        ("1d", 86_400_000),
        ("7d", 604_800_000),
        ("2w", 1_209_600_000),
        ("1h30m", 5_400_000),
        ("1d2h3m4s5ms", 93_784_005),
        (" 1h 30 m ", 5_400_000),
        ("1.5h", 5_400_000),
        ("0.1s", 100),
        ("0s", 0),
        (10, 10_000),
        (0.5, 500),
        (0.1, 100),
        (2.675, 2675),
        (0, 0),
        (timedelta(minutes=1, milliseconds=5), 60_005),
        (timedelta(microseconds=1600), 2),
    ],
)
def test_a_duration_is_read_as_milliseconds(written: Any, ms: int) -> None:
    assert parse_duration_ms(written) == ms


@pytest.mark.parametrize(
    "junk",
    ["", " ", "10", "ten", "h", "-5s", "1h-5m", "30m1h", "1h1h", "1 h x", "1e3s", "1H", "٣s", "1.s", ".5s"],
)
def test_junk_is_refused_with_the_setting_named_and_an_example(junk: str) -> None:
    refuses(junk)


@pytest.mark.parametrize("junk", [True, None, -1, -0.5, float("nan"), float("inf"), timedelta(seconds=-1), [1], b"10s"])
def test_what_is_no_duration_is_refused_as_well(junk: Any) -> None:
    refuses(junk)


def refuses(junk: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^grace: .*1h30m") as caught:
        parse_duration_ms(junk, "grace")
    assert repr(junk) in str(caught.value)


@pytest.mark.parametrize("tiny", ["0.4ms", 0.0001, timedelta(microseconds=1)])
def test_a_duration_that_would_round_to_nothing_is_refused(tiny: Any) -> None:
    with pytest.raises(ConfigurationError, match="less than a millisecond"):
        parse_duration_ms(tiny)


@pytest.mark.parametrize(
    ("ms", "words"),
    [(0, "0ms"), (500, "500ms"), (5_400_000, "1h30m"), (604_800_000, "7d"), (61_001, "1m1s1ms"), (-90_000, "-1m30s")],
)
def test_a_duration_in_words(ms: int, words: str) -> None:
    assert format_duration_ms(ms) == words


@given(st.integers(0, 10**15))
def test_what_is_formatted_reads_back(ms: int) -> None:
    assert parse_duration_ms(format_duration_ms(ms)) == ms


class _Level(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (1_700_000_000_123, 1_700_000_000_123),
        (-5, -5),
        (_Level.ONE, 1),
        (1.5, 1500),
        (1_700_000_000.123, 1_700_000_000_123),
        (datetime(1970, 1, 1, 0, 0, 1), 1000),
        (datetime(1970, 1, 1, 0, 0, 1, 999, tzinfo=UTC), 1000),
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0),
        (datetime(1969, 12, 31, 23, 59, 59, 999_500), -1),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999), 253_402_300_799_999),
    ],
)
def test_an_event_time_is_milliseconds_since_the_epoch(value: Any, ms: int) -> None:
    result = to_epoch_ms(value)
    assert result == ms
    assert type(result) is int


def test_a_datetime_without_a_zone_is_utc_whatever_the_local_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert to_epoch_ms(datetime(2013, 1, 1)) == to_epoch_ms(datetime(2013, 1, 1, tzinfo=UTC)) == 1_356_998_400_000
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("wrong", ["2013-01-01", None, True, date(2013, 1, 1), b"1"])
def test_another_type_is_no_event_time(wrong: Any) -> None:
    with pytest.raises(TypeError, match="return a datetime, an int of milliseconds"):
        to_epoch_ms(wrong)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_nan_is_no_event_time(wrong: float) -> None:
    with pytest.raises(ValueError, match="isn't a point in time"):
        to_epoch_ms(wrong)


@pytest.mark.parametrize("edge", [FIRST_MS, LAST_MS])
def test_the_first_and_the_last_moment_of_a_datetime_are_event_times_and_nothing_beyond(edge: int) -> None:
    class Whole(int):
        """What a library may give in place of an int."""

    beyond = 1 if edge > 0 else -1
    assert to_epoch_ms(edge) == to_epoch_ms(Whole(edge)) == to_epoch_ms(edge / 1000) == edge
    for wrong in (edge + beyond, Whole(edge + beyond), edge / 1000 + beyond, float("inf") * beyond):
        with pytest.raises(ValueError, match="between the years 1 and 9999"):
            to_epoch_ms(wrong)


def test_a_timedelta_is_exact_however_long() -> None:
    assert parse_duration_ms(timedelta(days=999_999_999, milliseconds=1)) == 86_399_999_913_600_001
