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
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from streams.connectors.jetstream.client import MAX_PAYLOAD, Message, above_max_payload
from streams.core.record import Headers, Records
from streams.errors import DataError, LogCorrupt

__all__ = [
    "BLOCK_PLACES",
    "Arrived",
    "Lines",
    "atomic_batch",
    "blocks_of",
    "columns_of",
    "record_of",
    "records_of_block",
    "room",
    "rows_of",
    "unreadable",
]

BLOCK_PLACES = 2**20
MAX_BLOCK_RECORDS = 1000
MAX_RECORD_BYTES, MAX_BLOCK_BYTES = 500_000, 400_000
HEAD_BYTES = 4096
"""Of a message, what is left to headers: those of a batch, and what a record has beside key, value and headers."""

KEY, TIME, TOMBSTONE, PACKED = b"Streams-Key", b"Streams-Time", b"Streams-Tombstone", b"Streams-Packed"
Lines = list[tuple[str, bytes]]
Arrived = tuple[int, int, Message]
"""Sequence, when the server stored it in ns, and the message."""


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
_space = re.compile(rb"\s").search
_plain = re.compile(
    rb"NATS/1\.0\r\n(?:Nats-[^\r]*+\r\n)*+"
    rb"Streams-Time: (\d{1,18})\r\n(?:Streams-Key: (\S++(?: ++\S++)*+)\r\n)?+"
    rb"(?:Nats-[^\r]*+\r\n)*+\r\n"
).fullmatch
"""Headers as nearly all messages have them, that ``rows_of`` has made."""


# ── one record, one message ───────────────────────────────────────────────────────────────────────────────────────────


def rows_of(records: Records) -> list[tuple[bytes, bytes]]:
    """Records as messages: the lines of headers, and the payload, of each."""
    if records.headers is not None or not _fit(records.keys) or None in records.values:
        headers = records.headers if records.headers is not None else [None] * len(records)
        return list(map(_message_of, records.keys, records.values, records.timestamps, headers))
    rows = zip(records.keys, records.values, records.timestamps, strict=True)
    return [
        (
            b"Streams-Time: %d\r\n" % time if key is None else b"Streams-Time: %d\r\nStreams-Key: %b\r\n" % (time, key),
            value or b"",
        )
        for key, value, time in rows
    ]


def _message_of(key: bytes | None, value: bytes | None, timestamp: int, headers: Headers | None) -> tuple[bytes, bytes]:
    """The header lines and the payload of a record."""
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
    return _head(lines), value if value is not None else b""


