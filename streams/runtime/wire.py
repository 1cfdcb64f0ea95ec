"""What travels between a worker's control endpoint and the tools: msgpack bodies over HTTP on the loopback address.

What must live here: the messages of both ends.  What must not: serving (``runtime.control``), calling (``cli.remote``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from streams.core.log import Append, TopicInfo, TopicSpec
from streams.core.record import Bounds, Fetched, Headers, Position, Positions, Records, TopicPartition

__all__ = [
    "BOUNDS",
    "AskRequest",
    "BoundsReply",
    "FetchReply",
    "FetchRequest",
    "Holding",
    "WireBatch",
    "appends_of",
    "decode",
    "encode",
    "from_pairs",
    "to_pairs",
]

Pairs = list[tuple[TopicPartition, Position]]
BoundsReply = list[tuple[TopicPartition, Bounds]]
BOUNDS = list[TopicPartition]
Topics = dict[str, TopicInfo]
Specs = list[TopicSpec]

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.decode


class Holding(msgspec.Struct, frozen=True):
    """Who holds the log: the app that the worker runs."""

    app: str
    log_id: str


class FetchRequest(msgspec.Struct, frozen=True):
    """Read once from ``positions``; wait up to ``wait_s`` when there is nothing."""

    positions: Pairs
    max_records: int
    wait_s: float


class WireBatch(msgspec.Struct, frozen=True):
    """``Fetched``, with the offsets spelled out."""

    partition: TopicPartition
    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps: list[int]
    headers: list[Headers | None] | None
    next_offset: int
    lane: int = 0

    @classmethod
    def of(cls, fetched: Fetched) -> WireBatch:
        records = fetched.records
        return cls(
            fetched.partition,
            list(fetched.offsets),
            records.keys,
            records.values,
            records.timestamps,
            records.headers,
            fetched.next_offset,
            fetched.lane,
        )

    def fetched(self) -> Fetched:
        records = Records(self.keys, self.values, self.timestamps, self.headers)
        return Fetched(self.partition, self.offsets, records, self.next_offset, self.lane)


class FetchReply(msgspec.Struct, frozen=True):
    batches: list[WireBatch]
    ends: Pairs


class AskRequest(msgspec.Struct, frozen=True):
    """Ask an agent.  ``value``: encoded as on the agent's topic; ``key`` in text, None lets the app compute it."""

    agent: str
    value: bytes
    key: str | None = None
    timeout_ms: int = 30_000
    wait: bool = True


def to_pairs(positions: Positions) -> Pairs:
    return list(positions.items())


def from_pairs(pairs: Pairs) -> dict[TopicPartition, Position]:
    return dict(pairs)


def appends_of(body: bytes) -> Sequence[Append]:
    return decode(body, type=list[Append])


def partitions_of(body: bytes) -> Collection[TopicPartition]:
    return decode(body, type=list[TopicPartition])
