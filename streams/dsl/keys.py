"""Codecs of keys: one key, one sequence of bytes.

What must live here: what ``key=…`` of a topic or table means.  What must not: values (``dsl.codec``), and which
partition a key belongs to.

Two forms, since they serve two readers.  ``key_codec`` is the form on a topic: what other programs expect there,
and what is hashed to a partition.  ``ordered_key_codec`` is the form in a store: compared as bytes, the keys come in
the order of their Python values, so that a range of a table is a range of the store.

    key=…                              on a topic                            in a store
    str (the default)                  UTF-8                                 UTF-8
    bytes                              as it is                              as it is
    int                                decimal text                          8 bytes, big-endian, sign bit flipped
    float                              JSON number                           8 bytes, IEEE 754 made to sort
    bool                               true, false                           1 byte
    UUID                               36 characters                         16 bytes
    datetime                           ISO 8601 in UTC                       8 bytes, microseconds since 1970
    date                               ISO 8601                              4 bytes
    tuple[…], NamedTuple               JSON array                            the parts, those that vary in length
    frozen dataclass, msgspec.Struct   JSON object, fields sorted              escaped and ended by 00 01

Unlike values, keys are checked when they are *written*: a key of the wrong type is a key in the wrong partition,
which no reader could tell.  The check raises ``TypeError``, a value that the form can't hold ``ValueError``.
0.0 and -0.0 are one key, NaN is none; a datetime without a zone is UTC and comes back with the zone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar, get_args, get_origin, overload
from uuid import UUID

import msgspec

from streams.dsl.codec import Codec
from streams.dsl.key_types import (
    EXACT,
    any_float,
    exact_bool,
    exact_bytes,
    exact_date,
    exact_int,
    exact_uuid,
    finite_float,
    in_utc,
    is_simple,
    leaves,
    parts_of,
    type_name,
    wrong,
)
from streams.dsl.schema import type_schema, wire_schema

__all__ = ["key_codec", "ordered_key_codec"]

T = TypeVar("T")
Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BIAS = 1 << 63
_MASK = (1 << 64) - 1


def _write_str(value: Any) -> bytes:
    try:
        return str.encode(value)
    except TypeError:
        wrong("str", value)


def _same(raw: bytes) -> bytes:
    return raw


# ── On a topic ──────────────────────────────────────────────────────────────────────────────────────────────────────

_json = msgspec.json.Encoder(order="sorted").encode


def _wire_int(value: Any) -> bytes:
    return _json(value) if type(value) is int else _json(exact_int(value))


def _unquoted(check: Callable[[Any], Any]) -> Encode:
    return lambda value: _json(check(value))[1:-1]


def _quoted(kind: type) -> Decode:
    decode: Decode = msgspec.json.Decoder(kind).decode
    return lambda raw: decode(b'"%b"' % raw)


def _read_utc(raw: bytes) -> datetime:
    return in_utc(_read_datetime(raw))


_read_datetime = _quoted(datetime)

_WIRE: dict[Any, tuple[Encode, Decode]] = {
    str: (_write_str, bytes.decode),
    bytes: (exact_bytes, _same),
    int: (_wire_int, msgspec.json.Decoder(int).decode),
    float: (lambda value: _json(finite_float(value)), msgspec.json.Decoder(float).decode),
    bool: (lambda value: _json(exact_bool(value)), msgspec.json.Decoder(bool).decode),
    UUID: (_unquoted(exact_uuid), _quoted(UUID)),
    datetime: (_unquoted(in_utc), _read_utc),
    date: (_unquoted(exact_date), _quoted(date)),
}


@overload
def key_codec(spec: Codec[T]) -> Codec[T]: ...
@overload
def key_codec(spec: type[T]) -> Codec[T]: ...
@overload
def key_codec(spec: None = None) -> Codec[str]: ...
@overload
def key_codec(spec: Any) -> Codec[Any]: ...
def key_codec(spec: Any = None) -> Codec[Any]:
    """The codec for ``key=spec`` on a topic; None is str.  A Codec is returned as it is.

    Equal keys have equal bytes.  Raises ``ConfigurationError`` for a type that can't be a key.
    """
    if isinstance(spec, Codec):
        return spec
    spec = str if spec is None else spec
    name = type_name(spec)
    if is_simple(spec):
        return Codec(name, _WIRE[spec][1], _WIRE[spec][0], wire_schema(f"key:{name}"))
    parts_of(spec)  # refuses what can't be a key
    decode: Decode = msgspec.json.Decoder(spec).decode
    # Equal keys may differ inside (1 and 1.0, one instant in two zones): written is what the type makes of them.
    exact = _exact(spec)
    types = get_args(spec) if get_origin(spec) is tuple and _PLAIN.issuperset(get_args(spec)) else None

    def encode(value: Any) -> bytes:
        if type(value) is tuple and tuple(map(type, value)) == types:
            return _json(value)
        return _json(exact(value))

    return Codec(name, decode, encode, wire_schema(f"key:{type_schema(spec)}"))


# Equal values of one of these types are written alike.
_PLAIN = frozenset({str, bytes, int, bool, UUID, date})


def _exact(spec: Any) -> Callable[[Any], Any]:
    """A function that checks a value of a key's type and returns it with one representation for equal values."""
    if is_simple(spec):
        return EXACT[spec]
    parts, take, build = parts_of(spec)
    checks = [_exact(part) for part in parts]
    return lambda value: build([check(part) for check, part in zip(checks, take(value))])


