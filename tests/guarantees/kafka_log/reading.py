"""What is committed in a partition, by a client that isn't ours."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

PATIENCE_S = 60.0


async def records_of(bootstrap: str, topic: str, partition: int = 0) -> list[Any]:
    """Everything that a reader of committed records sees, from the first record to the end of now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False)
    await consumer.start()
    try:
        at = TopicPartition(topic, partition)
        consumer.assign([at])
        await consumer.seek_to_beginning(at)
        end = (await consumer.end_offsets([at]))[at]
        found: list[Any] = []
        async with asyncio.timeout(PATIENCE_S):
            while await consumer.position(at) < end:
                found += (await consumer.getmany(at, timeout_ms=200)).get(at, [])
        return found
    finally:
        await consumer.stop()


async def values_of(bootstrap: str, topic: str, partition: int = 0) -> list[bytes | None]:
    return [record.value for record in await records_of(bootstrap, topic, partition)]
