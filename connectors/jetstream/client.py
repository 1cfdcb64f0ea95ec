"""A connection to NATS: nats-py's, with socket reads taken apart in batches.

What must live here: publishing many messages at once, requests.  What must not: reading (``parser``), sockets, TLS and
reconnecting (``session``), JetStream (``api``).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import nats
import nats.errors

from streams.connectors.jetstream.login import refusal
from streams.connectors.jetstream.parser import BatchParser, Handler, Message
from streams.connectors.jetstream.session import Session
from streams.errors import ConfigurationError, DataError, LogUnavailable, StreamsError

__all__ = ["Connection", "Message", "Subscription", "header_of", "publication"]

logger = logging.getLogger("streams")

MAX_PAYLOAD = 2**20
"""Where the server doesn't say; its own default."""
PERHAPS_FULL = "if its server's log says that the disk is full: make room, and start it anew"
"""A stream that its server couldn't write answers nothing to what it is to store: only the server's log tells why."""
AGAIN_S = 1.0
TICK_S = 0.5
STALL_S = 2.0
"""A process that stands still for longer than that is behind with reading."""
MOVE_PATIENCE_S = 2.0
END_S = 1.0
"""For how long a server may take, at the end, to take what was written."""
REFUSED_S = 10.0
"""For how long a login that is refused again and again is tried: credentials may be renewed a moment late."""
ELECTION = 3
"""What a request is waited for, so many times over."""


def publication(subject: str, payload: bytes, reply: str = "", headers: Sequence[tuple[str, bytes]] = ()) -> bytes:
    """A message as it goes over the wire."""
    to = f"{subject} {reply}".encode() if reply else subject.encode()
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (to, len(payload), payload)
    head = b"NATS/1.0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % (name.encode(), value) for name, value in headers])
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (to, len(head), len(head) + len(payload), head, payload)


def above_max_payload(what: str, size: int, most: int) -> str:
    """What to say of a message that is too large."""
    return (
        f"{what}: a message of {size} bytes with its headers, and the server takes {most} (max_payload); send less, or "
        f"raise max_payload in the server's configuration"
    )


def header_of(head: bytes, name: bytes) -> bytes | None:
    """The value of one header."""
    for line in head.split(b"\r\n")[1:]:
        if line.startswith(name + b":"):
            return line[len(name) + 1 :].strip()
    return None


def _wider(subject: str) -> str:
    """What to allow for a subject, as one would write it."""
    words = subject.split(".")
    if subject.startswith("$JS.API."):
        return f'"$JS.API.>" (or "{".".join(words[:4])}.>")' if len(words) > 4 else '"$JS.API.>"'
    return f'"{words[0]}.>"'


