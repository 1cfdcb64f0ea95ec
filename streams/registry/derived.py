"""Python classes as schemas: an Avro or JSON schema from a class, and its values as plain data.

What must live here: which class becomes which schema.  What must not: the registry, bytes.

    str, bytes, bool, float, int                  string, bytes, boolean, double, long
    datetime, date, UUID                          timestamp-micros, date, uuid
    list, set, frozenset, tuple[X, ...]           array
    dict[str, X]                                  map
    Enum of words                                 enum, by value; of numbers: long; of other text: string
    X | None                                      union, the kind of the default first
    dataclass, msgspec.Struct, TypedDict          record, named as the class; defaults are kept

Everything else (Decimal, whose scale nobody knows; unions of several records) wants a schema of the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from msgspec import inspect

from streams.dsl.schema import uses_pydantic
from streams.errors import ConfigurationError

__all__ = ["Conversion", "avro_conversion", "avro_schema", "json_conversion", "json_schema"]

_NATIVE = (bytes, bytearray, datetime, date, time, timedelta, UUID, Decimal)
_SIMPLE: dict[type[inspect.Type], Any] = {
    inspect.NoneType: "null",
    inspect.BoolType: "boolean",
    inspect.IntType: "long",
    inspect.FloatType: "double",
    inspect.StrType: "string",
    inspect.BytesType: "bytes",
    inspect.DateTimeType: {"type": "long", "logicalType": "timestamp-micros"},
    inspect.DateType: {"type": "int", "logicalType": "date"},
    inspect.UUIDType: {"type": "string", "logicalType": "uuid"},
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Conversion:
    """A class's values to plain data, and back; both take the context of the client library and ignore it."""

    to_plain: Callable[[Any, Any], Any]
    from_plain: Callable[[Any, Any], Any]


def avro_conversion(cls: Any) -> Conversion:
    """For Avro, which has bytes, dates and times of its own."""
    if uses_pydantic(cls):
        return Conversion(lambda value, _: value.model_dump(by_alias=True), lambda plain, _: cls.model_validate(plain))
    convert, plainly = msgspec.convert, msgspec.to_builtins
    return Conversion(lambda value, _: plainly(value, builtin_types=_NATIVE), lambda plain, _: convert(plain, cls))


def json_conversion(cls: Any) -> Conversion:
    """For JSON, where they are text."""
    if uses_pydantic(cls):
        return Conversion(
            lambda value, _: value.model_dump(mode="json", by_alias=True), lambda plain, _: cls.model_validate(plain)
        )
    # Not to_builtins: it leaves tuples as they are, which no JSON Schema calls an array.
    convert, write, parse = msgspec.convert, msgspec.json.encode, msgspec.json.decode
    return Conversion(lambda value, _: parse(write(value)), lambda plain, _: convert(plain, cls))


