"""Workers of one app share its tasks through a consumer group: the contract, and what is Kafka's own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.protocol.group import LeaveGroupRequest

from streams.connectors.kafka.cluster import GROUP, Cluster
from streams.connectors.kafka.config import parse_url
from streams.connectors.kafka.group_leader import divide
from streams.connectors.kafka.group_roster import members_of
from streams.connectors.kafka.group_wire import UNREAD, Told, decode_told, decode_words, encode_words
from streams.connectors.kafka.membership import KafkaMembership
from streams.core.assignment import MemberState
from streams.core.membership import Assignment, Member, Wanted
from streams.errors import ConfigurationError, LogCorrupt
from streams.testing.membership_contract import Board, Entry, MembershipContract, Opens, Place, Worker, wanted
from tests.brokers.kafka import admin
from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.kafka.cluster import KafkaCluster

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 60.0


class Wire(Cluster):
    """A worker's own connections: they can be held up, and what is sent is counted."""

    def __init__(self, bootstrap: str, said: Callable[[], None]) -> None:
        super().__init__(parse_url(f"kafka://{bootstrap}", {}))
        self._said = said
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.sent: Counter[str] = Counter()

    async def send(self, node: int, request: Any, lane: str = "", *, answered: bool = True) -> Any:
        await self.open_gate.wait()
        self.sent[type(request).__name__] += 1
        self._said()
        return await super().send(node, request, lane, answered=answered)


class Seat:
    """A worker's place in a consumer group."""

    def __init__(self, wire: Wire, entry: Entry) -> None:
        self.wire, self.group = wire, entry.group
        self.membership = KafkaMembership(
            wire,
            entry.group,
            entry.member,
            entry.wanted,
            session_timeout_ms=round(entry.session_s * 1000),
            heartbeat_interval_ms=round(entry.beat_s * 1000),
        )

    @property
    def beats(self) -> int:
        return self.wire.sent["HeartbeatRequest"]

    @property
    def rounds(self) -> int:
        return self.wire.sent["JoinGroupRequest"]

    def hold_up(self) -> None:
        self.wire.open_gate.clear()

    def go_on(self) -> None:
        self.wire.open_gate.set()

    async def roster(self) -> Sequence[Member]:
        return await members_of(self.wire, self.group)

    async def kill(self) -> None:
        await self.wire.close()

    async def close(self) -> None:
        await self.wire.close()


