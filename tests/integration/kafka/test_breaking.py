"""Connections that break at the worst moment, on the event loop that workers run on: an outage, whatever is thrown."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
import uvloop
from aiokafka.protocol.metadata import MetadataRequest

from streams.connectors.kafka.cluster import Cluster
from streams.connectors.kafka.config import KafkaConfig, parse_url
from streams.connectors.kafka.group_wire import HeartbeatRequest
from streams.connectors.kafka.log import KafkaLog
from streams.connectors.kafka.security import open_connection
from streams.core.log import Commit, TopicSpec
from streams.core.membership import Member, TaskRef, Wanted
from streams.core.record import Position, TopicPartition
from streams.errors import ConnectionBroken, RetryableError
from streams.testing.log_scenarios import append
from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.kafka.secured import USERS, SecuredKafka
from tests.integration.kafka.breaker import Breaker

PATIENCE_S = 180.0
LOGIN = f"security=sasl&user=alice&password={quote(USERS['alice'], safe='')}&mechanism"
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
Loop = Callable[[], asyncio.AbstractEventLoop]


def play(loop: Loop, port: int, scene: Callable[[Breaker], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S), Breaker(port) as breaker:
            await scene(breaker)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


def config_of(breaker: Breaker, query: str = "") -> KafkaConfig:
    return parse_url(f"kafka://{breaker.address}?{query}", {})


# ── what a transport throws ───────────────────────────────────────────────────────────────────────────────────────────


@LOOPS
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize("answers", [1, 2, 3])
def test_a_login_that_is_reset_behind_any_answer_is_an_outage(
    kafka_secured: SecuredKafka, loop: Loop, mechanism: str, answers: int
) -> None:
    async def scene(breaker: Breaker) -> None:
        breaker.behind = answers
        for _ in range(5):
            # Behind the last answer of a login nothing is sent: that one is had, and broken.
            with suppress(ConnectionBroken):
                connection = await open_connection(config_of(breaker, f"{LOGIN}={mechanism}"), *breaker_at(breaker))
                await connection.close()
        assert breaker.struck == 5

    play(loop, kafka_secured.ports["SASL_PLAINTEXT"], scene)


def breaker_at(breaker: Breaker) -> tuple[str, int]:
    host, port = breaker.address.split(":")
    return host, int(port)


@LOOPS
def test_a_connection_that_is_reset_behind_its_first_answer_is_no_missing_login(kafka: KafkaBroker, loop: Loop) -> None:
    async def scene(breaker: Breaker) -> None:
        breaker.behind = 1
        with pytest.raises(ConnectionBroken) as caught:
            await open_connection(config_of(breaker), *breaker_at(breaker))
        assert "reset the connection after its first answer" in str(caught.value)
        assert "login" not in str(caught.value)
        breaker.refused = 1
        with pytest.raises(ConnectionBroken, match="the connection before it answered"):
            await open_connection(config_of(breaker), *breaker_at(breaker))

    play(loop, kafka.port, scene)


@LOOPS
def test_a_request_right_behind_the_answer_of_a_broken_connection_is_an_outage(kafka: KafkaBroker, loop: Loop) -> None:
    async def scene(breaker: Breaker) -> None:
        cluster = Cluster(config_of(breaker))
        await cluster.open()
        breaker.behind = 3  # two are for opening a connection
        for number in range(5):
            lane = cluster.lane("test")
            (node,) = cluster._nodes
            await cluster.send(node, MetadataRequest([]), lane)
            # Nobody has been told yet that the connection is gone.
            with pytest.raises(ConnectionBroken, match="is gone"):
                await cluster.send(node, MetadataRequest([]), lane)
            assert breaker.struck == number + 1
        await cluster.close()

    play(loop, kafka.port, scene)


@LOOPS
def test_an_error_from_encoding_a_request_is_no_outage(kafka: KafkaBroker, loop: Loop) -> None:
    async def scene(breaker: Breaker) -> None:
        cluster = Cluster(config_of(breaker))
        await cluster.open()
        (node,) = cluster._nodes
        with pytest.raises(ValueError, match="int"):
            await cluster.send(node, HeartbeatRequest("group", "no number", "member", None))  # type: ignore[arg-type]
        await cluster.close()

    play(loop, kafka.port, scene)


@LOOPS
def test_a_log_whose_connections_keep_breaking_throws_nothing_but_outages(
    kafka: KafkaBroker, unique: Callable[[str], str], loop: Loop
) -> None:
    """Claims, commits, appends, reads and heartbeats, side by side, each on connections that don't live long."""
    topic, app = unique("records"), unique("app")
    at = TopicPartition(topic, 0)

    async def scene(breaker: Breaker) -> None:
        log = KafkaLog(config_of(breaker, "linger_ms=0&session_timeout_ms=6000"))
        await log.open()
        await log.create_topics([TopicSpec(topic)])
        ref = TaskRef(app, 0, f"{app}.x")
        membership = log.membership(app, Member(), Wanted([ref]))

        async def follow() -> None:
            async for _ in membership.assignments():
                membership.report([], [])

        async def commits() -> None:
            writer = await log.fence(ref)
            try:
                await writer.commit(Commit(b"checkpoint", [append(at, b"committed")]))
            finally:
                await writer.close()

        async def appends() -> None:
            await log.append([append(at, b"appended")])

        async def reads() -> None:
            reader = log.reader({at: Position.at(0)})
            try:
                await reader.fetch([at], max_records=10, wait_s=0.1)
            finally:
                await reader.close()

        async def again_and_again(work: Callable[[], Awaitable[None]]) -> None:
            for _ in range(12):
                with suppress(RetryableError):
                    await work()
                await asyncio.sleep(0)

        following = asyncio.create_task(follow())
        for breaker.behind in (3, 4, 5, 7, 11):
            await asyncio.gather(*(again_and_again(work) for work in (commits, appends, reads)))
            assert not following.done() or following.result() is None
        assert breaker.struck > 50
        breaker.behind = 0
        while True:
            with suppress(RetryableError):
                await commits()
                break
        await membership.close()
        await following
        await log.close()

    play(loop, kafka.port, scene)


