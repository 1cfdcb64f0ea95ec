"""Aggregations: what ``.aggregate(flights=agg.count(), worst=agg.max("delay"))`` keeps per key, and what it shows.

What must live here: the aggregations, one function each.  What must not: how several become one fold
(``dsl.aggregator``), keys, windows, state.

A field is a name (an attribute, or a key of a dict: what the value is at that moment) or a callable.  **A field that
is None is missing, and every aggregation skips it**; a name that isn't there at all raises AttributeError or KeyError,
unless a TypedDict declares it as optional.

Where the type of the values is known (``value=``), names are checked when the app is declared, and accumulators are
read back in the types of their fields.  Where it isn't, what is kept must be plain: None, bool, int (up to 64
bits), float, str, bytes, list or dict; for the rest say ``type=``, as in ``agg.sum("amount", type=Decimal)``.

The module's names hide Python's own (sum, min, max): import the module, not its names.
"""

from __future__ import annotations

import builtins
import copy
import dataclasses
from collections.abc import Callable
from types import GenericAlias
from typing import Any

import msgspec

from streams.dsl.aggregator import Acc, Aggregation, Aggregator, Field, Single, same
from streams.errors import ConfigurationError

__all__ = [
    "Aggregation",
    "Aggregator",
    "Single",
    "collect",
    "count",
    "count_distinct",
    "first",
    "last",
    "max",
    "mean",
    "min",
    "reduce",
    "sum",
]


def _none() -> None:
    return None


def _int(kind: Any) -> Any:
    return int


def _zero() -> int:
    return 0


def _step_count(acc: int, _: Any) -> int:
    return acc + 1


def _step_count_field(acc: int, field: Any) -> int:
    return acc if field is None else acc + 1


def _step_sum(acc: Any, field: Any) -> Any:
    if field is None:
        return acc
    return field if acc is None else acc + field


def _step_min(acc: Any, field: Any) -> Any:
    if field is None:
        return acc
    return field if acc is None or field < acc else acc


def _step_max(acc: Any, field: Any) -> Any:
    if field is None:
        return acc
    return field if acc is None or field > acc else acc


def _step_mean(acc: tuple[Any, int] | None, field: Any) -> tuple[Any, int] | None:
    if field is None:
        return acc
    if acc is None:
        field / 1  # what has no mean must not become the beginning of one, at which every later record would fail
        return field, 1
    total, records = acc
    return total + field, records + 1


def _step_first(acc: Any, field: Any) -> Any:
    return field if acc is None else acc


def _step_last(acc: Any, field: Any) -> Any:
    return acc if field is None else field


def count(field: Field | None = None) -> Aggregation[int]:
    """How many records; with a field, how many where it isn't None."""
    if field is None:
        return Aggregation("count()", _zero, _step_count, same, kept=_int, needs_field=False, holds="none")
    return Aggregation(f"count({_words(field)})", _zero, _step_count_field, same, field, _int, holds="none")


def sum(field: Field, *, type: Any = None) -> Aggregation[Any]:
    """The sum; 0 while there is nothing to add.  Whatever has ``+``: numbers, Decimal, timedelta.

    Floats are added one after the other as Python does: n of them may be off by n units in the last place, and the
    result depends on their order, which is that of the log and so the same at each replay.  For exact sums of money
    use Decimal or integers.
    """
    return Aggregation(f"sum({_words(field)})", _none, _step_sum, _or_zero, field, _sum_type, type)


def _or_zero(acc: Any) -> Any:
    if acc is None:
        return 0
    return int(acc) if isinstance(acc, bool) else acc  # the sum of one True is 1


def min(field: Field, *, type: Any = None) -> Aggregation[Any]:
    """The least, the first of equals; None while there is none.  A NaN that comes first stays."""
    return Aggregation(f"min({_words(field)})", _none, _step_min, same, field, _optional, type)


def max(field: Field, *, type: Any = None) -> Aggregation[Any]:
    """The greatest, the first of equals; None while there is none.  A NaN that comes first stays."""
    return Aggregation(f"max({_words(field)})", _none, _step_max, same, field, _optional, type)


def mean(field: Field, *, type: Any = None) -> Aggregation[Any]:
    """The arithmetic mean, from a sum and a number; None while there is none.  On floats see ``sum``."""

    def kept(kind: Any) -> Any:
        return _optional(GenericAlias(tuple, (_sum_type(kind), int)))

    return Aggregation(f"mean({_words(field)})", _none, _step_mean, _mean, field, kept, type, holds="pair")


