"""Aggregations against plain Python, what they keep, and that nothing they keep is shared or lost."""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Any, NamedTuple, NotRequired, Required, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.dsl import agg
from streams.dsl.agg import Aggregator, Single
from streams.errors import ConfigurationError


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Flight:
    carrier: str
    delay: int | None = None
    distance: float = 0.0
    price: Decimal = Decimal(0)
    airborne: timedelta = timedelta()
    at: datetime = datetime(2013, 1, 1, tzinfo=UTC)
    level: Level = Level.LOW
    stops: tuple[str, ...] = ()

    @property
    def speed(self) -> float:
        return self.distance / 2


class Reading(msgspec.Struct):
    celsius: float


class Pair(NamedTuple):
    a: int
    b: int


class Row(TypedDict):
    user: str
    amount: NotRequired[int]


class Loose(TypedDict, total=False):
    user: Required[str]
    amount: int


class Model(pydantic.BaseModel):
    n: int = 0


FLIGHTS = [Flight("AA", 5), Flight("UA", None), Flight("AA", -3), Flight("DL", 10), Flight("UA", 5)]


def folded(fold: Aggregator | Single[Any], values: list[Any]) -> Any:
    """The result after all values, having gone through the store after each of them."""
    acc = fold.initial()
    for value in values:
        acc = fold.decode(fold.encode(fold.fold(acc, value)))
    return fold.result(acc)


@pytest.mark.parametrize("value", [Flight, Any])
@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        (agg.count(), 5),
        (agg.count("delay"), 4),
        (agg.sum("delay"), 17),
        (agg.min("delay"), -3),
        (agg.max("delay"), 10),
        (agg.mean("delay"), 4.25),
        (agg.first("delay"), 5),
        (agg.last("carrier"), "UA"),
        (agg.collect("delay", limit=3), [5, -3, 10]),
        (agg.count_distinct("delay"), 3),
        (agg.count_distinct("carrier"), 3),
        (agg.sum(lambda f: 2), 10),
        (agg.max(lambda f: f.carrier), "UA"),
        (agg.reduce(lambda acc, f: acc + len(f.carrier), 100), 110),
        (agg.reduce(lambda acc, f: [*acc, f.carrier], list), ["AA", "UA", "AA", "DL", "UA"]),
        (agg.sum("speed"), 0.0),
    ],
    ids=lambda part: part.name if isinstance(part, agg.Aggregation) else "",
)
def test_each_aggregation_alone_and_among_others(aggregation: agg.Aggregation[Any], expected: Any, value: Any) -> None:
    assert folded(Single(aggregation, value), FLIGHTS) == expected
    for others in ({}, {"n": agg.count()}, {"n": agg.count(), "z": agg.max("carrier")}):
        many = folded(Aggregator({"m": aggregation, **others}, value), FLIGHTS)
        assert many["m"] == expected
        assert list(many) == ["m", *others]


@pytest.mark.parametrize(
    ("aggregation", "nothing"),
    [
        (agg.count(), 0),
        (agg.count("x"), 0),
        (agg.sum("x"), 0),
        (agg.min("x"), None),
        (agg.max("x"), None),
        (agg.mean("x"), None),
        (agg.first("x"), None),
        (agg.last("x"), None),
        (agg.collect("x", limit=1), []),
        (agg.count_distinct("x"), 0),
        (agg.reduce(max), None),
        (agg.reduce(max, 7), 7),
    ],
    ids=lambda part: part.name if isinstance(part, agg.Aggregation) else "",
)
def test_of_nothing_and_of_missing_fields_only(aggregation: agg.Aggregation[Any], nothing: Any) -> None:
    single = Single(aggregation)
    assert folded(single, []) == nothing
    if aggregation.field is not None:
        assert folded(single, [{"x": None}, {"x": None}]) == nothing


numbers = st.none() | st.integers(-(2**40), 2**40)


