"""Callers of an endpoint that break off: no error of the worker's, on its loop, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from aiohttp import web

from streams.runtime.control import control_app
from streams.runtime.web import serve, web_app
from tests.runtime.test_web import Desk, prices

PATIENCE_S = 120
TOKEN = "t"


@pytest.mark.parametrize("path", ["/peer/read", "/log/append"])
def test_a_caller_that_is_cut_off_in_the_midst_of_its_request_is_passed_over(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    @web.middleware
    async def note(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.Response:
        begun.set()
        try:
            answer = await handler(request)
            assert isinstance(answer, web.Response)
            return answer
        finally:
            ended.set()

    async def scene() -> None:
        desk = Desk(prices())
        app = web_app(desk.status, peers=True) if path.startswith("/peer") else control_app(desk.status, TOKEN)
        app.middlewares.insert(0, note)
        async with desk.at_work(), serve(app, "127.0.0.1", 0) as port, asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\n"
            writer.write(head.encode())
            await begun.wait()
            await asyncio.sleep(0)  # it reads the body now
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            await ended.wait()
            assert (await desk.get("/health"))[0] in (200, 503)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())
    assert "Error handling request" not in caplog.text
