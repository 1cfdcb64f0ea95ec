"""nats-py's client, where its way with a connection isn't ours.

What must live here: what it does about errors, TLS and the choice of a server.  What must not: messages (``client``),
secrets (``login``).

    connected ──▶ lost: an error of the socket, three pings without an answer, a word of the server
                    │    (nats-py would close itself for good at most of those)
                    └──▶ each server of the pool once, in any order, then a pause, longer each round ──▶ connected

Whatever is raised while a connection is made, read or written means that it is lost: nats-py knows a few classes of
errors, and at any other one its tasks end without a word, so that nobody reads, or nobody connects, any more.

It stands on private methods of nats-py: its version is pinned.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import nats.errors
from nats.aio.client import DEFAULT_BUFFER_SIZE, Client, Server, Srv
from nats.aio.transport import TcpTransport

from streams.connectors.jetstream.login import NO_TLS
from streams.errors import ConfigurationError

__all__ = ["Rounds", "Session"]

FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 3.0
_DENIED = re.compile(r"permissions violation for (publish|subscription) to \"(.+?)\"(?: using queue|$)", re.IGNORECASE)


class Rounds:
    """Which server to try next, and after what pause."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._left: list[str] = []
        self._round = 0
        self.leaving = ""

    def reset(self) -> None:
        """The connection was made, or was just lost."""
        self._left, self._round = [], 0

    def next(self, places: list[str]) -> tuple[str, float]:
        """One of ``places``, and the seconds to wait before.  ``leaving`` is about to stop, and comes last."""
        self._left = [each for each in self._left if each in places]
        pause = 0.0
        if not self._left:
            # Never in step: a server that comes back would be found by all of its clients at once.
            longest = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2**self._round)
            pause = self._chance.uniform(longest / 2 if self._round else 0.0, longest)
            self._round += 1
            self._left = self._chance.sample(places, len(places))
            self._left.sort(key=lambda place: place == self.leaving)
        return self._left.pop(0), pause


class _Wire(TcpTransport):
    """nats-py's transport.  On a connection that is gone uvloop raises RuntimeError where asyncio does not, and nats-py
    is made for asyncio's way: what is written vanishes, and ``drain`` raises."""

    @property
    def _gone(self) -> bool:
        return self._io_writer is None or self._io_writer.is_closing()

    def write(self, payload: bytes) -> None:
        if not self._gone:
            super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: list[bytes]) -> None:
        if self._gone:  # an error leaves what was to be written where it is: it goes out over the next connection
            raise ConnectionResetError("the connection is closed")
        super().writelines(payload)  # type: ignore[no-untyped-call]

    async def connect_tls(self, *place: Any, **settings: Any) -> None:
        if self._gone:  # uvloop would wait for the handshake
            raise ConnectionResetError("the connection is closed")
        await super().connect_tls(*place, **settings)

    def abort(self) -> None:
        """Drop the socket at once."""
        if self._io_writer is not None:
            self._io_writer.transport.abort()


@contextmanager
def _as_outage() -> Iterator[None]:
    """Errors of any class become those that nats-py knows."""
    try:
        yield
    except (OSError, nats.errors.Error, TimeoutError):
        raise
    except Exception as error:
        raise nats.errors.Error(f"{type(error).__name__}: {error}") from error


class Session(Client):
    """settings: arguments as for ``nats.connect``, called again for each TLS handshake.  denied: is told ("publish" or
    "subscription", subject) when permissions forbid one."""

    def __init__(self, settings: Callable[[], dict[str, Any]], denied: Callable[[str, str], None]) -> None:
        super().__init__()
        self._again = settings
        self._denied = denied
        self.rounds = Rounds(random.Random())
        self.why_lost = ""
        self.closing = False

    def choose(self, pool: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
        """A ``reconnect_to_server_handler``."""
        by_place = {each.uri.netloc: each for each in pool}
        place, pause = self.rounds.next(list(by_place))
        return by_place[place], pause

    @property
    def ready(self) -> bool:
        """Whether there is a connection, and nobody is about to make another one.  nats-py says that it is connected
        while it still makes the connection, and of one that breaks then it says nothing."""
        making = self._reconnection_task
        return bool(self.is_connected) and (making is None or making.done())

    @property
    def here(self) -> str:
        """host:port of the server that we are connected to, or were."""
        return self._current_server.uri.netloc.rpartition("@")[2] if self._current_server is not None else ""

    def elsewhere(self) -> bool:
        """Whether the pool has another server."""
        return any(each.uri.netloc.rpartition("@")[2] != self.here for each in self._server_pool)

    def abort(self) -> None:
        """Drop the socket at once.  Closing it waits until the server has taken what was written, which it may never
        do."""
        if self._transport is not None:
            self._transport.abort()  # type: ignore[attr-defined]  # ``_Wire``'s

    async def said(self, words: str) -> None:
        """A line -ERR of the server."""
        words = words.strip().strip("'")
        denied = _DENIED.match(words)
        if denied is not None:
            self._denied(denied[1].lower(), denied[2])
        elif not words.lower().startswith(("permissions violation", "invalid")):  # those don't end the connection
            await self._process_op_err(nats.errors.Error(f"the server says: {words}"))

    # ── in place of nats-py's own ─────────────────────────────────────────────────────────────────────────────────

    @property
    def ssl_context(self) -> Any:
        try:
            context = self._again().get("tls")
        except ConfigurationError as error:
            raise nats.errors.Error(str(error)) from error
        return context if context is not None else super().ssl_context

    def _connect_command(self) -> bytes:
        try:
            return super()._connect_command()
        except ConfigurationError as error:  # a file that can't be read now: any other error ends the reconnecting
            raise nats.errors.Error(str(error)) from error

    async def _process_op_err(self, e: Exception) -> None:
        if self.is_connected:
            self.why_lost = _words(e)
            self.abort()
        await super()._process_op_err(e)

    async def force_reconnect(self) -> None:
        if self.is_connected:
            self.why_lost = "it is about to stop"
        await super().force_reconnect()

    async def _connect_to_server(self, s: Srv) -> None:
        self.abort()  # an attempt that failed after its socket was open has left it so
        s.last_attempt = time.monotonic()
        if self._transport is None:
            self._transport = _Wire()  # type: ignore[no-untyped-call]
        with _as_outage():
            await self._transport.connect(s.uri, DEFAULT_BUFFER_SIZE, self.options["connect_timeout"])

    async def _attempt_reconnect(self) -> None:
        with suppress(asyncio.InvalidStateError):  # one that is cut off by the next settles that one's future, too
            await super()._attempt_reconnect()

    async def _process_connect_init(self) -> None:
        with _as_outage():
            await super()._process_connect_init()

    async def _read_loop(self) -> None:
        await super()._read_loop()
        reading = asyncio.current_task()
        if reading is None or reading.cancelling():
            return  # the event loop ends
        if self.is_connected and self._reading_task is reading:
            await self._process_op_err(nats.errors.Error("what it sent can't be taken"))  # nats-py has logged why

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # nats-py goes on in the clear where a server doesn't ask for encryption, password and all.
        if initial_connection and "tls" in self.options and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise nats.errors.Error(NO_TLS)
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


def _words(error: Exception) -> str:
    if isinstance(error, nats.errors.UnexpectedEOF):  # which is a StaleConnectionError, too
        return "it was closed at the other end"
    if isinstance(error, nats.errors.StaleConnectionError):
        return "it answers no pings"
    return str(error) or type(error).__name__
