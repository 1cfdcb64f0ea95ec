"""Codecs of values: a Python type on one side, bytes of a record on the other.

What must live here: what ``value=…`` of a topic or table means.  What must not: keys (``dsl.keys``), what happens
to a record that doesn't decode (``core.mapping`` finds it, the stream's error policy decides).

    value=…                                           on the wire           decoded by
    None, dict, Any                                   JSON                  orjson, to dict, list, str, int, …
    bytes | str                                       as it is | UTF-8
    int, float, bool, dataclass, msgspec.Struct,      JSON                  msgspec, straight into the type
      TypedDict, NamedTuple, list[…], unions, …
    pydantic model, or list, Optional, Union of them  JSON                  pydantic
    a Codec                                           its own

A type is checked when it is *read*: encoding writes whatever JSON can hold, so that a pipeline pays once per
record.  Encoding what JSON can't hold raises ``TypeError``.  Both callables are C functions where there is one; hoist
them (``decode = codec.decode``) and hand them to ``core.mapping.decode_batch``.

Worth knowing.  A dataclass gets its ``__post_init__``, not its ``__init__``; what that raises as ValueError or
TypeError fails the record.  Unknown fields are ignored unless the type forbids them.  datetime, date, timedelta,
Decimal, UUID and enums are written as JSON strings (an enum as its value), bytes as base64.  **NaN and the
infinities are written as null**, for which JSON has no other word; a field declared ``float`` refuses that null when
it is read, ``float | None`` takes it.  Untyped JSON reads integers beyond 64 bits as floats; ``int`` keeps them exact.
JSON ``null`` is a value (None), an absent value is a tombstone; streams tell them apart before they decode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, overload

import msgspec
import orjson

from streams.dsl.schema import schema_hash, type_schema, uses_pydantic, wire_schema
from streams.errors import ConfigurationError

__all__ = ["Codec", "dec_hook", "enc_hook", "json_codec", "type_fingerprint", "value_codec"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """How values become bytes and back.  ``Codec("avro", decode=…, encode=…)`` makes one of your own.

    name: the wire format in a word; stable, shown by ``streams explain``.
    decode: bytes to value; raises any Exception for bytes that it refuses.
    encode: value to bytes; raises TypeError for what it can't write.
    schema: canonical text of what is on the wire, kept on the log; two of them are compared by
        ``dsl.schema.incompatibility``.  Left out, the codec is known by its name only.
    bind: for a codec that has to know where its bytes stand: called with the name of a topic and "key" or "value"
        while the app is declared, it returns the codec to use there.  Internal topics and states have names too.

    Both callables are pure, don't block, and keep no reference to what they were given.
    """

    name: str
    decode: Callable[[bytes], T] = field(compare=False)
    encode: Callable[[T], bytes] = field(compare=False)
    schema: str = ""
    bind: Callable[[str, Literal["key", "value"]], Codec[T]] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.schema:
            object.__setattr__(self, "schema", wire_schema(self.name))

    def at(self, topic: str, part: Literal["key", "value"] = "value") -> Codec[T]:
        """The codec of a topic's keys or values."""
        return self if self.bind is None else self.bind(topic, part)

    @property
    def fingerprint(self) -> str:
        """The name with a hash of the schema: equal when the wire form is."""
        return f"{self.name}:{schema_hash(self.schema)}"


def enc_hook(value: Any) -> Any:
    """For msgspec encoders: pydantic models inside other types."""
    serializer = getattr(value, "__pydantic_serializer__", None)
    if serializer is None:
        raise TypeError(f"a {type(value).__name__} can't be written: {value!r:.60}; use plain data or a typed class")
    return serializer.to_python(value, mode="json", by_alias=True)


def dec_hook(cls: type, value: Any) -> Any:
    """For msgspec decoders: pydantic models inside other types."""
    validator = getattr(cls, "__pydantic_validator__", None)
    if validator is None:
        raise TypeError(f"a {cls.__name__} can't be read")
    return validator.validate_python(value)


# Not orjson.dumps: each of its results that is kept holds a buffer of 4 kB, whatever its length.
_encode_json = msgspec.json.Encoder(enc_hook=enc_hook).encode


def _decode_bytes(raw: bytes) -> bytes:
    return raw  # half of what the C function `bytes` takes


