"""A delivery whose target has forgotten what it was given: nothing goes out twice in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from streams.connectors.jetstream.foreign import ForeignJetStream
from streams.connectors.log_sink import LogSink, LogSinkWriter, sink_on
from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog
from streams.core.checkpoint import decode_checkpoint
from streams.core.log import Append, TaskRef, TopicSpec
from streams.core.record import TopicPartition
from streams.dsl.foreign import Outbox
from streams.errors import DataError, LogUnavailable
from streams.runtime.delivery import Delivery
from streams.runtime.outages import Outages
from streams.runtime.retention import Expiry
from streams.testing.log_scenarios import append
from streams.testing.loop import VirtualLoop
from streams.testing.source_contract import values

OUT, BOX = TopicPartition("alerts", 0), TopicPartition("shop.alerts.outbox", 0)
OUTBOX = Outbox(TopicSpec(BOX.topic, 1, "outbox", owner="shop"), TopicSpec(OUT.topic, location="memory:there"))
TASK = TaskRef("shop", 0, OUTBOX.task_id(0))
PATIENCE_S = 60.0


async def opened() -> MemoryLog:
    log = MemoryLog(MemoryBroker())
    await log.open()
    return log


async def deliver(log: MemoryLog, target: MemoryLog | ForeignJetStream) -> None:
    """Carry out what the outbox holds."""
    await target.create_topics([OUTBOX.target])
    delivery = Delivery(TASK, log, sink_on(target, OUT.topic), target, OUTBOX, 0, 0, Expiry({}))
    running = asyncio.ensure_future(delivery.run())
    async with asyncio.timeout(PATIENCE_S):
        while not running.done() and not delivery.caught_up:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
    delivery.stop()
    await running


@asynccontextmanager
async def delivered() -> AsyncIterator[tuple[MemoryLog, MemoryLog]]:
    """The app's log and the target, once the outbox was carried out and that is in the checkpoint."""
    log, target = await opened(), await opened()
    await log.create_topics([OUTBOX.topic])
    await log.append([append(BOX, b"1", b"2")])
    await deliver(log, target)
    assert await values(target, OUT) == [b"1", b"2"]
    yield log, target
    await log.close()
    await target.close()


def test_a_target_that_has_forgotten_what_it_was_given_stops_the_delivery() -> None:
    async def run() -> None:
        async with delivered() as (log, _):
            stored = await log.checkpoint(TASK)
            assert stored is not None
            known = decode_checkpoint(stored).position(BOX)
            assert known is not None
            made_anew = await opened()
            words = rf"knows of no delivery to alerts, .* up to {known.offset()}: .*reset"
            for _ in range(2):  # the first try must not have made the second one succeed
                with pytest.raises(DataError, match=words):
                    await deliver(log, made_anew)
            assert await values(made_anew, OUT) == []
            await made_anew.close()

    asyncio.run(run())


def test_a_target_that_was_told_to_forget_gets_everything_once_more() -> None:
    """As by `streams reset`, which makes both forget."""

    async def run() -> None:
        async with delivered() as (log, target):
            await target.forget([OUTBOX.ref_at_target(log.identity, 0)])
            await log.forget([TASK])
            await deliver(log, target)
            assert await values(target, OUT) == [b"1", b"2"] * 2

    asyncio.run(run())


THERE = "nats://there:4222"


class Far(MemoryLog):
    """A log in memory at an address, as outages are told by it."""

    @property
    def url(self) -> str:
        return THERE


class FullSink(LogSink):
    """Lets everybody claim, and takes nothing while it is full."""

    full = True

    async def fence(self, task: TaskRef) -> LogSinkWriter:
        sink = self

        class Writer(LogSinkWriter):
            async def deliver(self, appends: Sequence[Append], delivered: bytes) -> None:
                if sink.full:
                    raise LogUnavailable(f"{THERE}: the stream is full")
                await super().deliver(appends, delivered)

        return Writer(await self._log.fence(task))


def test_a_target_that_can_be_claimed_and_takes_nothing_is_away_until_it_takes_something() -> None:
    async def run() -> None:
        log, target = await opened(), Far(MemoryBroker())
        await target.open()
        await log.create_topics([OUTBOX.topic])
        await target.create_topics([OUTBOX.target])
        await log.append([append(BOX, b"1")])
        outages, sink = Outages(), FullSink(target)
        delivery = Delivery(TASK, log, sink, target, OUTBOX, 0, 0, Expiry({}), outages=outages)
        running = asyncio.ensure_future(delivery.run())
        while (away := outages.lasting(THERE)) is None or away[0] < 100:
            assert asyncio.get_running_loop().time() < 200, "it began anew each round"
            await asyncio.sleep(0.1)
        sink.full = False
        while not delivery.caught_up:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.1)
        assert outages.lasting(THERE) is None
        delivery.stop()
        await running
        await log.close()
        await target.close()

    loop = VirtualLoop()
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
