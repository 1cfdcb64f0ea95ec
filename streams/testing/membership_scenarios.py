"""What the tests of a membership stand on: workers that obey theirs, and a board that sees all of them.

What must live here: helpers, of use in a log's own tests of its workers as well.  What must not: tests; anything of one
log.  Needs pytest.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from streams.core.membership import Assignment, Member, Membership, TaskRef, Wanted

__all__ = ["Board", "Entry", "MembershipTests", "Opens", "Place", "Scene", "Worker", "actives", "wanted"]

# Generous: how long a group may take to do what it was asked for, never how long a test takes.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What a worker enters with.  session_s: it loses its tasks when it isn't heard of for so long.  beat_s: how often
    it is heard of.  said: to be called at each word that it sends, so that the test looks again."""

    group: str
    member: Member
    wanted: Wanted
    session_s: float
    beat_s: float
    said: Callable[[], None]


class Place(Protocol):
    """A worker's membership, on connections of its own, which can be held up."""

    @property
    def membership(self) -> Membership: ...

    @property
    def beats(self) -> int:
        """How often it has said that it is there."""
        ...

    @property
    def rounds(self) -> int:
        """How often it has asked for, or made, a new division of the tasks."""
        ...

    def hold_up(self) -> None:
        """From now on nothing that it sends arrives."""
        ...

    def go_on(self) -> None:
        """What was held up goes out.  Without effect otherwise."""
        ...

    async def roster(self) -> Sequence[Member]:
        """Who is in its group, as ``Log.members`` tells it."""
        ...

    async def kill(self) -> None:
        """As by kill -9: nothing more is heard of it.  ``close`` of the membership, later, does no harm."""
        ...

    async def close(self) -> None:
        """Give up the connections; may be called twice, and after ``kill``."""
        ...


Opens = Callable[[Entry], Awaitable[Place]]


def wanted(stateless: int, stateful: int = 0, standbys: int = 0) -> Wanted:
    """Tasks x0, x1, … and s0, s1, …, of which the latter keep state."""
    names = [f"x{n}" for n in range(stateless)] + [f"s{n}" for n in range(stateful)]
    refs = [TaskRef("app", slot, name) for slot, name in enumerate(names, start=1)]
    return Wanted(refs, frozenset(names[stateless:]), standbys)


class Board:
    """Everything that the workers of a test do, seen from above.  At each change it checks that no task runs twice."""

    def __init__(self, opens: Opens, ask: Wanted, session_s: float, beat_s: float) -> None:
        self.group = f"app-{secrets.token_hex(6)}"
        self.ask = ask
        self.session_s, self.beat_s = session_s, beat_s
        self.workers: list[Worker] = []
        self._opens = opens
        self._news = asyncio.Event()

    async def worker(self, name: str = "", *, gentle: bool = False, **about: Any) -> Worker:
        """One more; ``about`` is what its ``Member`` says besides."""
        member = Member(name=name, **about)
        worker = Worker(self, member, await self.place(member), gentle)
        self.workers.append(worker)
        return worker

    async def place(self, member: Member) -> Place:
        """A membership that nobody follows yet."""
        return await self._opens(Entry(self.group, member, self.ask, self.session_s, self.beat_s, self.changed))

    def changed(self) -> None:
        owners = Counter(task for each in self.workers if not each.dead for task in each.running)
        assert max(owners.values(), default=1) == 1, f"a task runs twice: {owners}"
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not holds():
                    for each in self.workers:
                        each.raise_failure()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(
                "never so; last seen: " + "; ".join(f"{each.seen[-1:]} {each.running}" for each in self.workers)
            )

    async def until_beaten(self, worker: Worker, times: int) -> None:
        """The worker has been in touch with its group so many times more."""
        beats = worker.place.beats + times
        await self.until(lambda: worker.place.beats >= beats)

    async def until_shared(self, *workers: Worker) -> None:
        """Every task runs, as evenly as can be, at these workers."""

        def shared() -> bool:
            counts = [len(each.running) for each in workers]
            everything = sorted(task for each in workers for task in each.running)
            return everything == sorted(task.name for task in self.ask.tasks) and max(counts) - min(counts) <= 1

        await self.until(shared)


class Worker:
    """Obeys its membership at once, unless ``gentle``: then it lets go and warms up when the test says so.

    seen: every assignment that it got.  running, warm: the tasks that it runs, and those whose state it has.
    dead: it doesn't count any more, whatever it runs.
    """

    def __init__(self, board: Board, member: Member, place: Place, gentle: bool) -> None:
        self.board, self.member, self.place, self.gentle = board, member, place, gentle
        self.seen: list[Assignment] = []
        self.running: set[str] = set()
        self.warm: set[str] = set()
        self.dead = False
        self._let_go = asyncio.Event()
        self._follower = asyncio.create_task(self._follow())
        self._follower.add_done_callback(lambda _: board.changed())

    async def _follow(self) -> None:
        async for given in self.place.membership.assignments():
            self.seen.append(given)
            self.board.changed()
            if self.gentle and self.running - given.active:
                self._let_go.clear()
                await self._let_go.wait()
            self.running &= given.active
            self.warm &= given.active | given.standby
            if not self.gentle:
                self.warm |= given.standby
            self.report()
            self.running |= given.active
            self.warm |= self.running
            self.board.changed()
            self.report()

    def report(self) -> None:
        self.place.membership.report(self.running, self.warm)

    def let_go(self) -> None:
        """What a gentle worker was asked for and still runs."""
        self._let_go.set()

    def get_warm(self) -> None:
        """Have the state of all that it follows."""
        self.warm |= self.seen[-1].standby
        self.report()

    def raise_failure(self) -> None:
        if self._follower.done() and not self._follower.cancelled():
            self._follower.result()

    async def failure(self) -> BaseException | None:
        """What ended its membership."""
        await asyncio.wait({self._follower}, timeout=PATIENCE_S)
        return self._follower.exception()

    async def die(self) -> None:
        """As by kill -9: nothing more is heard of it."""
        self.dead = True
        self._follower.cancel()
        await self.place.kill()

    async def close(self) -> None:
        self.running.clear()
        self.report()
        await self.place.membership.close()
        await asyncio.wait({self._follower})
        await self.place.close()
        self.dead = True


Scene = Callable[[Board], Awaitable[None]]


class MembershipTests:
    """Knows how to open places and how to play a scene.

    session_s: so short that a test can wait for its end.  long_session_s: so long that nothing that a test waits for
    comes of its end.  beat_s: shorter than a third of each.  leads_by_lease: a leader that is killed leads until its
    session is over, even if it is back before; a scene with such a one is played with short sessions.
    """

    session_s = 3.0
    long_session_s = 30.0
    beat_s = 0.1
    leads_by_lease = False

    def places(self) -> AbstractAsyncContextManager[Opens]:
        """What gives each worker of a test its place, all on one log."""
        raise NotImplementedError

    def play(self, scene: Scene, ask: Wanted, *, session_s: float | None = None) -> None:
        """Run ``scene`` in a group of its own, with long sessions unless told otherwise; close what it leaves."""

        async def run() -> None:
            async with self.places() as opens:
                board = Board(opens, ask, session_s or self.long_session_s, self.beat_s)
                try:
                    await scene(board)
                finally:
                    for worker in board.workers:
                        worker.gentle = False
                        worker.let_go()
                        worker.place.go_on()
                        await worker.close()

        asyncio.run(run())


def actives(worker: Worker) -> Sequence[frozenset[str]]:
    """The tasks of each of its assignments."""
    return [given.active for given in worker.seen]