def _encode_bytes(value: bytes) -> bytes:
    if type(value) is bytes:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)  # stores and logs take bytes only
    raise TypeError(f"value=bytes: got {type(value).__name__} {value!r:.60}; encode it, or declare its type")


def _encode_str(value: str) -> bytes:
    try:
        return str.encode(value)
    except TypeError:
        raise TypeError(
            f"value=str: got {type(value).__name__} {value!r:.60}; pass a str, or declare its type"
        ) from None


_BYTES: Codec[bytes] = Codec("bytes", _decode_bytes, _encode_bytes)
_STR: Codec[str] = Codec("utf-8", bytes.decode, _encode_str)
_JSON: Codec[Any] = Codec("json", orjson.loads, _encode_json, "{}")


@overload
def value_codec(spec: Codec[T]) -> Codec[T]: ...
@overload
def value_codec(spec: type[T]) -> Codec[T]: ...
@overload
def value_codec(spec: Any = None) -> Codec[Any]: ...
def value_codec(spec: Any = None) -> Codec[Any]:
    """The codec for ``value=spec``, by the table above; called while the app is declared, never per record.

    A Codec is returned as it is.  Raises ``ConfigurationError`` for what is no type, or a type that JSON can't be
    read into.
    """
    if isinstance(spec, Codec):
        return spec
    if spec is None or spec is Any or spec is dict or spec is object:
        return _JSON
    if spec is bytes:
        return _BYTES
    if spec is str:
        return _STR
    if uses_pydantic(spec):
        return _pydantic_codec(spec)
    return json_codec(spec)


def json_codec(
    spec: Any,
    *,
    dec_hook: Callable[[type, Any], Any] | None = None,
    enc_hook: Callable[[Any], Any] | None = None,
) -> Codec[Any]:
    """JSON with types of your own inside: msgspec's hooks for what it doesn't know.

    ``dec_hook(cls, value)`` builds a ``cls`` from plain JSON data, ``enc_hook(value)`` makes plain data of one; each
    raises NotImplementedError for a class that it doesn't handle.  A type that is read by a hook is known to the
    topology by its class name: renaming the class counts as an incompatible change.
    """
    schema = type_schema(spec, custom=None if dec_hook is None else lambda cls: True)
    try:
        decode = msgspec.json.Decoder(spec, dec_hook=_or_pydantic(dec_hook, _hooks[0])).decode
    except TypeError as error:
        raise ConfigurationError(f"{spec!r} can't be read from JSON: {error}; use another type, or a Codec") from error
    encode = _encode_json
    if enc_hook is not None:
        encode = msgspec.json.Encoder(enc_hook=_or_pydantic(enc_hook, _hooks[1])).encode
    return Codec("json", decode, encode, schema)


_hooks = (dec_hook, enc_hook)


def _or_pydantic(hook: Callable[..., Any] | None, ours: Callable[..., Any]) -> Callable[..., Any]:
    if hook is None:
        return ours

    def either(*arguments: Any) -> Any:
        try:
            return hook(*arguments)
        except NotImplementedError:
            return ours(*arguments)

    return either


def _pydantic_codec(spec: Any) -> Codec[Any]:
    # Installed for certain: the type that we were given is made with it.
    from pydantic import TypeAdapter
    from pydantic_core import PydanticSerializationError

    adapter = TypeAdapter(spec)
    to_json = adapter.serializer.to_json
    cls = spec if isinstance(spec, type) else object

    def encode(value: Any) -> bytes:
        # by_alias: what validates by its alias must be written by it.  Without warnings="error" a value of another
        # type would be written with a warning on stderr, and refused by whoever reads it.
        if not isinstance(value, cls):
            raise TypeError(f"value={_name(spec)}: got {type(value).__name__} {value!r:.60}")
        try:
            return to_json(value, by_alias=True, warnings="error")
        except PydanticSerializationError as error:
            raise TypeError(f"value={_name(spec)}: {' '.join(str(error).split())}") from None

    return Codec("json", adapter.validator.validate_json, encode, type_schema(spec))


def _name(spec: Any) -> str:
    return spec.__name__ if isinstance(spec, type) else str(spec)


def type_fingerprint(spec: Any) -> str:
    """A stable word for the wire form of ``value=spec``: the same under edits of comments, methods, field order."""
    return value_codec(spec).fingerprint
