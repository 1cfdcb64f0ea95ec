"""Ingress under torment: with a transport that gives again what isn't acknowledged, everything is in the journal once
and in order, through deaths of its owner at any await, freezes, two owners at once, and failures of log and transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from streams.core.capability import Derived, Guarantee
from streams.core.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from streams.core.edge import Edge, Intake, Received
from streams.core.log import Commit, TaskRef, TopicSpec
from streams.core.record import Positions, Records, TopicPartition
from streams.dsl.foreign import Journal
from streams.errors import Fenced, LogUnavailable
from streams.runtime.ingress import STATE, Ingress
from streams.testing.sim_log import SimLog
from streams.testing.sim_process import Process
from tests.runtime.edge_ground import Ground

SEEDS = range(150)
BOUND = 1_000
AT = TopicPartition("shop.readings.journal", 0)
JOURNAL = Journal(
    TopicSpec(AT.topic, 1, "journal"), TopicSpec("readings", 1, location="fake://there", address="readings")
)
ROOM = 10
"""How many ids the peer has: how much it gives before it waits for acknowledgements."""


class Peer:
    """The other end.  What isn't acknowledged is given again, under the same id, to whoever connects next; an id that
    was acknowledged is used again."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.queue: list[int] = []
        self.given: dict[int, int] = {}
        self.sent = 0
        self.connection: object = None

    def send(self, count: int) -> None:
        self.queue += range(self.sent, self.sent + count)
        self.sent += count

    def give(self) -> None:
        for number in range(ROOM):
            if number not in self.given and self.queue:
                self.given[number] = self.queue.pop(0)

    @property
    def settled(self) -> bool:
        return not self.queue and not self.given

    async def reach(self, intake: Counting, what: str) -> None:
        await self.ground.step(intake.process, what)
        if self.connection is not intake:
            raise LogUnavailable("simulated: another one is connected under this name")


class Counting:
    """An intake that remembers which ids it has handed out and not acknowledged, with what came under them."""

    lost = 0

    def __init__(self, peer: Peer, process: Process, state: bytes | None) -> None:
        self.peer = peer
        self.process = process
        self._known: dict[int, int] = {} if state is None else msgspec.msgpack.decode(state, type=dict[int, int])
        self._waiting: list[tuple[int, int]] = []
        self._taken: set[int] = set()
        self._out: list[int] = []
        self.ended = False

    async def receive(self, *, max_records: int, max_bytes: int, wait_s: float) -> Received | None:
        await self.peer.reach(self, "receive")
        if not self.ended:
            self._take()
        if not self._waiting:
            await asyncio.sleep(wait_s)
            return None
        some, self._waiting = self._waiting[:3], self._waiting[3:]
        new = [(number, value) for number, value in some if self._known.get(number) != value]
        self._known.update(new)
        self._out += [number for number, _ in some]
        values: list[bytes | None] = [b"%d" % value for _, value in new]
        return Received(Records([None] * len(new), values, [0] * len(new)), msgspec.msgpack.encode(self._known))

    def _take(self) -> None:
        self.peer.give()
        fresh = {number: value for number, value in self.peer.given.items() if number not in self._taken}
        self._waiting += sorted(fresh.items(), key=lambda each: each[1])
        self._taken |= fresh.keys()

    async def stored(self) -> None:
        await self.peer.reach(self, "acknowledge")
        for number in self._out:
            self.peer.given.pop(number, None)
            self._taken.discard(number)
        self._out = []
        await self.peer.reach(self, "acknowledged")

    async def end(self) -> None:
        await self.peer.reach(self, "end")
        self.ended = True

    async def close(self) -> None:
        await asyncio.sleep(0)


class FakeEdge:
    url = "fake://there"

    def __init__(self, peer: Peer, process: Process, make: Callable[..., Intake]) -> None:
        self.peer = peer
        self.process = process
        self.make = make

    def guarantee(self, *, written: bool) -> Derived:
        return Derived(Guarantee.EXACTLY_ONCE, "")

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def check(self, topic: TopicSpec, *, written: bool) -> None: ...

    async def intake(self, source: TopicSpec, group: str, partition: int, state: bytes | None) -> Intake:
        await self.peer.ground.connecting(self.process)
        intake = self.make(self.peer, self.process, state)
        self.peer.connection = intake
        return intake

    async def outlet(self, target: TopicSpec, group: str, partition: int, state: bytes | None) -> Any:
        raise NotImplementedError


def journaled(ground: Ground) -> list[int]:
    return [int(value or b"") for value in ground.server.broker.partition(AT).values]


def receive(
    seed: int, intake: Callable[..., Intake] = Counting, kind: type[Ingress] = Ingress, *, watched: bool = False
) -> tuple[list[int], int]:
    """What is in the journal after one run, and how much was sent.  watched: look after each commit as well."""
    ground = Ground(seed)
    peer = Peer(ground)
    ground.server.broker.create_topics([JOURNAL.topic])

    def watch(checkpoint: Checkpoint) -> None:
        state = checkpoint.facts.get(STATE)
        known = {} if state is None else msgspec.msgpack.decode(state, type=dict[int, int])
        assert max(known.values(), default=-1) == max(journaled(ground), default=-1), "a state without its records"

    if watched:
        ground.server.watch = watch

    def make(log: SimLog, process: Process) -> Ingress:
        edge: Edge = FakeEdge(peer, process, intake)
        return kind(TaskRef("shop", 1, f"{AT.topic}-0"), log, edge, JOURNAL, 0, 1)

    async def tidy(ingress: Ingress) -> None:
        peer.send(ground.random.randrange(1, 8))

    async def work() -> None:
        peer.send(5)
        last = await ground.torment(make, tidy)
        peer.send(20)
        await ground.until(lambda: peer.settled and last.caught_up)
        last.stop()
        await ground.until(lambda: all(task.done() for each, task in ground.carriers.values() if each is last))
        ground.check()

    ground.run(work())
    return journaled(ground), peer.sent


