"""The shape of a type on the wire, and which edits of it leave what was written readable."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

from streams.dsl.codec import value_codec
from streams.dsl.keys import key_codec
from streams.dsl.schema import compatible, incompatibility


def shape(cls: Any) -> str:
    return value_codec(cls).schema


def made(name: str = "Order", *fields: Any, **options: Any) -> Any:
    return msgspec.defstruct(name, fields, **options)


def test_comments_methods_defaults_and_the_order_of_fields_do_not_show() -> None:
    @dataclass
    class First:
        a: int
        b: str | None = None

    @dataclass
    class Second:
        """With words."""

        b: str | None = "x"  # another default
        a: int = field(kw_only=True)

        def method(self) -> None: ...

    Second.__name__ = Second.__qualname__ = "First"
    assert shape(First) == shape(Second)
    assert value_codec(First).fingerprint == value_codec(Second).fingerprint


def test_a_field_may_be_called_like_a_word_of_json_schema() -> None:
    one, two = made("S", ("title", int), ("default", int)), made("S", ("title", str), ("default", int))
    assert incompatibility(shape(one), shape(two)) == "field 'title' was integer, is string"


BASE = made("Order", ("id", int), ("note", str, ""))


class Tree(msgspec.Struct):
    left: Tree | None = None
    value: int = 0


class Row(TypedDict):
    a: int
    b: NotRequired[int]


class RowMore(Row):
    c: NotRequired[str]


class Point(NamedTuple):
    x: int
    y: int = 0


class Point3(NamedTuple):
    x: int
    y: int = 0
    z: int = 0


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Fewer(Enum):
    RED = "red"


Cat, Dog, Cow = (made(name, ("n", int), tag=True) for name in ("Cat", "Dog", "Cow"))


class Model(pydantic.BaseModel):
    id: int
    note: str = ""


class Grown(msgspec.Struct):
    right: Grown | None = None
    left: Grown | None = None
    value: float = 0


class Changed(msgspec.Struct):
    left: Changed | None = None
    value: str = ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (BASE, BASE),
        (BASE, made("Renamed", ("note", str, "other"), ("id", int), kw_only=True)),
        (BASE, made("Order", ("id", int), ("note", str, ""), ("added", int, 0))),
        (BASE, made("Order", ("id", int))),
        (BASE, made("Order", ("id", int, 0), ("note", str, ""))),
        (BASE, made("Order", ("id", float), ("note", str | None, None))),
        (BASE, dict[str, int | str]),
        (BASE, Model),
        (Model, BASE),
        (BASE, Any),
        (Tree, Grown),
        (Row, RowMore),
        (Cat, Cat | Dog),
        (Cat | Dog, Dog | Cow | Cat),
        (Literal["a"], Literal["a", "b"]),
        (list[Literal["a"]], list[str]),
        (Literal[1], float),
        (Fewer, Colour),
        (list[date], list[str]),
        (list[int], list[float]),
        (tuple[int, str], tuple[float, str]),
        (tuple[int, int], list[int]),
        (Point, Point3),
        (made("A", ("a", int), array_like=True), made("A", ("a", int), ("b", int, 0), array_like=True)),
        (made("A", ("a", int), ("b", int, 0), array_like=True), made("A", ("a", int), array_like=True)),
        (bytes, bytes),
        (str, str),
    ],
    ids=str,
)
def test_what_was_written_is_still_read(old: Any, new: Any) -> None:
    assert incompatibility(shape(old), shape(new)) is None
    assert compatible(shape(old), shape(new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            BASE,
            made("Order", ("id", int), ("note", str, ""), ("x", int), kw_only=True),
            "the value: field 'x' is new and has no default",
        ),
        (BASE, made("Order", ("id", int), ("note", str)), "the value: field 'note' is now required and has no default"),
        (BASE, made("Order", ("id", str), ("note", str, "")), "field 'id' was integer, is string"),
        (made("Order", ("id", float)), made("Order", ("id", int)), "field 'id' was number, is integer"),
        (made("Order", ("id", int | None)), made("Order", ("id", int)), "field 'id' was null, is integer"),
        (
            BASE,
            made("Order", ("id", int), forbid_unknown_fields=True),
            "the value: field 'note' was removed, and unknown fields are forbidden",
        ),
        (dict, BASE, "the value was anything, is object"),
        (Any, int, "the value was anything, is integer"),
        (int, bool, "the value was integer, is boolean"),
        (BASE, list[int], "the value was object, is array"),
        (str, bytes, "was written as utf-8, is read as bytes"),
        (str, int, "was written as utf-8, is read as json"),
        (Cat | Dog, Cat, "field 'type': 'Dog' is no longer allowed"),
        (Colour, Fewer, "the value: 'blue' is no longer allowed"),
        (list[str], list[Literal["a"]], "the value's items was string, is one of 'a'"),
        (list[str], list[date], "the value's items: format was free, is date"),
        (dict[str, int], dict[str, str], "the value's values was integer, is string"),
        (dict[str, Any], dict[str, str], "the value's values was anything, is string"),
        (dict[str, str], made("Order", ("id", int, 0)), "field 'id' was string, is integer"),
        (tuple[int, int], tuple[int], "the value had up to 2 items, takes 1"),
        (tuple[int], tuple[int, int], "the value had 1 items or more, needs 2"),
        (list[int], tuple[int], "the value had 0 items or more, needs 1"),
        (tuple[int, str], list[int], "the value's items was string, is integer"),
        (tuple[int, str], tuple[int, int], "the value's item 1 was string, is integer"),
        (Point3, Point, "the value had up to 3 items, takes 2"),
        (int, Annotated[int, msgspec.Meta(ge=0)], "the value: minimum was free, is 0"),
        (int | str, int, "the value was string, is integer"),
        (
            list[Tree],
            list[Changed],
            "field 'value' was integer, is string",
        ),
    ],
    ids=str,
)
def test_what_can_not_be_read_any_more_is_said_in_words(old: Any, new: Any, words: str) -> None:
    assert incompatibility(shape(old), shape(new)) == words
    assert not compatible(shape(old), shape(new))


def test_the_words_are_true_of_the_codecs() -> None:
    added = made("Order", ("id", int), ("note", str, ""), ("added", int, 7))
    raw = value_codec(BASE).encode(BASE(1, "x"))
    assert value_codec(added).decode(raw) == added(1, "x", 7)
    # And the other way round, which lets workers of both versions run side by side.
    assert compatible(shape(added), shape(BASE))
    assert value_codec(BASE).decode(value_codec(added).encode(added(1, "x", 7))) == BASE(1, "x")


def test_models_inside_of_models_inside_of_dataclasses_are_found() -> None:
    class Leaf(pydantic.BaseModel):
        n: int

    class Branch(pydantic.BaseModel):
        leaves: list[Leaf] = []

    one, two = made("Top", ("branch", Branch)), made("Top", ("branch", Branch), ("more", int, 0))
    assert incompatibility(shape(one), shape(two)) is None
    assert (
        incompatibility(shape(two), shape(made("Top", ("branch", list[Leaf])))) == "field 'branch' was object, is array"
    )


def test_keys_must_stay_byte_for_byte() -> None:
    assert incompatibility(key_codec(int).schema, key_codec(str).schema) == "was written as key:int, is read as key:str"
