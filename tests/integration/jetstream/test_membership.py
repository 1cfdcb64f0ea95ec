"""Workers of one app share its tasks over JetStream: on a real server, and whatever happens to either."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.client import Connection
from streams.connectors.jetstream.config import parse_url
from streams.connectors.jetstream.group import GROUPS, groups_config, members_of
from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.membership import JetStreamMembership
from streams.core.membership import Assignment, Member, TaskRef, Wanted
from streams.errors import ConfigurationError
from tests.brokers.nats.server import NatsServer

SESSION_S = 2
LONG_SESSION_S = 60
BEAT_S = 0.1
PATIENCE_S = 60.0


def wanted(stateless: int, stateful: int = 0, standbys: int = 0) -> Wanted:
    names = [f"x{n}" for n in range(stateless)] + [f"s{n}" for n in range(stateful)]
    refs = [TaskRef("app", slot, name) for slot, name in enumerate(names, start=1)]
    return Wanted(refs, frozenset(names[stateless:]), standbys)


class Board:
    """Everything that the workers of a test do, seen from above."""

    def __init__(self, log: JetStreamLog, url: str, group: str, ask: Wanted, session_s: int = SESSION_S) -> None:
        self.api = log._api
        self.remake = lambda: log._topics.ensure(groups_config())
        self.url, self.group, self.ask, self.session_s = url, group, ask, session_s
        self.workers: list[Worker] = []
        self._news = asyncio.Event()

    async def worker(self, name: str = "", *, gentle: bool = False, **about: Any) -> Worker:
        connection = Connection(self.url, parse_url(self.url).client, timeout_s=5.0)
        await connection.open()
        worker = Worker(self, connection, Member(name=name, **about), gentle)
        self.workers.append(worker)
        return worker

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

    async def until_shared(self, *workers: Worker) -> None:
        """Every task runs, as evenly as can be, at these workers."""

        def shared() -> bool:
            counts = [len(each.running) for each in workers]
            everything = sorted(task for each in workers for task in each.running)
            return everything == sorted(task.name for task in self.ask.tasks) and max(counts) - min(counts) <= 1

        await self.until(shared)


class Worker:
    """Obeys its membership at once, unless ``gentle``: then it lets go and warms up when the test says so."""

    def __init__(self, board: Board, connection: Connection, member: Member, gentle: bool) -> None:
        self.board, self.connection, self.member, self.gentle = board, connection, member, gentle
        self.membership = JetStreamMembership(
            Api(connection),
            board.group,
            member,
            board.ask,
            session_s=board.session_s,
            beat_s=BEAT_S,
            remake=board.remake,
        )
        self.seen: list[Assignment] = []
        self.running: set[str] = set()
        self.warm: set[str] = set()
        self.dead = False
        self._let_go = asyncio.Event()
        self._follower = asyncio.create_task(self._follow())
        self._follower.add_done_callback(lambda _: board.changed())

    async def _follow(self) -> None:
        async for given in self.membership.assignments():
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
        self.membership.report(self.running, self.warm)

    def let_go(self) -> None:
        self._let_go.set()

    def get_warm(self) -> None:
        self.warm |= self.seen[-1].standby
        self.report()

    def raise_failure(self) -> None:
        if self._follower.done() and not self._follower.cancelled():
            self._follower.result()

    async def failure(self) -> BaseException | None:
        await asyncio.wait({self._follower}, timeout=PATIENCE_S)
        return self._follower.exception()

    async def die(self) -> None:
        """As by kill -9: nothing more is heard of it."""
        self.dead = True
        self._follower.cancel()
        await self.connection.close()
        runner = self.membership._runner
        if runner is not None:
            runner.cancel()

    async def close(self) -> None:
        self.running.clear()
        self.report()
        await self.membership.close()
        await asyncio.wait({self._follower})
        await self.connection.close()
        self.dead = True


def play(scene: Callable[[Board], Coroutine[Any, Any, None]], url: str, group: str, ask: Wanted, **more: int) -> None:
    async def run() -> None:
        log = JetStreamLog(url)
        await log.open()
        board = Board(log, url, group, ask, **more)
        try:
            await scene(board)
        finally:
            for worker in board.workers:
                worker.gentle = False
                worker.let_go()
                await worker.close()
            await log.close()

    asyncio.run(run())


Names = Callable[[str], str]


def test_workers_share_the_tasks_and_take_over_from_one_that_leaves(nats: NatsServer, unique: Names) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker()
        await board.until_shared(first)
        second = await board.worker()
        await board.until_shared(first, second)
        third = await board.worker()
        await board.until_shared(first, second, third)
        await second.close()
        await board.until_shared(first, third)

    # The session is so long that only a word of farewell can be the cause.
    play(scene, nats.url, unique("app"), wanted(7, stateful=4, standbys=1), session_s=LONG_SESSION_S)


def test_who_leads_may_leave_and_the_others_go_on_at_once(nats: NatsServer, unique: Names) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker()
        await board.until_shared(first)  # so it leads
        second, third = await board.worker(), await board.worker()
        await board.until_shared(first, second, third)
        await first.close()
        await board.until_shared(second, third)

    play(scene, nats.url, unique("app"), wanted(6), session_s=LONG_SESSION_S)


@pytest.mark.parametrize("which", [0, 1], ids=["the leader", "another"])
def test_the_tasks_of_a_worker_that_dies_without_a_word_go_on_elsewhere(
    nats: NatsServer, unique: Names, which: int
) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker()
        await board.until_shared(first)
        workers = [first, await board.worker(), await board.worker()]
        await board.until_shared(*workers)
        await workers.pop(which).die()
        await board.until_shared(*workers)

    play(scene, nats.url, unique("app"), wanted(6))


def test_a_task_is_given_to_its_next_owner_only_when_the_former_one_has_let_go(nats: NatsServer, unique: Names) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker(gentle=True)
        await board.until_shared(first)
        second = await board.worker()
        third = await board.worker()
        await board.until(lambda: bool(third.seen))
        assert (second.running, third.running) == (set(), set())
        assert first.running == {"x0", "x1", "x2"}
        first.gentle = False
        first.let_go()
        await board.until_shared(first, second, third)

    play(scene, nats.url, unique("app"), wanted(3))


def test_a_stateful_task_moves_when_the_next_owner_has_its_state(nats: NatsServer, unique: Names) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker()
        await board.until_shared(first)
        second = await board.worker(gentle=True)
        await board.until(lambda: bool(second.seen) and len(second.seen[-1].standby) == 1)
        assert second.seen[-1].active == frozenset()
        assert len(first.running) == 2
        second.get_warm()
        await board.until_shared(first, second)
        assert second.running <= second.warm

    play(scene, nats.url, unique("app"), wanted(0, stateful=2))


def test_everybody_learns_where_each_task_answers(nats: NatsServer, unique: Names) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker(address="first:1")
        second = await board.worker(address="second:2")
        await board.until_shared(first, second)
        there = {task: each.member.address for each in (first, second) for task in each.running}
        await board.until(lambda: first.seen[-1].addresses == second.seen[-1].addresses == there)
        roster = await members_of(Api(first.connection), board.group)
        assert sorted(each.address for each in roster) == ["first:1", "second:2"]

    play(scene, nats.url, unique("app"), wanted(4))


def test_two_living_workers_of_one_name_are_told_apart_by_an_error(nats: NatsServer, unique: Names) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker("same")
        await board.until_shared(first)
        first.dead = True  # to the board: that both run for a moment is what the fence is for
        second = await board.worker("same")
        failure = await first.failure()
        assert isinstance(failure, ConfigurationError)
        assert "'same'" in str(failure)
        board.workers.remove(first)
        await first.connection.close()
        await board.until_shared(second)

    play(scene, nats.url, unique("app"), wanted(2))


def test_a_worker_with_a_name_that_is_back_soon_finds_its_tasks_again(nats: NatsServer, unique: Names) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker("one"), await board.worker("two")
        await board.until_shared(first, second)
        before, others = set(second.running), len(first.seen)
        await second.close()
        again = await board.worker("two", stored=frozenset(before))
        await board.until_shared(first, again)
        assert again.running == before
        assert all(given.active >= first.running for given in first.seen[others:])

    play(scene, nats.url, unique("app"), wanted(0, stateful=4), session_s=LONG_SESSION_S)


def test_a_worker_that_is_held_up_for_longer_than_its_session_stops_and_joins_again(
    nats_own: NatsServer, unique: Names
) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker()
        await board.until_shared(first)
        nats_own.pause()
        await board.until(lambda: first.seen[-1].active == frozenset() and not first.running)
        nats_own.resume()
        await board.until_shared(first)

    play(scene, nats_own.url, unique("app"), wanted(3))


def test_workers_find_each_other_again_after_the_server_was_killed(nats_own: NatsServer, unique: Names) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker(), await board.worker()
        await board.until_shared(first, second)
        nats_own.kill()
        nats_own.start()
        third = await board.worker()
        await board.until_shared(first, second, third)

    play(scene, nats_own.url, unique("app"), wanted(6))


def test_workers_find_each_other_again_after_the_stream_of_all_groups_was_deleted(
    nats_own: NatsServer, unique: Names
) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker(), await board.worker()
        await board.until_shared(first, second)
        await board.api.call(f"STREAM.DELETE.{GROUPS}")
        await board.until(lambda: not first.running or not second.running)  # whoever notices is out, and joins again
        third = await board.worker()
        await board.until_shared(first, second, third)

    play(scene, nats_own.url, unique("app"), wanted(6))


@pytest.mark.parametrize("seed", [1, 2])
def test_however_workers_come_and_go_no_task_runs_twice_and_in_the_end_all_run(
    nats: NatsServer, unique: Names, seed: int
) -> None:
    chance = random.Random(seed)

    async def scene(board: Board) -> None:
        for _ in range(20):
            living = [each for each in board.workers if not each.dead]
            event = chance.choice(["join", "join", "leave", "die", "watch"])
            if event == "join" or not living:
                await board.worker()
            elif event == "watch":
                watched = chance.choice(living)
                await board.until(lambda: bool(watched.seen))  # noqa: B023
            elif event == "leave":
                await chance.choice(living).close()
            else:
                await chance.choice(living).die()
        await board.worker()
        await board.until_shared(*(each for each in board.workers if not each.dead))

    play(scene, nats.url, unique("app"), wanted(6, stateful=6, standbys=1))
