"""Records that leave outside of any task, divided by partition.

What must live here: that division.  What must not: appending, which the worker does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from streams.core.log import Append, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.core.spread import BY_KEY, How, Spread

__all__ = ["Producer", "divide"]


class Producer:
    """Chooses for each topic; keeps its place.

    writer: names this one.  hows: how topics are spread that aren't by key.
    """

    def __init__(self, writer: str, partition_for: Callable[[bytes, int], int], hows: Mapping[str, How]) -> None:
        self._writer = writer
        self._partition_for = partition_for
        self._hows = hows
        self._spreads: dict[str, Spread] = {}

    def spread(self, topic: TopicSpec, records: Records) -> Sequence[Append]:
        """The records by partition, in their order."""
        spread = self._spreads.get(topic.name)
        if spread is None:
            how = self._hows.get(topic.name, BY_KEY)
            spread = self._spreads[topic.name] = Spread(topic.name, how, self._partition_for, self._writer)
        return divide(topic, records, spread)


def divide(topic: TopicSpec, records: Records, spread: Spread) -> Sequence[Append]:
    """The records by partition, in their order, as ``spread`` chooses."""
    if topic.partitions == 1:
        return [Append(TopicPartition(topic.name, 0), records)]
    parts: dict[int, Records] = {}
    for row, number in enumerate(spread.choose(records.keys, topic.partitions)):
        part = parts.get(number)
        if part is None:
            part = parts[number] = Records([], [], [], None if records.headers is None else [])
        part.keys.append(records.keys[row])
        part.values.append(records.values[row])
        part.timestamps.append(records.timestamps[row])
        if part.headers is not None and records.headers is not None:
            part.headers.append(records.headers[row])
    return [Append(TopicPartition(topic.name, number), part) for number, part in sorted(parts.items())]
