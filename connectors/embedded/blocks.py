"""Blocks: how records lie in the database.

What must live here: the form of keys and values, packing, splitting and reading back.  Pure.  What must not: RocksDB.

A value is a block: the records of one partition that were appended together, up to 1,000 or about 1 MB, as packed
columns.  A record of a megabyte or more has a block of its own.  Its key is where the block starts:

    topic number, 4 bytes | partition, 4 bytes | base offset, 8 bytes         all big-endian: keys sort as records do

A block covers [base, next_offset) and the next block of the partition has the key ``next_offset``: blocks follow one
another without a hole.  So a reader goes from key to key without searching, and a missing block can't pass for
a gap.  Compaction keeps this true: what it merges covers what its parts covered, and ``offsets`` says which are left.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from struct import Struct

import msgspec

from streams.connectors.memory.rules import check_record_sizes, check_types, record_bytes
from streams.core.record import Headers, Records, TopicPartition

__all__ = [
    "MAX_BLOCK_BYTES",
    "MAX_BLOCK_RECORDS",
    "Block",
    "BlockHead",
    "block_key",
    "block_records",
    "decode_block",
    "decode_head",
    "encode_block",
    "offset_of_key",
    "pack",
    "partition_end_key",
    "topic_range",
]

MAX_BLOCK_RECORDS = 1000
MAX_BLOCK_BYTES = 2**20
VERSION = 1

_KEY = Struct(">IIQ")
_TOPIC = Struct(">I")
_OFFSET = Struct(">Q")


class BlockHead(msgspec.Struct, array_like=True, gc=False):
    """The fields in front of the columns: what is known without unpacking them.

    next_offset: where the next block starts.  append_ms: wall time of the append, never falling in a partition.
    bytes_before: bytes of all blocks that were appended to the partition before this one.
    """

    version: int
    next_offset: int
    append_ms: int
    bytes_before: int


class Block(BlockHead, array_like=True, gc=False):
    """A block.  Fields are only ever added at the end.

    keys: None when no record has one.  headers: None when no record has any.
    offsets: of the records, ascending; None when they are base, base + 1, ….
    tombstones: (index, append_ms) of tombstones that compaction merged here, which keep their own age.
    """

    keys: list[bytes | None] | None
    values: list[bytes | None]
    timestamps: list[int]
    headers: list[Headers | None] | None = None
    offsets: list[int] | None = None
    tombstones: list[tuple[int, int]] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Block).decode
_decode_head = msgspec.msgpack.Decoder(BlockHead).decode

block_key = _KEY.pack
"""(topic number, partition, base offset) → key."""


def offset_of_key(key: bytes) -> int:
    return int(_OFFSET.unpack_from(key, 8)[0])


def partition_end_key(topic: int, partition: int) -> bytes:
    """Behind every block of the partition, for searching backwards."""
    return _KEY.pack(topic, partition, 2**64 - 1)


def topic_range(topic: int) -> tuple[bytes, bytes]:
    """First key and end (excluded) of all blocks of a topic."""
    return _TOPIC.pack(topic), _TOPIC.pack(topic + 1)


def encode_block(block: Block) -> bytes:
    return _encode(block)


def decode_block(value: bytes) -> Block:
    """Raises ValueError for what isn't a block."""
    try:
        block = _decode(value)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the block doesn't read back: {error}") from error
    _check_version(block.version)
    return block


def decode_head(value: bytes) -> BlockHead:
    """The head alone.  Raises ValueError for what isn't a block."""
    try:
        head = _decode_head(value)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the block doesn't read back: {error}") from error
    _check_version(head.version)
    return head


def _check_version(version: int) -> None:
    if version != VERSION:
        raise ValueError(f"the block has format {version}; this version of streams reads {VERSION}: upgrade it")


def block_records(base: int, block: Block, first: int) -> tuple[Sequence[int], Records]:
    """The records of ``block`` from offset ``first`` on, and their offsets (a range where they have no gaps).

    Takes the block's lists over where all of it is wanted: don't use the block afterwards.
    """
    count = len(block.values)
    keys: list[bytes | None] = block.keys if block.keys is not None else [None] * count
    offsets: Sequence[int] = block.offsets if block.offsets is not None else range(base, base + count)
    skip = 0 if first <= base else bisect_left(offsets, first)
    if not skip:
        return offsets, Records(keys, block.values, block.timestamps, block.headers)
    headers = block.headers[skip:] if block.headers is not None else None
    return offsets[skip:], Records(keys[skip:], block.values[skip:], block.timestamps[skip:], headers)


def pack(
    at: TopicPartition, records: Records, base: int, append_ms: int, bytes_before: int, max_record_bytes: int
) -> list[tuple[int, bytes]]:
    """``records`` as blocks from offset ``base`` on: (base, value) of each, in order.

    Raises DataError for a record above ``max_record_bytes``, TypeError for what isn't bytes.
    """
    packed: list[tuple[int, bytes]] = []
    count = len(records)
    first = 0
    while first < count:
        last = min(first + MAX_BLOCK_RECORDS, count)
        value = _pack_slice(at, records, first, last, base, append_ms, bytes_before)
        if len(value) > MAX_BLOCK_BYTES and last - first > 1:
            # Sizes are only looked at here: summing them up costs as much as packing.
            last = _cut(records, first, last)
            value = _pack_slice(at, records, first, last, base, append_ms, bytes_before)
        if len(value) > max_record_bytes:
            check_record_sizes(at, records, max_record_bytes)
        packed.append((base, value))
        base += last - first
        bytes_before += len(value)
        first = last
    return packed


def _pack_slice(
    at: TopicPartition, records: Records, first: int, last: int, base: int, append_ms: int, bytes_before: int
) -> bytes:
    keys, values, timestamps, headers = records.keys, records.values, records.timestamps, records.headers
    if first or last < len(values):
        keys, values, timestamps = keys[first:last], values[first:last], timestamps[first:last]
        headers = headers[first:last] if headers is not None else None
    check_types(at, keys, values, timestamps)
    if headers is not None and not any(headers):
        headers = None
    no_keys = keys[0] is None and not any(key is not None for key in keys)
    block = Block(
        VERSION, base + last - first, append_ms, bytes_before, None if no_keys else keys, values, timestamps, headers
    )
    return _encode(block)


def _cut(records: Records, first: int, last: int) -> int:
    """Where the block that starts at ``first`` ends so that it has about MAX_BLOCK_BYTES, or one record."""
    headers: list[Headers | None] = records.headers if records.headers is not None else [None] * len(records)
    sizes = map(record_bytes, records.keys[first:last], records.values[first:last], headers[first:last])
    total = 0
    for index, size in enumerate(sizes, first):
        total += size
        if total > MAX_BLOCK_BYTES:
            return max(index, first + 1)
    return last
