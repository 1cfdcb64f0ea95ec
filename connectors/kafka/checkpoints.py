"""Checkpoints: one topic for each group of tasks, one partition for each slot, so that each has one writer.

What must live here: where a checkpoint is, and finding the last one.  What must not: writing (``writer``).

With several writers in a partition, the open transaction of one would hide the last checkpoint of another behind the
last stable offset, and the other's next owner would start from an old one, properly unfenced (protocol 2).  So the
end is the high watermark, and reading goes on until the *position* has reached it (protocol 3).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from streams.connectors.kafka.reader import KafkaReader
from streams.core.membership import TaskRef
from streams.core.record import Position, TopicPartition
from streams.errors import LogUnavailable

if TYPE_CHECKING:
    from streams.connectors.kafka.cluster import Cluster
    from streams.connectors.kafka.offsets import Offsets

__all__ = ["SLOTS_AT_ONCE", "checkpoint_partition", "last_checkpoint", "slots_topic"]

SLOTS_AT_ONCE = 8
"""Partitions are added in steps, so that the tasks of a new app don't each change the topic."""
TAIL = 8
"""Offsets to look at first: a checkpoint and its marker are two."""


def slots_topic(group: str) -> str:
    """The topic that holds the checkpoints of a group."""
    return f"{group}.checkpoints"


def checkpoint_partition(task: TaskRef) -> TopicPartition:
    return TopicPartition(slots_topic(task.group), task.slot)


async def last_checkpoint(cluster: Cluster, offsets: Offsets, task: TaskRef) -> bytes | None:
    """The last committed checkpoint of a task.

    Looked for from the tail backwards, in growing ranges.  Raises LogUnavailable when a transaction stays open in the
    partition for longer than the broker lets it.
    """
    at = checkpoint_partition(task)
    bounds = (await offsets.bounds([at]))[at]
    start, end = bounds.start.offset(), bounds.end.offset()
    reach = TAIL
    while True:
        since = max(start, end - reach)
        found, value = await _last_between(cluster, offsets, at, since, end)
        if found or since == start:
            return value
        reach *= 16


async def _last_between(
    cluster: Cluster, offsets: Offsets, at: TopicPartition, since: int, end: int
) -> tuple[bool, bytes | None]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + cluster.config.transaction_timeout_ms / 1000 + 5.0
    reader = KafkaReader(cluster, offsets, {at: Position.at(since)}, max_wait_ms=50)
    found, value, position = False, None, since
    try:
        while position < end:
            for batch in await reader.fetch([at], max_records=1000, wait_s=0.2):
                position = batch.next_offset
                if len(batch):
                    found, value = True, batch.records.values[-1]
            if position < end and loop.time() > deadline:
                raise LogUnavailable(
                    f"{cluster.url}: {at}: committed records end at {position} but the partition at {end}: a "
                    f"transaction stays open there; look for it with kafka-transactions.sh find-hanging"
                )
    finally:
        await reader.close()
    return found, value