# ── In a store ──────────────────────────────────────────────────────────────────────────────────────────────────────

_pack_u64 = struct.Struct(">Q").pack
_unpack_u64 = struct.Struct(">Q").unpack
_unpack_u32 = struct.Struct(">I").unpack
_pack_f64 = struct.Struct(">d").pack
_unpack_f64 = struct.Struct(">d").unpack


def _ordered_int(value: Any) -> bytes:
    if type(value) is not int:
        value = exact_int(value)
    try:
        return _pack_u64(value + _BIAS)
    except struct.error:
        raise ValueError(f"key=int: {value} is out of range: a stored key is from -2**63 to 2**63-1; use str") from None


def _read_int(raw: bytes) -> int:
    biased: int = _unpack_u64(raw)[0]
    return biased - _BIAS


def _ordered_float(value: Any) -> bytes:
    # Positive numbers sort by their bits once the sign bit is set, negative ones by their complement.
    bits = int.from_bytes(_pack_f64(any_float(value)), "big")
    return _pack_u64(bits ^ _MASK if bits & _BIAS else bits | _BIAS)


def _read_float(raw: bytes) -> float:
    bits: int = _unpack_u64(raw)[0]
    number: float = _unpack_f64(_pack_u64(bits ^ _BIAS if bits & _BIAS else bits ^ _MASK))[0]
    return number


def _read_bool(raw: bytes) -> bool:
    return (b"\x00", b"\x01").index(raw) == 1