# ── a worker that starts ──────────────────────────────────────────────────────────────────────────────────────────────

APP = """\
import os

from streams import App

app = App(os.environ["APP_NAME"], partitions=1, commit_interval="20ms")
app.stream(app.topic(f"{app.name}-in")).to(app.topic(f"{app.name}-out"))
"""


class Starting:
    """A ``streams worker`` and the lines that it has said."""

    def __init__(self, folder: Path, breaker: Breaker, name: str) -> None:
        self.lines: list[str] = []
        self._folder, self._url, self._name = folder, f"kafka://{breaker.address}", name
        (folder / "pipe.py").write_text(APP)

    async def __aenter__(self) -> Starting:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")}
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streams", "worker", "-A", "pipe", "--log", self._url),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**environment, "APP_NAME": self._name},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def until_said(self, words: str) -> None:
        assert self.process.stderr is not None
        while not any(words in line for line in self.lines):
            line = await self.process.stderr.readline()
            assert line, f"it ended before it said {words!r}: {self.lines}"
            self.lines.append(line.decode())

    async def ended(self) -> int:
        """Ask it to stop; its status."""
        assert self.process.stderr is not None
        self.process.terminate()
        self.lines += (await self.process.stderr.read()).decode().splitlines()
        return await self.process.wait()


def test_a_worker_waits_at_its_start_for_a_proxy_that_resets(
    kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path
) -> None:
    async def scene(breaker: Breaker) -> None:
        breaker.refused = 6
        async with Starting(tmp_path, breaker, unique("pipe")) as worker:
            await worker.until_said(" works on ")
            assert breaker.refused == 0
            told = [line for line in worker.lines if "reset the connection before it answered" in line]
            assert len(told) == 1, worker.lines
            assert not any("login" in line for line in worker.lines)
            assert sum(" is back, after " in line for line in worker.lines) == 1
            assert await worker.ended() == 0

    play(uvloop.new_event_loop, kafka.port, scene)


def test_a_worker_that_waits_for_its_log_at_its_start_stops_when_it_is_asked_to(
    kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path
) -> None:
    async def scene(breaker: Breaker) -> None:
        breaker.refused = 10**6
        async with Starting(tmp_path, breaker, unique("pipe")) as worker:
            await worker.until_said("waits and tries again")
            assert await worker.ended() == 0
            assert not any("error" in line for line in worker.lines)

    play(uvloop.new_event_loop, kafka.port, scene)


def test_a_worker_whose_log_breaks_while_it_prepares_waits_for_it(
    kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path
) -> None:
    async def scene(breaker: Breaker) -> None:
        breaker.spared, breaker.behind = 3, 2  # the log opens, and nobody gets in any more
        async with Starting(tmp_path, breaker, unique("pipe")) as worker:
            await worker.until_said("waits and tries again")
            while breaker.struck < 20:  # noqa: ASYNC110 - more than it tries when others keep it from starting
                await asyncio.sleep(0.01)
            breaker.behind = 0
            await worker.until_said("is back")
            await worker.until_said(" works on ")
            assert await worker.ended() == 0

    play(uvloop.new_event_loop, kafka.port, scene)