async def _stop(task: asyncio.Future[Any]) -> None:
    """Cancel it until it has ended: ``asyncio.wait_for`` of Python 3.11, which nats-py connects with, loses a
    cancellation that comes together with what it waits for."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_S)


def _fail(future: asyncio.Future[Message], error: StreamsError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # its caller may have given up: no complaint that nobody looked


class Subscription:
    """A subscription whose messages come in lists.  Survives reconnects."""

    def __init__(self, connection: Connection, subject: str, sid: int, subscription: Any) -> None:
        self.subject = subject
        self._connection = connection
        self._sid = sid
        self._subscription = subscription

    async def unsubscribe(self) -> None:
        """As ``close``; when it returns everything that came before has been handed over.  Raises LogUnavailable."""
        try:
            await self._forget()
            if self._connection.connected:
                await self._connection.flush()
        finally:
            self._connection.parser.handlers.pop(str(self._sid).encode(), None)

    async def close(self) -> None:
        self._connection.parser.handlers.pop(str(self._sid).encode(), None)
        await self._forget()

    async def _forget(self) -> None:
        # While the connection is lost too: once it is back the client subscribes again to all that it knows of, and a
        # queue group's messages would go to nobody.
        with suppress(nats.errors.ConnectionClosedError):
            await self._subscription.unsubscribe()


class Connection:
    """A connection with requests, batches and subscriptions.  Errors are this project's.

    reconnects: how often it was made anew.  slow: how often it was lost while this process was behind with reading.
    """

    def __init__(self, url: str, settings: Callable[[], dict[str, Any]], *, timeout_s: float) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self._settings = settings
        self._client = Session(settings, self._denied)
        self.parser = BatchParser(self._client)
        self._inbox = ""
        self._numbers = itertools.count(1)
        self._waiting: dict[bytes, asyncio.Future[Message]] = {}
        self._asked: dict[bytes, str] = {}
        self._replies: Subscription | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._refused: dict[str, float] = {}
        self._unfit = ""
        self._ticked = self._stalled = 0.0
        self._lost_at = 0.0
        self.reconnects = self.slow = 0

    @property
    def connected(self) -> bool:
        return self._client.ready

    @property
    def server(self) -> dict[str, Any]:
        """What the server says of itself."""
        return dict(self._client._server_info)

    @property
    def max_payload(self) -> int:
        """How many bytes of headers and payload the server takes in a message.  It hangs up on who sends more."""
        return int(self._client._server_info.get("max_payload", MAX_PAYLOAD))

    @property
    def place(self) -> str:
        """host:port of the server that we are connected to."""
        return self._client.here

    async def open(self) -> None:
        """Connect.  Raises LogUnavailable, ConfigurationError, within ``timeout_s``."""
        settings = self._settings()
        self._client = Session(self._settings, self._denied)
        self.parser = BatchParser(self._client)
        self._client._ps = self.parser  # type: ignore[assignment]
        self._inbox = f"{settings['inbox_prefix']}.{secrets.token_hex(11)}"
        self._unfit = ""
        self._refused.clear()
        refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        places = len(settings["servers"])
        refusals: list[str] = []

        async def note(error: Exception) -> None:
            # What else goes wrong shows where it is waited for.
            why = refusal(error)
            if why is None:
                return
            refusals.append(why)
            if len(refusals) >= places and not refused.done():
                refused.set_result(why)
            self._turned_down(why)

        connecting = asyncio.ensure_future(
            self._client.connect(
                name="streams",
                error_cb=note,
                disconnected_cb=self._lost,
                reconnected_cb=self._back,
                lame_duck_mode_cb=self._lame_duck,
                reconnect_to_server_handler=self._client.choose,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,  # type: ignore[arg-type]  # it is slept for
                **settings,
            )
        )
        try:
            # The client tries again and again, with a wrong password too: nobody would ever see why.
            either: set[asyncio.Future[Any]] = {connecting, refused}
            await asyncio.wait(either, timeout=self.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                await _stop(connecting)
                if refusals:
                    raise ConfigurationError(f"{self.url}: can't connect: {refusals[-1]}")
                raise TimeoutError("no answer")
            connecting.result()
            self._replies = await self.subscribe(f"{self._inbox}.*", self._answered)
            await self._flush()  # a subscription that is denied shows by now
            if self._unfit:
                raise ConfigurationError(self._unfit)
        except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
            await self._end()
            last = self._client.last_error or error
            why = "it doesn't answer" if isinstance(last, TimeoutError) else str(last) or type(last).__name__
            raise LogUnavailable(
                f"{self.url}: can't connect: {why}; is the server running, and is that its address?"
            ) from error
        except BaseException:
            await _stop(connecting)  # or it would open again what is closed here
            await self._end()
            raise
        self._ticked = time.monotonic()
        self._do(self._tick())

    async def close(self) -> None:
        for future in self._waiting.values():
            _fail(future, LogUnavailable(f"{self.url}: the log is closed"))
        self._waiting.clear()
        await self._end()

    async def _end(self) -> None:
        client = self._client
        client.closing = True
        for task in list(self._background):
            task.cancel()
        try:
            if self.connected:
                # Nobody waits for it, or it was waited for before.
                with suppress(nats.errors.Error, OSError, TimeoutError, StreamsError):
                    async with asyncio.timeout(END_S):
                        await self._flush()
        finally:  # or a client that is left open would connect again, for ever
            # A server that stands still takes nothing, and nats-py would wait until it does.
            client._pending.clear()
            client._pending_data_size = 0
            client.abort()
            await client.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ── its life ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _tick(self) -> None:
        """See when this process stands still: the server sees a client that doesn't read."""
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            if now - self._ticked > STALL_S:
                self._stalled = now
            self._ticked = now

    async def _lost(self) -> None:
        # Answers to what was sent before won't come any more: who waits for one needn't wait for the time-out.
        for future in self._waiting.values():
            _fail(future, LogUnavailable(f"{self.url}: the connection was lost"))
        client, now = self._client, time.monotonic()
        if client.closing or not client.why_lost:
            return
        client.rounds.reset()
        self._lost_at = now
        behind = now - self._ticked > STALL_S or now - self._stalled < STALL_S
        self.slow += behind
        slow = "; this process had stopped reading (blocked, paused or overloaded): a slow consumer" if behind else ""
        logger.warning(
            "%s: lost the connection to %s (%s)%s; trying again", self.url, self.place, client.why_lost, slow
        )

    async def _back(self) -> None:
        self.reconnects += 1
        self._refused.clear()
        self._unfit = ""
        self._client.rounds.reset()
        self._client.rounds.leaving = ""
        took_s = time.monotonic() - self._lost_at
        logger.info("%s: connected to %s, after %.1f s without a server", self.url, self.place, took_s)

    async def _lame_duck(self) -> None:
        client = self._client
        if client.elsewhere():
            logger.info("%s: %s is about to stop; going to another server", self.url, self.place)
            client.rounds.leaving = self.place
            self._do(self._move(self.place))
        else:
            logger.warning("%s: %s is about to stop, and no other server is known", self.url, self.place)

    async def _move(self, place: str) -> None:
        """Go while nobody waits for an answer: what is under way would have to be looked up."""
        until = time.monotonic() + MOVE_PATIENCE_S
        while self._waiting and time.monotonic() < until:
            await asyncio.wait(list(self._waiting.values()), timeout=MOVE_PATIENCE_S)
        if self.connected and self.place == place:
            await self._client.force_reconnect()

    def _turned_down(self, why: str) -> None:
        """While it is lost: servers that keep turning us down won't do otherwise by being asked for ever."""
        since = self._refused.setdefault(why, time.monotonic())
        if self._lost_at and not self._client.is_closed and time.monotonic() > since + REFUSED_S:
            self._unfit = f"{self.url}: can't connect again: {why}"

    def _denied(self, what: str, subject: str) -> None:
        """Permissions forbid a subject: who waits for an answer is told, or else whoever asks next."""
        verb = "publish" if what == "publish" else "subscribe"
        error = (
            f"{self.url}: the server doesn't let this user {verb} to {subject}; its permissions have to allow {verb} "
            f"{_wider(subject)} (docs/nats.md lists all that is needed)"
        )
        asking = [reply for reply, asked in self._asked.items() if asked == subject]
        if not asking:
            self._unfit = error
            asking = [reply for reply in self._waiting if reply not in self._asked]
        for reply in asking:
            future = self._waiting.get(reply)
            if future is not None:
                _fail(future, ConfigurationError(error))

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Hand every message to ``handler``, in lists; called from the event loop, must not block.  Of those who share
        a ``queue`` each message goes to one."""
        made = await self._client.subscribe(subject, queue)
        sid = made._id
        self.parser.handlers[str(sid).encode()] = handler
        return Subscription(self, subject, sid, made)

    def inbox(self) -> str:
        """A subject of one's own."""
        return f"{self._inbox}-{next(self._numbers)}"

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _answered(self, messages: list[Message]) -> None:
        for message in messages:
            future = self._waiting.pop(message.subject, None)
            if future is not None and not future.done():
                future.set_result(message)

    def expect(self) -> tuple[str, asyncio.Future[Message]]:
        """A reply subject, and what will be answered there."""
        reply = f"{self._inbox}.{next(self._numbers)}"
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[reply.encode()] = future
        return reply, future

    def forget(self, reply: str) -> None:
        self._waiting.pop(reply.encode(), None)
        self._asked.pop(reply.encode(), None)

    async def request(
        self, subject: str, payload: bytes = b"", headers: Sequence[tuple[str, bytes]] = (), *, again: bool = False
    ) -> Message:
        """The answer to a request.  Raises LogUnavailable when none comes; it may have been carried out.

        ``again``: it only asks, so it is sent again every second, and for longer: a stream that has no leader drops
        what it is asked, and electing one takes up to ten seconds.

        Raises ConfigurationError for what isn't allowed, DataError for what is larger than the server takes."""
        if self._unfit:
            raise ConfigurationError(self._unfit)
        if not self.connected:
            raise LogUnavailable(f"{self.url}: not connected")
        size = len(payload) + sum(len(name) + len(value) + 4 for name, value in headers) + (12 if headers else 0)
        if size > self.max_payload:
            raise DataError(f"{self.url}: {above_max_payload(subject, size, self.max_payload)}")
        patience_s = self.timeout_s * (ELECTION if again else 1)
        reply, future = self.expect()
        self._asked[reply.encode()] = subject
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    await self.write(publication(subject, payload, reply, headers))
                    await asyncio.wait({future}, timeout=AGAIN_S if again else None)
                    if future.done():
                        message = future.result()
                        break
        except TimeoutError:
            said = f"{self.url}: no answer to {subject} within {patience_s:g} s"
            if not subject.startswith("$"):
                said += f"; {PERHAPS_FULL}"
            raise LogUnavailable(said) from None
        finally:
            self.forget(reply)
        if message.head.startswith(b"NATS/1.0 503"):
            raise LogUnavailable(
                f"{self.url}: nobody answers to {subject}; is JetStream enabled, and has it a leader?  A server stops "
                f"it when its disk is full: make room, and start it anew"
            )
        return message

    async def flush(self) -> None:
        """Wait until the server has everything that was written, and its answers have come.

        Raises LogUnavailable when it doesn't answer, ConfigurationError for what isn't allowed."""
        lost = self.reconnects
        try:
            await self._flush()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise LogUnavailable(f"{self.url}: no answer from the server within {self.timeout_s:g} s") from error
        if self._unfit:
            raise ConfigurationError(self._unfit)
        if self.reconnects != lost or not self.connected:
            raise LogUnavailable(f"{self.url}: the connection was lost")

    async def _flush(self) -> None:
        # A ping of nats-py's overtakes what waits to be written, and its pong would say nothing of that.
        if not self.connected:
            raise nats.errors.ConnectionClosedError
        reply, lost = self.expect()  # never answered: it fails when the connection is lost
        pinging = asyncio.ensure_future(self._ping())
        pinging.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may come too late
        try:
            either: set[asyncio.Future[Any]] = {pinging, lost}
            await asyncio.wait(either, timeout=self.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                lost.result()
            if not pinging.done():
                raise TimeoutError
            pinging.result()
        finally:
            self.forget(reply)
            pinging.cancel()

    async def _ping(self) -> None:
        client = self._client
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await client._flush_queue.put(written)  # type: ignore[union-attr]  # it is made by connecting
        await written
        await client.flush(timeout=max(1, int(self.timeout_s)))

    async def write(self, data: bytes) -> None:
        """Send what ``publication`` made.  Doesn't wait.  What is sent while the connection is lost goes out when it is
        back."""
        client = self._client
        client._pending.append(data)
        client._pending_data_size += len(data)
        queue = client._flush_queue
        # Whoever is first in the queue has everything written.  nats-py's own way waits for room in it, which a server
        # that stands still never makes, and it takes the time-out of who waits for its own.
        if queue is not None and queue.empty() and client.is_connected:
            queue.put_nowait(asyncio.get_running_loop().create_future())
