"""Workers of one app share its tasks through a consumer group: on a real broker, and whatever happens to either."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.protocol.group import LeaveGroupRequest

from streams.connectors.kafka.cluster import GROUP, Cluster
from streams.connectors.kafka.config import parse_url
from streams.connectors.kafka.group_leader import divide
from streams.connectors.kafka.group_wire import UNREAD, Told, decode_told, decode_words, encode_words
from streams.connectors.kafka.membership import KafkaMembership
from streams.core.assignment import MemberState
from streams.core.membership import Assignment, Member, TaskRef, Wanted
from streams.errors import ConfigurationError, LogCorrupt
from tests.brokers.kafka import admin
from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.kafka.cluster import KafkaCluster

ROOT = Path(__file__).resolve().parents[3]
SESSION_MS = 3000
LONG_SESSION_MS = 30_000
BEAT_MS = 200
PATIENCE_S = 60.0


def wanted(stateless: int, stateful: int = 0, standbys: int = 0) -> Wanted:
    names = [f"x{n}" for n in range(stateless)] + [f"s{n}" for n in range(stateful)]
    refs = [TaskRef("app", slot, name) for slot, name in enumerate(names, start=1)]
    return Wanted(refs, frozenset(names[stateless:]), standbys)


class Wire(Cluster):
    """A worker's own connections: they can be held up, and what is sent is counted."""

    def __init__(self, bootstrap: str, sent: Callable[[], None] = lambda: None) -> None:
        super().__init__(parse_url(f"kafka://{bootstrap}", {}))
        self._tell = sent
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.sent: Counter[str] = Counter()

    async def send(self, node: int, request: Any, lane: str = "", *, answered: bool = True) -> Any:
        await self.open_gate.wait()
        self.sent[type(request).__name__] += 1
        self._tell()
        return await super().send(node, request, lane, answered=answered)


class Board:
    """Everything that the workers of a test do, seen from above."""

    def __init__(self, bootstrap: str, group: str, ask: Wanted, session_ms: int = SESSION_MS) -> None:
        self.bootstrap, self.group, self.ask, self.session_ms = bootstrap, group, ask, session_ms
        self.workers: list[Worker] = []
        self._news = asyncio.Event()

    async def worker(self, name: str = "", *, gentle: bool = False, **about: Any) -> Worker:
        worker = Worker(self, await self.wire(), Member(name=name, **about), gentle)
        self.workers.append(worker)
        return worker

    async def wire(self) -> Wire:
        wire = Wire(self.bootstrap, self.changed)
        await wire.open()
        return wire

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
        """The worker has asked the coordinator so many times more whether there is something new."""
        beats = worker.wire.sent["HeartbeatRequest"] + times
        await self.until(lambda: worker.wire.sent["HeartbeatRequest"] >= beats)

    async def until_shared(self, *workers: Worker) -> None:
        """Every task runs, as evenly as can be, at these workers."""

        def shared() -> bool:
            counts = [len(each.running) for each in workers]
            everything = sorted(task for each in workers for task in each.running)
            return everything == sorted(task.name for task in self.ask.tasks) and max(counts) - min(counts) <= 1

        await self.until(shared)


