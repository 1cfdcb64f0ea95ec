"""The object store (ADR-20): objects as records and records as objects.

    $O.<bucket>.M.<name, base64>    what an object is (JSON), the last message of its subject
    $O.<bucket>.C.<nuid>            its chunks

What must live here: that form, and putting an object together.  What must not: reading or sending in general.

A record's key is the object's name, its value the content, whose digest is checked.  What describes the object is in
headers: ``Nats-Object-Digest``, ``-Size``, ``-Description``, and the object's own headers.  A tombstone is a deletion.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from streams.connectors.jetstream.api import Api
from streams.core.log import Append
from streams.core.record import Headers
from streams.errors import DataError, LogCorrupt

__all__ = ["CHUNK_BYTES", "content_of", "object_messages", "object_record", "replaced"]

CHUNK_BYTES = 128 * 1024
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def _digest(content: bytes) -> str:
    return "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()


def object_messages(append: Append, bucket: str, name: str, number: int) -> Iterator[tuple[str, bytes, bytes]]:
    """The messages of records, each an object: chunks, then what it is, which replaces what it was."""
    records = append.records
    for row, (key, content) in enumerate(zip(records.keys, records.values, strict=True)):
        if not key:
            raise DataError(f"{append.partition}: a record has no key, which an object takes its name from")
        about: dict[str, Any] = {"name": key.decode(errors="backslashreplace"), "bucket": bucket}
        nuid = f"{name}-{number}"
        whole = content or b""
        chunks = [whole[at : at + CHUNK_BYTES] for at in range(0, len(whole), CHUNK_BYTES)]
        about |= {"nuid": nuid, "size": len(whole), "chunks": len(chunks)}
        if content is None:
            about |= {"deleted": True}
        else:
            about |= {"digest": _digest(whole), "options": {"max_chunk_size": CHUNK_BYTES}}
        for chunk in chunks:
            yield f"$O.{bucket}.C.{nuid}", b"", chunk
        subject = f"$O.{bucket}.M.{base64.urlsafe_b64encode(about['name'].encode()).decode()}"
        lines = b"Nats-Rollup: sub\r\nStreams-Time: %d\r\n" % records.timestamps[row]
        yield subject, lines, _encode(about)
        number += len(chunks) + 1


async def replaced(api: Api, stream: str, messages: Sequence[tuple[str, bytes, bytes]]) -> list[str]:
    """The subjects of chunks that nobody needs once these messages are stored.  Asked for before they are."""
    known: dict[str, list[str]] = {}
    for subject, _, payload in messages:
        _, bucket, kind, _ = subject.split(".", 3)
        if kind != "M":
            continue
        if subject not in known:
            stored = await api.message(stream, last_by_subj=subject)
            known[subject] = [_chunks(bucket, stored.payload)] if stored is not None else []
        known[subject].append(_chunks(bucket, payload))
    return [subject for them in known.values() for subject in them[:-1] if subject and subject != them[-1]]


def _chunks(bucket: str, payload: bytes) -> str:
    """The subject of an object's chunks; "" where what describes it doesn't say."""
    try:
        nuid = _decode(payload).get("nuid")
    except msgspec.MsgspecError:
        return ""
    return f"$O.{bucket}.C.{nuid}" if nuid else ""


def object_record(payload: bytes | None, where: str) -> tuple[bytes, dict[str, Any], Headers]:
    """Name, description and headers of an object.  Raises LogCorrupt."""
    try:
        about = _decode(payload or b"")
        headers = [
            ("Nats-Object-Size", b"%d" % about.get("size", 0)),
            *(
                (f"Nats-Object-{name.capitalize()}", str(about[name]).encode())
                for name in ("digest", "description")
                if about.get(name)
            ),
            *((name, str(one).encode()) for name, them in (about.get("headers") or {}).items() for one in them),
        ]
        return str(about["name"]).encode(), about, tuple(headers)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        raise LogCorrupt(f"{where}: it describes no object ({error}); was it written by something else?") from error


async def content_of(api: Api, stream: str, bucket: str, about: dict[str, Any], where: str) -> bytes | None:
    """The content of an object; None where it was replaced in the meantime.  Raises LogCorrupt for a wrong digest."""
    parts: list[bytes] = []
    seq, subject = 1, f"$O.{bucket}.C.{about['nuid']}"
    for _ in range(int(about.get("chunks", 0))):
        stored = await api.message(stream, seq=seq, next_by_subj=subject)
        if stored is None:
            return None
        parts.append(stored.payload)
        seq = stored.seq + 1
    content = b"".join(parts)
    digest = about.get("digest")
    if digest and str(digest).rstrip("=") != _digest(content).rstrip("="):
        raise LogCorrupt(f"{where}: the content of object {about['name']!r} isn't what its digest says")
    return content
