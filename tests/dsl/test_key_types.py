"""What may be a key, value by value: one representation for equal ones, and errors that name what was given."""

from __future__ import annotations

import time
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest

from streams.dsl.key_types import EXACT, any_float, in_utc, leaves, parts_of, type_name
from streams.errors import ConfigurationError


@dataclass(frozen=True)
class Single:
    name: str


@dataclass(frozen=True)
class Pair:
    name: str
    number: int


class Frozen(msgspec.Struct, frozen=True):
    name: str


class Point(NamedTuple):
    x: int
    y: int


class Name(str):
    __slots__ = ()


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local time of this process is nine hours ahead."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("spec", EXACT, ids=type_name)
def test_a_value_of_another_type_is_refused_by_name_with_what_it_is(spec: Any) -> None:
    for value in (["x"], None):
        with pytest.raises(TypeError) as raised:
            EXACT[spec](value)
        assert str(raised.value).startswith(f"key={spec.__name__}: got {type(value).__name__} {value!r}; ")


@pytest.mark.parametrize(
    ("spec", "value"),
    [(int, True), (float, True), (bool, 1), (date, datetime(2026, 1, 2)), (datetime, date(2026, 1, 2)), (UUID, "7")],
)
def test_what_python_takes_for_the_same_is_no_key_of_that_type(spec: Any, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"key={spec.__name__}: got {type(value).__name__} "):
        EXACT[spec](value)


def test_equal_keys_have_one_representation(tokyo: None) -> None:
    instant = datetime(2026, 1, 2, 3, tzinfo=UTC)
    for same in (
        instant,
        datetime(2026, 1, 2, 3),
        instant.astimezone(timezone(timedelta(hours=5))),
        instant.astimezone(),
    ):
        found = in_utc(same)
        assert (found, found.tzinfo) == (instant, UTC)
    assert type(EXACT[str](Name("a"))) is str
    assert str(any_float(-0.0)) == "0.0"
    assert type(any_float(3)) is float
    assert any_float(float("inf")) == float("inf")


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "not a number"), (2**53 + 1, "not exact"), (float("-inf"), "no word")]
)
def test_a_number_that_can_not_be_told_again_is_no_key(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EXACT[float](value)


@pytest.mark.parametrize(
    ("spec", "value", "parts", "types"),
    [
        (Single, Single("ab"), ("ab",), [str]),
        (Frozen, Frozen("ab"), ("ab",), [str]),
        (Pair, Pair("ab", 1), ("ab", 1), [str, int]),
        (Point, Point(1, 2), (1, 2), [int, int]),
        (tuple[int, str], (1, "a"), (1, "a"), [int, str]),
        (tuple[int, Single], (1, Single("a")), (1, Single("a")), [int, str]),
    ],
)
def test_a_composite_key_is_taken_apart_and_put_together(spec: Any, value: Any, parts: Any, types: Any) -> None:
    _, take, build = parts_of(spec)
    assert tuple(take(value)) == parts
    assert build(list(parts)) == value
    assert leaves(spec) == types
    for other in ("ab", ("a", "b", "c"), None):
        with pytest.raises(TypeError) as raised:
            take(other)
        assert str(raised.value).startswith(f"key={type_name(spec)}: got {type(other).__name__} {other!r}; ")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (tuple[int, ...], r"key=tuple\[int, \.\.\.\]: can't be a key"),
        (list[int], r"key=list\[int\]: can't be a key"),
        (tuple[int, list[int]], r"key=list\[int\]: can't be a key"),
        (namedtuple("Bare", ["x"]), r"key=(typing\.)?Any: can't be a key"),
        (namedtuple("Empty", []), "key=Empty: has no parts"),
        (tuple[()], "has no parts"),
    ],
)
def test_what_can_not_be_a_key_is_refused_by_the_type_that_is_wrong(spec: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parts_of(spec)