class Worker:
    """Obeys its membership at once, unless ``gentle``: then it lets go and warms up when the test says so."""

    def __init__(self, board: Board, wire: Wire, member: Member, gentle: bool) -> None:
        self.board, self.wire, self.member, self.gentle = board, wire, member, gentle
        self.membership = KafkaMembership(
            wire, board.group, member, board.ask, session_timeout_ms=board.session_ms, heartbeat_interval_ms=BEAT_MS
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
        await self.wire.close()

    async def close(self) -> None:
        self.running.clear()
        self.report()
        await self.membership.close()
        await asyncio.wait({self._follower})
        await self.wire.close()
        self.dead = True


def play(
    scene: Callable[[Board], Coroutine[Any, Any, None]], bootstrap: str, group: str, ask: Wanted, **more: int
) -> None:
    async def run() -> None:
        board = Board(bootstrap, group, ask, **more)
        try:
            await scene(board)
        finally:
            for worker in board.workers:
                worker.gentle = False
                worker.let_go()
                worker.wire.open_gate.set()
                await worker.close()

    asyncio.run(run())


def actives(worker: Worker) -> Sequence[frozenset[str]]:
    return [given.active for given in worker.seen]


# ── coming and going ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_workers_share_the_tasks_and_take_over_from_one_that_leaves(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
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
    play(scene, kafka.bootstrap, unique("app"), wanted(7, stateful=4, standbys=1), session_ms=LONG_SESSION_MS)


def test_the_tasks_of_a_worker_that_dies_without_a_word_go_on_elsewhere(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    async def scene(board: Board) -> None:
        first, second, third = [await board.worker() for _ in range(3)]
        await board.until_shared(first, second, third)
        await second.die()
        await board.until_shared(first, third)

    play(scene, kafka.bootstrap, unique("app"), wanted(6))


def test_a_task_that_stays_is_in_every_assignment_of_a_rebalance(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker(), await board.worker()
        await board.until_shared(first, second)
        before = [(each, len(each.seen), set(each.running)) for each in (first, second)]
        third = await board.worker()
        await board.until_shared(first, second, third)
        await third.close()
        await board.until_shared(first, second)
        for worker, since, running in before:
            assert len(running) == 3
            assert len(running.intersection(*actives(worker)[since:])) == 2, "two of three never left it"

    play(scene, kafka.bootstrap, unique("app"), wanted(6))


def test_a_task_is_given_to_its_next_owner_only_when_the_former_one_has_let_go(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
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

    play(scene, kafka.bootstrap, unique("app"), wanted(3))


def test_a_stateful_task_moves_when_the_next_owner_has_its_state(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
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

    play(scene, kafka.bootstrap, unique("app"), wanted(0, stateful=2))


def test_members_that_wait_for_one_another_do_not_ask_again_and_again(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker(gentle=True)
        await board.until_shared(first)
        second = await board.worker(gentle=True)
        await board.until(lambda: len(first.seen) > 1 and bool(second.seen) and second.seen[-1].standby != frozenset())
        assert first.running > first.seen[-1].active, "one waits for a task without state, the other for a warm-up"
        joins = [each.wire.sent["JoinGroupRequest"] for each in (first, second)]
        await board.until_beaten(first, 10)
        assert [each.wire.sent["JoinGroupRequest"] for each in (first, second)] == joins

    play(scene, kafka.bootstrap, unique("app"), wanted(2, stateful=2))


@pytest.mark.parametrize("seed", [1, 2])
def test_however_workers_come_and_go_no_task_runs_twice_and_in_the_end_all_run(
    kafka: KafkaBroker, unique: Callable[[str], str], seed: int
) -> None:
    chance = random.Random(seed)

    async def scene(board: Board) -> None:
        for _ in range(25):
            living = [each for each in board.workers if not each.dead]
            event = chance.choice(["join", "join", "leave", "die", "watch", "watch"])
            if event == "join" or not living:
                await board.worker()
            elif event == "watch":
                await board.until_beaten(chance.choice(living), chance.randrange(1, 8))
            elif event == "leave":
                await chance.choice(living).close()
            else:
                await chance.choice(living).die()
        await board.worker()
        await board.until_shared(*(each for each in board.workers if not each.dead))

    play(scene, kafka.bootstrap, unique("app"), wanted(6, stateful=6, standbys=1))


def test_everybody_learns_where_each_task_answers(kafka: KafkaBroker, unique: Callable[[str], str]) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker(address="first:1")
        second = await board.worker(address="second:2")
        await board.until_shared(first, second)
        truth = {task: each.member.address for each in (first, second) for task in each.running}
        await board.until(lambda: first.seen[-1].addresses == second.seen[-1].addresses == truth)

    play(scene, kafka.bootstrap, unique("app"), wanted(3))


def test_the_groups_tools_show_the_slot_of_each_running_task(kafka: KafkaBroker, unique: Callable[[str], str]) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker(), await board.worker()
        await board.until_shared(first, second)
        async with admin.admin(kafka.client) as client:
            (response,) = await client.describe_consumer_groups([board.group])
        ((_, _, state, kind, protocol, members, *_),) = response.groups
        assert (state, kind, protocol) == ("Stable", "consumer", "streams")
        shown = [ConsumerProtocolMemberAssignment.decode(each[-1]).assignment for each in members]
        assert {topic for each in shown for topic, _ in each} == {f"{board.group}.checkpoints"}
        assert sorted(slot for each in shown for _, slots in each for slot in slots) == [1, 2, 3, 4, 5]

    play(scene, kafka.bootstrap, unique("app"), wanted(5))


# ── workers that aren't what they were ────────────────────────────────────────────────────────────────────────────────


def test_an_outdated_worker_gives_its_tasks_up_and_gets_none(
    kafka: KafkaBroker, unique: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(board: Board) -> None:
        old = await board.worker(version=1)
        await board.until_shared(old)
        board.ask = wanted(4)
        new = await board.worker(version=2)
        await board.until_shared(new)
        assert old.running == set()

    play(scene, kafka.bootstrap, unique("app"), wanted(3))
    assert [
        record.message for record in caplog.records if "version 1" in record.message and "version 2" in record.message
    ]


async def comes_back(board: Board, leaver: Worker, other: Worker) -> Worker:
    """``leaver`` closes and starts again under its name; ``other`` must not notice."""
    joins, seen, had = other.wire.sent["JoinGroupRequest"], len(other.seen), set(leaver.running)
    await leaver.close()
    back = await board.worker(leaver.member.name)
    await board.until(lambda: back.running == had)
    await board.until_beaten(other, 3)
    assert (other.wire.sent["JoinGroupRequest"], len(other.seen)) == (joins, seen)
    return back


def test_a_named_worker_that_comes_back_in_time_finds_its_tasks_without_a_rebalance(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker("one"), await board.worker("two")
        await board.until_shared(first, second)
        # One of them leads the group: both ways are tried.
        back = await comes_back(board, first, second)
        await comes_back(board, second, back)

    play(scene, kafka.bootstrap, unique("app"), wanted(4), session_ms=LONG_SESSION_MS)


def test_a_named_worker_that_stays_away_loses_its_tasks(kafka: KafkaBroker, unique: Callable[[str], str]) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker("one"), await board.worker("two")
        await board.until_shared(first, second)
        await second.close()
        await board.until_shared(first)

    play(scene, kafka.bootstrap, unique("app"), wanted(4))


def test_a_named_worker_that_comes_back_with_a_newer_app_makes_itself_known(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker("one"), await board.worker("two")
        await board.until_shared(first, second)
        await second.die()
        board.ask = wanted(6)
        back = await board.worker("two", version=2)
        await board.until_shared(back)
        assert first.running == set()

    play(scene, kafka.bootstrap, unique("app"), wanted(4), session_ms=LONG_SESSION_MS)


def test_a_named_worker_that_comes_back_elsewhere_tells_the_others_where(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker("one", address="one:1"), await board.worker("two", address="two:1")
        await board.until_shared(first, second)
        had = set(second.running)
        await second.die()
        back = await board.worker("two", address="two:2")
        await board.until(lambda: set(first.seen[-1].addresses.values()) == {"one:1", "two:2"})
        assert all(given.active == had for given in back.seen), "its tasks stay with it all the while"

    play(scene, kafka.bootstrap, unique("app"), wanted(4), session_ms=LONG_SESSION_MS)


def test_a_named_worker_that_died_before_letting_go_does_not_keep_the_task_from_the_next(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker("one", gentle=True)
        await board.until_shared(first)
        second = await board.worker("two")
        await board.until(lambda: len(first.seen) > 1 and bool(second.seen))
        await first.die()
        back = await board.worker("one")
        await board.until_shared(back, second)

    play(scene, kafka.bootstrap, unique("app"), wanted(2), session_ms=LONG_SESSION_MS)


def test_two_workers_of_one_name_end_with_a_clear_line_for_the_first(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    async def scene(board: Board) -> None:
        first = await board.worker("one")
        await board.until_shared(first)
        first.dead = True
        second = await board.worker("one")
        failure = await first.failure()
        assert isinstance(failure, ConfigurationError)
        assert "another worker has come under the name 'one'" in str(failure)
        await board.until(lambda: second.running == {"x0"})

    play(scene, kafka.bootstrap, unique("app"), wanted(1), session_ms=LONG_SESSION_MS)


def test_a_session_shorter_than_the_broker_allows_is_refused_with_the_setting(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    async def scene(board: Board) -> None:
        failure = await (await board.worker()).failure()
        assert isinstance(failure, ConfigurationError)
        assert "session_timeout_ms=500" in str(failure)
        assert "group.min.session.timeout.ms" in str(failure)

    play(scene, kafka.bootstrap, unique("app"), wanted(1), session_ms=500)


# ── workers and brokers that stand still or go away ───────────────────────────────────────────────────────────────────


def test_a_worker_that_is_cut_off_drops_its_tasks_by_its_own_clock_and_comes_back(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker(), await board.worker()
        await board.until_shared(first, second)
        second.wire.open_gate.clear()
        await board.until(lambda: second.seen[-1] == Assignment())
        assert second.running == set()
        await board.until_shared(first)
        second.wire.open_gate.set()
        await board.until_shared(first, second)

    play(scene, kafka.bootstrap, unique("app"), wanted(4))


def test_a_process_that_was_stopped_for_longer_than_its_session_first_drops_everything(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    async def scene(board: Board) -> None:
        here = await board.worker()
        await board.until_shared(here)
        other = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            board.bootstrap,
            board.group,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)])},
        )
        try:
            assert other.stdout is not None
            async with asyncio.timeout(PATIENCE_S):
                while len(had := json.loads(await other.stdout.readline())) < 2:
                    pass
                other.send_signal(signal.SIGSTOP)
                await board.until_shared(here)
                other.send_signal(signal.SIGCONT)
                assert json.loads(await other.stdout.readline()) == []
                while len(again := json.loads(await other.stdout.readline())) < 2:
                    pass
        finally:
            other.kill()
            await other.wait()
        assert {*had, *again} <= {"x0", "x1", "x2", "x3"}

    play(scene, kafka.bootstrap, unique("app"), wanted(4))


def test_a_worker_that_was_out_and_is_in_again_hears_of_both(kafka: KafkaBroker, unique: Callable[[str], str]) -> None:
    async def scene(board: Board) -> None:
        wire = await board.wire()
        membership = KafkaMembership(wire, board.group, Member(), board.ask, heartbeat_interval_ms=BEAT_MS)
        assignments = membership.assignments()
        given = await anext(assignments)
        async with admin.admin(kafka.client) as client:
            (response,) = await client.describe_consumer_groups([board.group])
        ((_, _, _, _, _, ((member_id, *_),), *_),) = response.groups
        joins = wire.sent["JoinGroupRequest"]
        await wire.send(wire.any_node(), LeaveGroupRequest(board.group, member_id))
        await board.until(lambda: wire.sent["JoinGroupRequest"] > joins)
        beats = wire.sent["HeartbeatRequest"]
        await board.until(lambda: wire.sent["HeartbeatRequest"] > beats + 1)
        assert await anext(assignments) == Assignment()
        assert await anext(assignments) == given == Assignment(frozenset({"x0"}))
        await membership.close()
        await wire.close()

    play(scene, kafka.bootstrap, unique("app"), wanted(1))


def test_a_restart_of_the_coordinator_takes_no_task_from_anybody(kafka_own: KafkaBroker) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker(), await board.worker()
        await board.until_shared(first, second)
        had = [(each, len(each.seen), set(each.running)) for each in (first, second)]
        await asyncio.to_thread(kafka_own.kill)
        await asyncio.to_thread(kafka_own.start)
        beats = [each.wire.sent["HeartbeatRequest"] for each in (first, second)]
        third = await board.worker()
        await board.until_shared(first, second, third)
        assert all(each.wire.sent["HeartbeatRequest"] > n for each, n in zip((first, second), beats, strict=True))
        for worker, since, running in had:
            assert all(given.active & running for given in worker.seen[since:]), "it was never thrown out"

    play(scene, kafka_own.bootstrap, "app", wanted(6), session_ms=LONG_SESSION_MS)


def test_workers_find_each_other_again_after_an_outage_longer_than_their_sessions(kafka_own: KafkaBroker) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker(), await board.worker()
        await board.until_shared(first, second)
        await asyncio.to_thread(kafka_own.kill)
        await board.until(lambda: first.seen[-1] == second.seen[-1] == Assignment())
        await asyncio.to_thread(kafka_own.start)
        await board.until_shared(first, second)

    play(scene, kafka_own.bootstrap, "app", wanted(4))


def test_another_broker_coordinates_after_the_coordinator_is_killed(kafka_cluster: KafkaCluster) -> None:
    async def scene(board: Board) -> None:
        first, second = await board.worker(), await board.worker()
        await board.until_shared(first, second)
        had = [(each, len(each.seen), set(each.running)) for each in (first, second)]
        node = await first.wire.coordinator(board.group, GROUP)
        await asyncio.to_thread(kafka_cluster.broker(node).kill)
        third = await board.worker()
        await board.until_shared(first, second, third)
        for worker, since, running in had:
            assert all(given.active & running for given in worker.seen[since:]), "it was never thrown out"

    play(scene, kafka_cluster.bootstrap, "app", wanted(6), session_ms=LONG_SESSION_MS)


# ── what members say, without a broker ────────────────────────────────────────────────────────────────────────────────

STATE = MemberState(stored=frozenset({"x1"}), held=frozenset({"x0"}), ready=frozenset({"x0"}), generation=4)


def words(version: int = 1, ask: Wanted | None = None, state: MemberState = STATE) -> bytes:
    member = Member(version=version, fingerprint="f", address="h:1")
    return encode_words("app.checkpoints", member, ask or wanted(2), state, turn=3)


def told(shares: Sequence[tuple[str, bytes]]) -> dict[str, Told]:
    return {member: decode_told(assignment) for member, assignment in shares}


def test_a_membership_that_is_closed_before_it_is_followed_never_begins() -> None:
    async def run() -> None:
        membership = KafkaMembership(Wire("127.0.0.1:1"), "app", Member(), wanted(1))
        await membership.close()
        assert [given async for given in membership.assignments()] == []

    asyncio.run(run())


def test_what_a_member_says_reads_back() -> None:
    heard = decode_words(words(ask=wanted(1, stateful=2, standbys=1)))
    assert heard.state == replace(STATE, version=1, fingerprint="f", address="h:1")
    assert heard.wanted("app") == wanted(1, stateful=2, standbys=1)
    assert heard.turn == 3


def test_a_member_whose_words_cannot_be_read_gets_nothing_and_the_others_go_on() -> None:
    for garbage in (b"", b"\x00", b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05hello", words()[:-5]):
        shares = told(divide("app", {"a": words(), "b": garbage}))
        assert shares["a"].active == ["x0", "x1"]
        assert (shares["b"].active, shares["b"].version) == ([], UNREAD)
        assert "same release" in shares["b"].reason
    with pytest.raises(LogCorrupt):
        decode_told(b"\x00\x00")


def test_an_outdated_leader_divides_the_tasks_of_the_newer_app() -> None:
    shares = told(divide("app", {"old": words(1), "new": words(2, wanted(3), MemberState())}))
    assert shares["old"].active == []
    assert shares["old"].releases == ["x0"]
    assert shares["new"].active == ["x1", "x2"]


async def _alone(bootstrap: str, group: str) -> None:
    """A worker in a process of its own; says each of its assignments in a line."""
    wire = Wire(bootstrap)
    await wire.open()
    membership = KafkaMembership(wire, group, Member(), wanted(4), session_timeout_ms=SESSION_MS)
    async for given in membership.assignments():
        membership.report(given.active, given.active)
        print(json.dumps(sorted(given.active)), flush=True)


if __name__ == "__main__":
    asyncio.run(_alone(*sys.argv[1:]))
