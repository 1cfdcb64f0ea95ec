"""Aggregations of a stream as one function per record.

What must live here: the description of an aggregation; combining several into one closure; reading fields; packing
accumulators.  What must not: the aggregations themselves (``dsl.agg``), keys, windows, state.

    initial() ─▶ acc ── fold(acc, value) ─▶ acc … ── result(acc) ─▶ what the user sees
                  └── encode(acc) ─▶ bytes in the store and the changelog ── decode ─▶ acc

An accumulator is never changed, each fold returns another: what is cached, shown downstream or thrown away with a
failed commit can share it, and a fold that raises leaves it as it was.  It is made of None, ints, floats, tuples,
frozensets and the user's own values, and is stored in MessagePack.

Closures are composed, not compiled: up to three aggregations have a hand-written fold, more are folds of folds.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Generic, Literal, NotRequired, Required, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from streams.dsl.codec import dec_hook, enc_hook
from streams.errors import ConfigurationError

__all__ = ["Acc", "Aggregation", "Aggregator", "Field", "Fold", "Single"]

R = TypeVar("R")
Acc = Any
Field = str | Callable[[Any], Any]
Fold = Callable[[Acc, Any], Acc]


def same(value: Any) -> Any:
    """The field of an aggregation of whole values, and the result of one that shows its accumulator."""
    return value


@dataclass(frozen=True, slots=True)
class Aggregation(Generic[R]):
    """One aggregation, described; the functions of ``streams.agg`` make them.  Nothing in it is ever changed.

    name: fingerprint text, stable under edits elsewhere: "mean(delay)".
    initial: the accumulator of no records.
    step: (accumulator, field) to accumulator; called once per record, None included.
    result: what the user sees of an accumulator.
    field: a name, a callable, or None for the value itself.
    kept: given the type of the field (Any where it isn't known), the type of the accumulator.
    type: the type of the field where the user said so, else None.
    needs_field: False when ``step`` doesn't look at its second argument.
    holds: where user values are in an accumulator: it is one (or None), it is a pair whose first is one (or None), it
        is a tuple or frozenset of them, or there are none.
    """

    name: str
    initial: Callable[[], Acc]
    step: Fold
    result: Callable[[Acc], R]
    field: Field | None = None
    kept: Callable[[Any], Any] = same
    type: Any = None
    needs_field: bool = True
    holds: Literal["one", "pair", "each", "none"] = "one"

    def add(self, acc: Acc, value: Any) -> Acc:
        """One record more.  The engine uses ``Aggregator.fold``, which does this for all of a stream at once."""
        return self.step(acc, getter(self.field, Any, self.name)(value))


class Aggregator:
    """Named aggregations as one: ``fold`` is a closure for exactly this set, ``result`` is a dict by name.

    ``value`` is the type of the values where it is known.  Building it raises ``ConfigurationError`` for what is no
    aggregation and for a field that the type doesn't have.

        initial() -> acc; fold(acc, value) -> acc; result(acc) -> dict
        encode(acc) -> bytes; decode(bytes) -> acc

    An acc is a tuple with a place for each aggregation, in the order of their names, so that reordering them in the
    code changes nothing that is stored.  ``encode`` raises TypeError naming the aggregation whose accumulator isn't
    plain and has no type.
    """

    __slots__ = ("decode", "encode", "fold", "in_window", "initial", "name", "result")

    counts = False

    name: str
    initial: Callable[[], Acc]
    fold: Fold
    result: Callable[[Acc], dict[str, Any]]
    in_window: Callable[[Acc, int, int], dict[str, Any]]
    encode: Callable[[Acc], bytes]
    decode: Callable[[bytes], Acc]

    def __init__(self, aggregations: Mapping[str, Aggregation[Any]], value: Any = Any) -> None:
        if not aggregations:
            raise ConfigurationError("aggregate() needs at least one aggregation, as in aggregate(n=agg.count())")
        for name, aggregation in aggregations.items():
            _checked(aggregation, f"{name}=")
        stored = sorted(aggregations)
        parts = [aggregations[name] for name in stored]
        initials = [part.initial for part in parts]
        # The order of the code for those who look, of the names for what is stored.
        template: dict[str, Any] = dict.fromkeys(aggregations)
        finish = [(name, part.result) for name, part in aggregations.items() if part.result is not same]

        def result(acc: Acc) -> dict[str, Any]:
            out = template.copy()
            for name, part in zip(stored, acc):
                out[name] = part
            for name, last_step in finish:
                out[name] = last_step(out[name])
            return out

        self.name = ", ".join(f"{name}={aggregations[name].name}" for name in stored)
        self.initial = lambda: tuple([make() for make in initials])
        self.fold = _fold(parts, value)
        self.result = result
        self.in_window = _in_window(stored, result, plain=not finish and stored == list(aggregations))
        checks = [_check(f"{name}=", part, value) for name, part in zip(stored, parts)]
        checked = [(place, check) for place, check in enumerate(checks) if check is not None]
        sets = [place for place, part in enumerate(parts) if part.initial is frozenset]

        def encode(acc: Acc) -> bytes:
            for place, check in checked:
                check(acc[place])
            if sets:
                acc = list(acc)
                for place in sets:
                    acc[place] = _in_order(acc[place])
            return _pack(acc)

        self.encode = encode if checked or sets else _pack
        self.decode = _unpack(tuple.__class_getitem__(tuple(_kept(part, value) for part in parts)), self.name)


def with_window(result: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    """A result with the bounds of its window, in ms."""
    result["window_start"] = start
    result["window_end"] = end
    return result


def _in_window(
    stored: list[str], result: Callable[[Acc], dict[str, Any]], *, plain: bool
) -> Callable[[Acc, int, int], dict[str, Any]]:
    """From the accumulator of a window to what it emits; ``plain``: the parts are results as they are, in order."""
    if not plain:
        return lambda acc, start, end: with_window(result(acc), start, end)
    names = (*stored, "window_start", "window_end")
    return lambda acc, start, end: dict(zip(names, (*acc, start, end)))


class Single(Generic[R]):
    """One aggregation without a name: like ``Aggregator``, but acc and result are bare.  ``counts`` tells that it is
    ``count()``, so that n records of a key may be added to an acc as ``acc + n``."""

    __slots__ = ("counts", "decode", "encode", "fold", "initial", "name", "result")

    name: str
    counts: bool
    initial: Callable[[], Acc]
    fold: Fold
    result: Callable[[Acc], R]
    encode: Callable[[Acc], bytes]
    decode: Callable[[bytes], Acc]

    def __init__(self, aggregation: Aggregation[R], value: Any = Any) -> None:
        _checked(aggregation, "")
        step, get = aggregation.step, getter(aggregation.field, value, aggregation.name)
        self.name = aggregation.name
        self.counts = not aggregation.needs_field
        self.initial = aggregation.initial
        self.fold = step if aggregation.field is None else lambda acc, record: step(acc, get(record))
        self.result = aggregation.result
        check = _check("", aggregation, value)

        def encode(acc: Acc) -> bytes:
            if check is not None:
                check(acc)
            return _pack(_in_order(acc) if is_set else acc)

        is_set = aggregation.initial is frozenset
        self.encode = encode if is_set or check is not None else _pack
        self.decode = _unpack(_kept(aggregation, value), self.name)


def _checked(aggregation: Any, where: str) -> Aggregation[Any]:
    if isinstance(aggregation, Aggregation):
        return aggregation
    if getattr(aggregation, "__module__", None) == "streams.dsl.agg":
        raise ConfigurationError(f"{where}agg.{aggregation.__name__}: call it: {where}agg.{aggregation.__name__}(…)")
    raise ConfigurationError(f"{where}{aggregation!r:.80} is no aggregation; write {where}agg.count() or the like")


def _fold(parts: list[Aggregation[Any]], value: Any) -> Fold:
    """A tuple of accumulators and a value to the next tuple."""
    if len(parts) > 3:
        half = len(parts) // 2
        left, right = _fold(parts[:half], value), _fold(parts[half:], value)
        return lambda acc, record: left(acc[:half], record) + right(acc[half:], record)
    fields = {part.field for part in parts if part.needs_field}
    if len(fields) > 1:
        return _fold_own(parts, value)
    get = getter(fields.pop() if fields else None, value, parts[0].name)
    step, *steps = [part.step for part in parts]
    if not steps:
        if not parts[0].needs_field:
            return lambda acc, record: (step(acc[0], None),)
        return lambda acc, record: (step(acc[0], get(record)),)
    step_b, *steps = steps
    if not steps:

        def fold_two(acc: Acc, record: Any) -> Acc:
            a, b = acc
            field = get(record)
            return step(a, field), step_b(b, field)

        return fold_two
    (step_c,) = steps

    def fold_three(acc: Acc, record: Any) -> Acc:
        a, b, c = acc
        field = get(record)
        return step(a, field), step_b(b, field), step_c(c, field)

    return fold_three


def _fold_own(parts: list[Aggregation[Any]], value: Any) -> Fold:
    """Two or three that look at different fields."""
    # What needs no field gets what costs least.
    gets = [getter(part.field, value, part.name) if part.needs_field else id for part in parts]
    get, get_b, *gets = gets
    step, step_b, *steps = [part.step for part in parts]
    if not steps:

        def fold_two(acc: Acc, record: Any) -> Acc:
            a, b = acc
            return step(a, get(record)), step_b(b, get_b(record))

        return fold_two
    (step_c,), (get_c,) = steps, gets

    def fold_three(acc: Acc, record: Any) -> Acc:
        a, b, c = acc
        return step(a, get(record)), step_b(b, get_b(record)), step_c(c, get_c(record))

    return fold_three


# ── Fields and their types ──────────────────────────────────────────────────────────────────────────────────────────


def getter(field: Field | None, value: Any, aggregation: str) -> Callable[[Any], Any]:
    """Reads the field of a record of type ``value``; None as a field is the record itself."""
    if field is None:
        return same
    if not isinstance(field, str):
        return field
    hints = _fields_of(value)
    if hints is None:
        return _by_name(field)
    if field not in hints and (issubclass(value, dict) or not hasattr(value, field)):
        raise ConfigurationError(
            f"{aggregation}: {value.__name__} has no field {field!r}; it has: {', '.join(hints) or 'none'}"
        )
    # One C function where the type is known, half the time of asking each value what it is.
    if not issubclass(value, dict):
        return operator.attrgetter(field)
    return operator.methodcaller("get", field) if _may_be_absent(value, field) else operator.itemgetter(field)


def _may_be_absent(value: Any, field: str) -> bool:
    # With postponed annotations __optional_keys__ doesn't see NotRequired and Required, only total=False.
    mark = get_origin(get_type_hints(value, include_extras=True)[field])
    return mark is NotRequired or (mark is not Required and field in value.__optional_keys__)


def _by_name(name: str) -> Callable[[Any], Any]:
    def get(value: Any) -> Any:
        if type(value) is dict:
            return value[name]
        try:
            return getattr(value, name)
        except AttributeError:
            if isinstance(value, Mapping):
                return value[name]
            raise

    return get


def _fields_of(value: Any) -> dict[str, Any] | None:
    """Field types of a class that has declared ones; None where nothing is known."""
    if not isinstance(value, type) or get_origin(value) is not None:
        return None
    declares = ("__struct_fields__", "__dataclass_fields__", "_fields", "__total__", "__pydantic_validator__")
    if not any(hasattr(value, mark) for mark in declares):
        return None
    try:
        return get_type_hints(value)
    except NameError:  # a class of a function's own, with postponed annotations: its names can't be looked up
        return None


def _kept(part: Aggregation[Any], value: Any) -> Any:
    """The type that an accumulator is read back as."""
    kind = _field_type(part, value)
    # Plain data comes back by itself.  Insisting on the declared type would make a state unreadable for good when
    # code of the user's filled a field with something else.
    if get_origin(kind) in (None, list, dict, Union, UnionType) and _PLAIN.issuperset(get_args(kind) or (kind,)):
        kind = Any
    return part.kept(kind)


def _field_type(part: Aggregation[Any], value: Any) -> Any:
    if part.type is not None:
        return part.type
    if part.field is None:
        return Any if value is None or value is dict else value
    hints = _fields_of(value) if isinstance(part.field, str) else None
    return Any if hints is None else hints.get(str(part.field), Any)


_PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, dict})


_pack = msgspec.msgpack.Encoder(enc_hook=enc_hook).encode


def _unpack(kind: Any, name: str) -> Callable[[bytes], Acc]:
    try:
        return msgspec.msgpack.Decoder(kind, dec_hook=dec_hook).decode
    except TypeError as error:
        raise ConfigurationError(f"{name}: its accumulator can't be kept as {kind}: {error}; give type=") from error


def _check(where: str, part: Aggregation[Any], value: Any) -> Callable[[Acc], None] | None:
    """Raises for an accumulator that wouldn't come back as it is; None where the types settle it."""
    if part.holds == "none" or _field_type(part, value) is not Any:
        return None

    def refuse(acc: Acc) -> None:
        # MessagePack would write a tuple as a list and a Decimal as text, and so it would come back.
        raise TypeError(
            f"{where}{part.name} keeps {acc!r:.60}, which is neither plain data nor of a known type; "
            f"give its type, as in type=Decimal or type=tuple[int, str]"
        )

    def check_one(acc: Acc) -> None:
        if type(acc) not in _PLAIN:
            refuse(acc)

    def check_pair(acc: Acc) -> None:
        if acc is not None and type(acc[0]) not in _PLAIN:
            refuse(acc)

    def check_each(acc: Acc) -> None:
        if not _PLAIN.issuperset(map(type, acc)):
            refuse(acc)

    return {"one": check_one, "pair": check_pair, "each": check_each}[part.holds]


def _in_order(values: frozenset[Any]) -> list[Any]:
    """The same set gives the same bytes in each process, whose hashes differ."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=lambda value: (type(value).__name__, repr(value)))
