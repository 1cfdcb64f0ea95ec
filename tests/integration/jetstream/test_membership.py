"""Workers of one app share its tasks over JetStream: the contract, on a real server, and whatever happens to that."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.client import Connection, Message
from streams.connectors.jetstream.config import parse_url
from streams.connectors.jetstream.group import GROUPS, groups_config, members_of, subject_of
from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.membership import JetStreamMembership
from streams.core.membership import Member
from streams.testing.membership_contract import Board, Entry, MembershipContract, Opens, wanted
from tests.brokers.nats.server import NatsServer


class Line(Connection):
    """A worker's own connection: it can be held up, and what is asked is counted, by the kind of its subject."""

    def __init__(self, url: str, entry: Entry) -> None:
        super().__init__(url, parse_url(url).client, timeout_s=5.0)
        self._entry = entry
        self._kinds = {subject_of(entry.group, kind): kind for kind in ("member", "lead", "round")}
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.sent: Counter[str] = Counter()

    async def request(
        self, subject: str, payload: bytes = b"", headers: Sequence[tuple[str, bytes]] = (), *, again: bool = False
    ) -> Message:
        await self.open_gate.wait()
        for prefix, kind in self._kinds.items():
            if subject.startswith(prefix):
                self.sent[kind] += 1
                self._entry.said()
        return await super().request(subject, payload, headers, again=again)


class Seat:
    """A worker's place in a group on JetStream."""

    def __init__(self, line: Line, entry: Entry, log: JetStreamLog) -> None:
        self.line, self.group = line, entry.group
        self.membership = JetStreamMembership(
            Api(line),
            entry.group,
            entry.member,
            entry.wanted,
            session_s=int(entry.session_s),
            beat_s=entry.beat_s,
            remake=lambda: log._topics.ensure(groups_config()),
        )

    @property
    def beats(self) -> int:
        return self.line.sent["member"]

    @property
    def rounds(self) -> int:
        return self.line.sent["round"]

    def hold_up(self) -> None:
        self.line.open_gate.clear()

    def go_on(self) -> None:
        self.line.open_gate.set()

    async def roster(self) -> Sequence[Member]:
        return await members_of(Api(self.line), self.group)

    async def kill(self) -> None:
        await self.line.close()
        runner = self.membership._runner
        if runner is not None:
            runner.cancel()

    async def close(self) -> None:
        await self.line.close()


class TestJetStreamMembership(MembershipContract):
    session_s = 2.0
    long_session_s = 60.0
    leads_by_lease = True

    @pytest.fixture(autouse=True)
    def _server(self, nats: NatsServer) -> None:
        self.url = nats.url

    @asynccontextmanager
    async def places(self) -> AsyncGenerator[Opens]:
        self.log = JetStreamLog(self.url)
        await self.log.open()

        async def opens(entry: Entry) -> Seat:
            line = Line(self.url, entry)
            await line.open()
            return Seat(line, entry, self.log)

        try:
            yield opens
        finally:
            await self.log.close()

    def test_a_worker_that_is_held_up_for_longer_than_its_session_stops_and_joins_again(
        self, nats_own: NatsServer
    ) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker()
            await board.until_shared(first)
            nats_own.pause()
            await board.until(lambda: first.seen[-1].active == frozenset() and not first.running)
            nats_own.resume()
            await board.until_shared(first)

        self.url = nats_own.url
        self.play(scene, wanted(3), session_s=self.session_s)

    def test_workers_find_each_other_again_after_the_server_was_killed(self, nats_own: NatsServer) -> None:
        async def scene(board: Board) -> None:
            first, second = await board.worker(), await board.worker()
            await board.until_shared(first, second)
            nats_own.kill()
            nats_own.start()
            third = await board.worker()
            await board.until_shared(first, second, third)

        self.url = nats_own.url
        self.play(scene, wanted(6), session_s=self.session_s)

    def test_workers_find_each_other_again_after_the_stream_of_all_groups_was_deleted(
        self, nats_own: NatsServer
    ) -> None:
        async def scene(board: Board) -> None:
            first, second = await board.worker(), await board.worker()
            await board.until_shared(first, second)
            await self.log._api.call(f"STREAM.DELETE.{GROUPS}")
            noticed = set[object]()

            def both_have_noticed() -> bool:
                noticed.update(each for each in (first, second) if not each.running)
                return len(noticed) == 2

            # A worker that notices is out and joins again.  What each of them ran isn't given to the other meanwhile.
            await board.until(both_have_noticed)
            third = await board.worker()
            await board.until_shared(first, second, third)

        self.url = nats_own.url
        self.play(scene, wanted(6), session_s=self.session_s)
