"""A standby: what its store says and holds, whatever happens to the log between two reads; and the takeover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from streams import App
from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog, MemoryReader
from streams.core.capability import Limits
from streams.core.checkpoint import Checkpoint, claimed, decode_checkpoint, encode_checkpoint
from streams.core.log import Append, Commit, TaskRef, TaskWriter
from streams.core.plan import Plan
from streams.core.record import Bounds, Fetched, Positions, Records, TopicPartition
from streams.core.store import StoreState
from streams.core.thresholds import PRODUCTION, Thresholds
from streams.errors import LogUnavailable
from streams.runtime.driver import Services
from streams.runtime.metrics import Metrics
from streams.runtime.requests import Requests
from streams.runtime.standby import Standby
from streams.testing.driver import MemoryStores
from streams.testing.loop import VirtualLoop

DAY_MS = 86_400_000


class SetClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.ms = 1_000 * DAY_MS

    def now_ms(self) -> int:
        return self.ms


class WatchedReader(MemoryReader):
    """Lets a test act between two reads."""

    log: WatchedLog

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        await self.log.before()
        return await super().fetch(partitions, max_records=max_records, wait_s=wait_s)


async def _nothing() -> None:
    """What happens between two reads when a test doesn't say otherwise."""


class WatchedLog(MemoryLog):
    """A client that lets a test act between two reads."""

    def __init__(self, broker: MemoryBroker, limits: Limits | None = None) -> None:
        super().__init__(broker, limits=limits)
        self.before: Callable[[], Awaitable[None]] = _nothing

    def reader(self, positions: Positions) -> MemoryReader:
        reader = WatchedReader(self, positions)
        reader.log = self
        return reader

    async def checkpoint(self, task: TaskRef) -> bytes | None:
        await self.before()
        return await super().checkpoint(task)

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        await self.before()
        return await super().bounds(partitions)


def counting() -> App:
    app = App("shop", standbys=1)
    app.stream("orders", value=int).count(name="orders-by-key")
    return app


BLUEPRINT = counting().build()
SUBTOPOLOGY = next(each for each in BLUEPRINT.subtopologies if each.states)
TASK = SUBTOPOLOGY.task_id(0)
REF = TaskRef("shop", 1, TASK)
STATE = "orders-by-key"


