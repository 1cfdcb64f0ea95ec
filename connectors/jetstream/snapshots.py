"""What compaction leaves of a partition: a manifest, and a snapshot in blocks.

What must live here: their form, and reading them.  What must not: making them (``compaction``).

    offsets   0 ............................. upto ................ end
              the last record of each key     the log, in blocks
              in blocks of the snapshot ``id``

The manifest is the point of truth: it is replaced by compare-and-set, and blocks that none names are rubbish.  A record
keeps the offset that it always had.
"""

from __future__ import annotations

import msgspec

from streams.connectors.jetstream.api import Api
from streams.core.record import Headers
from streams.errors import LogCorrupt

__all__ = ["Manifest", "SnapshotBlock", "decode_manifest", "encode", "next_block"]


class Manifest(msgspec.Struct, array_like=True):
    """Of one partition.  Fields are only ever added at the end.

    upto: offsets below it are in the snapshot.  floor: tombstones below it may be gone.  id, blocks: the snapshot's.
    size_bytes: of it.  total: ``Link.total`` of the log at ``upto``.  oldest_tombstone_ms: of those in the snapshot, by
    when they came into one.  made_ms: when this was.
    """

    version: int
    upto: int
    floor: int
    id: str
    blocks: int
    size_bytes: int
    total: int
    oldest_tombstone_ms: int | None
    made_ms: int


class SnapshotBlock(msgspec.Struct, array_like=True, gc=False):
    """Records with their offsets.  number: counted from 0.  tombstones: (index, when it came into a snapshot, ms)."""

    number: int
    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps: list[int]
    headers: list[Headers | None] | None
    tombstones: list[tuple[int, int]]


encode = msgspec.msgpack.Encoder().encode
_decode_manifest = msgspec.msgpack.Decoder(Manifest).decode
_decode_block = msgspec.msgpack.Decoder(SnapshotBlock).decode


def decode_manifest(payload: bytes) -> Manifest:
    """Raises LogCorrupt."""
    try:
        return _decode_manifest(payload)
    except msgspec.MsgspecError as error:
        raise LogCorrupt(f"the manifest of a snapshot doesn't read back ({error})") from error


async def next_block(api: Api, stream: str, subject: str, seq: int, number: int) -> tuple[int, SnapshotBlock] | None:
    """The block ``number`` of the snapshot on ``subject``, looked for from ``seq`` on, and where to look for the next.

    None when it isn't there: a later compaction has replaced the snapshot.
    """
    stored = await api.message(stream, seq=seq, next_by_subj=subject)
    if stored is None:
        return None
    try:
        block = _decode_block(stored.payload)
    except msgspec.MsgspecError as error:
        raise LogCorrupt(f"{subject}: message {stored.seq} doesn't read back ({error})") from error
    return (stored.seq + 1, block) if block.number == number else None
