"""A TCP proxy on loopback, on a thread of its own: the way between workers and a broker.

What must live here: connections, and what is carried over them.  What must not: what goes wrong (subclasses), or any
protocol.

    worker ──▶ front ── Link: two pumps, a chunk at a time ──▶ behind ──▶ broker
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

__all__ = ["Link", "Relay", "Way"]

T = TypeVar("T")
Way = Literal["request", "answer"]
CHUNK_BYTES = 2**16
PATIENCE_S = 10.0


class Link:
    """One connection of a client.  ``done``: set, it is closed."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.done = asyncio.Event()


class Relay:
    """Carries what comes to ``front`` on to ``behind``, both ports of 127.0.0.1, while the ``with`` statement is
    entered.  A connection ends when either side ends it."""

    def __init__(self, front: int, behind: int) -> None:
        self.front, self.behind = front, behind
        self.links: set[Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.asked(self.listen())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.asked(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    # ── from other threads ──────────────────────────────────────────────────────────────────────────────────────────

    def asked(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` returns, which runs on the relay's thread.  Blocks meanwhile."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def soon(self, call: Callable[..., object], *arguments: object) -> None:
        """Call it on the relay's thread.  Returns at once."""
        self._loop.call_soon_threadsafe(call, *arguments)

    # ── for subclasses, on the relay's thread ───────────────────────────────────────────────────────────────────────

    async def opened(self, link: Link) -> bool:
        """Called for a client that has just come: whether it is led to the broker.  If not, nobody hears it."""
        return True

    async def passes(self, link: Link, way: Way, chunk: bytes) -> bool:
        """Called for each chunk, in order, and may take its time: whether it goes on."""
        return True

    async def listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.front)

    def refuse(self) -> None:
        """Whoever comes from now on finds nobody."""
        if self._server is not None:
            self._server.close()
            self._server = None

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.ensure_future(self._serve(reader, Link(writer)))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, link: Link) -> None:
        self.links.add(link)
        # Apart: a broker that stands still lets connections to it wait, for half a minute after it goes on.
        carrying = asyncio.create_task(self._carry(reader, link))
        try:
            await link.done.wait()
        finally:
            carrying.cancel()
            await asyncio.wait({carrying})
            link.client.close()
            self.links.discard(link)

    async def _carry(self, reader: asyncio.StreamReader, link: Link) -> None:
        broker: asyncio.StreamWriter | None = None
        try:
            if await self.opened(link):
                answers, broker = await asyncio.open_connection("127.0.0.1", self.behind)
                await asyncio.gather(
                    self._pump(link, answers, link.client, "answer"), self._pump(link, reader, broker, "request")
                )
            else:
                await self._pump(link, reader, None, "request")
        except OSError:
            pass  # the broker isn't there: the client is hung up on
        finally:
            link.done.set()
            if broker is not None:
                broker.close()

    async def _pump(
        self, link: Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter | None, way: Way
    ) -> None:
        try:
            while chunk := await source.read(CHUNK_BYTES):
                if await self.passes(link, way, chunk) and sink is not None:
                    sink.write(chunk)
                    await sink.drain()
                if link.done.is_set():
                    return  # what is behind a chunk that was lost with its connection is lost as well
        except OSError:
            return  # the other end has gone: so does this one
        finally:
            self.ended(link, way)

    def ended(self, link: Link, way: Way) -> None:
        """One side of a link has ended: so does the other."""
        link.done.set()

    async def _close(self) -> None:
        self.refuse()
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