@given(
    st.lists(st.fixed_dictionaries({"x": numbers, "y": numbers})),
    st.permutations(["n", "some", "mean", "low", "high", "sum", "last", "kinds"]),
    st.integers(1, 8),
)
def test_any_set_of_aggregations_agrees_with_plain_python(rows: list[Any], order: list[str], size: int) -> None:
    xs, ys = ([row[name] for row in rows if row[name] is not None] for name in "xy")
    known: dict[str, tuple[agg.Aggregation[Any], Any]] = {
        "n": (agg.count(), len(rows)),
        "some": (agg.count("y"), len(ys)),
        "mean": (agg.mean("x"), sum(xs) / len(xs) if xs else None),
        "low": (agg.min("y"), min(ys, default=None)),
        "high": (agg.max("x"), max(xs, default=None)),
        "sum": (agg.sum(lambda row: row["y"]), sum(ys)),
        "last": (agg.last("x"), xs[-1] if xs else None),
        "kinds": (agg.count_distinct("y"), len(set(ys))),
    }
    names = order[:size]
    assert folded(Aggregator({name: known[name][0] for name in names}), rows) == {
        name: known[name][1] for name in names
    }


def test_objects_and_dicts_of_every_kind_have_fields() -> None:
    fold = Single(agg.sum("a"))
    attribute = type("Thing", (), {"a": 1})()
    assert folded(fold, [{"a": 1}, attribute, Pair(1, 0), OrderedDict(a=1)]) == 4
    # The name of a method of dict is no field of a dict.
    assert folded(Single(agg.last("items")), [{"items": 3}]) == 3


@pytest.mark.parametrize("value", [{"a": 1}, Pair(1, 2), OrderedDict(a=1)])
def test_a_name_that_is_not_there_is_no_missing_value(value: Any) -> None:
    fold = Single(agg.sum("amuont"))
    with pytest.raises((KeyError, AttributeError), match="amuont"):
        fold.fold(fold.initial(), value)


@pytest.mark.parametrize(
    ("value", "fields"),
    [(Flight, "carrier, delay"), (Reading, "celsius"), (Pair, "a, b"), (Row, "user, amount"), (Model, "n")],
)
def test_a_misspelt_field_of_a_known_type_is_refused_when_the_app_is_declared(value: Any, fields: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^max\(dleay\): {value.__name__} has no field 'dleay'; .*{fields}"):
        Single(agg.max("dleay"), value)
    with pytest.raises(ConfigurationError, match="has no field 'dleay'"):
        Aggregator({"n": agg.count(), "m": agg.max("dleay")}, value)
    with pytest.raises(ConfigurationError, match="has no field 'keys'" if value is Row else "has no field"):
        Single(agg.max("keys" if value is Row else "nothing"), value)


@pytest.mark.parametrize("row", [Row, Loose])
def test_an_optional_key_of_a_typed_dict_may_be_absent_and_a_required_one_may_not(row: Any) -> None:
    assert folded(Single(agg.sum("amount"), row), [{"user": "a"}, {"user": "b", "amount": 2}]) == 2
    with pytest.raises(KeyError):
        folded(Single(agg.max("user"), row), [{"amount": 1}])


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        ("price", [Decimal("0.1"), Decimal("0.20")], Decimal("0.30")),
        ("airborne", [timedelta(hours=1), timedelta(hours=2)], timedelta(hours=3)),
    ],
)
def test_exact_and_timed_sums_survive_the_store(field: str, values: list[Any], expected: Any) -> None:
    flights = [Flight("AA", **{field: value}) for value in values]
    assert folded(Single(agg.sum(field), Flight), flights) == expected
    assert folded(Single(agg.sum(lambda f: getattr(f, field), type=type(expected))), flights) == expected
    means = folded(Aggregator({"m": agg.mean(field), "n": agg.count()}, Flight), flights)
    assert means == {"m": expected / 2, "n": 2}


def test_declared_types_come_back_as_they_were() -> None:
    flights = [Flight("AA", level=Level.HIGH, stops=("x", "y"), at=datetime(2013, 1, 2, tzinfo=UTC)), Flight("UA")]
    kept = folded(
        Aggregator(
            {
                "level": agg.max("level"),
                "at": agg.min("at"),
                "stops": agg.first("stops"),
                "whole": agg.last(),
                "all": agg.collect(limit=5),
                "levels": agg.sum("level"),
                "kinds": agg.count_distinct("stops"),
            },
            Flight,
        ),
        flights,
    )
    assert kept == {
        "level": Level.HIGH,
        "at": datetime(2013, 1, 1, tzinfo=UTC),
        "stops": ("x", "y"),
        "whole": flights[1],
        "all": flights,
        "levels": 3,
        "kinds": 2,
    }
    assert type(kept["level"]) is Level
    assert type(kept["stops"]) is tuple


