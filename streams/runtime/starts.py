"""Where a task begins to read that has no position yet.

What must live here: from what the user chose to a position on the log.  What must not: what becomes of it: it is
recorded in the commit of the claim, so that it is asked for once.
"""

from __future__ import annotations

from streams.core.graph import Start
from streams.core.log import Source
from streams.core.record import Bounds, Position, TopicPartition
from streams.errors import ConfigurationError

__all__ = ["first_position"]


async def first_position(log: Source, at: TopicPartition, start: Start, bounds: Bounds) -> Position:
    """The position that ``start`` means.  Raises ConfigurationError for an offset that the partition doesn't have."""
    if start == "earliest":
        return bounds.start
    if start == "latest":
        return bounds.end
    if isinstance(start, int):
        return (await log.offsets_at({at: start}))[at]
    assert not isinstance(start, str)
    if at.partition not in start:
        return bounds.start
    position = Position.at(start[at.partition])
    if not (position.reached(bounds.start) and bounds.end.reached(position)):
        raise ConfigurationError(
            f"{at}: start={start[at.partition]}, but it holds the offsets from {bounds.start.offset()} to "
            f"{bounds.end.offset()}; choose one of them, a time, 'earliest' or 'latest'"
        )
    return position
