"""Bringing a store up to its changelogs, when that is interrupted, and when the former owner is still at work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import pytest

from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog, MemoryTaskWriter
from streams.core.capability import Limits
from streams.core.checkpoint import Checkpoint, claimed, decode_checkpoint, encode_checkpoint
from streams.core.log import Append, Commit, TaskRef, TaskWriter
from streams.core.plan import Plan
from streams.core.record import Records, TopicPartition
from streams.core.store import Store, StoreState
from streams.core.thresholds import Thresholds
from streams.dsl.app import App
from streams.runtime.driver import Driver, Phase, Services
from streams.runtime.metrics import Metrics
from streams.runtime.requests import Requests
from streams.runtime.restore import Restoration, restore
from streams.state.memory import MemoryDisk, MemoryStore
from streams.testing.loop import VirtualLoop

DAY_MS = 86_400_000


class SetClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.ms = 1_000 * DAY_MS

    def now_ms(self) -> int:
        return self.ms


class Died(Exception):
    """The process ended here."""


class MortalStore(MemoryStore):
    """A store whose process dies before its write number ``dies_at``; 0: never."""

    dies_at = 0

    def load(self, prefix: bytes, entries: Mapping[bytes, bytes | None], state: StoreState) -> None:
        if self.dies_at:
            self.dies_at -= 1
            if not self.dies_at:
                raise Died
        super().load(prefix, entries, state)


class MortalStores:
    """One disk a task, and the write before which the next process dies."""

    def __init__(self) -> None:
        self.disks: dict[str, MemoryDisk] = {}
        self.dies_at = 0

    def open(self, task: str) -> Store:
        store = MortalStore.__new__(MortalStore)
        MemoryStore.__init__(store, self.disks.setdefault(task, MemoryDisk()))
        return store

    def set_aside(self, task: str) -> None:
        self.disks.pop(task, None)


def two_states() -> App:
    app = App("shop")
    orders = app.stream("orders", value=int)
    orders.count(name="one")
    orders.count(name="two")
    return app


BLUEPRINT = two_states().build()
SUBTOPOLOGY = next(each for each in BLUEPRINT.subtopologies if each.states)
TASK = SUBTOPOLOGY.task_id(0)
REF = TaskRef("shop", 1, TASK)
NAMES = sorted(SUBTOPOLOGY.states)


async def _nothing() -> None:
    """What happens before a fence when a test doesn't say otherwise."""


class WatchedLog(MemoryLog):
    """A client that lets a test act right before a fence."""

    before_fence: Callable[[], Awaitable[None]] = staticmethod(_nothing)

    async def fence(self, task: TaskRef) -> MemoryTaskWriter:
        before, self.before_fence = self.before_fence, _nothing
        await before()
        return await super().fence(task)


class Scene:
    """A log with two changelogs, an owner by hand, and the disk of a worker."""

    log_type: type[WatchedLog] = WatchedLog

    def __init__(self, *, tombstones_kept_ms: int | None = None, log_type: type[WatchedLog] = WatchedLog) -> None:
        self.broker = MemoryBroker()
        self.owner_log = MemoryLog(self.broker)
        self.log = log_type(self.broker, limits=Limits(tombstones_kept_ms=tombstones_kept_ms))
        self.clock = SetClock()
        self.stores = MortalStores()
        self.plan = Plan("shop", Limits(), {}, self.log.partition_for, {})
        self.at = {name: TopicPartition(self.plan.changelog(name), 0) for name in NAMES}
        self.writer: TaskWriter | None = None
        self.made: Checkpoint | None = None

    async def open(self) -> None:
        await self.log.open()
        await self.owner_log.open()
        topics = {each.name: each for each in (*BLUEPRINT.own_topics, *BLUEPRINT.topics.values())}
        await self.log.create_topics(list(topics.values()))

    async def claim(self) -> None:
        self.writer = await self.owner_log.fence(REF)
        previous = self.writer.checkpoint
        before = decode_checkpoint(previous) if previous is not None else None
        self.made = claimed(before, log_id=self.broker.identity, topology=1, claim="by hand")
        await self.writer.commit(Commit(encode_checkpoint(self.made)))

    async def commit(self, key: bytes, value: bytes | None) -> None:
        """Write the same to both changelogs."""
        assert self.writer is not None
        assert self.made is not None
        self.made = msgspec.structs.replace(self.made, number=self.made.number + 1)
        appends = [Append(at, Records([key], [value], [0])) for at in self.at.values()]
        await self.writer.commit(Commit(encode_checkpoint(self.made), appends))

    async def restore(self, dies_at: int = 0) -> None:
        """Bring the worker's store up, and close it."""
        assert self.made is not None
        identities = {name: (await self.log.topics([at.topic]))[at.topic].identity for name, at in self.at.items()}
        MortalStore.dies_at = dies_at
        try:
            store = await restore(
                Restoration(
                    self.log,
                    self.stores,
                    self.clock,
                    TASK,
                    SUBTOPOLOGY,
                    self.at,
                    identities,
                    self.made,
                    lambda task, done, total: None,
                )
            )
            store.close()
        finally:
            MortalStore.dies_at = 0

    def compact(self) -> None:
        """Deletes go from the changelogs, and this log doesn't tell."""
        for at in self.at.values():
            self.broker.partition(at).compact(2**62)
            self.broker.partition(at).floor = 0

    @property
    def disk(self) -> MemoryDisk:
        return self.stores.disks[TASK]

    def held(self, key: bytes) -> list[bytes]:
        """What the worker's store holds of ``key``, over its states."""
        return [value for stored, value in self.disk.data.items() if stored.endswith(key)]


