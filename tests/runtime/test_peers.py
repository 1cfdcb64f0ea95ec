"""Reading tables of tasks that run in other workers: two endpoints over real HTTP, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from streams import App
from streams.connectors.memory.log import MemoryLog
from streams.core.log import Append
from streams.core.record import Records, TopicPartition
from streams.core.state import KeyedState
from streams.errors import ConfigurationError, LogUnavailable
from streams.runtime import peers
from streams.runtime.clock import SystemClock
from streams.runtime.peers import TOKEN_VARIABLE, PeerReads
from streams.runtime.status import Status
from streams.runtime.web import serve, web_app
from streams.runtime.worker import Worker
from streams.testing.driver import MemoryStores

TASK, STATE = "prices.changes-0", "prices"


@pytest.fixture(autouse=True)
def _without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PAUSES_S", (0.01, 0.01))


class Owner:
    """A worker that has the task, its address, and one that hasn't."""

    def __init__(self, worker: Worker, address: str) -> None:
        self.worker = worker
        self.address = address
        self.held: KeyedState[Any] | None = None
        log_id = worker.log.identity
        self.other = PeerReads("prices", lambda: log_id, lambda task, state: self.held, worker.state_spec, shared=True)


@asynccontextmanager
async def owner() -> AsyncIterator[Owner]:
    app, log = App("prices", commit_interval="10ms"), MemoryLog()
    app.table("prices", key=str, value=float, source="changes")
    await log.open()
    worker = Worker(app, log, MemoryStores(), SystemClock(), shutdown_timeout_s=0.1)
    async with serve(web_app(Status(worker, 60.0), peers=True), "127.0.0.1", 0) as port, worker.working():
        keys: list[bytes | None] = [b"a", b"b", b"c"]
        await log.append([Append(TopicPartition("changes", 0), Records(keys, [b"1.5", b"2.5", b"3.5"], [1, 1, 1]))])
        async with asyncio.timeout(30):
            while (held := worker.held(TASK, STATE)) is None or held.committed(b"c") is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        made = Owner(worker, f"127.0.0.1:{port}")
        made.other.addresses = {TASK: made.address}
        yield made
        await made.other.close()
    await log.close()


def test_a_value_and_rows_come_from_the_owner_as_it_has_committed_them() -> None:
    async def scenario() -> None:
        async with owner() as it:
            assert await it.other.read(TASK, STATE, b"a") == 1.5
            assert await it.other.read(TASK, STATE, b"nobody") is None
            assert await it.other.scan(TASK, STATE, b"a", None, 2) == [(b"a", 1.5), (b"b", 2.5)]
            assert await it.other.scan(TASK, STATE, b"b", b"c", 10) == [(b"b", 2.5)]

    asyncio.run(scenario())


def test_a_task_that_has_come_here_meanwhile_is_read_here() -> None:
    async def scenario() -> None:
        async with owner() as it:
            it.other.addresses = {}
            reading = asyncio.create_task(it.other.read(TASK, STATE, b"a"))
            await asyncio.sleep(0)
            it.held = it.worker.held(TASK, STATE)
            assert await reading == 1.5

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("addresses", "says"),
    [
        ({}, "no worker that can be reached runs it"),
        ({TASK: "127.0.0.1:1"}, "its worker at 127.0.0.1:1 doesn't answer: ClientConnectorError"),
    ],
)
def test_an_owner_that_cant_be_reached_is_one_line(addresses: dict[str, str], says: str) -> None:
    async def scenario() -> None:
        async with owner() as it:
            it.other.addresses = addresses
            with pytest.raises(LogUnavailable, match=says) as caught:
                await it.other.read(TASK, STATE, b"a")
            assert str(caught.value).startswith(f"task {TASK} doesn't run here now, and it holds {STATE}")

    asyncio.run(scenario())


def test_a_worker_of_another_log_at_that_address_isnt_believed() -> None:
    async def scenario() -> None:
        async with owner() as it:
            stranger = PeerReads("prices", lambda: "another log", lambda *_: None, it.worker.state_spec, shared=True)
            stranger.addresses = {TASK: it.address}
            with pytest.raises(LogUnavailable, match="answers with HTTP status 503"):
                await stranger.read(TASK, STATE, b"a")
            await stranger.close()

    asyncio.run(scenario())


def test_a_token_is_asked_for_where_one_is_set_and_only_of_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setenv(TOKEN_VARIABLE, "ours")
        async with owner() as it:
            assert await it.other.read(TASK, STATE, b"a") == 1.5
            await it.other.close()
            monkeypatch.setenv(TOKEN_VARIABLE, "theirs")
            with pytest.raises(ConfigurationError, match=r"give all workers of app prices the same \$STREAMS_CLUSTER"):
                await it.other.read(TASK, STATE, b"a")
            async with aiohttp.ClientSession() as session, session.get(f"http://{it.address}/tables/prices/a") as reply:
                assert (reply.status, await reply.json()) == (200, 1.5)

    asyncio.run(scenario())


def test_what_isnt_a_question_of_a_worker_is_refused() -> None:
    async def scenario() -> None:
        async with owner() as it, aiohttp.ClientSession() as session:
            for path in ("read", "scan"):
                async with session.post(f"http://{it.address}/peer/{path}", data=b"\xc1") as reply:
                    assert (reply.status, (await reply.json())["error"]) == (400, "BadRequest")

    asyncio.run(scenario())


def test_a_log_for_one_process_has_nobody_to_ask() -> None:
    async def scenario() -> None:
        async with owner() as it:
            alone = PeerReads("prices", lambda: "", lambda *_: None, it.worker.state_spec, shared=False)
            alone.addresses = {TASK: it.address}
            with pytest.raises(LogUnavailable, match="doesn't run here now, and it holds prices; try again"):
                await alone.read(TASK, STATE, b"a")

    asyncio.run(scenario())