def json_schema(cls: Any) -> dict[str, Any]:
    """The JSON Schema of a class, with the class's name as its title.  Raises ConfigurationError."""
    if uses_pydantic(cls):
        return {"title": cls.__name__, **cls.model_json_schema()}
    try:
        schema = msgspec.json.schema(cls)
    except (TypeError, NameError) as error:
        raise ConfigurationError(f"{cls!r} has no JSON schema: {error}; give the schema beside type=") from error
    definitions: dict[str, Any] = schema.get("$defs", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    if name in definitions:  # registries name a schema by its top, and some don't look behind a $ref there
        schema = {**definitions[name], "$defs": definitions}
        if len(definitions) == 1 and f"#/$defs/{name}" not in str(definitions):
            del schema["$defs"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": cls.__name__, **schema}


def avro_schema(cls: Any) -> dict[str, Any]:
    """The Avro schema of a class, by the table above.  Raises ConfigurationError naming what has none."""
    if uses_pydantic(cls):
        raise _unfit(cls, "it is a pydantic model")
    try:
        found = _Records(cls).schema(inspect.type_info(cls), "")
    except (TypeError, NameError) as error:
        raise _unfit(cls, str(error)) from error
    return found if isinstance(found, dict) else {"type": found}


def _unfit(cls: Any, reason: str) -> ConfigurationError:
    name = getattr(cls, "__name__", str(cls))
    return ConfigurationError(f"{name} has no Avro schema: {reason}; give the schema, as in avro(schema, type={name})")


class _Records:
    """Walks a type; each class is spelled out where it is met first and named after that."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._named: dict[str, type] = {}

    def schema(self, known: inspect.Type, where: str) -> Any:
        match known:
            case inspect.DataclassType() | inspect.StructType() | inspect.TypedDictType():
                return self.record(known, where)
            case inspect.EnumType(cls=cls):
                return self.enumeration(cls, where)
            case inspect.UnionType(types=types):
                return self.union(types, where)
            case inspect.DictType(key_type=inspect.StrType(), value_type=each):
                return {"type": "map", "values": self.schema(each, where)}
            case (
                inspect.ListType(item_type=each)
                | inspect.SetType(item_type=each)
                | inspect.FrozenSetType(item_type=each)
                | inspect.VarTupleType(item_type=each)
            ):
                return {"type": "array", "items": self.schema(each, where)}
            case inspect.Metadata(type=inner):
                return self.schema(inner, where)
        if type(known) in _SIMPLE:
            return _SIMPLE[type(known)]
        raise self.unknown(type(known).__name__.removesuffix("Type"), where)

    def unknown(self, what: str, where: str) -> ConfigurationError:
        place = f"field {where}" if where else "it"
        return _unfit(self._root, f"{place} is {what}, which Avro can't tell")

    def seen(self, cls: type, where: str) -> bool:
        """Whether a class was met before, and so is spelled out already."""
        if cls.__name__ not in self._named:
            self._named[cls.__name__] = cls
            return False
        if self._named[cls.__name__] is not cls:
            raise self.unknown(f"a second class called {cls.__name__!r}", where)
        return True

    def record(
        self, known: inspect.DataclassType | inspect.StructType | inspect.TypedDictType, where: str
    ) -> dict[str, Any] | str:
        cls = known.cls
        if isinstance(known, inspect.StructType) and (known.tag is not None or known.array_like):
            raise self.unknown("a Struct with tag= or array_like=", where)
        if self.seen(cls, where):
            return cls.__name__
        fields = []
        for each in known.fields:
            path = f"{where}.{each.encode_name}" if where else each.encode_name
            default = _default(each)
            schema = self.schema(each.type, path)
            if isinstance(schema, list) and default is None:
                schema = sorted(schema, key=lambda kind: kind != "null")  # a default is of the first kind
            field = {"name": each.encode_name, "type": schema}
            if default is not ...:
                field["default"] = default
            fields.append(field)
        return {"type": "record", "name": cls.__name__, "fields": fields}

    def enumeration(self, cls: Any, where: str) -> Any:
        values = [member.value for member in cls]
        if all(isinstance(value, int) for value in values):
            return "long"
        if not all(isinstance(value, str) for value in values):
            raise self.unknown("an Enum of neither words nor numbers", where)
        if not all(_NAME.fullmatch(value) for value in values):
            return "string"
        if self.seen(cls, where):
            return cls.__name__
        return {"type": "enum", "name": cls.__name__, "symbols": values}

    def union(self, types: tuple[inspect.Type, ...], where: str) -> list[Any]:
        kinds = [self.schema(each, where) for each in types]
        if sum(isinstance(each, inspect.DataclassType | inspect.StructType) for each in types) > 1:
            raise self.unknown("one of several records", where)
        return [kind for kind in kinds if kind != "null"] + [kind for kind in kinds if kind == "null"]


def _default(field: inspect.Field) -> Any:
    """A field's default as JSON; ``...`` where it has none that a schema can hold."""
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return ...
    plain = msgspec.to_builtins(value, builtin_types=_NATIVE)
    return ... if isinstance(plain, _NATIVE) else plain
