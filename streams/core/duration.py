"""Durations and event times as whole milliseconds.

What must live here: reading what users write ("10m", 0.5, timedelta, datetime) into integers, and back into
words.  What must not: a clock.  Inside the project every duration and every timestamp is an int of milliseconds.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from streams.errors import ConfigurationError

__all__ = ["Duration", "format_duration_ms", "parse_duration_ms", "to_epoch_ms"]

Duration = str | float | timedelta
"""What users may write: "10m", "1h30m", "500ms", a number of seconds (int or float), or a timedelta."""

_UNITS_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_NUMBER = r"(\d{1,15}(?:\.\d{1,15})?)"
# Units in falling order, each once: "30m1h" and "1h1h" are slips of the pen more often than wishes.
_TEXT = re.compile("".join(rf"(?:{_NUMBER}\s*{unit}\s*)?" for unit in _UNITS_MS), re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration_ms(value: Duration, what: str = "duration") -> int:
    """The duration in whole milliseconds, rounded to the nearest; zero is allowed.

    A str needs units (w, d, h, m, s, ms), larger ones first: "1h30m", "1.5h", "7d".  An int or float is a number
    of *seconds*.  ``what`` names the setting in the error.  Raises ``ConfigurationError`` for anything else: junk,
    a text without unit, negative, not finite, or above zero but less than half a millisecond.
    """
    exact = _exact_ms(value)
    if exact is None:
        raise ConfigurationError(
            f"{what}: {value!r} isn't a duration; write it like '500ms', '10s', '1h30m' or '7d', "
            f"as a number of seconds, or as a timedelta, not negative"
        )
    ms = round(exact)
    if ms == 0 and exact:
        raise ConfigurationError(f"{what}: {value!r} is less than a millisecond, the smallest unit; give '1ms' or more")
    return ms


def _exact_ms(value: object) -> Decimal | None:
    """Milliseconds before rounding; None when ``value`` isn't a duration."""
    if isinstance(value, str):
        text = value.strip()
        match = _TEXT.fullmatch(text) if text else None
        if match is None:
            return None
        return sum((Decimal(n) * ms for n, ms in zip(match.groups(), _UNITS_MS.values()) if n), Decimal())
    if isinstance(value, timedelta):
        exact = Decimal(value // timedelta(microseconds=1)) / 1000
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        # By way of its text: Decimal(0.1) would carry the float's binary digits into the rounding.
        exact = Decimal(str(value)) * 1000
    else:
        return None
    return exact if exact >= 0 else None


def format_duration_ms(ms: int) -> str:
    """In words that ``parse_duration_ms`` reads back: "1h30m", "500ms", "7d".  Negative ones get a minus."""
    if ms < 0:
        return "-" + format_duration_ms(-ms)
    parts = []
    for unit, size in _UNITS_MS.items():
        if unit == "w":
            continue  # "7d" and "14d" are how the field writes weeks
        amount, ms = divmod(ms, size)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0ms"


FIRST_MS = -62_135_596_800_000
"""The first millisecond of the year 1: what a datetime can tell."""
LAST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""


def to_epoch_ms(value: datetime | int | float) -> int:
    """An event time as milliseconds since 1970 in UTC; called once per record with what an extractor returned.

    An int is taken as milliseconds, a float as seconds (what ``time.time()`` gives), rounded to the nearest
    millisecond.  A datetime without a zone is UTC; parts of a millisecond are cut off.  Raises ``TypeError`` for
    another type and ``ValueError`` for NaN, infinities and what lies outside of the years 1 to 9999 (microseconds taken
    for milliseconds, for one): all are faults of the record, not of the configuration.
    """
    if type(value) is int and FIRST_MS <= value <= LAST_MS:
        return value
    if isinstance(value, datetime):
        since = (value if value.tzinfo is not None else value.replace(tzinfo=UTC)) - _EPOCH
        return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000
    if isinstance(value, float):
        if math.isfinite(value) and FIRST_MS <= value * 1000 <= LAST_MS:
            return round(value * 1000)
        raise ValueError(f"timestamp: {value!r} s isn't a point in time between the years 1 and 9999")
    if isinstance(value, int) and not isinstance(value, bool):
        if FIRST_MS <= value <= LAST_MS:
            return int(value)
        # Windows and the watermark would follow it to the end of time, and every later record would be late.
        raise ValueError(f"timestamp: {value} ms isn't a point in time between the years 1 and 9999")
    raise TypeError(
        f"timestamp: got {type(value).__name__} {value!r}; return a datetime, an int of milliseconds "
        f"or a float of seconds since the epoch"
    )
