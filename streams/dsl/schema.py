"""The shape of a type on the wire, as text: kept on the log so that an incompatible edit is refused at start.

What must live here: the canonical schema of a type and the comparison of two.  What must not: encoding, and what
follows from a difference (the topology decides).

A schema is JSON Schema, as msgspec and pydantic give it, cut down to what changes the wire: no titles, docstrings
or defaults, everything unordered sorted.  So it stays the same when methods, comments or the order of fields
change.  What isn't JSON carries one word, ``wire``: ``{"wire":"bytes"}``; two such must be equal.

``incompatibility(old, new)`` asks one question: can ``new`` read everything that ``old`` wrote?  A field that is
added must have a default; one that is removed is ignored.  Asked the other way round it tells whether workers of
the former version can read what those of the new one write: both, and an edit can roll.

Not seen: a string that is now a datetime, which msgspec's schemas call a string; validation in ``__post_init__``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from streams.errors import ConfigurationError

__all__ = ["canonical_schema", "compatible", "incompatibility", "schema_hash", "type_schema", "wire_schema"]

Schema = dict[str, Any]

_UNORDERED = ("required", "enum", "anyOf")
# Keywords that narrow what is read; a narrower reader may refuse what a wider writer wrote.
_NARROWING = (
    *("format", "pattern", "multipleOf", "contentEncoding", "propertyNames", "custom"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minLength", "maxLength", "minProperties", "maxProperties"),
)
_KEPT = {"type", "minItems", "maxItems", "required", *_NARROWING}


def wire_schema(wire: str) -> str:
    """The schema of what isn't JSON: a word for its form."""
    return _text({"wire": wire})


def type_schema(spec: Any, *, custom: Callable[[type], bool] | None = None) -> str:
    """The canonical schema of a type that msgspec or pydantic reads from JSON.

    ``custom(cls)`` says that a class that neither knows is read by a hook; such a class is known by its name.
    Raises ``ConfigurationError`` naming the class that can't be read.
    """

    def known(cls: type) -> Schema:
        if hasattr(cls, "__pydantic_validator__"):
            return _pydantic_schema(cls)
        if custom is not None and custom(cls):
            return {"custom": cls.__qualname__}
        raise NotImplementedError

    if uses_pydantic(spec):
        return canonical_schema(_pydantic_schema(spec))
    try:
        return canonical_schema(msgspec.json.schema(spec, schema_hook=known))
    except (TypeError, NameError) as error:
        reason = str(error).splitlines()[-1]
        raise ConfigurationError(
            f"{spec!r} can't be read from JSON: {reason}; use a dataclass, msgspec.Struct, TypedDict, NamedTuple, "
            f"pydantic model or a type made of them, dict for any JSON, or give a Codec"
        ) from error


def uses_pydantic(spec: Any) -> bool:
    """True for a pydantic model or dataclass, and for a list, Optional or Union of them.  Imports nothing."""
    if hasattr(spec, "__pydantic_validator__"):
        return True
    return any(uses_pydantic(argument) for argument in getattr(spec, "__args__", ()))


def _pydantic_schema(spec: Any) -> Schema:
    from pydantic import TypeAdapter

    return TypeAdapter(spec).json_schema()


def schema_hash(schema: str) -> str:
    """Twelve hex digits of a schema, for fingerprints and file names."""
    return hashlib.sha256(schema.encode()).hexdigest()[:12]


def canonical_schema(schema: Schema) -> str:
    """One text for all schemas that mean the same wire form."""
    definitions: Schema = {}
    canonical = _canonical(schema, definitions)
    if definitions:
        canonical["$defs"] = definitions
    return _text(canonical)


def _canonical(schema: Any, definitions: Schema) -> Any:
    if not isinstance(schema, dict):
        return schema

    def inner(part: Any) -> Any:
        return _canonical(part, definitions)

    # Those of a pydantic model inside a dataclass stand inside as well: all go to the top.
    definitions.update({name: inner(part) for name, part in schema.get("$defs", {}).items()})
    out: Schema = {name: value for name, value in schema.items() if name in _KEPT}
    if "$ref" in schema:
        out["$ref"] = schema["$ref"].rpartition("/")[2]
    if "const" in schema or "enum" in schema:
        out["enum"] = schema.get("enum", [schema.get("const")])
        out.pop("type", None)  # msgspec leaves it out, pydantic doesn't; the values say it
    if "properties" in schema:
        out["properties"] = {name: inner(part) for name, part in schema["properties"].items()}
    if "prefixItems" in schema:
        out["prefixItems"] = [inner(part) for part in schema["prefixItems"]]
    for name in ("items", "additionalProperties"):
        # "anything goes" is what leaving the keyword out means.
        if name in schema and schema[name] is not True and schema[name] != {}:
            out[name] = inner(schema[name])
    alternatives = schema.get("anyOf", schema.get("oneOf"))
    if alternatives is not None:
        out["anyOf"] = [inner(part) for part in alternatives]
    for name in _UNORDERED:
        if name in out:
            out[name] = sorted(out[name], key=_text)
    return out


def _text(value: Any) -> str:
    return msgspec.json.Encoder(order="sorted").encode(value).decode()


def compatible(old: str, new: str) -> bool:
    """True when a reader with schema ``new`` reads everything that was written with ``old``."""
    return incompatibility(old, new) is None


