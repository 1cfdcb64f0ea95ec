"""Where partitions begin and end, and which offset belongs to a time.

What must live here: ListOffsets.  What must not: reading records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from aiokafka.protocol.offset import OffsetRequest

from streams.connectors.kafka.faults import MOVED, Code, error_for, name_of
from streams.core.record import Bounds, Position, TopicPartition
from streams.errors import LogUnavailable

if TYPE_CHECKING:
    from streams.connectors.kafka.cluster import Cluster

__all__ = ["Offsets"]

LATEST, EARLIEST = -1, -2
READ_UNCOMMITTED = 0
ANY_REPLICA = -1
PATIENCE_S = 15.0
RETRY_S = 0.05


class Offsets:
    """Asks the leaders for offsets."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lane = cluster.lane("offsets")

    async def bounds(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Bounds]:
        """First offset and high watermark: what is in an open transaction counts, since a reader gets past it."""
        if not partitions:
            return {}
        starts, ends = await asyncio.gather(
            self.at(dict.fromkeys(partitions, EARLIEST)), self.at(dict.fromkeys(partitions, LATEST))
        )
        return {at: Bounds(Position.at(starts[at]), Position.at(max(starts[at], ends[at]))) for at in partitions}

    async def ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The high watermark of each."""
        return await self.at(dict.fromkeys(partitions, LATEST))

    async def at(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The first offset whose record isn't older than a time in ms (or EARLIEST, LATEST); -1 for none.

        Raises LogUnavailable when a partition has no leader for long, ConfigurationError for one that doesn't exist.
        """
        found: dict[TopicPartition, int] = {}
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        anew = False
        while len(found) < len(times):
            left = [at for at in times if at not in found]
            leaders = await self._cluster.leaders(left, anew=anew)
            by_node: dict[int, list[TopicPartition]] = {}
            for at, node in leaders.items():
                by_node.setdefault(node, []).append(at)
            answers = await asyncio.gather(
                *(self._ask(node, {at: times[at] for at in held}) for node, held in by_node.items()),
                return_exceptions=True,
            )
            trouble: LogUnavailable | None = None
            for answer in answers:
                if isinstance(answer, LogUnavailable):
                    trouble = answer
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    found.update(answer[0])
                    trouble = answer[1] or trouble
            if trouble is not None:
                if asyncio.get_running_loop().time() > deadline:
                    raise trouble
                anew = True
                await asyncio.sleep(RETRY_S)
        return found

    async def _ask(
        self, node: int, times: Mapping[TopicPartition, int]
    ) -> tuple[dict[TopicPartition, int], LogUnavailable | None]:
        topics: dict[str, list[tuple[int, int]]] = {}
        for at, time in times.items():
            topics.setdefault(at.topic, []).append((at.partition, time))
        request = OffsetRequest(ANY_REPLICA, READ_UNCOMMITTED, list(topics.items()))
        response = await self._cluster.send(node, request, self._lane)
        found: dict[TopicPartition, int] = {}
        trouble: LogUnavailable | None = None
        for topic, partitions in response.topics:
            for number, code, _, offset, *_ in partitions:
                at = TopicPartition(topic, number)
                if code == Code.NONE:
                    found[at] = offset
                elif code in MOVED:
                    trouble = LogUnavailable(f"{self._cluster.url}: {at}: {name_of(code)}")
                else:
                    raise error_for(code, f"{self._cluster.url}: {at}")
        return found, trouble
