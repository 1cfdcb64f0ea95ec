"""What may be a key: the simple types, and the classes made of them.

What must live here: checking a key's value and giving it one representation for equal values; taking a composite key
apart and putting it together.  What must not: bytes (``dsl.keys``).

A check returns the value that is to be written or raises: ``TypeError`` for a value of another type, ``ValueError``
for one that can't be a key.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any, NoReturn, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec

from streams.errors import ConfigurationError

__all__ = [
    "EXACT",
    "any_float",
    "exact_bool",
    "exact_bytes",
    "exact_date",
    "exact_int",
    "exact_uuid",
    "finite_float",
    "in_utc",
    "is_simple",
    "leaves",
    "parts_of",
    "type_name",
    "wrong",
]


def wrong(name: str, value: object) -> NoReturn:
    raise TypeError(f"key={name}: got {type(value).__name__} {value!r:.60}; pass {name}, or declare the key's type")


def exact_bytes(value: Any) -> bytes:
    return value if type(value) is bytes else wrong("bytes", value)


def exact_int(value: Any) -> int:
    """A plain int; True is none, although Python says so."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    wrong("int", value)


def any_float(value: Any) -> float:
    """A float, or an int that one holds exactly; infinities are allowed, NaN isn't."""
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        number = float(value) + 0.0  # -0.0 becomes 0.0: equal values, one key
        if number == value:
            return number
        raise ValueError(f"key=float: {value!r} can't be a key: {'not a number' if value != value else 'not exact'}")
    wrong("float", value)


def finite_float(value: Any) -> float:
    """Without infinities, for which JSON has no word."""
    number = any_float(value)
    if number - number != 0:
        raise ValueError(f"key=float: {value!r} can't be a key on a topic: JSON has no word for it")
    return number


def in_utc(value: Any) -> datetime:
    """One instant, one representation; without a zone it is taken as UTC."""
    if not isinstance(value, datetime):
        wrong("datetime", value)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def exact_date(value: Any) -> date:
    return value if isinstance(value, date) and not isinstance(value, datetime) else wrong("date", value)


def exact_uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else wrong("UUID", value)


def exact_bool(value: Any) -> bool:
    return value if isinstance(value, bool) else wrong("bool", value)


def exact_str(value: Any) -> str:
    if type(value) is str:
        return value
    return str.__str__(value) if isinstance(value, str) else wrong("str", value)


# The simple types.
EXACT: dict[Any, Callable[[Any], Any]] = {
    str: exact_str,
    bytes: exact_bytes,
    int: exact_int,
    float: finite_float,
    bool: exact_bool,
    UUID: exact_uuid,
    datetime: in_utc,
    date: exact_date,
}


def parts_of(spec: Any) -> tuple[Sequence[Any], Callable[[Any], Sequence[Any]], Callable[[list[Any]], Any]]:
    """Types of the parts of a composite key, how to take a value apart, how to put one together."""
    name = type_name(spec)
    types: Sequence[Any] = ()
    build: Callable[[list[Any]], Any] = tuple
    fields: Sequence[str] = ()
    is_class = isinstance(spec, type)
    if get_origin(spec) is tuple and Ellipsis not in get_args(spec):
        types = get_args(spec)
        size = len(types)

        def take(value: Any) -> Sequence[Any]:
            return value if isinstance(value, tuple) and len(value) == size else wrong(name, value)

    elif is_class and issubclass(spec, tuple) and hasattr(spec, "_fields"):
        fields = spec._fields

        def take(value: Any) -> Sequence[Any]:
            taken: Sequence[Any] = value if isinstance(value, spec) else wrong(name, value)
            return taken

        def build(parts: list[Any]) -> Any:
            return spec(*parts)

    elif is_class and _is_frozen(spec):
        fields = _fields(spec)
        get: Callable[[Any], Any] = operator.attrgetter(*fields) if fields else tuple

        def take(value: Any) -> Sequence[Any]:
            if not isinstance(value, spec):
                wrong(name, value)
            taken: Sequence[Any] = get(value) if len(fields) > 1 else (get(value),)
            return taken

        def build(parts: list[Any]) -> Any:
            return spec(**dict(zip(fields, parts)))

    else:
        raise ConfigurationError(
            f"key={name}: can't be a key; use str, bytes, int, float, bool, UUID, datetime, date, tuple[…] of them, "
            f"a NamedTuple, a frozen dataclass or Struct, or give a Codec"
        )
    if fields:
        try:
            hints = get_type_hints(spec)
        except NameError as error:
            raise ConfigurationError(f"key={name}: {error}; define the types of its fields in the module") from error
        types = [hints.get(field, Any) for field in fields]
    if not types:
        raise ConfigurationError(f"key={name}: has no parts; a key needs one at least")
    for part in types:
        if not is_simple(part):
            parts_of(part)
    return types, take, build


def _is_frozen(spec: type) -> bool:
    if issubclass(spec, msgspec.Struct):
        return spec.__struct_config__.frozen
    return dataclasses.is_dataclass(spec) and spec.__dataclass_params__.frozen  # type: ignore[attr-defined]


def _fields(spec: type) -> tuple[str, ...]:
    if issubclass(spec, msgspec.Struct):
        return spec.__struct_fields__
    return tuple(field.name for field in dataclasses.fields(spec))  # type: ignore[arg-type]


def leaves(spec: Any) -> list[Any]:
    """The simple types that a key comes down to, in order."""
    return [spec] if is_simple(spec) else [leaf for part in parts_of(spec)[0] for leaf in leaves(part)]


def is_simple(spec: Any) -> bool:
    """True for the types that a key can have without parts."""
    return isinstance(spec, type) and spec in EXACT


def type_name(spec: Any) -> str:
    """As a user wrote it."""
    return spec.__name__ if isinstance(spec, type) else str(spec)
