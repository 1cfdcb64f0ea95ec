"""Stands before a Kafka broker and resets connections: at once, or right behind an answer.

What must live here: the proxy.  What must not: what a client is expected to make of it.

It runs on the loop of the test, and an answer and the reset behind it leave in one step of that: a client on the same
loop finds both when it looks, as a busy one does whose broker has died.  Requests of a connection are carried on one by
one, so that nobody reads from a socket that is about to be reset.  Answers that name the broker's port name this one.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from types import TracebackType

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER without patience: closing resets."""


class Breaker:
    """refused: how many connections from now on are reset before a byte is read.  behind: the number of the answer of
    each connection behind which it is reset, 0 for none.  spared: how many answers go out before that begins.
    struck: how many were reset."""

    def __init__(self, upstream: int) -> None:
        self.refused = self.behind = self.spared = self.struck = 0
        self._upstream = upstream
        self._links: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> Breaker:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.setblocking(False)
        if self.refused > 0:
            self.refused -= 1
            self._reset(client)
            return
        link = asyncio.create_task(self._serve(client))
        self._links.add(link)

        def over(link: asyncio.Task[None]) -> None:
            self._links.discard(link)
            client.close()  # also when it had no time to begin

        link.add_done_callback(over)

    def _reset(self, client: socket.socket) -> None:
        self.struck += 1
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()

    async def _serve(self, client: socket.socket) -> None:
        loop, answered = asyncio.get_running_loop(), 0
        ours, theirs = (port.to_bytes(4) for port in (self._port, self._upstream))
        with socket.socket() as broker, suppress(OSError, EOFError):
            broker.setblocking(False)
            await loop.sock_connect(broker, ("127.0.0.1", self._upstream))
            while True:
                await loop.sock_sendall(broker, await _frame(client))
                answer = await _frame(broker)
                rest = answer.replace(b"127.0.0.1" + theirs, b"127.0.0.1" + ours)
                rest = rest[client.send(rest) :]
                if rest:
                    await loop.sock_sendall(client, rest)
                answered += 1
                self.spared -= 1
                if self.spared < 0 and answered >= self.behind > 0:
                    self._reset(client)
                    return


async def _frame(source: socket.socket) -> bytes:
    head = await _exactly(source, 4)
    return head + await _exactly(source, int.from_bytes(head))


async def _exactly(source: socket.socket, size: int) -> bytes:
    loop, got = asyncio.get_running_loop(), b""
    while len(got) < size:
        chunk = await loop.sock_recv(source, size - len(got))
        if not chunk:
            raise EOFError
        got += chunk
    return got
