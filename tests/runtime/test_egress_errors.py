"""What egress has sent when a transport fails, refuses or doesn't answer: none of it goes out again, and it is stopped
within seconds.  In virtual time, on a log in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import pytest

from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog
from streams.core.capability import Derived, Guarantee
from streams.core.checkpoint import Checkpoint, decode_checkpoint
from streams.core.edge import Keep
from streams.core.log import Append, TaskRef, TopicSpec
from streams.core.record import Position, Records, TopicPartition
from streams.dsl.foreign import Outbox
from streams.errors import DataError, LogUnavailable, ServiceUnavailable
from streams.runtime.egress import PERHAPS, Egress
from streams.runtime.stopping import LET_GO_S
from streams.testing.loop import VirtualLoop

AT = TopicPartition("shop.alerts.outbox", 0)
OUTBOX = Outbox(TopicSpec(AT.topic, 1, "outbox"), TopicSpec("alerts", 1, location="fake://there", address="alerts"))
REF = TaskRef("shop", 1, f"{AT.topic}-0")
PATIENCE_S = 600.0

Meet = Callable[[int], Awaitable[None]]


class Transport:
    """An edge whose outlets call ``meet`` with each number before it is out."""

    url = "fake://there"
    connected = True

    def __init__(self, meet: Meet, *, keeps_first: bool = False) -> None:
        self.meet = meet
        self.keeps_first = keeps_first
        self.out: list[int] = []

    def guarantee(self, *, written: bool) -> Derived:
        return Derived(Guarantee.AT_LEAST_ONCE, "")

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def check(self, topic: TopicSpec, *, written: bool) -> None: ...

    async def intake(self, source: TopicSpec, group: str, partition: int, state: bytes | None) -> Any:
        raise NotImplementedError

    async def outlet(self, target: TopicSpec, group: str, partition: int, state: bytes | None) -> Outlet:
        return Outlet(self)


class Outlet:
    batch = 10
    under_way = sent = 0
    state: bytes | None = None

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.keeps_first, self.connected = transport.keeps_first, transport.connected

    async def send(self, records: Records, keep: Keep) -> None:
        self.sent = 0
        if self.keeps_first:
            await keep(b"")
        for value in records.values:
            await self._transport.meet(int(value or b""))
            self._transport.out.append(int(value or b""))
            self.sent += 1

    async def close(self) -> None: ...


def run(work: Coroutine[Any, Any, None]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(work, PATIENCE_S))
    finally:
        loop.close()


async def outbox_of(count: int) -> MemoryLog:
    log = MemoryLog(MemoryBroker())
    await log.open()
    await log.create_topics([OUTBOX.topic])
    values: list[bytes | None] = [b"%d" % number for number in range(count)]
    await log.append([Append(AT, Records([None] * count, values, [0] * count))])
    return log


async def checkpoint_on(log: MemoryLog) -> Checkpoint:
    stored = await log.checkpoint(REF)
    assert stored is not None
    return decode_checkpoint(stored)


async def kept(log: MemoryLog) -> Position | None:
    return (await checkpoint_on(log)).position(AT)


def egress_on(log: MemoryLog, transport: Transport) -> Egress:
    return Egress(REF, log, transport, OUTBOX, 0, 1)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # the tasks have no events for it, and time is virtual
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("keeps_first", [False, True])
def test_what_is_out_is_not_sent_again_when_a_message_behind_it_makes_the_other_end_hang_up(
    keeps_first: bool,
) -> None:
    tries = 0

    async def meet(number: int) -> None:
        nonlocal tries
        if number == 25:
            tries += 1
            raise ServiceUnavailable("hung up")

    async def work() -> None:
        log, transport = await outbox_of(30), Transport(meet, keeps_first=keeps_first)
        egress = egress_on(log, transport)
        running = asyncio.create_task(egress.run())
        await until(lambda: tries == 5)
        egress.stop()
        await running
        assert transport.out == list(range(25))
        assert await kept(log) == egress.position == Position.at(25)

    run(work())


def test_what_is_out_before_a_refusal_is_kept_and_the_refusal_is_raised() -> None:
    async def meet(number: int) -> None:
        if number == 15:
            raise DataError("too large")

    async def work() -> None:
        log, transport = await outbox_of(30), Transport(meet)
        for _ in range(2):  # whoever starts the worker again
            with pytest.raises(DataError, match="too large"):
                await egress_on(log, transport).run()
            assert transport.out == list(range(15))
            assert await kept(log) == Position.at(15)

    run(work())


def test_a_position_that_can_t_be_kept_does_not_hide_the_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        log = await outbox_of(5)

        async def meet(number: int) -> None:
            if number == 3:

                async def away(*_: object) -> None:
                    raise LogUnavailable("the log is away")

                monkeypatch.setattr("streams.connectors.memory.log.MemoryTaskWriter.commit", away)
                raise DataError("too large")

        with pytest.raises(DataError, match="too large"):
            await egress_on(log, Transport(meet)).run()

    run(work())
    assert "sent again, since it couldn't be kept: the log is away" in caplog.text


def test_at_most_once_it_is_kept_before_a_batch_is_sent_that_it_may_be_out() -> None:
    async def work() -> None:
        log = await outbox_of(20)

        async def meet(number: int) -> None:
            stored = await checkpoint_on(log)
            first = number // 10 * 10
            assert (stored.position(AT) or Position.at(0)) == Position.at(first), "nothing is trimmed that isn't out"
            assert msgspec.convert(stored.facts[PERHAPS], Position) == Position.at(first + 10)

        transport = Transport(meet, keeps_first=True)
        egress = egress_on(log, transport)
        running = asyncio.create_task(egress.run())
        await until(lambda: egress.caught_up)
        egress.stop()
        await running
        assert transport.out == list(range(20))
        assert PERHAPS not in (await checkpoint_on(log)).facts

    run(work())


def test_at_most_once_an_error_loses_only_what_was_on_its_way_and_a_death_the_batch_and_both_are_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        log = await outbox_of(30)
        failed = False

        async def meet(number: int) -> None:
            nonlocal failed
            if number == 15 and not failed:
                failed = True
                raise ServiceUnavailable("gone")
            if number == 18:
                await asyncio.get_running_loop().create_future()

        transport = Transport(meet, keeps_first=True)
        running = asyncio.create_task(egress_on(log, transport).run())
        await until(lambda: len(transport.out) == 18)
        running.cancel()  # as a death would: nothing is kept any more
        await asyncio.wait({running})
        assert "of 5 messages that were on their way some may not have arrived: gone" in caplog.text
        heir = egress_on(log, transport)
        running = asyncio.create_task(heir.run())
        await until(lambda: heir.caught_up)
        heir.stop()
        await running
        assert transport.out == [*range(18), *range(25, 30)], "the batch from 15 on was begun"
        assert "of 10 messages that were on their way some may not have arrived: nobody has seen" in caplog.text

    run(work())


@pytest.mark.parametrize(("connected", "ends_after_s"), [(True, LET_GO_S), (False, 0.0)])
def test_a_transport_that_never_answers_holds_up_a_stop_for_a_few_seconds_and_before_it_is_connected_for_none(
    connected: bool, ends_after_s: float
) -> None:
    async def meet(number: int) -> None:
        if number == 13:
            await asyncio.get_running_loop().create_future()

    async def work() -> None:
        log, transport = await outbox_of(20), Transport(meet)
        transport.connected = connected
        egress = egress_on(log, transport)
        running = asyncio.create_task(egress.run())
        await until(lambda: len(transport.out) == 13)
        stopped_at = asyncio.get_running_loop().time()
        egress.stop()
        egress.stop()  # as a worker does that ends while the task is being taken away
        await running
        assert asyncio.get_running_loop().time() - stopped_at == pytest.approx(ends_after_s, abs=0.01)
        assert await kept(log) == Position.at(13), "what is surely out is not sent again"

    run(work())


def test_a_batch_whose_state_is_kept_is_left_as_it_is_when_it_is_cut_off() -> None:
    class Handshakes(Outlet):
        state = b"none"

        async def send(self, records: Records, keep: Keep) -> None:
            await keep(b"under way")
            await asyncio.get_running_loop().create_future()

    class Stateful(Transport):
        async def outlet(self, target: TopicSpec, group: str, partition: int, state: bytes | None) -> Outlet:
            return Handshakes(self)

    async def nothing(number: int) -> None: ...

    async def work() -> None:
        log = await outbox_of(5)
        egress = egress_on(log, Stateful(nothing))
        running = asyncio.create_task(egress.run())
        await until(lambda: egress.position is not None)
        egress.stop()
        await running
        assert (await checkpoint_on(log)).facts == {"outlet": b"under way"}
        assert await kept(log) == Position.at(0)

    run(work())


def test_who_is_fenced_while_it_keeps_its_position_leaves_the_task_to_its_new_owner(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        log = await outbox_of(5)

        async def meet(number: int) -> None:
            await log.fence(REF)
            raise ServiceUnavailable("hung up")

        egress = egress_on(log, Transport(meet))
        running = asyncio.create_task(egress.run())
        with caplog.at_level(logging.INFO, "streams"):
            await until(lambda: "starts again" in caplog.text)
        egress.stop()
        await running
        [line] = [each for each in caplog.messages if "starts again" in each]
        assert "hung up" not in line, "Fenced, which waits for the assignment that takes the task away"

    run(work())
