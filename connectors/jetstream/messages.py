"""Records as messages: one each on a user's topic, packed in blocks on an app stream.

What must live here: the form of messages, batches of them (ADR-50).  What must not: sending or receiving.

A message of a user's topic is what any NATS client makes of it: the payload is the value, headers are headers.  The key
is in ``Streams-Key``, the timestamp in ``Streams-Time`` (ms), a tombstone has ``Streams-Tombstone``.  What a header
line can't carry (line ends, bytes that aren't UTF-8, spaces at an end) is in ``Streams-Packed``: base64 of MessagePack.

A block is one message with many records.  The offset of a record in it is sequence × 2²⁰ + its place, so that a
position can point into a block.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from streams.connectors.jetstream.client import publication
from streams.core.record import Headers, Records
from streams.errors import LogCorrupt

__all__ = [
    "BLOCK_PLACES",
    "Lines",
    "atomic_batch",
    "blocks_of",
    "message_of",
    "record_of",
    "records_of_block",
]

BLOCK_PLACES = 2**20
MAX_BLOCK_RECORDS = 1000
MAX_BLOCK_BYTES = 400_000

KEY, TIME, TOMBSTONE, PACKED = b"Streams-Key", b"Streams-Time", b"Streams-Tombstone", b"Streams-Packed"
Lines = list[tuple[str, bytes]]


class _Packed(msgspec.Struct, array_like=True):
    key: bytes | None
    headers: Headers | None


class Block(msgspec.Struct, array_like=True, gc=False):
    """The columns of some records.  Fields are only ever added at the end."""

    version: int
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps: list[int]
    headers: list[Headers | None] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_block = msgspec.msgpack.Decoder(Block).decode
_decode_packed = msgspec.msgpack.Decoder(_Packed).decode


# ── one record, one message ───────────────────────────────────────────────────────────────────────────────────────────


def message_of(key: bytes | None, value: bytes | None, timestamp: int, headers: Headers | None) -> tuple[Lines, bytes]:
    """The headers and the payload of a record."""
    lines: Lines = [("Streams-Time", b"%d" % timestamp)]
    plain = (key is None or _fits(key)) and all(_names(name) and _fits(value) for name, value in headers or ())
    if not plain:
        lines.append(("Streams-Packed", base64.b64encode(_encode(_Packed(key, headers)))))
    else:
        if key is not None:
            lines.append(("Streams-Key", key))
        lines.extend(headers or ())
    if value is None:
        lines.append(("Streams-Tombstone", b"1"))
    return lines, value if value is not None else b""


def _fits(text: bytes) -> bool:
    if b"\r" in text or b"\n" in text or text != text.strip():
        return False
    return text.isascii() or _is_utf8(text)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _names(name: str) -> bool:
    return (
        name.isascii()
        and name.isprintable()
        and not set(name) & set(": ")
        and not name.startswith(("Nats-", "Streams-"))
    )


def record_of(head: bytes, payload: bytes, time_ms: int) -> tuple[bytes | None, bytes | None, int, Headers | None]:
    """Key, value, timestamp and headers of a message; ``time_ms``: when the server stored it."""
    if not head:
        return None, payload, time_ms, None
    key: bytes | None = None
    value: bytes | None = payload
    headers: list[tuple[str, bytes]] = []
    packed: _Packed | None = None
    for line in head.split(b"\r\n")[1:]:
        name, colon, content = line.partition(b":")
        if not colon:
            continue
        content = content.strip()
        if name == TIME:
            time_ms = int(content)
        elif name == KEY:
            key = content
        elif name == TOMBSTONE:
            value = None
        elif name == PACKED:
            packed = _decode_packed(base64.b64decode(content))
        elif not name.startswith(b"Nats-"):
            headers.append((name.decode(errors="replace"), content))
    if packed is not None:
        return packed.key, value, time_ms, packed.headers
    return key, value, time_ms, tuple(headers) or None


# ── blocks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def blocks_of(records: Records) -> Iterator[tuple[int, bytes]]:
    """``records`` as blocks: (number of records, payload) of each, in order."""
    start, count = 0, len(records)
    while start < count:
        end = min(start + MAX_BLOCK_RECORDS, count)
        payload = _block(records, start, end)
        while len(payload) > MAX_BLOCK_BYTES and end - start > 1:
            end = start + max(1, (end - start) * MAX_BLOCK_BYTES // (len(payload) + 1))
            payload = _block(records, start, end)
        yield end - start, payload
        start = end


def _block(records: Records, start: int, end: int) -> bytes:
    headers = records.headers[start:end] if records.headers is not None else None
    return _encode(Block(1, records.keys[start:end], records.values[start:end], records.timestamps[start:end], headers))


def records_of_block(payload: bytes, where: str) -> Records:
    """The records of a block.  Raises LogCorrupt."""
    try:
        block = _decode_block(payload)
    except msgspec.MsgspecError as error:
        raise LogCorrupt(
            f"{where}: the block doesn't read back ({error}); was it written by something else?"
        ) from error
    return Records(block.keys, block.values, block.timestamps, block.headers)


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def atomic_batch(messages: Iterable[tuple[str, Sequence[tuple[str, bytes]], bytes]], reply: str) -> bytes:
    """Messages (subject, headers, payload) of one stream as one atomic batch (ADR-50); the last one is answered."""
    batch = secrets.token_hex(16).encode()
    parts: list[bytes] = []
    held = list(messages)
    for number, (subject, headers, payload) in enumerate(held, 1):
        lines: Lines = [("Nats-Batch-Id", batch), ("Nats-Batch-Sequence", b"%d" % number), *headers]
        last = number == len(held)
        if last:
            lines.append(("Nats-Batch-Commit", b"1"))
        parts.append(publication(subject, payload, reply if last else "", lines))
    return b"".join(parts)
