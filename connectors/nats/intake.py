"""Messages of a subject, gathered until somebody stores them.

What must live here: the buffer, and messages as records.  What must not: when they are stored (``runtime.ingress``).

A subscription can't be told to wait.  What comes while the log takes nothing is kept up to a bound, then dropped and
counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress

from streams.connectors.jetstream.client import Connection, Message, Subscription
from streams.connectors.jetstream.messages import record_of
from streams.core.edge import Received
from streams.core.record import Headers, Records
from streams.errors import LogUnavailable

__all__ = ["REPLY", "SUBJECT", "NatsIntake"]

logger = logging.getLogger("streams")

SUBJECT, REPLY = "Nats-Subject", "Nats-Reply"
BUFFER_BYTES = 64 * 2**20
EACH_BYTES = 100
"""What a message takes beside what it holds, about."""


class NatsIntake:
    """An ``Intake``.  unread: how many messages had a header of ours that doesn't read."""

    def __init__(self, connection: Connection) -> None:
        self.lost = self.unread = 0
        self._connection = connection
        self._subscription: Subscription | None = None
        self._waiting: deque[tuple[int, Message]] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()

    async def open(self, subject: str, queue: str) -> None:
        """Listen; from the return on everything is heard.  Raises LogUnavailable, ConfigurationError."""
        self._subscription = await self._connection.subscribe(subject, self._receive, queue)
        await self._connection.flush()

    def _receive(self, messages: list[Message]) -> None:
        now_ms = time.time_ns() // 1_000_000
        for message in messages:
            if self._bytes > BUFFER_BYTES:
                self.lost += 1
                continue
            self._bytes += _size(message)
            self._waiting.append((now_ms, message))
        self._arrived.set()

    async def receive(self, *, max_records: int, max_bytes: int, wait_s: float) -> Received | None:
        if not self._waiting and wait_s > 0:
            self._arrived.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        if not self._waiting:
            return None
        records = Records([], [], [], [])
        size = 0
        while self._waiting and len(records.values) < max_records and size < max_bytes:
            at_ms, message = self._waiting.popleft()
            size += _size(message)
            unread: list[str] = []
            key, value, time_ms, headers = record_of(message.head, message.payload, at_ms, unread)
            if unread:
                self._tell(message, unread)
            own: Headers = ((SUBJECT, message.subject),)
            if message.reply:
                own += ((REPLY, message.reply),)
            records.keys.append(message.subject if key is None else key)
            records.values.append(value)
            records.timestamps.append(time_ms)
            assert records.headers is not None
            records.headers.append(own + headers if headers else own)
        self._bytes -= size
        return Received(records)

    def _tell(self, message: Message, unread: list[str]) -> None:
        """Nobody has looked at what comes: one bad header must neither end the worker nor lose the message."""
        self.unread += 1
        if self.unread == 1:
            logger.warning(
                "%s: a message came with a header that doesn't read (%s); it is taken without it, and the header stays "
                "with it as it is; there may be more of them",
                message.subject.decode(errors="replace"),
                "; ".join(unread),
            )

    async def stored(self) -> None:
        """Nobody waits to hear of it."""

    async def end(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(LogUnavailable):  # nothing more comes then either, and what has come is to be stored
                await subscription.unsubscribe()

    async def close(self) -> None:
        if self._subscription is not None:
            await self._subscription.close()


def _size(message: Message) -> int:
    return len(message.subject) + len(message.head) + len(message.payload) + EACH_BYTES