def _head(lines: Iterable[tuple[str, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % (name.encode(), value) for name, value in lines])


def _fit(keys: Sequence[bytes | None]) -> bool:
    """Whether all of these keys can stand in a header as they are: a look at all at once, which may say no wrongly."""
    known = [key for key in keys if key is not None]
    joined = b"".join(known)
    if not joined.isascii():
        return False
    if _space(joined) is None:
        return True
    return b"\r" not in joined and b"\n" not in joined and all(key == key.strip() for key in known)


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


def columns_of(messages: Sequence[Arrived], where: str = "", stream: str = "") -> Records:
    """Messages of ``stream`` as records.  Raises LogCorrupt."""
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    times: list[int] = []
    headers: list[Headers | None] = []
    some = False
    for seq, time_ns, (_, _, head, payload) in messages:
        plain = _plain(head)
        if plain is not None:
            time, key = plain.groups()
            keys.append(key)
            values.append(payload)
            times.append(int(time))
            headers.append(None)
            continue
        try:
            row = record_of(head, payload, time_ns // 1_000_000)
        except ValueError as error:
            raise unreadable(where, stream, seq, error) from error
        keys.append(row[0])
        values.append(row[1])
        times.append(row[2])
        headers.append(row[3])
        some = some or row[3] is not None
    return Records(keys, values, times, headers if some else None)


def unreadable(where: str, stream: str, seq: int, error: ValueError) -> LogCorrupt:
    """The error for a message whose headers ``record_of`` can't read."""
    return LogCorrupt(
        f"{where}, message {seq}: its headers don't read back ({error}); was it written by something else?  Have its "
        f"sender mended, look at it (nats stream get {stream} {seq}) and remove it (nats stream rmm {stream} {seq})"
    )


def record_of(
    head: bytes, payload: bytes, time_ms: int, unread: list[str] | None = None
) -> tuple[bytes | None, bytes | None, int, Headers | None]:
    """Key, value, timestamp and headers of a message; ``time_ms``: when the server stored it.

    A header of ours that isn't what it has to be (a time that is no number, what isn't base64 of MessagePack) raises
    ValueError; given a list, it stays among the headers as it is, and the list is told what is wrong with it.
    """
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
        if name in (TIME, PACKED):
            try:
                if name == TIME:
                    time_ms = _time(content)
                else:
                    packed = _decode_packed(base64.b64decode(content))
            except ValueError as error:
                if unread is None:
                    raise ValueError(f"{name.decode()}: {error}") from error
                unread.append(f"{name.decode()}: {error}")
                headers.append((name.decode(), content))
        elif name == KEY:
            key = content
        elif name == TOMBSTONE:
            value = None
        elif not name.startswith(b"Nats-"):
            headers.append((name.decode(errors="replace"), content))
    if packed is not None:
        return packed.key, value, time_ms, packed.headers
    return key, value, time_ms, tuple(headers) or None


def _time(content: bytes) -> int:
    """Raises ValueError, also for a time that no log could keep."""
    time_ms = int(content)
    if not -(2**63) <= time_ms < 2**63:
        raise ValueError(f"{time_ms} is no time in milliseconds")
    return time_ms


# ── blocks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def room(max_payload: int) -> int:
    """What a record may have on a server that takes messages of ``max_payload`` bytes."""
    return min(MAX_RECORD_BYTES, max_payload - min(HEAD_BYTES, max_payload // 4))


def blocks_of(records: Records, max_payload: int = MAX_PAYLOAD) -> Iterator[tuple[int, bytes]]:
    """``records`` as blocks: (number of records, payload) of each, in order."""
    most = min(MAX_BLOCK_BYTES, room(max_payload))
    start, count = 0, len(records)
    while start < count:
        end = min(start + MAX_BLOCK_RECORDS, count)
        payload = _block(records, start, end)
        while len(payload) > most and end - start > 1:
            end = start + max(1, (end - start) * most // (len(payload) + 1))
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


def atomic_batch(
    messages: Iterable[tuple[str, Sequence[tuple[str, bytes]] | bytes, bytes]],
    reply: str,
    max_payload: int = MAX_PAYLOAD,
) -> bytes:
    """Messages (subject, headers, payload) of one stream as one atomic batch (ADR-50); the last one is answered.

    Headers are pairs, or lines as ``rows_of`` makes them.  Raises DataError for a message that the server doesn't take:
    it would hang up, and whoever sent it would do so again and again.
    """
    # Every stored message has the id, and every reader gets it: it is as short as chance allows.
    batch = secrets.token_urlsafe(12).encode()
    base = len("NATS/1.0\r\nNats-Batch-Id: \r\nNats-Batch-Sequence: \r\n\r\n") + len(batch)
    held = list(messages)
    parts: list[bytes] = []
    for number, (subject, headers, payload) in enumerate(held, 1):
        lines = headers if isinstance(headers, bytes) else _head(headers)
        to = subject
        if number == len(held):
            lines += b"Nats-Batch-Commit: 1\r\n"
            to = f"{subject} {reply}"
        place = b"%d" % number
        size = base + len(place) + len(lines)
        if size + len(payload) > max_payload:
            raise DataError(above_max_payload(subject, size + len(payload), max_payload))
        parts.append(
            b"HPUB %b %d %d\r\nNATS/1.0\r\nNats-Batch-Id: %b\r\nNats-Batch-Sequence: %b\r\n%b\r\n%b\r\n"
            % (to.encode(), size, size + len(payload), batch, place, lines, payload)
        )
    return b"".join(parts)
