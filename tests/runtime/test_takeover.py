"""Two workers and the store of one task: following, taking over, handing back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from streams import App
from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog, MemoryReader
from streams.core.log import Append
from streams.core.membership import Assignment, Member, Membership, Wanted
from streams.core.record import Fetched, Positions, Records, TopicPartition
from streams.errors import ConfigurationError
from streams.runtime.driver import Phase
from streams.runtime.explain import explain
from streams.runtime.status import Status
from streams.runtime.worker import Worker
from streams.testing.driver import MemoryStores
from streams.testing.loop import VirtualClock, VirtualLoop

ORDERS = TopicPartition("orders", 0)
TASK = "shop.orders-0"
LAG = "streams_standby_lag_records"


class Told:
    """A membership that does what a test says."""

    def __init__(self) -> None:
        self.held: frozenset[str] = frozenset()
        self.ready: frozenset[str] = frozenset()
        self._next: asyncio.Queue[Assignment] = asyncio.Queue()

    def tell(self, active: Iterable[str] = (), standby: Iterable[str] = ()) -> None:
        self._next.put_nowait(Assignment(frozenset(active), frozenset(standby)))

    async def assignments(self) -> AsyncIterator[Assignment]:
        while True:
            yield await self._next.get()

    def report(self, held: Collection[str], ready: Collection[str]) -> None:
        self.held, self.ready = frozenset(held), frozenset(ready)

    def out_of_touch(self) -> None:
        """It always is in touch."""

    async def close(self) -> None:
        """There is nobody to tell."""


def counting() -> App:
    app = App("shop", standbys=1)
    app.stream("orders", value=int).count(name="orders-by-key")
    return app


SPEC = counting().build().subtopologies[0].states["orders-by-key"]


class Crew:
    """Workers of one app on one log, each with a disk of its own."""

    def __init__(self, loop: VirtualLoop, stack: AsyncExitStack) -> None:
        self.broker = MemoryBroker()
        self.log = MemoryLog(self.broker)
        self.loop = loop
        self.stack = stack
        self.restored: list[int] = []

    async def worker(self, log: MemoryLog | None = None) -> tuple[Worker, Told, MemoryStores]:
        log, told, stores = log or MemoryLog(self.broker), Told(), MemoryStores()
        await log.open()
        worker = Worker(
            counting(),
            log,
            stores,
            VirtualClock(self.loop),
            membership=told,
            progress=lambda task, done, total: self.restored.append(total),
        )
        await self.stack.enter_async_context(worker.working())
        return worker, told, stores

    async def send(self, keys: Iterable[str]) -> None:
        sent = [key.encode() for key in keys]
        await self.log.append([Append(ORDERS, Records([*sent], [b"1"] * len(sent), [0] * len(sent)))])


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came to be")


def counts(stores: MemoryStores) -> dict[str, int]:
    """What a store holds, read past whoever has it open."""
    held = stores.disks[TASK].data if TASK in stores.disks else {}
    return {key[2:].decode(): SPEC.decode(value) for key, value in held.items()}


def play(story: Callable[[Crew], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()

    async def played() -> None:
        async with AsyncExitStack() as stack:
            crew = Crew(loop, stack)
            await crew.log.open()
            await story(crew)

    try:
        loop.run_until_complete(asyncio.wait_for(played(), 3_600))
    finally:
        loop.close()


def test_a_standby_takes_over_with_what_it_has_and_restores_only_the_tail() -> None:
    async def story(crew: Crew) -> None:
        first, told_first, _stores_first = await crew.worker()
        second, told_second, stores_second = await crew.worker()
        told_first.tell([TASK])
        told_second.tell([], [TASK])
        await crew.send(["a", "b"] * 500)
        await until(lambda: counts(stores_second) == {"a": 500, "b": 500})
        await until(lambda: told_second.ready == {TASK})
        assert told_second.held == frozenset()
        assert [each["phase"] for each in Status(second, 60).tasks()] == ["standby"]
        assert second.metrics.registry.get_sample_value(LAG, {"app": "shop", "task": TASK}) == 0
        crew.restored.clear()
        told_first.tell()
        told_second.tell([TASK])
        await until(lambda: second.drivers.keys() == {TASK} and second.drivers[TASK].phase is Phase.RUNNING)
        assert sum(crew.restored) <= 4, "it read again what it had followed"
        await crew.send(["a"])
        await until(lambda: counts(stores_second) == {"a": 501, "b": 500})
        assert not second.standbys.by_task
        assert second.metrics.registry.get_sample_value(LAG, {"app": "shop", "task": TASK}) is None
        assert not first.drivers

    play(story)


def test_a_worker_that_hands_its_task_over_follows_it_from_where_it_stood() -> None:
    async def story(crew: Crew) -> None:
        first, told_first, stores_first = await crew.worker()
        _, told_second, stores_second = await crew.worker()
        told_first.tell([TASK])
        told_second.tell([], [TASK])
        await crew.send(["a"])
        await until(lambda: counts(stores_first) == counts(stores_second) == {"a": 1})
        disk = stores_first.disks[TASK]
        told_first.tell([], [TASK])
        await until(lambda: told_first.held == frozenset())
        told_second.tell([TASK])
        await crew.send(["b"])
        await until(lambda: counts(stores_first) == {"a": 1, "b": 1})
        assert stores_first.disks[TASK] is disk
        await until(lambda: told_first.ready == {TASK})
        first.check()

    play(story)


def test_a_task_goes_back_and_forth_and_every_count_is_right() -> None:
    async def story(crew: Crew) -> None:
        crews = [await crew.worker() for _ in range(2)]
        sent = 0
        for turn in range(12):
            runs, follows = crews[turn % 2], crews[(turn + 1) % 2]
            follows[1].tell([], [TASK])
            await until(lambda: follows[1].held == frozenset())  # noqa: B023
            runs[1].tell([TASK])
            sent += turn
            await crew.send(["a"] * turn)
            await until(lambda: counts(runs[2]).get("a", 0) == sent)  # noqa: B023
        for worker, _, _ in crews:
            worker.check()

    play(story)


class SlowLog(MemoryLog):
    """Its changelogs are never read to their ends."""

    def reader(self, positions: Positions) -> MemoryReader:
        return (
            SlowReader(self, positions)
            if any("changelog" in at.topic for at in positions)
            else super().reader(positions)
        )


class SlowReader(MemoryReader):
    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        await asyncio.sleep(wait_s)
        return []


def test_a_task_that_is_taken_away_while_its_store_is_restored_goes_at_once() -> None:
    async def story(crew: Crew) -> None:
        _, told_first, stores_first = await crew.worker()
        told_first.tell([TASK])
        await crew.send(["a"])
        await until(lambda: counts(stores_first) == {"a": 1})
        second, told_second, stores_second = await crew.worker(SlowLog(crew.broker))
        told_first.tell()
        told_second.tell([TASK])
        await until(lambda: TASK in second.drivers and second.drivers[TASK].phase is Phase.RESTORING)
        told_second.tell()
        await until(lambda: told_second.held == frozenset())
        assert stores_second.disks[TASK].owner is None, "its store is still open"
        told_first.tell([TASK])
        await crew.send(["a"])
        await until(lambda: counts(stores_first) == {"a": 2})

    play(story)


def test_a_worker_stops_at_once_while_it_follows() -> None:
    async def story(crew: Crew) -> None:
        first, told_first, _ = await crew.worker()
        told_first.tell([], [TASK])
        await until(lambda: first.standbys.by_task.keys() == {TASK})
        before = crew.loop.time()
        await crew.stack.aclose()
        assert crew.loop.time() - before < 1.0
        assert not first.standbys.by_task

    play(story)


class AskedLog(MemoryLog):
    """Notes what its membership was asked to divide."""

    wanted: Wanted | None = None

    def membership(self, group: str, member: Member, wanted: Wanted) -> Membership:
        self.wanted = wanted
        return Told()


def test_the_membership_is_asked_for_as_many_standbys_as_the_app_wants() -> None:
    async def story(crew: Crew) -> None:
        log = AskedLog(crew.broker)
        await log.open()
        worker = Worker(counting(), log, MemoryStores(), VirtualClock(crew.loop))
        async with worker.working():
            await until(lambda: log.wanted is not None)
        assert log.wanted is not None
        assert (log.wanted.standbys, log.wanted.stateful) == (1, frozenset({TASK}))

    play(story)


def test_standbys_that_nobody_can_be_are_explained() -> None:
    capabilities = MemoryLog().capabilities
    alone = explain(counting(), "memory:", lambda _: capabilities).warnings
    shared = explain(counting(), "kafka://broker", lambda _: capabilities).warnings
    assert any("standbys=1" in line for line in alone)
    assert not any("standbys" in line for line in shared)
    with pytest.raises(ConfigurationError, match="standbys=-1"):
        App("shop", standbys=-1)
