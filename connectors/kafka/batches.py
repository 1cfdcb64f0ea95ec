"""Record batches: between the columns of this project and Kafka's record format (magic 2).

What must live here: taking batches apart and putting them together, the filter of aborted transactions.  What must not:
sending or receiving them.

A fetch brings whole batches as their producers made them.  Their headers are read on arrival, which costs nothing per
record; a batch is unpacked into columns when somebody wants its records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from streams.core.record import Headers, Records
from streams.errors import LogCorrupt

__all__ = ["COMPRESSION", "Packed", "arrived", "pack", "unpack"]

COMPRESSION = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
MAGIC = 2
NO_PRODUCER = (-1, -1)


@dataclass(slots=True)
class Packed:
    """A batch as it came.  ``batch`` is None for a gap: markers and what was aborted."""

    batch: DefaultRecordBatch | None
    next_offset: int


def arrived(raw: bytes, aborted: Iterable[tuple[int, ...]] | None, where: str) -> Iterator[Packed]:
    """The batches of one partition's part of a fetch, committed ones only.

    aborted: (producer id, first offset, …) of transactions that were aborted (KIP-98).  A batch that was cut off at the
    end of the fetch is left out.  Raises LogCorrupt, with ``where``, when a checksum doesn't match.
    """
    begun = [(first, producer) for producer, first, *_ in aborted or ()]
    begun.sort(reverse=True)
    gone: set[int] = set()
    records = MemoryRecords(raw)
    while records.has_next():
        batch = records.next_batch()
        if batch is None:
            return
        if not batch.validate_crc():
            raise LogCorrupt(
                f"{where}: the batch at {batch.base_offset} doesn't match its checksum; look at the brokers' disks"
            )
        while begun and begun[-1][0] <= batch.base_offset:
            gone.add(begun.pop()[1])
        if batch.is_control_batch:
            if _is_abort(batch):
                gone.discard(batch.producer_id)
            yield Packed(None, batch.next_offset)
        elif batch.is_transactional and batch.producer_id in gone:
            yield Packed(None, batch.next_offset)
        else:
            yield Packed(batch, batch.next_offset)


def _is_abort(batch: DefaultRecordBatch) -> bool:
    # Of a marker that was compacted away the batch is kept, without a record, for the sake of its producer.
    key = next((record.key for record in batch), None)
    return key is not None and ControlRecord.parse(key) == ABORT_MARKER


def unpack(batch: DefaultRecordBatch, since: int) -> tuple[Sequence[int], Records]:
    """Offsets and columns of the records at or behind ``since``."""
    held = list(batch)
    if held and held[0].offset < since:
        held = [each for each in held if each.offset >= since]
    count = len(held)
    offsets: Sequence[int] = ()
    if count:
        first, last = held[0].offset, held[-1].offset
        offsets = range(first, last + 1) if last - first == count - 1 else [each.offset for each in held]
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    timestamps: list[int] = []
    add_key, add_value, add_timestamp = keys.append, values.append, timestamps.append
    with_headers = False
    for each in held:  # one pass: the records are objects of C, whose fields are made when they are asked for
        add_key(each.key)
        add_value(each.value)
        add_timestamp(each.timestamp)
        if each.headers:
            with_headers = True
    headers = [_headers(each.headers) for each in held] if with_headers else None
    return offsets, Records(keys, values, timestamps, headers)


def _headers(found: Sequence[tuple[str, bytes | None]]) -> Headers | None:
    return tuple((name, value if value is not None else b"") for name, value in found) or None


def pack(
    records: Records,
    start: int,
    *,
    compression: int,
    max_bytes: int,
    transactional: bool = False,
    producer: tuple[int, int] = NO_PRODUCER,
    sequence: int = -1,
) -> tuple[bytes, int]:
    """One batch with the records from ``start`` on, as many as fit in ``max_bytes`` and at least one, and their number.

    producer: (id, epoch); sequence: of its first record in the partition (KIP-98).
    """
    builder = DefaultRecordBatchBuilder(MAGIC, compression, int(transactional), *producer, sequence, max_bytes)
    count = _fill(builder, records, start)
    return bytes(builder.build()), count


def _fill(builder: DefaultRecordBatchBuilder, records: Records, start: int) -> int:
    append = builder.append
    end = len(records)
    keys, values, timestamps = records.keys, records.values, records.timestamps
    if records.headers is None:
        for index in range(start, end):
            if append(index - start, timestamps[index], keys[index], values[index], []) is None:
                return index - start
    else:
        for index in range(start, end):
            headers = list(records.headers[index] or ())
            if append(index - start, timestamps[index], keys[index], values[index], headers) is None:
                return index - start
    return end - start
