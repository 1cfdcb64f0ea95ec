"""The control port until somebody comes: open and published from the start, served from the first caller on.

    bound, published ──▶ a caller connects, and waits ──▶ the server is imported ──▶ the caller is served, as all others

What must live here: the port.  What must not: what is served on it (``runtime.control``), nor the import of that.

The HTTP server takes as long to import as half of a worker's start, and most workers are never asked for anything.  The
import runs in a thread, since it comes in the middle of work.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module

from streams.runtime.status import Status

__all__ = ["published"]

logger = logging.getLogger("streams")

SERVER = "streams.runtime.control"

Publish = Callable[[int, str], None]


@asynccontextmanager
async def published(status: Status, publish: Publish) -> AsyncIterator[None]:
    """Have the control endpoint reachable inside of the block, and let others know by ``publish(port, token)``."""
    token = secrets.token_urlsafe(32)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        knocked = asyncio.Event()

        def knock() -> None:
            loop.remove_reader(door)  # who waits there keeps it readable: the loop would spin until he is let in
            knocked.set()

        loop.add_reader(door, knock)
        serving = asyncio.create_task(_serve(status, token, door, knocked))
        try:
            publish(door.getsockname()[1], token)
            yield
        finally:
            if not knocked.is_set():  # after that the reader of this socket is the server's
                loop.remove_reader(door)
            serving.cancel()
            await asyncio.wait({serving})


async def _serve(status: Status, token: str, door: socket.socket, knocked: asyncio.Event) -> None:
    await knocked.wait()
    try:
        control = await asyncio.to_thread(import_module, SERVER)
        async with control.serve_control(status, token, door):
            await asyncio.Event().wait()
    except Exception as error:
        logger.error(
            "the control endpoint failed: %s: %s; tools can't reach the log until this worker has ended",
            type(error).__name__,
            error,
        )
        door.close()  # else they would wait for an answer
