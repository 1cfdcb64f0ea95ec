"""Rules that the logs of our own share: what a topic has to match, what a column may hold, where a key goes.

What must live here: pure functions that the log in memory and the embedded log both follow, so that an app sees the
same errors and the same partitions on each.  What must not: anything about storing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from zlib import crc32

from streams.core.log import TopicSpec
from streams.core.record import Headers, Records, TopicPartition
from streams.errors import ConfigurationError, DataError, TopicMismatch

__all__ = [
    "check_columns",
    "check_lengths",
    "check_record_sizes",
    "check_spec",
    "check_types",
    "partition_for",
    "record_bytes",
]

_ALLOWED = frozenset((bytes, type(None)))
_COMPARED = ("partitions", "kind", "retention_ms", "retention_bytes", "compact")


@lru_cache(maxsize=65_536)
def partition_for(key: bytes, partitions: int) -> int:
    """The partition of a key: CRC-32 modulo their number.  Fixed for ever: stored keys lie where it says."""
    return crc32(key) % partitions


def check_spec(asked: TopicSpec, held: Mapping[str, TopicSpec]) -> None:
    """Raise TopicMismatch, naming both values, where the topic exists otherwise; ConfigurationError for nonsense."""
    if asked.partitions < 1:
        raise ConfigurationError(f"topic {asked.name!r}: partitions={asked.partitions}; at least one is needed")
    if not asked.name:
        raise ConfigurationError("a topic has no name; give it one")
    if asked.timestamps != "create":
        raise ConfigurationError(
            f"topic {asked.name!r}: timestamps={asked.timestamps!r} is something that this log doesn't do; leave it "
            f"out, or keep the topic on Kafka"
        )
    known = held.get(asked.name)
    for name in _COMPARED if known is not None else ():
        is_value, asked_value = getattr(known, name), getattr(asked, name)
        if is_value != asked_value:
            raise TopicMismatch(
                f"topic {asked.name!r}: {name} is {is_value} on the log and {asked_value} in the app; declare it as "
                f"it is, or delete the topic and have it created anew"
            )


def check_columns(at: TopicPartition, records: Records) -> None:
    """Raise TypeError or ValueError for columns that wouldn't read back: a bug of the caller, caught before the log."""
    check_lengths(at, records)
    check_types(at, records.keys, records.values, records.timestamps)


def check_lengths(at: TopicPartition, records: Records) -> None:
    """The part of ``check_columns`` that looks at whole columns."""
    count = len(records.values)
    headers = records.headers
    if not (len(records.keys) == len(records.timestamps) == count) or (headers is not None and len(headers) != count):
        raise ValueError(f"{at}: the columns of a write differ in length; keys, values and timestamps go together")


def check_types(
    at: TopicPartition, keys: Sequence[bytes | None], values: Sequence[bytes | None], timestamps: Sequence[int]
) -> None:
    """The part of ``check_columns`` that looks at each record; cheap on a slice that is packed right after it."""
    if not (_ALLOWED.issuperset(map(type, values)) and _ALLOWED.issuperset(map(type, keys))):
        raise TypeError(f"{at}: keys and values are bytes or None; encode them before the log")
    if type(sum(timestamps)) is not int:
        raise TypeError(f"{at}: timestamps are whole milliseconds")


def record_bytes(key: bytes | None, value: bytes | None, headers: Headers | None) -> int:
    """What counts towards ``max_record_bytes``."""
    total = len(key or b"") + len(value or b"")
    return total + sum(len(name.encode()) + len(content) for name, content in headers or ())


def check_record_sizes(at: TopicPartition, records: Records, max_record_bytes: int) -> int:
    """The bytes of all records; raises DataError, naming the setting, for the first that is too large."""
    if records.headers is None:
        longest = max(map(len, filter(None, records.keys)), default=0)
        longest += max(map(len, filter(None, records.values)), default=0)
        if longest <= max_record_bytes:
            return records.size_bytes()
    headers: Iterable[Headers | None] = records.headers if records.headers is not None else [None] * len(records)
    total = 0
    for index, size in enumerate(map(record_bytes, records.keys, records.values, headers)):
        total += size
        if size > max_record_bytes:
            raise DataError(
                f"{at}: record {index} of the write has {size} bytes, above the log's max_record_bytes="
                f"{max_record_bytes}; send less, or raise the limit in the log's URL"
            )
    return total