def incompatibility(old: str, new: str) -> str | None:
    """In words, the first thing written with schema ``old`` that ``new`` can't read; None when there is none."""
    if old == new:
        return None
    before, after = msgspec.json.decode(old), msgspec.json.decode(new)
    was, now = before.get("wire", "json"), after.get("wire", "json")
    if was != now:
        return f"was written as {was}, is read as {now}"
    return _Comparison(before.get("$defs", {}), after.get("$defs", {})).first(before, after, "the value")


class _Comparison:
    """Walks two schemas side by side.  ``open`` holds the pairs being compared, so that recursive types end."""

    def __init__(self, old_defs: dict[str, Schema], new_defs: dict[str, Schema]) -> None:
        self.old_defs = old_defs
        self.new_defs = new_defs
        self.open: set[tuple[str, str]] = set()

    def first(self, old: Schema, new: Schema, where: str) -> str | None:
        pair = (_text(old), _text(new))
        if pair in self.open:
            return None
        self.open.add(pair)
        try:
            return self.compare(self.resolve(old, self.old_defs), self.resolve(new, self.new_defs), where)
        finally:
            self.open.discard(pair)

    @staticmethod
    def resolve(schema: Schema, defs: dict[str, Schema]) -> Schema:
        while "$ref" in schema:
            schema = defs[schema["$ref"]]
        return schema

    def compare(self, old: Schema, new: Schema, where: str) -> str | None:
        if not new.keys() - {"$defs"}:
            return None
        if not old.keys() - {"$defs"}:
            return f"{where} was anything, is {_words(new)}"
        if "anyOf" in old:
            return _first(self.first(part, new, where) for part in old["anyOf"])
        if "anyOf" in new:
            return self.alternatives(old, new, where)
        if "enum" in new:
            gone = [value for value in old.get("enum", ()) if value not in new["enum"]]
            if gone:
                return f"{where}: {gone[0]!r} is no longer allowed"
            return None if "enum" in old else f"{where} was {_words(old)}, is {_words(new)}"
        if "enum" in old:
            return _first(self.first(_kind(value), new, where) for value in old["enum"])
        was, now = old.get("type"), new.get("type")
        if was != now and (was, now) != ("integer", "number"):
            return f"{where} was {_words(old)}, is {_words(new)}"
        for name in _NARROWING:
            if name in new and old.get(name) != new[name]:
                return f"{where}: {name} was {old.get(name, 'free')}, is {new[name]}"
        if now == "object":
            return self.objects(old, new, where)
        return self.arrays(old, new, where) if now == "array" else None

    def alternatives(self, old: Schema, new: Schema, where: str) -> str | None:
        reasons = [(part, self.first(old, part, where)) for part in new["anyOf"]]
        if any(reason is None for _, reason in reasons):
            return None
        # The alternative of the same kind says most; there is none when a whole kind was dropped.
        for part, reason in reasons:
            resolved = self.resolve(part, self.new_defs)
            if resolved.get("type") == old.get("type") and "enum" not in resolved:
                return reason
        return f"{where} was {_words(old)}, is {_words(new)}"

    def objects(self, old: Schema, new: Schema, where: str) -> str | None:
        was, now = old.get("properties", {}), new.get("properties", {})
        for name in new.get("required", ()):
            if name not in old.get("required", ()):
                return f"{where}: field {name!r} is {'new' if name not in was else 'now required'} and has no default"
        # What else may stand there: a struct writes its fields only, a dict any key.
        others = old.get("additionalProperties", False if was else {})
        rest = new.get("additionalProperties", {})
        for name in sorted(was.keys() | now.keys()):
            if name not in now and rest is False:
                return f"{where}: field {name!r} was removed, and unknown fields are forbidden"
            if name in was or others is not False:
                reason = self.first(was.get(name, others), now.get(name, rest), f"field {name!r}")
                if reason is not None:
                    return reason
        if others is False or not rest:
            return f"{where}: unknown fields are forbidden" if others is not False and rest is False else None
        return self.first(others, rest, f"{where}'s values")

    def arrays(self, old: Schema, new: Schema, where: str) -> str | None:
        was, now = old.get("prefixItems", []), new.get("prefixItems", [])
        least, most = old.get("minItems", 0), old.get("maxItems", len(was) if was and "items" not in old else None)
        if new.get("minItems", 0) > least:
            return f"{where} had {least} items or more, needs {new['minItems']}"
        if "maxItems" in new and (most is None or most > new["maxItems"]):
            return f"{where} had up to {'any number of' if most is None else most} items, takes {new['maxItems']}"
        reason = _first(self.first(a, b, f"{where}'s item {n}") for n, (a, b) in enumerate(zip(was, now)))
        rest = new.get("items") or {}
        if reason is None and rest:
            reason = _first(self.first(part, rest, f"{where}'s items") for part in was[len(now) :])
            if reason is None and old.get("items") is not False and not (was and "items" not in old):
                reason = self.first(old.get("items", {}), rest, f"{where}'s items")
        return reason


def _first(reasons: Any) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)


def _kind(value: object) -> Schema:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return {"type": names[type(value)]}


def _words(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"])
    if "anyOf" in schema:
        return " or ".join(map(_words, schema["anyOf"]))
    if "enum" in schema:
        return "one of " + ", ".join(map(repr, schema["enum"]))
    if "custom" in schema:
        return str(schema["custom"])
    return f"{schema['type']} ({schema['format']})" if "format" in schema else str(schema.get("type", "anything"))