def once(seed: int, **settings: Any) -> None:
    found, count = receive(seed, **settings)
    assert found == list(range(count)), f"seed {seed}: lost, twice, or in another order"


def first_caught(**settings: Any) -> int:
    for seed in range(BOUND):
        try:
            once(seed, **settings)
        except AssertionError:
            return seed
    pytest.fail(f"not caught within {BOUND} seeds")


def test_what_an_acknowledging_transport_gives_is_journaled_once_and_in_order() -> None:
    for seed in SEEDS:
        once(seed, watched=True)


class Suspicious(Counting):
    """Looks whether what it may acknowledge is in the journal."""

    async def stored(self) -> None:
        there = set(journaled(self.peer.ground))
        for number in self._out:
            assert self._known[number] in there, "acknowledged what isn't stored"
        await super().stored()


def test_nothing_is_acknowledged_that_is_not_stored() -> None:
    for seed in SEEDS:
        once(seed, intake=Suspicious)


def test_what_has_come_before_a_stop_is_stored_by_the_time_it_ends() -> None:
    ground = Ground(0)
    ground.network.calm = True
    ground.server.broker.create_topics([JOURNAL.topic])

    class Full(Counting):
        """Has taken everything by the time it is told to end, and lets it out bit by bit."""

        async def end(self) -> None:
            self._take()
            await super().end()

    async def work() -> None:
        peer = Peer(ground)
        ingress = ground.start(
            lambda log, process: Ingress(
                TaskRef("shop", 1, f"{AT.topic}-0"), log, FakeEdge(peer, process, Full), JOURNAL, 0, 1
            )
        )
        await ground.until(lambda: ingress.caught_up)
        ingress.stop()
        peer.send(ROOM + 5)
        await ground.until(lambda: all(task.done() for _, task in ground.carriers.values()))
        ground.check()
        assert journaled(ground) == list(range(ROOM)), "what came after it waits for the next owner"
        assert peer.queue == list(range(ROOM, ROOM + 5))
        assert not peer.given, "all of it is acknowledged"
        assert ingress.received == ROOM

    ground.run(work())


# ── sabotage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Swapped:
    """A writer in whose place of commit something else happens, and an intake that says nothing to acknowledge."""

    def __init__(self, writer: Any, commit: Callable[[Commit], Any]) -> None:
        self.checkpoint = writer.checkpoint
        self._writer = writer
        self._commit = commit

    async def commit(self, commit: Commit) -> Positions:
        await self._commit(commit)
        return {}

    async def close(self) -> None:
        await self._writer.close()


class Silent:
    def __init__(self, intake: Any) -> None:
        self._intake = intake
        self.receive, self.end, self.close = intake.receive, intake.end, intake.close
        self.lost = 0

    async def stored(self) -> None: ...


class AcknowledgesFirst(Ingress):
    async def _receive(self, writer: Any, intake: Any, checkpoint: Checkpoint) -> None:
        async def commit(commit: Commit) -> None:
            await intake.stored()
            await writer.commit(commit)

        await super()._receive(Swapped(writer, commit), Silent(intake), checkpoint)


def test_what_is_acknowledged_before_it_is_stored_is_caught() -> None:
    first_caught(kind=AcknowledgesFirst)


class Apart(Ingress):
    """Commits the records and the state one after the other."""

    state_first = True

    async def _receive(self, writer: Any, intake: Any, checkpoint: Checkpoint) -> None:
        last = checkpoint

        async def commit(commit: Commit) -> None:
            nonlocal last
            new = decode_checkpoint(commit.checkpoint)
            parts = [(new.facts, ()), (new.facts, commit.appends)]
            if not self.state_first:
                parts = [(last.facts, commit.appends), (new.facts, ())]
            for facts, appends in parts:
                last = msgspec.structs.replace(last, number=last.number + 1, facts=facts)
                await writer.commit(Commit(encode_checkpoint(last), appends))

        await super()._receive(Swapped(writer, commit), intake, checkpoint)


class RecordsFirst(Apart):
    state_first = False


@pytest.mark.parametrize("kind", [Apart, RecordsFirst])
def test_records_and_state_in_two_commits_are_caught(kind: type[Apart]) -> None:
    first_caught(kind=kind)


class Unknowing(Counting):
    def __init__(self, peer: Peer, process: Process, state: bytes | None) -> None:
        super().__init__(peer, process, None)


def test_a_state_that_is_not_handed_on_is_caught() -> None:
    first_caught(intake=Unknowing)


class Hasty(Counting):
    """Acknowledges at once what it takes for known from its state."""

    async def receive(self, *, max_records: int, max_bytes: int, wait_s: float) -> Received | None:
        received = await super().receive(max_records=max_records, max_bytes=max_bytes, wait_s=wait_s)
        if received is not None and not len(received.records):
            await super().stored()
        return received


def test_a_former_owner_that_connects_late_does_no_harm() -> None:
    for seed in SEEDS:
        once(seed, intake=Hasty)


class Unfenced(Ingress):
    """Goes on when another owner has come."""

    async def _receive(self, writer: Any, intake: Any, checkpoint: Checkpoint) -> None:
        async def commit(commit: Commit) -> None:
            try:
                await writer.commit(commit)
            except Fenced:
                for append in commit.appends:
                    self._log.network.server.append([append])  # type: ignore[attr-defined]
                await intake.stored()
                raise

        await super()._receive(Swapped(writer, commit), intake, checkpoint)


def test_a_former_owner_that_stores_is_caught() -> None:
    first_caught(kind=Unfenced)
