"""Which position belongs to a time, on a log that keeps no index by time: found by reading.

What must live here: that search, over the protocol.  What must not: anything of one log.
"""

from __future__ import annotations

from collections.abc import Mapping

from streams.core.log import Source
from streams.core.record import Position, Positions, TopicPartition

__all__ = ["first_since"]

RECORDS_AT_ONCE = 10_000
WAIT_S = 1.0


async def first_since(source: Source, times: Mapping[TopicPartition, int]) -> Positions:
    """As ``Source.offsets_at``.  Reads each partition up to the record that is found, or through."""
    return {at: await _first(source, at, time) for at, time in times.items()}


async def _first(source: Source, at: TopicPartition, time: int) -> Position:
    bounds = (await source.bounds([at]))[at]
    reached = bounds.start
    reader = source.reader({at: reached})
    try:
        while not reached.reached(bounds.end):
            for batch in await reader.fetch([at], max_records=RECORDS_AT_ONCE, wait_s=WAIT_S):
                for offset, timestamp in zip(batch.offsets, batch.records.timestamps, strict=True):
                    if timestamp >= time:
                        return reached.advanced(batch.lane, offset)
                reached = reached.advanced(batch.lane, batch.next_offset)
    finally:
        await reader.close()
    return reached
