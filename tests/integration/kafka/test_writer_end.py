"""The last request of a commit on a real broker: what its answer says decides, and nothing before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.protocol.transaction import EndTxnRequest

from streams.connectors.kafka.faults import Code
from streams.connectors.kafka.log import KafkaLog
from streams.connectors.kafka.writer import KafkaTaskWriter
from streams.core.log import Append, Commit, TopicSpec
from streams.core.membership import TaskRef
from streams.core.record import Records, TopicPartition
from streams.errors import CommitUnknown, Fenced
from tests.brokers.kafka.broker import KafkaBroker
from tests.guarantees.kafka_log.reading import records_of


@asynccontextmanager
async def opened(bootstrap: str) -> AsyncIterator[KafkaLog]:
    log = KafkaLog(f"kafka://{bootstrap}")
    await log.open()
    try:
        yield log
    finally:
        await log.close()


def commit_of(topic: str, value: bytes) -> Commit:
    return Commit(value, [Append(TopicPartition(topic, 0), Records([None], [value], [1]))])


def test_a_writer_that_is_fenced_right_before_the_end_of_its_transaction_has_stored_nothing(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    topic, task = unique("topic"), TaskRef(app := unique("app"), 0, f"{app}-0")

    async def check() -> None:
        async with opened(kafka.bootstrap) as log, opened(kafka.bootstrap) as other:
            await log.create_topics([TopicSpec(topic)])
            writer = await log.fence(task)
            assert isinstance(writer, KafkaTaskWriter)
            end = writer._end

            async def fenced_first() -> None:
                successor = await other.fence(task)
                await successor.commit(commit_of(topic, b"the successor's"))
                await end()

            writer._end = fenced_first  # type: ignore[method-assign]
            with pytest.raises(Fenced):
                await writer.commit(commit_of(topic, b"the zombie's"))
            assert await other.checkpoint(task) == b"the successor's"
            assert [each.value for each in await records_of(kafka.bootstrap, topic)] == [b"the successor's"]

    asyncio.run(check())


def test_an_end_that_the_coordinator_could_not_replicate_leaves_the_outcome_unknown(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    topic, task = unique("topic"), TaskRef(app := unique("app"), 0, f"{app}-0")

    async def check() -> None:
        async with opened(kafka.bootstrap) as log:
            await log.create_topics([TopicSpec(topic)])
            writer = await log.fence(task)
            assert isinstance(writer, KafkaTaskWriter)
            send = writer._cluster.send

            async def not_available(node: int, request: Any, *rest: Any, **more: Any) -> Any:
                answer = await send(node, request, *rest, **more)
                if isinstance(request, EndTxnRequest):
                    answer.error_code = Code.COORDINATOR_NOT_AVAILABLE
                return answer

            writer._cluster.send = not_available  # type: ignore[method-assign]
            with pytest.raises(CommitUnknown):
                await writer.commit(commit_of(topic, b"1"))
            with pytest.raises(Fenced):
                await writer.commit(commit_of(topic, b"2"))
            writer._cluster.send = send  # type: ignore[method-assign]
            again = await log.fence(task)  # here it had been carried out
            assert again.checkpoint == b"1"

    asyncio.run(check())
