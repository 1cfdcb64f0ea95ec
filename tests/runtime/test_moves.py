"""Tasks that come and go: a worker whose place among the others is in the hands of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import pytest

from streams import App
from streams.connectors.memory.log import MemoryLog
from streams.core.log import Append
from streams.core.membership import Assignment
from streams.core.record import Records, TopicPartition
from streams.runtime.clock import SystemClock
from streams.runtime.worker import Worker
from streams.testing.driver import MemoryStores


class Place:
    """A membership that says what the test says, and keeps what the worker reports."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Assignment] = asyncio.Queue()
        self.held: list[set[str]] = []
        self.changed = asyncio.Event()

    def tell(self, *tasks: str) -> None:
        self.told.put_nowait(Assignment(frozenset(tasks)))

    async def assignments(self) -> AsyncIterator[Assignment]:
        while True:
            yield await self.told.get()

    def report(self, held: Collection[str], ready: Collection[str]) -> None:
        self.held.append(set(held))
        self.changed.set()

    def out_of_touch(self) -> None:
        """It always is in touch."""

    async def close(self) -> None:
        return None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def shop() -> App:
    """An agent that asks another one, which belongs to another task."""
    app = App("shop", commit_interval="10ms")

    @app.agent(app.stream("adds", value=int).key_by(str), name="add")
    async def add(events: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in events:
            yield number + 1

    @app.agent(app.stream("orders", value=int).key_by(str), name="relay", sinks=["answers"])
    async def relay(events: AsyncIterator[int]) -> AsyncIterator[Any]:
        async for number in events:
            yield await add.ask(number, timeout="60s")

    return app


async def order(log: MemoryLog, number: int) -> None:
    await log.append([Append(TopicPartition("orders", 0), Records([None], [str(number).encode()], [1]))])


def test_a_task_that_waits_for_another_one_to_let_go_doesnt_keep_that_one_from_moving() -> None:
    async def scenario() -> None:
        log, place = MemoryLog(), Place()
        await log.open()
        worker = Worker(shop(), log, MemoryStores(), SystemClock(), membership=place)
        async with worker.working():
            tasks = worker.blueprint.tasks
            asks = [task for task in tasks if "orders" in task]
            answers = [task for task in tasks if "adds" in task]
            place.tell(*asks)
            await place.until(lambda: bool(place.held) and place.held[-1] == set(asks))
            await order(log, 1)
            inbox = TopicPartition("shop.add.inbox", 0)
            async with asyncio.timeout(20):
                while (await log.bounds([inbox]))[inbox].end.offset() == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            place.tell()  # the one that asked is to let go, and can't: nobody answers
            await place.until(lambda: len(place.held[-1]) == 1)
            place.tell(*answers)
            await place.until(lambda: place.held[-1] == set(answers))
            assert (await log.bounds([TopicPartition("answers", 0)]))[TopicPartition("answers", 0)].end.offset() == 1
        await log.close()

    asyncio.run(scenario())


def test_a_worker_that_stops_doesnt_wait_for_an_answer_that_nobody_gives(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        log, place = MemoryLog(), Place()
        await log.open()
        worker = Worker(shop(), log, MemoryStores(), SystemClock(), membership=place, shutdown_timeout_s=600)
        async with asyncio.timeout(60), worker.working():
            asks = [task for task in worker.blueprint.tasks if "orders" in task]
            place.tell(*asks)
            await place.until(lambda: bool(place.held) and place.held[-1] == set(asks))
            await order(log, 1)
            inbox = TopicPartition("shop.add.inbox", 0)
            while (await log.bounds([inbox]))[inbox].end.offset() == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        worker.check()
        await log.close()

    asyncio.run(scenario())
    assert "this worker stops before the answer came" in caplog.text
    assert "didn't stop" not in caplog.text


def test_a_task_that_is_given_back_while_it_lets_go_starts_again_once_it_has_ended() -> None:
    async def scenario() -> None:
        log, place = MemoryLog(), Place()
        await log.open()
        worker = Worker(shop(), log, MemoryStores(), SystemClock(), membership=place)
        async with worker.working():
            tasks = set(worker.blueprint.tasks)
            place.tell(*tasks)
            await place.until(lambda: bool(place.held) and place.held[-1] == tasks)
            before = dict(worker.drivers)
            place.tell()
            place.tell(*tasks)
            await place.until(lambda: all(worker.drivers.get(task) not in (None, before[task]) for task in tasks))
            await order(log, 5)
            at = TopicPartition("answers", 0)
            async with asyncio.timeout(20):
                while (await log.bounds([at]))[at].end.offset() == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            worker.check()
        await log.close()

    asyncio.run(scenario())
