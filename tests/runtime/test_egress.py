"""Egress under torment: what is in an outbox goes out in order, once where the outlet can resume, through deaths of
its owner at any await, freezes, two owners at once, and failures of log and transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from streams.core.capability import Derived, Guarantee
from streams.core.checkpoint import Checkpoint
from streams.core.edge import Edge, Keep, Outlet
from streams.core.log import TaskRef, TopicSpec
from streams.core.record import Position, Records, TopicPartition
from streams.dsl.foreign import Outbox
from streams.errors import LogUnavailable
from streams.runtime import egress as module
from streams.runtime.egress import Egress
from streams.testing.sim_log import SimLog
from streams.testing.sim_process import Process
from tests.runtime.edge_ground import Ground

SEEDS = range(150)
BOUND = 1_000
AT = TopicPartition("shop.alerts.outbox", 0)
OUTBOX = Outbox(TopicSpec(AT.topic, 1, "outbox"), TopicSpec("alerts", 1, location="fake://there", address="alerts"))
BATCH = 7


class Peer:
    """The other end.  came: what it was given, in order.  held: handshakes that aren't over, by id, and what came under
    each; what comes again under an id that is held is known."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.came: list[int] = []
        self.held: dict[int, bytes] = {}
        self.connection: object = None

    async def publish(self, outlet: Resuming, number: int, value: bytes) -> None:
        await self._reach(outlet, "publish")
        if number in self.held:
            assert self.held[number] == value, "another message comes under an id that is in use"
        else:
            self.held[number] = value
            self.came.append(int(value))
        await self._reach(outlet, "published")

    async def release(self, outlet: Resuming, number: int) -> None:
        await self._reach(outlet, "release")
        self.held.pop(number, None)
        await self._reach(outlet, "released")

    async def _reach(self, outlet: Resuming, what: str) -> None:
        await self.ground.step(outlet.process, what)
        if self.connection is not outlet:
            raise LogUnavailable("simulated: another one is connected under this name")


class Way(msgspec.Struct):
    """The state of a batch that is under way."""

    first: int
    count: int
    taken: bool = False


class Resuming:
    """An outlet that assigns ids, keeps them, sends, keeps that, and releases the ids."""

    batch = BATCH
    keeps_first = False
    connected = True
    sent = 0

    def __init__(self, peer: Peer, process: Process, state: bytes | None) -> None:
        self.peer = peer
        self.process = process
        way = Way(0, 0) if state is None else msgspec.msgpack.decode(state, type=Way)
        self._way = way if way.count else None
        self._next = way.first + way.count

    @property
    def under_way(self) -> int:
        return 0 if self._way is None else self._way.count

    @property
    def state(self) -> bytes | None:
        return msgspec.msgpack.encode(Way(self._next, 0))

    async def send(self, records: Records, keep: Keep) -> None:
        way, self._way = self._way, None
        if way is None:
            way = Way(self._next, len(records))
            await keep(msgspec.msgpack.encode(way))
        self._next = way.first + way.count
        assert len(records) == way.count, "the batch isn't the one that is under way"
        if not way.taken:
            for number, value in enumerate(records.values, way.first):
                assert value is not None
                await self.peer.publish(self, number, value)
            way.taken = True
            await keep(msgspec.msgpack.encode(way))
        for number in range(way.first, way.first + way.count):
            await self.peer.release(self, number)

    async def close(self) -> None:
        await asyncio.sleep(0)


class Forgetful(Resuming):
    """An outlet that keeps nothing, to a peer that knows nothing again."""

    state = None

    def __init__(self, peer: Peer, process: Process, state: bytes | None) -> None:
        assert state is None
        super().__init__(peer, process, None)

    async def send(self, records: Records, keep: Keep) -> None:
        self.sent = 0
        for value in records.values:
            assert value is not None
            self.peer.held.clear()
            await self.peer.publish(self, 0, value)
            self.sent += 1