def _ordered_datetime(value: Any) -> bytes:
    return _pack_u64((in_utc(value) - _EPOCH) // _MICROSECOND + _BIAS)


def _read_stored_datetime(raw: bytes) -> datetime:
    return _EPOCH + _MICROSECOND * _read_int(raw)


def _read_date(raw: bytes) -> date:
    return date.fromordinal(_unpack_u32(raw)[0])


# Encode, decode, width in bytes: None where it varies.
_ORDERED: dict[Any, tuple[Encode, Decode, int | None]] = {
    str: (_write_str, bytes.decode, None),
    bytes: (exact_bytes, _same, None),
    int: (_ordered_int, _read_int, 8),
    float: (_ordered_float, _read_float, 8),
    bool: (lambda value: b"\x01" if exact_bool(value) else b"\x00", _read_bool, 1),
    UUID: (lambda value: exact_uuid(value).bytes, lambda raw: UUID(bytes=raw), 16),
    datetime: (_ordered_datetime, _read_stored_datetime, 8),
    date: (lambda value: exact_date(value).toordinal().to_bytes(4, "big"), _read_date, 4),
}


@overload
def ordered_key_codec(spec: Codec[T]) -> Codec[T]: ...
@overload
def ordered_key_codec(spec: type[T]) -> Codec[T]: ...
@overload
def ordered_key_codec(spec: None = None) -> Codec[str]: ...
@overload
def ordered_key_codec(spec: Any) -> Codec[Any]: ...
def ordered_key_codec(spec: Any = None) -> Codec[Any]:
    """The codec for ``key=spec`` in a store: for keys a and b, a < b exactly when their bytes are.

    None is str.  A Codec is returned as it is; whether it keeps an order is then its author's affair.  The order of
    a tuple is Python's, that of a Struct or dataclass goes by its fields as declared.
    """
    if isinstance(spec, Codec):
        return spec
    spec = str if spec is None else spec
    name = type_name(spec)
    if is_simple(spec):
        encode, decode, _ = _ORDERED[spec]
        return Codec(name, decode, encode, wire_schema(f"ordered:{name}"))
    write, read = _writer(spec, last=True), _reader(spec, last=True)

    def decode_parts(raw: bytes) -> Any:
        value, end = read(raw, 0)
        if end != len(raw):
            raise ValueError(f"key={name}: {raw!r:.60} is {len(raw)} bytes, {end} wanted")
        return value

    return Codec(name, decode_parts, write, wire_schema(f"ordered:({','.join(map(type_name, leaves(spec)))})"))


def _writer(spec: Any, *, last: bool) -> Encode:
    """Writes a key or a part of one; only the last part of all may vary in length without an end."""
    if is_simple(spec):
        encode, _, width = _ORDERED[spec]
        if last or width is not None:
            return encode

        def framed(value: Any) -> bytes:
            # 00 01 sorts before 00 FF, so that "a" stands before "a\0".
            raw = encode(value)
            return (raw.replace(b"\x00", b"\x00\xff") if 0 in raw else raw) + b"\x00\x01"

        return framed
    parts, take, _ = parts_of(spec)
    writers = [_writer(part, last=last and part_is_last) for part, part_is_last in _with_last(parts)]
    if len(writers) != 2:
        return lambda value: b"".join([write(part) for write, part in zip(writers, take(value))])
    write_first, write_second = writers

    def pair(value: Any) -> bytes:
        first, second = take(value)
        return write_first(first) + write_second(second)

    return pair


def _reader(spec: Any, *, last: bool) -> Callable[[bytes, int], tuple[Any, int]]:
    """Reads what ``_writer`` wrote, from a place on; returns the value and where the next part starts."""
    if is_simple(spec):
        _, decode, width = _ORDERED[spec]
        if width is not None:
            return lambda raw, at: (decode(raw[at : at + width]), at + width)
        if last:
            return lambda raw, at: (decode(raw[at:]), len(raw))

        def framed(raw: bytes, at: int) -> tuple[Any, int]:
            # Inside a part every 00 is followed by FF, so the first 00 01 is its end.
            end = raw.find(b"\x00\x01", at)
            if end < 0:
                raise ValueError(f"{raw!r:.60}: the part at byte {at} has no end")
            part = raw[at:end]
            return decode(part.replace(b"\x00\xff", b"\x00") if 0 in part else part), end + 2

        return framed
    parts, _, build = parts_of(spec)
    readers = [_reader(part, last=last and part_is_last) for part, part_is_last in _with_last(parts)]

    def read(raw: bytes, at: int) -> tuple[Any, int]:
        values = []
        for reader in readers:
            value, at = reader(raw, at)
            values.append(value)
        return build(values), at

    return read


def _with_last(parts: Sequence[Any]) -> list[tuple[Any, bool]]:
    return [(part, index == len(parts) - 1) for index, part in enumerate(parts)]