def play(story: Callable[[Scene], Awaitable[None]], **settings: Any) -> None:
    loop = VirtualLoop()

    async def played() -> None:
        scene = Scene(**settings)
        await scene.open()
        await story(scene)

    try:
        loop.run_until_complete(asyncio.wait_for(played(), 3_600))
    finally:
        loop.close()


@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_store_knows_of_deletes_only_up_to_where_all_of_it_had_been_brought_up(dies_at: int) -> None:
    # Of a restore that died between the writes of two states one state has missed the deletes since the former life.
    # If the store said otherwise, it would go on from there after those deletes were compacted away.
    async def story(scene: Scene) -> None:
        await scene.claim()
        await scene.commit(b"gone", b"1")
        await scene.restore()
        since_ms = scene.clock.ms
        await scene.commit(b"gone", None)
        await scene.commit(b"kept", b"2")
        scene.clock.ms += 3 * DAY_MS
        with pytest.raises(Died):
            await scene.restore(dies_at=dies_at)
        assert scene.disk.state is not None
        assert scene.disk.state.as_of_ms == since_ms
        scene.compact()
        scene.clock.ms += DAY_MS
        await scene.restore()
        assert scene.held(b"kept") == [b"2", b"2"]
        assert scene.held(b"gone") == []

    play(story, tombstones_kept_ms=7 * DAY_MS)


def test_a_restore_that_came_to_its_end_counts_from_its_beginning() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim()
        await scene.commit(b"key", b"1")
        await scene.restore()
        scene.clock.ms += 3 * DAY_MS
        await scene.commit(b"key", b"2")
        await scene.restore()
        assert scene.disk.state is not None
        assert scene.disk.state.as_of_ms == scene.clock.ms
        assert scene.held(b"key") == [b"2", b"2"]

    play(story, tombstones_kept_ms=7 * DAY_MS)


# ── the ends of changelogs ────────────────────────────────────────────────────────────────────────────────────────────


class EndsFromBeforeTheFence(WatchedLog):
    """A log that tells where its partitions ended when the last fence began."""

    async def fence(self, task: TaskRef) -> MemoryTaskWriter:
        every = [TopicPartition(name, 0) for name in self.broker.topics]
        self.before = await self.bounds(every)
        return await super().fence(task)

    async def bounds(self, partitions: Any) -> Any:
        known = getattr(self, "before", None)
        return await super().bounds(partitions) if known is None else {at: known[at] for at in partitions}


async def taken_over(scene: Scene) -> list[bytes]:
    """What a driver's store holds of the last commit of a former owner, who made it right before the fence."""
    await scene.claim()
    await scene.commit(b"early", b"1")

    async def the_last_word() -> None:
        await scene.commit(b"late", b"2")

    scene.log.before_fence = the_last_word
    services = Services(
        log=scene.log,
        stores=scene.stores,
        clock=scene.clock,
        plan=Plan(
            "shop",
            Limits(),
            BLUEPRINT.partitions,
            scene.log.partition_for,
            BLUEPRINT.upstream_tasks,
            thresholds=Thresholds(restore_records=1),
        ),
        metrics=Metrics("shop"),
        requests=Requests(scene.log, scene.clock),
        user_topics=frozenset(),
        foreign={},
        topology_version=1,
    )
    driver = Driver(services, SUBTOPOLOGY, 0, REF)
    running = asyncio.ensure_future(driver.run())
    while driver.phase is not Phase.RUNNING:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.05)
    held = scene.held(b"late")
    driver.stop()
    await running
    return held


def test_a_task_has_what_its_former_owner_committed_right_before_it_was_fenced() -> None:
    async def story(scene: Scene) -> None:
        assert await taken_over(scene) == [b"2", b"2"]

    play(story)


def test_ends_that_are_read_before_the_fence_would_miss_that() -> None:
    async def story(scene: Scene) -> None:
        assert await taken_over(scene) == []

    play(story, log_type=EndsFromBeforeTheFence)
