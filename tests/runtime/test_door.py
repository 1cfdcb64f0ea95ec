"""The control port: there from the start, served from the first caller on.

That a worker whom nobody asks loads no HTTP server is shown in ``tests/cli/test_start.py``.
"""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from streams import App
from streams.cli.remote import RemoteLog
from streams.connectors.embedded.lock import Holder
from streams.connectors.memory.log import MemoryLog
from streams.errors import LogUnavailable
from streams.runtime import door
from streams.runtime.clock import SystemClock
from streams.runtime.status import Status
from streams.runtime.worker import Worker
from streams.testing.driver import MemoryStores

GUARD_S = 120


def a_status(log: MemoryLog) -> Status:
    app = App("shop")
    app.stream("orders").to("copies")
    return Status(Worker(app, log, MemoryStores(), SystemClock()), 60.0)


class Told:
    """What was published."""

    def __init__(self) -> None:
        self.port = 0
        self.token = ""

    def __call__(self, port: int, token: str) -> None:
        self.port, self.token = port, token

    def remote(self) -> RemoteLog:
        return RemoteLog("memory:", Holder(1, "here", "test", "now", self.port, self.token))


def test_callers_that_come_before_the_server_is_there_are_served_and_so_are_later_ones() -> None:
    async def run() -> None:
        log, told = MemoryLog(), Told()
        await log.open()
        async with asyncio.timeout(GUARD_S), door.published(a_status(log), told):
            first = [told.remote() for _ in range(5)]
            found = await asyncio.gather(*(each.holding() for each in first))
            assert {each.app for each in found} == {"shop"}
            later = told.remote()
            assert (await later.holding()).app == "shop"
            for each in (*first, later):
                await each.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", told.port), timeout=GUARD_S)

    asyncio.run(run())


def test_a_port_that_nobody_came_to_is_closed_at_the_end() -> None:
    async def run() -> None:
        log, told = MemoryLog(), Told()
        await log.open()
        async with asyncio.timeout(GUARD_S), door.published(a_status(log), told):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", told.port), timeout=GUARD_S)

    asyncio.run(run())


def test_a_server_that_cannot_be_imported_is_told_at_once_keeps_no_caller_waiting_and_spoils_no_clean_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door, "SERVER", "streams.runtime.nowhere")
    monkeypatch.setattr(logging.getLogger("streams"), "propagate", True)

    async def run() -> None:
        log, told = MemoryLog(), Told()
        await log.open()
        async with asyncio.timeout(GUARD_S), door.published(a_status(log), told):
            remote = told.remote()
            with pytest.raises(LogUnavailable, match="doesn't answer on its control port"):
                await remote.holding()
            await remote.close()
            assert "the control endpoint failed" in caplog.text

    asyncio.run(run())