class Hopeful(Forgetful):
    """An outlet that can't tell what arrives, and promises that nothing comes twice."""

    keeps_first = True

    async def send(self, records: Records, keep: Keep) -> None:
        self.sent = 0
        await keep(b"")
        for value in records.values:
            assert value is not None
            self.peer.held.clear()
            self.sent += 1
            await self.peer.publish(self, 0, value)


class FakeEdge:
    url = "fake://there"

    def __init__(self, peer: Peer, process: Process, make: Callable[..., Outlet]) -> None:
        self.peer = peer
        self.process = process
        self.make = make

    def guarantee(self, *, written: bool) -> Derived:
        return Derived(Guarantee.EXACTLY_ONCE, "")

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def check(self, topic: TopicSpec, *, written: bool) -> None: ...

    async def intake(self, source: TopicSpec, group: str, partition: int, state: bytes | None) -> Any:
        raise NotImplementedError

    async def outlet(self, target: TopicSpec, group: str, partition: int, state: bytes | None) -> Outlet:
        await self.peer.ground.connecting(self.process)
        outlet = self.make(self.peer, self.process, state)
        self.peer.connection = outlet
        return outlet


def deliver(
    seed: int,
    outlet: Callable[..., Outlet] = Resuming,
    kind: type[Egress] = Egress,
    checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
    *,
    may_lose: bool = False,
) -> tuple[list[int], int]:
    """What came to the peer in one run, and how much there was."""
    ground = Ground(seed)
    peer = Peer(ground)
    count = 0
    ground.server.broker.create_topics([OUTBOX.topic])
    ground.server.watch = checkpoint

    def make(log: SimLog, process: Process) -> Egress:
        edge: Edge = FakeEdge(peer, process, outlet)
        return kind(TaskRef("shop", 1, f"{AT.topic}-0"), log, edge, OUTBOX, 0, 1)

    def put() -> None:
        nonlocal count
        some = [b"%d" % number for number in range(count, count + ground.random.randrange(1, 12))]
        count += len(some)
        held = ground.server.broker.partition(AT)
        held.append(Records([None] * len(some), list(some), [0] * len(some)), 0)
        if ground.random.random() < 0.4:  # marks of transactions, as Kafka has them
            held.end += ground.random.randrange(1, 4)
            held.wake()

    async def tidy(egress: Egress) -> None:
        put()
        if egress.position is not None:
            left = ground.server.broker.partition(AT)
            left.trim(egress.position.offset())
            out = set(peer.came)
            first = min((int(value or b"") for value in left.values), default=count)
            assert may_lose or out.issuperset(range(first)), "what wasn't out was trimmed"

    async def work() -> None:
        put()
        last = await ground.torment(make, tidy)
        put()
        end = ground.server.broker.partition(AT).end
        await ground.until(lambda: last.delivered.offset() == end and last.caught_up)
        last.stop()
        await ground.until(lambda: all(task.done() for each, task in ground.carriers.values() if each is last))
        ground.check()
        assert last.position == Position.at(end)

    ground.run(work())
    return peer.came, count


def once(seed: int, **settings: Any) -> None:
    came, count = deliver(seed, **settings)
    assert came == list(range(count)), f"seed {seed}: lost, twice, or in another order"


def at_least_once(seed: int, **settings: Any) -> None:
    came, count = deliver(seed, **settings)
    assert set(came) == set(range(count)), f"seed {seed}: lost"
    assert all(after <= before + 1 for before, after in pairwise(came)), f"seed {seed}: out of order"


def at_most_once(seed: int, **settings: Any) -> None:
    came, _ = deliver(seed, may_lose=True, **settings)
    assert all(before < after for before, after in pairwise(came)), f"seed {seed}: twice, or out of order"


def first_caught(verdict: Callable[..., None], **settings: Any) -> int:
    for seed in range(BOUND):
        try:
            verdict(seed, **settings)
        except AssertionError:
            return seed
    pytest.fail(f"not caught within {BOUND} seeds")


