"""Values to bytes and back, by the table in ``streams.dsl.codec``."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import uuid
import warnings
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from typing import Any, Literal, NamedTuple, TypedDict

import msgspec
import orjson
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.mapping import FAILED, decode_batch
from streams.dsl.codec import Codec, json_codec, type_fingerprint, value_codec
from streams.errors import ConfigurationError


class Colour(Enum):
    RED = "red"


REF = uuid.UUID(int=1)


@dataclass
class Order:
    id: int
    price: Decimal = Decimal("0.10")
    at: datetime = datetime(2020, 1, 1, tzinfo=UTC)
    day: date = date(2020, 1, 1)
    took: timedelta = timedelta(seconds=90)
    ref: uuid.UUID = REF
    colour: Colour = Colour.RED
    blob: bytes = b"\x00\xff"
    tags: list[str] = field(default_factory=list)
    note: str | None = None

    def __post_init__(self) -> None:
        if self.id < 0:
            raise ValueError("negative id")


class Deposited(msgspec.Struct, tag=True):
    amount: int


class Withdrawn(msgspec.Struct, tag=True):
    amount: int


class Row(TypedDict):
    user: str


class Point(NamedTuple):
    x: int
    y: int = 0


class Inner(pydantic.BaseModel):
    n: int


class Model(pydantic.BaseModel):
    user_id: int = pydantic.Field(alias="userId", ge=0)
    inner: Inner | None = None


@pydantic.dataclasses.dataclass
class Checked:
    n: int = pydantic.Field(ge=0)


@dataclass
class Mixed:
    model: Model
    many: list[Inner] = field(default_factory=list)


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and self.degrees == other.degrees

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("spec", "value", "raw"),
    [
        (None, {"a": [1, None, "x"]}, b'{"a":[1,null,"x"]}'),
        (dict, {"a": 1}, b'{"a":1}'),
        (Any, [1.5], b"[1.5]"),
        (bytes, b"\x00\xff", b"\x00\xff"),
        (str, "grüße", "grüße".encode()),
        (int, 2**70, b"1180591620717411303424"),
        (float, 1.5, b"1.5"),
        (bool, True, b"true"),
        (Deposited, Deposited(3), b'{"type":"Deposited","amount":3}'),
        (Deposited | Withdrawn, Withdrawn(3), b'{"type":"Withdrawn","amount":3}'),
        (Row, {"user": "a"}, b'{"user":"a"}'),
        (Point, Point(1), b"[1,0]"),
        (list[Point], [Point(1, 2)], b"[[1,2]]"),
        (Row | None, None, b"null"),
        (dict[str, int], {"a": 1}, b'{"a":1}'),
        (tuple[int, str], (1, "a"), b'[1,"a"]'),
        (Literal["a", "b"], "b", b'"b"'),
        (Colour, Colour.RED, b'"red"'),
        (Model, Model(userId=1), b'{"userId":1,"inner":null}'),
        (list[Model], [Model(userId=1, inner=Inner(n=2))], b'[{"userId":1,"inner":{"n":2}}]'),
        (Model | None, None, b"null"),
        (Checked, Checked(1), b'{"n":1}'),
        (Mixed, Mixed(Model(userId=1), [Inner(n=2)]), b'{"model":{"userId":1,"inner":null},"many":[{"n":2}]}'),
    ],
    ids=str,
)
def test_a_value_goes_to_bytes_and_comes_back(spec: Any, value: Any, raw: bytes) -> None:
    codec = value_codec(spec)
    assert codec.encode(value) == raw
    assert codec.decode(raw) == value
    assert type(codec.decode(raw)) is type(value)
    assert type(codec.encode(value)) is bytes


def test_a_dataclass_carries_every_common_type() -> None:
    codec = value_codec(Order)
    order = Order(1, tags=["x"])
    assert codec.decode(codec.encode(order)) == order
    assert orjson.loads(codec.encode(order)) == {
        "id": 1,
        "price": "0.10",
        "at": "2020-01-01T00:00:00Z",
        "day": "2020-01-01",
        "took": "PT90S",
        "ref": "00000000-0000-0000-0000-000000000001",
        "colour": "red",
        "blob": "AP8=",
        "tags": ["x"],
        "note": None,
    }


@pytest.mark.parametrize(
    ("spec", "raw", "words"),
    [
        (None, b"{", "unexpected end"),
        (str, b"\xff", "utf-8"),
        (int, b"1.5", "Expected `int`, got `float`"),
        (bool, b"1", "Expected `bool`, got `int`"),
        (Order, b'{"id":"x"}', r"Expected `int`, got `str` - at `\$.id`"),
        (Order, b"{}", "missing required field `id`"),
        (Order, b'{"id":-1}', "negative id"),
        (Deposited | Withdrawn, b'{"type":"Stolen"}', "Invalid value 'Stolen'"),
        (Model, b'{"userId":-1}', "greater than or equal to 0"),
        (Checked, b'{"n":-1}', "greater than or equal to 0"),
        (Mixed, b'{"model":{"userId":-1}}', r"greater than or equal to 0(.|\n)*at `\$.model`"),
    ],
)
def test_bytes_of_another_type_are_refused(spec: Any, raw: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        value_codec(spec).decode(raw)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (None, object()),
        (Order, Celsius(3)),
        (bytes, "text"),
        (bytes, 5),
        (str, b"bytes"),
        (str, None),
        (Model, {"userId": 1}),
        (Model, Inner(n=1)),
    ],
)
def test_what_can_not_be_written_is_a_type_error_that_names_it(spec: Any, value: Any) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        value_codec(spec).encode(value)


def test_the_bytes_codec_gives_bytes_whatever_holds_them() -> None:
    assert value_codec(bytes).encode(bytearray(b"x")) == b"x"  # type: ignore[arg-type]
    assert type(value_codec(bytes).encode(memoryview(b"x"))) is bytes  # type: ignore[arg-type]


def test_a_pydantic_model_inside_another_type_is_written_as_its_own_json() -> None:
    class Host(pydantic.BaseModel):
        address: IPv4Address
        up: timedelta = timedelta(seconds=90)

    codec = value_codec(list[Model] | dict[str, Host])
    assert codec.encode({"a": Host(address=IPv4Address("10.0.0.1"))}) == b'{"a":{"address":"10.0.0.1","up":"PT1M30S"}}'
    assert (
        value_codec(None).encode([Host(address=IPv4Address("10.0.0.1"))]) == b'[{"address":"10.0.0.1","up":"PT1M30S"}]'
    )


def test_what_a_pydantic_type_can_not_hold_is_refused_with_the_type_as_it_was_declared() -> None:
    for codec in (value_codec(Model), value_codec(list[Model])):
        assert codec.name == "json"
    with pytest.raises(TypeError, match=r"^value=Model: got dict {}"):
        value_codec(Model).encode({})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^value=list\[.*Model\]: .*Expected `Model`"):
        value_codec(list[Model]).encode([5])  # type: ignore[list-item]


def test_nan_is_written_as_null_and_only_read_where_null_is_allowed() -> None:
    raw = value_codec(list[float]).encode([float("nan"), float("inf")])
    assert raw == b"[null,null]"
    assert value_codec(list[float | None]).decode(raw) == [None, None]
    with pytest.raises(ValueError, match="Expected `float`, got `null`"):
        value_codec(list[float]).decode(raw)


NOT_READABLE = [Celsius, list[Celsius], int | Celsius, 5, "Order", [int], pytest.param(object(), id="object"), print]


@pytest.mark.parametrize("spec", NOT_READABLE, ids=str)
def test_what_json_can_not_be_read_into_is_refused_when_the_app_is_declared(spec: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"can't be read from JSON: .*use a dataclass"):
        value_codec(spec)


def test_a_codec_is_taken_as_it_is() -> None:
    codec: Codec[str] = Codec("rot13", decode=lambda raw: raw.decode("rot13"), encode=lambda text: text.encode())
    assert value_codec(codec) is codec
    assert codec.fingerprint.startswith("rot13:")
    assert codec == Codec("rot13", decode=bytes.decode, encode=str.encode)


def test_types_of_ones_own_go_by_hooks() -> None:
    @dataclass
    class Reading:
        value: Celsius
        model: Inner

    def decode(cls: type, plain: Any) -> Any:
        if cls is not Celsius:
            raise NotImplementedError
        return Celsius(plain)

    def encode(value: Any) -> Any:
        if not isinstance(value, Celsius):
            raise NotImplementedError
        return value.degrees

    module = sys.modules[__name__]
    Reading.__annotations__ = {"value": Celsius, "model": Inner}
    assert module
    codec = json_codec(Reading, dec_hook=decode, enc_hook=encode)
    reading = Reading(Celsius(1.5), Inner(n=1))
    assert codec.encode(reading) == b'{"value":1.5,"model":{"n":1}}'
    assert codec.decode(codec.encode(reading)) == reading
    with pytest.raises(TypeError, match="a object can't be written"):
        codec.encode(object())
    assert "Celsius" in codec.schema


def test_a_class_that_neither_hook_handles_fails_the_record() -> None:
    def decode(cls: type, plain: Any) -> Any:
        raise NotImplementedError

    with pytest.raises(ValueError, match="a Celsius can't be read"):
        json_codec(list[Celsius], dec_hook=decode).decode(b"[1]")


def test_fingerprints_tell_wire_forms_apart() -> None:
    specs: list[Any] = [None, bytes, str, int, float, Order, Deposited, Deposited | Withdrawn, Row, Point, Model]
    assert len({type_fingerprint(spec) for spec in specs}) == len(specs)
    assert type_fingerprint(Any) == type_fingerprint(dict) == type_fingerprint(None)
    assert type_fingerprint(Order) == "json:" + type_fingerprint(Order).partition(":")[2]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_untyped_json_round_trips(value: Any) -> None:
    codec = value_codec(None)
    assert codec.decode(codec.encode(value)) == value


@given(st.lists(st.sampled_from([b'{"id":1}', b'{"id":', b"", b'{"id":-1}', None])))
def test_bad_records_and_tombstones_leave_the_rest_of_a_typed_batch_alone(raw: list[bytes | None]) -> None:
    expected = [Order(1) if item == b'{"id":1}' else None if item is None else FAILED for item in raw]
    results, failures = decode_batch(value_codec(Order).decode, raw)
    assert results == expected
    assert [index for index, _ in failures] == [index for index, value in enumerate(expected) if value is FAILED]
    assert all(isinstance(error, ValueError) for _, error in failures)


def test_pydantic_is_not_imported_unless_a_type_is_made_with_it() -> None:
    program = """
        import sys, dataclasses
        from streams.dsl import agg, keys
        from streams.dsl.codec import value_codec

        @dataclasses.dataclass
        class Order:
            id: int

        codec = value_codec(list[Order])
        assert codec.decode(codec.encode([Order(1)])) == [Order(1)]
        assert "pydantic" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


class Host(pydantic.BaseModel):
    ip: IPv4Address
    port: int = 1


class Rack(TypedDict):
    top: Host


def test_a_dict_with_named_fields_may_hold_a_pydantic_model() -> None:
    codec = value_codec(Rack)
    rack: Rack = {"top": Host(ip=IPv4Address("10.0.0.1"))}
    assert codec.decode(codec.encode(rack)) == rack
    assert codec.name == "json"


def test_a_value_of_another_type_inside_a_pydantic_model_is_refused_whatever_is_done_with_warnings() -> None:
    wrong = Host.model_construct(ip=IPv4Address("10.0.0.1"), port="one")  # what is wrong here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TypeError, match="Host"):
            value_codec(Host).encode(wrong)
