"""Keys to bytes and back: equal keys alike on a topic, keys in their order in a store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.dsl.codec import Codec
from streams.dsl.keys import key_codec, ordered_key_codec
from streams.errors import ConfigurationError


class Pair(NamedTuple):
    name: str
    n: int


class Place(msgspec.Struct, frozen=True, order=True):
    zone: str
    row: int


@dataclass(frozen=True, order=True)
class Seat:
    place: Place
    number: int


class Size(StrEnum):
    BIG = "big"


ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5)), None])
TEXT = st.text(max_size=4) | st.text(alphabet="\x00\x01\xffa", max_size=4)
BYTES = st.binary(max_size=4) | st.lists(st.sampled_from(b"\x00\x01\xfe\xff"), max_size=4).map(bytes)
INTS = st.integers(-(2**63), 2**63 - 1)
PLACES = st.builds(Place, TEXT, INTS)
KEYS: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    bytes: BYTES,
    int: INTS,
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    UUID: st.uuids(),
    datetime: st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.just(UTC)),
    date: st.dates(),
    tuple[str, int]: st.tuples(TEXT, INTS),
    tuple[int, str]: st.tuples(INTS, TEXT),
    tuple[str]: st.tuples(TEXT),
    tuple[bytes, str, bytes]: st.tuples(BYTES, TEXT, BYTES),
    tuple[float, bool, date]: st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.dates()),
    tuple[tuple[str, bytes], tuple[bytes, str]]: st.tuples(st.tuples(TEXT, BYTES), st.tuples(BYTES, TEXT)),
    Pair: st.builds(Pair, TEXT, INTS),
    Place: PLACES,
    Seat: st.builds(Seat, PLACES, INTS),
}


@pytest.mark.parametrize("spec", list(KEYS), ids=str)
@pytest.mark.parametrize("make", [key_codec, ordered_key_codec])
def test_a_key_comes_back_as_it_was(make: Any, spec: Any) -> None:
    codec: Codec[Any] = make(spec)

    @given(KEYS[spec])
    def check(key: Any) -> None:
        raw = codec.encode(key)
        assert type(raw) is bytes
        assert codec.decode(raw) == key
        assert type(codec.decode(raw)) is type(key)

    check()


@pytest.mark.parametrize("spec", list(KEYS), ids=str)
def test_stored_keys_sort_like_the_keys(spec: Any) -> None:
    codec = ordered_key_codec(spec)

    @given(KEYS[spec], KEYS[spec])
    def check(a: Any, b: Any) -> None:
        assert (codec.encode(a) < codec.encode(b)) == (a < b)
        assert (codec.encode(a) == codec.encode(b)) == (a == b)

    check()


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        (int, [-(2**63), -1, 0, 1, 2**63 - 1]),
        (float, [-math.inf, -1e300, -1.0, -5e-324, 0.0, 5e-324, 1.0, math.inf]),
        (str, ["", "\x00", "a", "a\x00", "a\x00\x00", "a\x01", "ab", "b", "\uffff", "\U0001f600"]),
        (
            tuple[str, int],
            [("", -1), ("", 2**63 - 1), ("\x00", 0), ("a", -(2**63)), ("a", 5), ("a\x00", 0), ("a\x01", 0)],
        ),
        (
            datetime,
            [datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)],
        ),
    ],
)
def test_the_edges_sort_as_well(spec: Any, keys: list[Any]) -> None:
    codec = ordered_key_codec(spec)
    raw = [codec.encode(key) for key in keys]
    assert sorted(raw) == raw
    assert [codec.decode(item) for item in raw] == keys


@pytest.mark.parametrize(
    ("spec", "key", "raw"),
    [
        (None, "grüße", "grüße".encode()),
        (bytes, b"\x00", b"\x00"),
        (int, -42, b"-42"),
        (int, 10**30, b"1" + b"0" * 30),
        (float, 1.0, b"1.0"),
        (bool, False, b"false"),
        (UUID, UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
        (datetime, datetime(2020, 1, 2, 3, 4, 5, 600, tzinfo=UTC), b"2020-01-02T03:04:05.000600Z"),
        (date, date(2020, 1, 2), b"2020-01-02"),
        (tuple[str, int], ("a", 1), b'["a",1]'),
        (Pair, Pair("a", 1), b'["a",1]'),
        (Seat, Seat(Place("z", 1), 2), b'{"number":2,"place":{"row":1,"zone":"z"}}'),
    ],
)
def test_keys_on_a_topic_are_what_other_programs_expect(spec: Any, key: Any, raw: bytes) -> None:
    assert key_codec(spec).encode(key) == raw
    assert key_codec(spec).decode(raw) == key


@pytest.mark.parametrize("make", [key_codec, ordered_key_codec])
@pytest.mark.parametrize(
    ("spec", "a", "b"),
    [
        (float, 0.0, -0.0),
        (float, 1.0, 1),
        (str, "big", Size.BIG),
        (tuple[str, float], ("big", 2.0), (Size.BIG, 2)),
        (datetime, datetime(2020, 1, 1, 5, tzinfo=timezone(timedelta(hours=5))), datetime(2020, 1, 1, tzinfo=UTC)),
        (datetime, datetime(2020, 1, 1), datetime(2020, 1, 1, tzinfo=UTC)),
        (tuple[datetime], (datetime(2020, 1, 1),), (datetime(2020, 1, 1, tzinfo=UTC),)),
    ],
)
def test_one_key_has_one_form(make: Any, spec: Any, a: Any, b: Any) -> None:
    assert make(spec).encode(a) == make(spec).encode(b)


@pytest.mark.parametrize("make", [key_codec, ordered_key_codec])
@pytest.mark.parametrize(
    ("spec", "name", "wrong"),
    [
        (str, "str", 5),
        (str, "str", b"x"),
        (str, "str", None),
        (bytes, "bytes", "x"),
        (bytes, "bytes", bytearray(b"x")),
        (int, "int", "5"),
        (int, "int", 5.0),
        (int, "int", True),
        (float, "float", "1"),
        (float, "float", True),
        (bool, "bool", 1),
        (UUID, "UUID", "00000000-0000-0000-0000-000000000001"),
        (datetime, "datetime", date(2020, 1, 1)),
        (date, "date", datetime(2020, 1, 1)),
        (tuple[str, int], "tuple[str, int]", ("a",)),
        (tuple[str, int], "tuple[str, int]", ["a", 1]),
        (tuple[str, int], "int", ("a", "1")),
        (Pair, "Pair", ("a", 1)),
        (Place, "Place", Seat(Place("a", 1), 1)),
        (Seat, "int", Seat(Place("a", "1"), 1)),  # type: ignore[arg-type]
    ],
)
def test_a_key_of_another_type_is_refused_before_it_reaches_the_wrong_partition(
    make: Any, spec: Any, name: str, wrong: Any
) -> None:
    with pytest.raises(TypeError) as caught:
        make(spec).encode(wrong)
    assert str(caught.value).startswith(f"key={name}: got ")


def test_what_a_form_can_not_hold_is_refused() -> None:
    for value in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match="out of range"):
            ordered_key_codec(int).encode(value)
    for codec in (key_codec(float), ordered_key_codec(float)):
        with pytest.raises(ValueError, match="not a number"):
            codec.encode(math.nan)
        with pytest.raises(ValueError, match="not exact"):
            codec.encode(2**53 + 1)
    for spec in (float, tuple[float, str]):
        with pytest.raises(ValueError, match="JSON has no word"):
            key_codec(spec).encode(math.inf if spec is float else (math.inf, "a"))
    with pytest.raises(ValueError, match="surrogates"):
        key_codec(str).encode("\ud800")


@pytest.mark.parametrize(
    ("spec", "raw"),
    [
        (int, b"1.5"),
        (int, b"1_000"),
        (int, b""),
        (UUID, b"nonsense"),
        (UUID, b'00000000-0000-0000-0000-000000000001","x'),
        (date, b"2020-13-01"),
        (str, b"\xff"),
        (tuple[str, int], b'["a"]'),
    ],
)
def test_what_is_no_key_of_a_topic_is_not_read(spec: Any, raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^.+"):
        key_codec(spec).decode(raw)


@pytest.mark.parametrize(
    ("spec", "raw"),
    [
        (int, b"1234567"),
        (float, b"123456789"),
        (bool, b"\x02"),
        (date, b"\x01"),
        (UUID, b"x"),
        (tuple[str, int], b"a\x0012345678"),
        (tuple[str, int], b"a\x00\x011234567"),
        (tuple[str, int], b"a\x00\x01123456789"),
        (tuple[date, date], b"\x00\x00\x00\x01\x00\x00\x01"),
    ],
)
def test_what_is_no_key_of_a_store_is_not_read(spec: Any, raw: bytes) -> None:
    with pytest.raises(Exception, match=r"wanted|requires a buffer|no end|not in|16-char"):
        ordered_key_codec(spec).decode(raw)


@dataclass
class Open:
    n: int


class Empty(msgspec.Struct, frozen=True):
    pass


NOT_KEYS: list[Any] = [dict, list[int], Any, tuple, tuple[int, ...], tuple[()], int | None, object, "str", 3, [int]]
NOT_KEYS += [Open, Empty, tuple[str, Open]]


@pytest.mark.parametrize("spec", NOT_KEYS, ids=str)
@pytest.mark.parametrize("make", [key_codec, ordered_key_codec])
def test_what_can_not_be_a_key_is_refused_when_the_app_is_declared(make: Any, spec: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"can't be a key; use str|has no parts"):
        make(spec)


def test_str_is_the_default_and_a_codec_is_taken_as_it_is() -> None:
    assert key_codec() == key_codec(str) == key_codec(None)
    assert ordered_key_codec() == ordered_key_codec(str)
    own: Codec[str] = Codec("own", bytes.decode, str.encode)
    assert key_codec(own) is own
    assert ordered_key_codec(own) is own


def test_the_schemas_of_keys_tell_their_bytes_apart() -> None:
    schemas = [make(spec).schema for spec in KEYS for make in (key_codec, ordered_key_codec)]
    # The same bytes: a NamedTuple of two parts in a store is stored like the tuple, and so is a Struct of them.
    assert (
        ordered_key_codec(Pair).schema == ordered_key_codec(Place).schema == ordered_key_codec(tuple[str, int]).schema
    )
    assert len(set(schemas)) == len(schemas) - 2


def test_a_key_whose_types_can_not_be_looked_up_is_refused() -> None:
    class Local(msgspec.Struct, frozen=True):
        part: Inner

    class Inner(msgspec.Struct, frozen=True):
        n: int

    with pytest.raises(ConfigurationError, match=r"^key=Local: name 'Inner' is not defined; define"):
        key_codec(Local)