def test_with_an_outlet_that_resumes_everything_goes_out_once_and_in_order() -> None:
    for seed in SEEDS:
        once(seed)


def test_with_an_outlet_that_keeps_nothing_everything_goes_out_in_order_and_what_repeats_is_what_followed() -> None:
    for seed in SEEDS:
        at_least_once(seed, outlet=Forgetful)


def test_with_an_outlet_that_keeps_first_nothing_goes_out_twice() -> None:
    for seed in SEEDS:
        at_most_once(seed, outlet=Hopeful)


# ── sabotage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class PositionFirst(Egress):
    """Checkpoints the position behind a batch before it is sent."""

    async def _send(self, writer: Any, outlet: Any) -> None:
        egress, taken = self, Position()

        class Noting(module._Queue):
            def take(self, most: int) -> tuple[Records, list[Position]]:
                nonlocal taken
                records, behind = super().take(most)
                taken = behind[-1]
                return records, behind

        class Early:
            batch, under_way = outlet.batch, outlet.under_way
            sent, keeps_first, connected, state = 0, False, True, None

            async def send(self, records: Records, keep: Keep) -> None:
                egress.delivered = taken
                await egress._keep(writer, None)
                await outlet.send(records, keep)

        sound, module._Queue = module._Queue, Noting  # type: ignore[misc]
        try:
            await super()._send(writer, Early())  # type: ignore[arg-type]
        finally:
            module._Queue = sound  # type: ignore[misc]


def test_a_position_that_is_kept_before_the_batch_is_sent_is_caught() -> None:
    first_caught(at_least_once, outlet=Forgetful, kind=PositionFirst)


class KeepsLater(Hopeful):
    """Keeps the position behind a batch when the first of it is out."""

    async def send(self, records: Records, keep: Keep) -> None:
        self.sent = 0
        for number, value in enumerate(records.values):
            assert value is not None
            self.peer.held.clear()
            self.sent += 1
            await self.peer.publish(self, 0, value)
            if not number:
                await keep(b"")


def test_a_position_that_is_kept_after_the_first_is_out_is_caught_where_nothing_may_come_twice() -> None:
    first_caught(at_most_once, outlet=KeepsLater)


class StateLater(Resuming):
    """Keeps its state when everything is sent."""

    async def send(self, records: Records, keep: Keep) -> None:
        kept: list[bytes] = []

        async def later(state: bytes) -> None:
            kept.append(state)

        await super().send(records, later)
        for state in kept:
            await keep(state)


def test_a_state_that_is_kept_after_the_batch_is_sent_is_caught() -> None:
    first_caught(once, outlet=StateLater)


class StateStays(Resuming):
    """Leaves the state of its last batch beside the position behind it."""

    def __init__(self, peer: Peer, process: Process, state: bytes | None) -> None:
        super().__init__(peer, process, state)
        self._kept = state

    @property
    def state(self) -> bytes | None:
        return self._kept

    async def send(self, records: Records, keep: Keep) -> None:
        async def noting(state: bytes) -> None:
            self._kept = state
            await keep(state)

        await super().send(records, noting)


def test_a_state_that_outlives_its_batch_is_caught() -> None:
    first_caught(once, outlet=StateStays)


class NothingLeft(Resuming):
    """Doesn't know what a former owner has begun."""

    def __init__(self, peer: Peer, process: Process, state: bytes | None) -> None:
        super().__init__(peer, process, None)


def test_a_batch_under_way_that_is_forgotten_is_caught() -> None:
    first_caught(once, outlet=NothingLeft)


def test_a_former_owner_that_connects_late_and_sends_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unasked(writer: Any, checkpoint: Checkpoint) -> Checkpoint:
        return checkpoint

    monkeypatch.setattr(module, "confirmed", unasked)
    first_caught(once)