def _mean(acc: tuple[Any, int] | None) -> Any:
    return None if acc is None else acc[0] / acc[1]


def first(field: Field | None = None, *, type: Any = None) -> Aggregation[Any]:
    """The field of the record that was processed first (not: of the least event time); whole records by default."""
    return Aggregation(f"first({_words(field)})", _none, _step_first, same, field, _optional, type)


def last(field: Field | None = None, *, type: Any = None) -> Aggregation[Any]:
    """The field of the record that was processed last (not: of the greatest event time); whole records by default."""
    return Aggregation(f"last({_words(field)})", _none, _step_last, same, field, _optional, type)


def collect(field: Field | None = None, *, limit: int, type: Any = None) -> Aggregation[list[Any]]:
    """A list of the first ``limit`` fields in the order of processing; what comes later is left out.

    Costs what it keeps: each record copies the list, each commit writes all of it once per key.
    """
    _positive("collect", limit)

    def step(acc: tuple[Any, ...], field: Any) -> tuple[Any, ...]:
        return acc if field is None or len(acc) >= limit else (*acc, field)

    def kept(kind: Any) -> Any:
        return tuple[kind, ...]

    return Aggregation(f"collect({_words(field)}, limit={limit})", tuple, step, list, field, kept, type, holds="each")


def count_distinct(field: Field, *, limit: int = 10_000, type: Any = None) -> Aggregation[int]:
    """How many different values; exact.  Values are hashable.

    Costs what it keeps: the values themselves are stored, each new one copies the set (a value seen before costs
    nothing), each commit writes all of it once per key.  More than ``limit`` raise ValueError: an exact count is
    then the wrong tool.
    """
    _positive("count_distinct", limit)
    name = f"count_distinct({_words(field)}, limit={limit})"

    def step(acc: frozenset[Any], field: Any) -> frozenset[Any]:
        if field is None or field in acc:
            return acc
        if len(acc) >= limit:
            raise ValueError(f"{name}: more than {limit} values; give a larger limit, or count something coarser")
        return acc | {field}

    def kept(kind: Any) -> Any:
        return frozenset[kind]

    return Aggregation(name, frozenset, step, len, field, kept, type, holds="each")


def reduce(fn: Callable[[Any, Any], Any], initial: Any = ..., *, type: Any = None) -> Aggregation[Any]:
    """Your own: ``fn(acc, value)`` returns the next accumulator, beginning with ``initial``, else with the first value.

    ``fn`` is called for each record (but for that first), is pure, and must not change the accumulator that it is
    given.  ``initial`` is a value (copied for each key) or a callable that makes one.  ``type`` is that of the
    accumulator; left out it is that of ``initial`` if this is a dataclass or Struct, that of the values where they
    are what it begins with, and else unknown: plain data only.
    """
    if not callable(fn):
        raise ConfigurationError(f"reduce({fn!r:.60}): pass a function of the accumulator and a value")
    name = f"reduce({_words(fn)})"
    if initial is ...:

        def step(acc: Acc, value: Any) -> Acc:
            return value if acc is None else fn(acc, value)

        return Aggregation(name, _none, step, same, kept=_optional, type=type)
    if callable(initial):
        make: Callable[[], Any] = initial
    elif isinstance(initial, int | float | str | bytes | None):
        make = lambda: initial  # noqa: E731
    else:
        make = lambda: copy.deepcopy(initial)  # noqa: E731
    if type is None:
        cls = initial if isinstance(initial, builtins.type) else builtins.type(initial)
        type = cls if dataclasses.is_dataclass(cls) or issubclass(cls, msgspec.Struct) else Any
    return Aggregation(name, make, fn, same, kept=same, type=type)


def _positive(name: str, limit: int) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(f"{name}: limit={limit!r} isn't a number of values; give 1 or more")


def _words(field: Callable[..., Any] | str | None) -> str:
    if field is None:
        return ""
    return field if isinstance(field, str) else getattr(field, "__name__", builtins.type(field).__name__)


def _optional(kind: Any) -> Any:
    return Any if kind is Any else kind | None


def _sum_type(kind: Any) -> Any:
    """Of a sum of fields of a type: Decimal or timedelta; numbers tell themselves, and a sum of bools is an int."""
    bare = [part for part in getattr(kind, "__args__", (kind,)) if part is not builtins.type(None)]
    numbers = all(isinstance(part, builtins.type) and issubclass(part, int | float) for part in bare)
    return Any if numbers else _optional(kind)