def test_pydantic_models_are_kept_whole() -> None:
    models = [Model(n=1), Model(n=2)]
    assert folded(Single(agg.last(), Model), models) == models[1]
    assert folded(Single(agg.collect(limit=2), Model), models) == models


@pytest.mark.parametrize(
    ("aggregation", "type_"),
    [
        (agg.min(lambda f: (f.distance, f.carrier)), tuple[float, str]),
        (agg.sum(lambda f: Decimal("0.1")), Decimal),
        (agg.mean(lambda f: Decimal("0.1")), Decimal),
        (agg.collect(lambda f: f.at, limit=2), datetime),
        (agg.count_distinct(lambda f: f.at), datetime),
        (agg.last(), Flight),
        (agg.reduce(lambda acc, f: (*acc, f.carrier), tuple), tuple[str, ...]),
    ],
    ids=lambda part: part.name if isinstance(part, agg.Aggregation) else "",
)
def test_what_would_come_back_as_something_else_is_refused_and_names_the_way_out(
    aggregation: agg.Aggregation[Any], type_: Any
) -> None:
    single, named = Single(aggregation), Aggregator({"m": aggregation, "n": agg.count()})
    with pytest.raises(TypeError, match="give its type, as in type=Decimal"):
        single.encode(single.fold(single.initial(), Flight("AA")))
    with pytest.raises(TypeError, match=r"^m="):
        named.encode(named.fold(named.initial(), Flight("AA")))
    typed = Single(dataclasses.replace(aggregation, type=type_))
    acc = typed.fold(typed.initial(), Flight("AA"))
    assert typed.decode(typed.encode(acc)) == acc


def test_a_field_filled_with_another_plain_type_leaves_the_state_readable() -> None:
    wrong = Flight("AA", distance="far")  # type: ignore[arg-type]
    assert folded(Single(agg.last("distance"), Flight), [wrong]) == "far"


def test_folding_never_changes_an_accumulator() -> None:
    fold = Aggregator(
        {
            "all": agg.collect("delay", limit=9),
            "kinds": agg.count_distinct("delay"),
            "mean": agg.mean("delay"),
            "own": agg.reduce(lambda acc, f: [*acc, f.carrier], []),
        }
    )
    accs = [fold.initial()]
    copies = [copy.deepcopy(accs[0])]
    for flight in FLIGHTS:
        accs.append(fold.fold(accs[-1], flight))
        copies.append(copy.deepcopy(accs[-1]))
    assert accs == copies


def test_an_initial_value_is_each_keys_own() -> None:
    def add(acc: list[str], flight: Flight) -> list[str]:
        acc.append(flight.carrier)  # what the contract forbids must not reach another key
        return acc

    initial: Any
    for initial in ([], list):
        single = Single(agg.reduce(add, initial))
        single.fold(single.initial(), FLIGHTS[0])
        assert single.result(single.initial()) == []


def test_a_fold_that_raises_leaves_the_accumulator_as_it_was() -> None:
    fold = Aggregator({"n": agg.count(), "s": agg.sum("x")})
    acc = fold.fold(fold.initial(), {"x": 1})
    with pytest.raises(TypeError):
        fold.fold(acc, {"x": "two"})
    assert fold.result(acc) == {"n": 1, "s": 1}


def test_reduce_without_an_initial_value_begins_with_the_first() -> None:
    assert (
        folded(Single(agg.reduce(lambda best, f: f if f.distance > best.distance else best), Flight), FLIGHTS)
        == FLIGHTS[0]
    )
    assert folded(Single(agg.reduce(lambda a, b: a + b)), [1, 2, 3]) == 6


def test_reduce_takes_the_type_of_a_typed_initial_value() -> None:
    def warmer(acc: Reading, value: dict[str, float]) -> Reading:
        return Reading(max(acc.celsius, value["c"]))

    for initial in (Reading(0.0), lambda: Reading(0.0)):
        fold = Single(agg.reduce(warmer, initial, type=Reading if callable(initial) else None))
        assert folded(fold, [{"c": 3.0}, {"c": 2.0}]) == Reading(3.0)


