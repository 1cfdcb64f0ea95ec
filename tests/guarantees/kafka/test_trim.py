"""Internal topics are trimmed behind their committed readers, and never one record further."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.protocol.admin import DeleteRecordsRequest

from streams.connectors.kafka.cluster import Cluster
from streams.connectors.kafka.faults import Code
from streams.connectors.kafka.log import KafkaLog
from streams.core.log import Append, TopicSpec
from streams.core.record import Position, Records, TopicPartition
from tests.brokers.kafka.broker import KafkaBroker


def test_a_trim_that_a_new_leader_refuses_since_it_does_not_know_the_end_yet_removes_nothing_unread(
    kafka: KafkaBroker, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = TopicPartition(unique("trimmed"), 0)
    refused: list[Any] = []
    send = Cluster.send

    async def as_a_new_leader(self: Cluster, node: int, request: Any, lane: str = "") -> Any:
        """For a moment after an election the high watermark lies below what was committed (KIP-207)."""
        if isinstance(request, DeleteRecordsRequest) and not refused:
            refused.append(request)
            return SimpleNamespace(topics=[(at.topic, [(at.partition, -1, Code.OFFSET_OUT_OF_RANGE)])])
        return await send(self, node, request, lane)

    async def main() -> None:
        log = KafkaLog(f"kafka://{kafka.bootstrap}")
        await log.open()
        try:
            await log.create_topics([TopicSpec(at.topic, 1)])
            rows = [str(number).encode() for number in range(10)]
            await log.append([Append(at, Records([None] * 10, list(rows), [0] * 10))])
            monkeypatch.setattr(Cluster, "send", as_a_new_leader)
            await log.trim({at: Position.at(4)})
            bounds = (await log.bounds([at]))[at]
            assert refused, "the trim was to be refused"
            assert bounds.start.offset() <= 4, f"records 4 to {bounds.start.offset() - 1} were removed unread"
            await log.trim({at: Position.at(4)})
            assert (await log.bounds([at]))[at].start.offset() == 4
        finally:
            await log.close()

    asyncio.run(main())