class Scene:
    """A log, the owner of a task on it by hand, and a standby elsewhere.

    Every commit writes its own number under the key ``number`` and under one key more.
    """

    def __init__(
        self, loop: VirtualLoop, *, tombstones_kept_ms: int | None = None, thresholds: Thresholds = PRODUCTION
    ) -> None:
        self.broker = MemoryBroker()
        self.owner_log = MemoryLog(self.broker)
        self.log = WatchedLog(self.broker, Limits(tombstones_kept_ms=tombstones_kept_ms))
        self.clock = SetClock()
        self.stores = MemoryStores()
        self.changes = asyncio.Event()
        self.writer: TaskWriter | None = None
        self.made: Checkpoint | None = None
        self.loop = loop
        plan = Plan("shop", Limits(), {}, self.log.partition_for, {}, thresholds=thresholds)
        self.at = TopicPartition(plan.changelog(STATE), 0)
        self.services = Services(
            log=self.log,
            stores=self.stores,
            clock=self.clock,
            plan=plan,
            metrics=Metrics("shop"),
            requests=Requests(self.log, self.clock),
            user_topics=frozenset(),
            foreign={},
            topology_version=1,
        )
        self.standby = Standby(self.services, SUBTOPOLOGY, 0, REF, self.changes.set)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Scene]:
        await self.log.open()
        await self.owner_log.open()
        await self.log.create_topics(BLUEPRINT.own_topics)
        yield self

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        running = asyncio.ensure_future(self.standby.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait({running})
            assert running.cancelled(), "a standby ends by being cancelled only"

    async def claim(self, name: str = "claim") -> None:
        """Somebody takes the task over, and commits nothing yet."""
        self.writer = await self.owner_log.fence(REF)
        previous = self.writer.checkpoint
        before = decode_checkpoint(previous) if previous is not None else None
        self.made = claimed(before, log_id=self.broker.identity, topology=1, claim=name)
        await self.writer.commit(Commit(encode_checkpoint(self.made)))

    async def commit(self, value: bytes | None = b"x") -> int:
        assert self.writer is not None
        assert self.made is not None
        number = self.made.number + 1
        self.made = msgspec.structs.replace(self.made, number=number)
        records = Records([b"number", f"key{number}".encode()], [str(number).encode(), value], [0, 0])
        await self.writer.commit(Commit(encode_checkpoint(self.made), [Append(self.at, records)]))
        return number

    async def forget(self, number: int) -> None:
        """A delete is written, and compacted away without a trace: this log doesn't tell."""
        assert self.writer is not None
        assert self.made is not None
        delete = Records([f"key{number}".encode()], [None], [0])
        await self.writer.commit(Commit(encode_checkpoint(self.made), [Append(self.at, delete)]))
        self.broker.partition(self.at).compact(2**62)
        self.broker.partition(self.at).floor = 0
        await self.commit()

    async def lose(self, commits: int) -> None:
        """The log loses its last commits, unseen, with what they wrote."""
        assert self.made is not None
        partition = self.broker.partition(self.at)
        for _ in range(2 * commits):
            for column in (
                partition.offsets,
                partition.keys,
                partition.values,
                partition.timestamps,
                partition.headers,
                partition.appended_ms,
            ):
                column.pop()
            partition.end -= 1
        self.made = msgspec.structs.replace(self.made, number=self.made.number - commits)
        self.broker.tasks[TASK].checkpoint = encode_checkpoint(self.made)

    @property
    def state(self) -> StoreState | None:
        disk = self.stores.disks.get(TASK)
        return disk.state if disk is not None else None

    @property
    def held(self) -> dict[bytes, bytes]:
        """What the standby's store holds of the state, without its prefix."""
        disk = self.stores.disks.get(TASK)
        return {key[2:]: value for key, value in disk.data.items()} if disk is not None else {}

    def on_log(self) -> dict[bytes, bytes]:
        partition = self.broker.partition(self.at)
        last = dict(zip(partition.keys, partition.values, strict=True))
        return {key: value for key, value in last.items() if key is not None and value is not None}

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(10_000):
            if condition():
                return
            await asyncio.sleep(0.05)
        raise AssertionError("it never came to be")

    def check(self) -> None:
        """The store names a commit that the log knows, and holds nothing from after it."""
        if self.state is not None:
            assert self.made is not None
            assert self.made.made(self.state.epoch, self.state.number, self.state.claim)
            assert int(self.held.get(b"number", b"0")) <= self.state.number


def play(story: Callable[[Scene], Coroutine[Any, Any, None]], **settings: Any) -> None:
    loop = VirtualLoop()

    async def played() -> None:
        async with Scene(loop, **settings).open() as scene:
            await story(scene)

    try:
        loop.run_until_complete(asyncio.wait_for(played(), 3_600))
    finally:
        loop.close()


def test_a_standby_holds_what_its_task_has_committed_and_says_so() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim()
        await scene.commit()
        async with scene.following():
            await scene.until(lambda: scene.standby.ready)
            last = 0
            for _ in range(3):
                last = await scene.commit()
                await scene.until(lambda: scene.held.get(b"number") == str(last).encode())  # noqa: B023
            assert scene.held == scene.on_log()
            assert scene.state is not None
            assert scene.made is not None
            assert (scene.state.epoch, scene.state.number, scene.state.claim) == (1, last, "claim")
            assert scene.state.as_of_ms == scene.clock.ms
            assert scene.standby.lag == 0

    play(story)


def test_a_delete_reaches_the_store_of_a_standby() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim()
        number = await scene.commit()
        async with scene.following():
            await scene.until(lambda: f"key{number}".encode() in scene.held)
            assert scene.writer is not None
            assert scene.made is not None
            gone = Records([f"key{number}".encode()], [None], [0])
            await scene.writer.commit(Commit(encode_checkpoint(scene.made), [Append(scene.at, gone)]))
            await scene.until(lambda: f"key{number}".encode() not in scene.held)

    play(story)


def test_a_task_that_has_never_run_is_waited_for_without_a_store() -> None:
    async def story(scene: Scene) -> None:
        async with scene.following():
            await asyncio.sleep(30)
            assert TASK not in scene.stores.disks
            assert not scene.standby.ready
            await scene.claim()
            await scene.until(lambda: scene.standby.ready)

    play(story)


def test_a_commit_that_comes_in_between_the_ends_and_the_records_is_covered() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim()
        await scene.commit()
        commits = 0

        async def commit_more() -> None:
            nonlocal commits
            scene.check()
            if commits < 20:
                commits += 1
                await scene.commit()

        async with scene.following():
            scene.log.before = commit_more
            await scene.until(lambda: commits == 20 and scene.held.get(b"number") == b"22")
            scene.check()
            assert scene.held == scene.on_log()

    play(story)


def test_a_claim_that_comes_in_between_the_records_and_the_checkpoint_is_harmless() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim("first")
        await scene.commit()
        claims = 0

        async def claim() -> None:
            nonlocal claims
            if claims < 3:
                claims += 1
                await scene.claim(f"later-{claims}")
                await scene.commit()

        async with scene.following():
            await scene.until(lambda: scene.standby.ready)
            scene.log.before = claim
            await scene.commit()
            await scene.until(lambda: claims == 3 and scene.held.get(b"number") == str(number(scene)).encode())
            assert scene.held == scene.on_log()
            scene.check()
            assert scene.standby.ready

    play(story)


def number(scene: Scene) -> int:
    assert scene.made is not None
    return scene.made.number


def test_a_tail_that_the_log_lost_and_wrote_anew_does_not_stay_in_the_store() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim("first")
        for _ in range(4):
            await scene.commit(b"lost")
        async with scene.following():
            await scene.until(lambda: scene.held.get(b"number") == b"5")
            await scene.lose(3)
            await scene.claim("second")
            for _ in range(5):  # as long as the lost tail was, and longer: no position tells them apart
                await scene.commit(b"kept")
            await scene.until(lambda: scene.held.get(b"key8") == b"kept")
            assert scene.held == scene.on_log()
            await scene.until(lambda: scene.standby.ready)

    play(story)


@pytest.mark.parametrize("rewritten", [0, 1, 2, 4])
@pytest.mark.parametrize("later", [0, 1, 2, 3])
def test_whenever_a_log_loses_its_tail_no_lost_value_stays_under_a_commit_that_it_knows(
    rewritten: int, later: int
) -> None:
    """At each request of a round the log loses two commits; some requests later somebody claims and goes on."""

    def at_request(strike: int) -> None:
        async def story(scene: Scene) -> None:
            await scene.claim("first")
            await scene.commit()
            requests = -1

            async def torment() -> None:
                nonlocal requests
                requests += 1
                if requests == strike:
                    await scene.lose(2)
                if requests == strike + later:
                    await scene.claim("second")
                    for _ in range(rewritten):
                        await scene.commit(b"kept")

            async with scene.following():
                await scene.until(lambda: scene.standby.ready)
                await scene.commit(b"lost")
                await scene.commit(b"lost")
                scene.log.before = torment
                await scene.until(lambda: requests > strike + later + 8)
                for _ in range(4):
                    await scene.commit()
                await scene.until(lambda: scene.held == scene.on_log())
                scene.check()

        play(story)

    for strike in range(10):
        at_request(strike)


def test_a_store_of_a_former_life_that_stands_ahead_of_the_log_is_set_aside() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim("first")
        for _ in range(4):
            await scene.commit(b"lost")
        async with scene.following():
            await scene.until(lambda: scene.standby.ready)
        await scene.lose(3)
        await scene.claim("second")
        async with scene.following():
            await scene.commit(b"kept")
            await scene.until(lambda: scene.held == scene.on_log())
            scene.check()

    play(story)


def test_a_store_of_a_former_life_that_stands_behind_is_brought_up_from_where_it_stands() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim("first")
        await scene.commit()
        async with scene.following():
            await scene.until(lambda: scene.standby.ready)
        former = scene.stores.disks[TASK]
        await scene.claim("second")
        for _ in range(3):
            await scene.commit()
        async with scene.following():
            await scene.until(lambda: scene.held == scene.on_log())
        assert scene.stores.disks[TASK] is former

    play(story)


def test_a_store_that_was_away_for_longer_than_deletes_are_kept_is_built_anew() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim()
        gone = await scene.commit()
        async with scene.following():
            await scene.until(lambda: scene.standby.ready)
        former = scene.stores.disks[TASK]
        await scene.forget(gone)
        scene.clock.ms += 4 * DAY_MS
        async with scene.following():
            await scene.until(lambda: scene.standby.ready and scene.held == scene.on_log())
        assert scene.stores.disks[TASK] is not former

    play(story, tombstones_kept_ms=7 * DAY_MS)


def test_a_standby_that_stood_still_for_longer_than_deletes_are_kept_begins_anew() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim()
        gone = await scene.commit()
        async with scene.following():
            await scene.until(lambda: scene.standby.ready)
            frozen = False

            async def freeze() -> None:
                nonlocal frozen
                if not frozen:
                    frozen = True
                    await scene.forget(gone)
                    scene.clock.ms += 4 * DAY_MS

            scene.log.before = freeze
            await scene.until(lambda: frozen and scene.standby.ready and scene.held == scene.on_log())

    play(story, tombstones_kept_ms=7 * DAY_MS)


def test_a_standby_that_kept_looking_goes_on_however_long_nothing_came() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim()
        await scene.commit()
        async with scene.following():
            await scene.until(lambda: scene.standby.ready)
            former = scene.stores.disks[TASK]
            for _ in range(4):
                scene.clock.ms += 2 * DAY_MS
                await asyncio.sleep(10)
            await scene.commit()
            await scene.until(lambda: scene.held == scene.on_log())
            assert scene.stores.disks[TASK] is former

    play(story, tombstones_kept_ms=7 * DAY_MS)


def test_deletes_that_are_compacted_away_in_front_of_a_standby_are_not_missed() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim()
        kept = [await scene.commit() for _ in range(40)]
        fetched = False

        async def compact() -> None:
            nonlocal fetched
            if scene.held and not fetched:
                fetched = True
                partition = scene.broker.partition(scene.at)
                gone = Records([f"key{number}".encode() for number in kept[:20]], [None] * 20, [0] * 20)
                assert scene.writer is not None
                assert scene.made is not None
                await scene.writer.commit(Commit(encode_checkpoint(scene.made), [Append(scene.at, gone)]))
                partition.compact(2**62)
                await scene.commit()

        scene.log.before = compact
        async with scene.following():
            await scene.until(lambda: fetched and scene.held == scene.on_log())

    play(story, thresholds=Thresholds(standby_entries=10, standby_records=5))


def test_a_lost_tail_is_noticed_even_when_nobody_goes_on() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim("first")
        for _ in range(4):
            await scene.commit()
        async with scene.following():
            await scene.until(lambda: scene.standby.ready)
            await scene.lose(3)
            await scene.until(lambda: scene.held == scene.on_log())

    play(story)


def test_a_standby_whose_store_has_to_be_rebuilt_is_not_ready_meanwhile() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim("first")
        for _ in range(4):
            await scene.commit(b"lost")
        async with scene.following():
            await scene.until(lambda: scene.standby.ready)
            await scene.lose(3)
            await scene.claim("second")

            async def refuse() -> None:
                if TASK in scene.stores.disks and scene.state is None:
                    raise LogUnavailable("the log is away")

            scene.log.before = refuse
            await scene.until(lambda: scene.state is None)
            await asyncio.sleep(5)
            assert not scene.standby.ready

    play(story)


def test_an_outage_of_the_log_ends_neither_the_standby_nor_what_it_has() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim()
        await scene.commit()
        refused = 0

        async def refuse() -> None:
            nonlocal refused
            refused += 1
            raise LogUnavailable("the log is away")

        async with scene.following():
            await scene.until(lambda: scene.standby.ready)
            former = scene.stores.disks[TASK]
            scene.log.before = refuse
            await scene.commit()
            await scene.until(lambda: refused > 5)
            scene.log.before = _nothing
            await scene.until(lambda: scene.held == scene.on_log())
            assert scene.stores.disks[TASK] is former
            assert scene.standby.ready

    play(story)


def test_an_app_that_is_reset_is_followed_from_its_new_beginning() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim("first")
        await scene.commit(b"former")
        async with scene.following():
            await scene.until(lambda: scene.standby.ready)
            await scene.owner_log.forget([REF])
            await scene.owner_log.delete_topics([scene.at.topic])
            await asyncio.sleep(60)
            await scene.owner_log.create_topics(BLUEPRINT.own_topics)
            await scene.claim("second")
            await scene.commit(b"new")
            await scene.until(lambda: scene.held == scene.on_log())
            assert b"former" not in scene.held.values()
            await scene.until(lambda: scene.standby.ready)

    play(story)


def test_a_long_changelog_is_loaded_in_parts_and_the_standby_is_ready_near_its_end() -> None:
    async def story(scene: Scene) -> None:
        await scene.claim()
        for _ in range(300):
            await scene.commit()
        lags: list[int] = []

        async def look() -> None:
            if scene.standby.lag is not None:
                lags.append(scene.standby.lag)
                assert scene.standby.ready == (scene.standby.lag <= 100)
            scene.check()

        scene.log.before = look
        async with scene.following():
            await scene.until(lambda: scene.held == scene.on_log())
        assert lags[0] == 600
        assert 0 in lags
        assert len(set(lags)) > 5, "it was loaded in one"

    play(story, thresholds=Thresholds(standby_entries=50, standby_records=20, ready_lag=100))