def test_float_sums_are_plain_additions_in_order() -> None:
    values = [0.1] * 10 + [1e16, 1.0, -1e16]
    total = 0.0
    for value in values:
        total += value
    assert folded(Single(agg.sum("x")), [{"x": value} for value in values]) == total
    assert folded(Single(agg.mean("x")), [{"x": value} for value in values]) == total / len(values)


def test_the_sum_of_bools_is_a_number() -> None:
    for values in ([True], [True, True, False]):
        total = folded(Single(agg.sum("ok")), [{"ok": value} for value in values])
        assert type(total) is int
        assert total == sum(values)


def test_an_exact_count_of_distinct_values_has_a_limit() -> None:
    fold = Single(agg.count_distinct("x", limit=2))
    acc = fold.fold(fold.fold(fold.initial(), {"x": 1}), {"x": 2})
    assert fold.fold(acc, {"x": 1}) is acc
    with pytest.raises(ValueError, match="more than 2 values"):
        fold.fold(acc, {"x": 3})


def test_the_same_set_has_the_same_bytes_whatever_the_order_and_the_kinds() -> None:
    fold = Single(agg.count_distinct("x"))

    def stored(values: list[Any]) -> bytes:
        acc = fold.initial()
        for value in values:
            acc = fold.fold(acc, {"x": value})
        return fold.encode(acc)

    values: list[Any] = [3, "a", 1.5, "b", b"z", 2]
    assert stored(values) == stored(values[::-1])
    assert len(fold.decode(stored(values))) == 6


def test_the_order_in_the_code_shows_in_the_result_and_not_in_the_store() -> None:
    one = Aggregator({"b": agg.count(), "a": agg.sum("x")})
    two = Aggregator({"a": agg.sum("x"), "b": agg.count()})
    assert one.name == two.name == "a=sum(x), b=count()"
    acc = one.fold(one.initial(), {"x": 5})
    assert list(one.result(acc).items()) == [("b", 1), ("a", 5)]
    assert list(two.result(two.decode(one.encode(acc))).items()) == [("a", 5), ("b", 1)]


def test_names_tell_what_is_kept() -> None:
    def price(_: Any) -> int:
        return 1

    assert Single(agg.count()).name == "count()"
    assert agg.sum(price).name == "sum(price)"
    assert agg.collect("x", limit=3).name == "collect(x, limit=3)"
    assert agg.count_distinct("x").name == "count_distinct(x, limit=10000)"
    assert agg.reduce(price).name == "reduce(price)"  # type: ignore[arg-type]


def test_a_plain_count_says_so() -> None:
    assert Single(agg.count()).counts
    assert not Single(agg.count("x")).counts


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "at least one"),
        ({"n": agg.count}, r"n=agg\.count: call it: n=agg\.count\(…\)"),
        ({"n": len}, "n=<built-in function len> is no aggregation"),
        ({"n": 5}, "n=5 is no aggregation"),
    ],
)
def test_what_is_no_aggregation_is_refused(wrong: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Aggregator(wrong)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, None])
def test_a_limit_is_a_number_of_values(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="give 1 or more"):
        agg.collect("x", limit=limit)
    with pytest.raises(ConfigurationError, match="give 1 or more"):
        agg.count_distinct("x", limit=limit)


def test_reduce_wants_a_function() -> None:
    with pytest.raises(ConfigurationError, match="pass a function"):
        agg.reduce(3)  # type: ignore[arg-type]


def test_one_aggregation_by_hand() -> None:
    mean = agg.mean("x")
    assert mean.result(mean.add(mean.add(mean.initial(), {"x": 1}), {"x": 2})) == 1.5


def test_a_class_whose_annotations_can_not_be_looked_up_is_asked_at_run_time() -> None:
    class Hidden(msgspec.Struct):
        x: Local

    class Local(msgspec.Struct):
        pass

    assert folded(Single(agg.count("x"), Hidden), [Hidden(Local())]) == 1


def test_an_accumulator_type_that_can_not_be_read_is_refused_when_the_app_is_declared() -> None:
    with pytest.raises(ConfigurationError, match=r"^last\(x\): its accumulator can't be kept as"):
        Single(agg.last("x", type=int | Model))
