"""A connection to NATS: nats-py's, with socket reads taken apart in batches.

What must live here: the parser, publishing many messages at once, requests.  What must not: JetStream (``api``).

nats-py looks after servers, TLS, credentials and reconnecting.  Its parser makes tasks and objects for each message,
which costs some forty microseconds; ours hands over what one socket read held as one list.  It stands in the place of
the client's own (``Client._ps``, private: the version is pinned).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import nats
import nats.errors
from nats.aio.client import Client

from streams.errors import ConfigurationError, LogUnavailable

__all__ = ["Connection", "Message", "Subscription", "header_of", "publication"]

CRLF = b"\r\n"
Handler = Callable[[list["Message"]], None]


class Message(NamedTuple):
    """A message as it came.  ``head``: the block of headers, with its first line; b"" for none."""

    subject: bytes
    reply: bytes
    head: bytes
    payload: bytes


class BatchParser:
    """Takes socket reads apart; messages of our subscriptions go to their handlers, a list for each read."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._rest = b""
        self.handlers: dict[bytes, Handler] = {}

    def reset(self) -> None:
        self._rest = b""

    async def parse(self, data: bytes = b"") -> None:
        data = self._rest + data if self._rest else bytes(data)
        start, end = 0, len(data)
        found: dict[bytes, list[Message]] = {}
        while start < end:
            line_end = data.find(CRLF, start)
            if line_end < 0:
                break
            kind = data[start]
            if kind in b"MH":
                words = data[start:line_end].split()
                size = int(words[-1])
                body = line_end + 2
                if body + size + 2 > end:
                    break
                head_size = int(words[-2]) if kind == 72 else 0
                reply = words[3] if len(words) == (6 if kind == 72 else 5) else b""
                message = Message(words[1], reply, data[body : body + head_size], data[body + head_size : body + size])
                if words[2] in self.handlers:
                    found.setdefault(words[2], []).append(message)
                else:
                    await self._client._process_msg(
                        int(words[2]),
                        message.subject,
                        message.reply,
                        message.payload,
                        message.head or None,  # type: ignore[arg-type]  # as its own parser calls it
                    )
                start = body + size + 2
                continue
            await self._control(data[start:line_end])
            start = line_end + 2
        self._rest = data[start:]
        for sid, messages in found.items():
            handler = self.handlers.get(sid)
            if handler is not None:
                handler(messages)

    async def _control(self, line: bytes) -> None:
        client = self._client
        if line == b"PING":
            await client._process_ping()
        elif line == b"PONG":
            await client._process_pong()
        elif line.startswith(b"INFO "):
            await client._process_info(json.loads(line[5:]))
        elif line.startswith(b"-ERR"):
            await client._process_err(line[4:].strip().decode(errors="replace").lower())
        elif line not in (b"+OK", b""):
            raise nats.errors.ProtocolError("nats: unknown protocol")


def publication(subject: str, payload: bytes, reply: str = "", headers: Sequence[tuple[str, bytes]] = ()) -> bytes:
    """A message as it goes over the wire."""
    to = f"{subject} {reply}".encode() if reply else subject.encode()
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (to, len(payload), payload)
    head = b"NATS/1.0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % (name.encode(), value) for name, value in headers])
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (to, len(head), len(head) + len(payload), head, payload)


def header_of(head: bytes, name: bytes) -> bytes | None:
    """The value of one header."""
    for line in head.split(b"\r\n")[1:]:
        if line.startswith(name + b":"):
            return line[len(name) + 1 :].strip()
    return None


class Subscription:
    """A subscription whose messages come in lists.  Survives reconnects."""

    def __init__(self, connection: Connection, subject: str, sid: int, subscription: Any) -> None:
        self.subject = subject
        self._connection = connection
        self._sid = sid
        self._subscription = subscription

    async def close(self) -> None:
        self._connection.parser.handlers.pop(str(self._sid).encode(), None)
        if self._connection.connected:
            await self._subscription.unsubscribe()


class Connection:
    """A connection with requests, batches and subscriptions.  Errors are this project's."""

    def __init__(self, url: str, settings: Callable[[], dict[str, Any]], *, timeout_s: float) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self._settings = settings
        self._client = Client()
        self.parser = BatchParser(self._client)
        self._client._ps = self.parser  # type: ignore[assignment]
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._numbers = itertools.count(1)
        self._waiting: dict[bytes, asyncio.Future[Message]] = {}
        self._replies: Subscription | None = None
        self.reconnects = 0

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected)

    @property
    def server(self) -> dict[str, Any]:
        """What the server says of itself."""
        return dict(self._client._server_info)

    async def open(self) -> None:
        """Connect.  Raises LogUnavailable, ConfigurationError, within ``timeout_s``."""

        refused: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

        async def note(error: Exception) -> None:
            # What else goes wrong shows where it is waited for.
            if "authorization" in str(error).lower() and not refused.done():
                refused.set_result(error)

        async def disconnected() -> None:
            # Answers to what was sent before won't come any more: who waits for one needn't wait for the time-out.
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(LogUnavailable(f"{self.url}: the connection was lost"))

        async def reconnected() -> None:
            self.reconnects += 1

        try:
            settings = self._settings()
            connecting = asyncio.ensure_future(
                self._client.connect(
                    error_cb=note,
                    disconnected_cb=disconnected,
                    reconnected_cb=reconnected,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.2,  # type: ignore[arg-type]  # it is slept for
                    **settings,
                )
            )
            # The client tries again and again, with a wrong password too: nobody would ever see why.
            either: set[asyncio.Future[Any]] = {connecting, refused}
            await asyncio.wait(either, timeout=self.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait({connecting})
                if refused.done():
                    raise ConfigurationError(
                        f"{self.url}: the server refused the login; look at user, password or creds"
                    )
                raise TimeoutError("no answer")
            connecting.result()
        except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
            await self._client.close()
            why = str(self._client.last_error or error) or type(error).__name__
            raise LogUnavailable(
                f"{self.url}: can't connect: {why}; is the server running, and is that its address?"
            ) from error
        except BaseException:
            await self._client.close()
            raise
        self._replies = await self.subscribe(f"{self._inbox}.*", self._answered)

    async def close(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LogUnavailable(f"{self.url}: the log is closed"))
        self._waiting.clear()
        await self._client.close()

    async def subscribe(self, subject: str, handler: Handler) -> Subscription:
        """Hand every message to ``handler``, in lists; called from the event loop, must not block."""
        made = await self._client.subscribe(subject)
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

    async def request(self, subject: str, payload: bytes = b"", headers: Sequence[tuple[str, bytes]] = ()) -> Message:
        """The answer to a request.  Raises LogUnavailable when none comes; it may have been carried out."""
        if not self.connected:
            raise LogUnavailable(f"{self.url}: not connected")
        reply, future = self.expect()
        try:
            await self.write(publication(subject, payload, reply, headers))
            async with asyncio.timeout(self.timeout_s):
                message = await future
        except TimeoutError:
            raise LogUnavailable(f"{self.url}: no answer to {subject} within {self.timeout_s:g} s") from None
        finally:
            self.forget(reply)
        if message.head.startswith(b"NATS/1.0 503"):
            raise LogUnavailable(f"{self.url}: nobody answers to {subject}; is JetStream enabled, and has it a leader?")
        return message

    async def write(self, data: bytes) -> None:
        """Send what ``publication`` made.  What is sent while the connection is lost goes out when it is back."""
        client = self._client
        client._pending.append(data)
        client._pending_data_size += len(data)
        await client._flush_pending()