async def until_in_touch(*workers: Worker) -> None:
    """Not at the moment in which a heartbeat is under way."""
    async with asyncio.timeout(PATIENCE_S):
        while any(each.place.membership.out_of_touch() is not None for each in workers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def wire_of(place: Place) -> Wire:
    assert isinstance(place, Seat)
    return place.wire


async def comes_back(board: Board, leaver: Worker, other: Worker) -> Worker:
    """``leaver`` closes and starts again under its name; ``other`` must not notice."""
    joins, seen, had = other.place.rounds, len(other.seen), set(leaver.running)
    await leaver.close()
    back = await board.worker(leaver.member.name)
    await board.until(lambda: back.running == had)
    await board.until_beaten(other, 3)
    assert (other.place.rounds, len(other.seen)) == (joins, seen)
    return back


class TestKafkaMembership(MembershipContract):
    @pytest.fixture(autouse=True)
    def _broker(self, kafka: KafkaBroker) -> None:
        self.bootstrap = kafka.bootstrap

    @asynccontextmanager
    async def places(self) -> AsyncGenerator[Opens]:
        async def opens(entry: Entry) -> Seat:
            wire = Wire(self.bootstrap, entry.said)
            await wire.open()
            return Seat(wire, entry)

        yield opens

    def test_a_worker_that_is_cut_off_says_so_with_tasks_and_without_and_not_when_it_is_back(self) -> None:
        async def scene(board: Board) -> None:
            first, second = await board.worker(), await board.worker()
            await board.until_shared(first, second)
            await until_in_touch(first, second)
            second.place.hold_up()
            await board.until(lambda: second.seen[-1] == Assignment())
            lost = second.place.membership.out_of_touch()
            assert lost is not None
            assert lost.server.startswith("kafka://")
            assert lost.since_s < time.monotonic()
            await until_in_touch(first)
            second.place.go_on()
            await board.until_shared(first, second)
            await until_in_touch(first, second)

        self.play(scene, wanted(4))

    def test_the_groups_tools_show_the_slot_of_each_running_task(self, kafka: KafkaBroker) -> None:
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

        self.play(scene, wanted(5))

    def test_a_named_worker_that_comes_back_in_time_finds_its_tasks_without_a_rebalance(self) -> None:
        async def scene(board: Board) -> None:
            first, second = await board.worker("one"), await board.worker("two")
            await board.until_shared(first, second)
            # One of them leads the group: both ways are tried.
            back = await comes_back(board, first, second)
            await comes_back(board, second, back)

        self.play(scene, wanted(4))

    def test_a_session_shorter_than_the_broker_allows_is_refused_with_the_setting(self) -> None:
        async def scene(board: Board) -> None:
            failure = await (await board.worker()).failure()
            assert isinstance(failure, ConfigurationError)
            assert "session_timeout_ms=500" in str(failure)
            assert "group.min.session.timeout.ms" in str(failure)

        self.play(scene, wanted(1), session_s=0.5)

    def test_a_process_that_was_stopped_for_longer_than_its_session_first_drops_everything(self) -> None:
        async def scene(board: Board) -> None:
            here = await board.worker()
            await board.until_shared(here)
            other = await asyncio.create_subprocess_exec(
                sys.executable,
                __file__,
                self.bootstrap,
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

        self.play(scene, wanted(4), session_s=self.session_s)

    def test_a_worker_that_was_out_and_is_in_again_hears_of_both(self, kafka: KafkaBroker) -> None:
        async def scene(board: Board) -> None:
            place = await board.place(Member())
            assignments = place.membership.assignments()
            given = await anext(assignments)
            async with admin.admin(kafka.client) as client:
                (response,) = await client.describe_consumer_groups([board.group])
            ((_, _, _, _, _, ((member_id, *_),), *_),) = response.groups
            joins, wire = place.rounds, wire_of(place)
            await wire.send(wire.any_node(), LeaveGroupRequest(board.group, member_id))
            await board.until(lambda: place.rounds > joins)
            beats = place.beats
            await board.until(lambda: place.beats > beats + 1)
            assert await anext(assignments) == Assignment()
            assert await anext(assignments) == given == Assignment(frozenset({"x0"}))
            await place.membership.close()
            await place.close()

        self.play(scene, wanted(1))

    def test_a_restart_of_the_coordinator_takes_no_task_from_anybody(self, kafka_own: KafkaBroker) -> None:
        async def scene(board: Board) -> None:
            first, second = await board.worker(), await board.worker()
            await board.until_shared(first, second)
            had = [(each, len(each.seen), set(each.running)) for each in (first, second)]
            await asyncio.to_thread(kafka_own.kill)
            await asyncio.to_thread(kafka_own.start)
            beats = [each.place.beats for each in (first, second)]
            third = await board.worker()
            await board.until_shared(first, second, third)
            assert all(each.place.beats > n for each, n in zip((first, second), beats, strict=True))
            for worker, since, running in had:
                assert all(given.active & running for given in worker.seen[since:]), "it was never thrown out"

        self.bootstrap = kafka_own.bootstrap
        self.play(scene, wanted(6))

    def test_workers_find_each_other_again_after_an_outage_longer_than_their_sessions(
        self, kafka_own: KafkaBroker
    ) -> None:
        async def scene(board: Board) -> None:
            first, second = await board.worker(), await board.worker()
            await board.until_shared(first, second)
            await asyncio.to_thread(kafka_own.kill)
            await board.until(lambda: first.seen[-1] == second.seen[-1] == Assignment())
            await asyncio.to_thread(kafka_own.start)
            await board.until_shared(first, second)

        self.bootstrap = kafka_own.bootstrap
        self.play(scene, wanted(4), session_s=self.session_s)

    def test_another_broker_coordinates_after_the_coordinator_is_killed(self, kafka_cluster: KafkaCluster) -> None:
        async def scene(board: Board) -> None:
            first, second = await board.worker(), await board.worker()
            await board.until_shared(first, second)
            had = [(each, len(each.seen), set(each.running)) for each in (first, second)]
            node = await wire_of(first.place).coordinator(board.group, GROUP)
            await asyncio.to_thread(kafka_cluster.broker(node).kill)
            third = await board.worker()
            await board.until_shared(first, second, third)
            for worker, since, running in had:
                assert all(given.active & running for given in worker.seen[since:]), "it was never thrown out"

        self.bootstrap = kafka_cluster.bootstrap
        self.play(scene, wanted(6))


# ── what members say, without a broker ────────────────────────────────────────────────────────────────────────────────

STATE = MemberState(stored=frozenset({"x1"}), held=frozenset({"x0"}), ready=frozenset({"x0"}), generation=4)


def words(version: int = 1, ask: Wanted | None = None, state: MemberState = STATE) -> bytes:
    member = Member(version=version, fingerprint="f", address="h:1")
    return encode_words("app.checkpoints", member, ask or wanted(2), state, turn=3)


def told(shares: Sequence[tuple[str, bytes]]) -> dict[str, Told]:
    return {member: decode_told(assignment) for member, assignment in shares}


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
    wire = Wire(bootstrap, lambda: None)
    await wire.open()
    membership = KafkaMembership(wire, group, Member(), wanted(4), session_timeout_ms=3000)
    async for given in membership.assignments():
        membership.report(given.active, given.active)
        print(json.dumps(sorted(given.active)), flush=True)


if __name__ == "__main__":
    asyncio.run(_alone(*sys.argv[1:]))
