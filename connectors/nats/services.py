"""Agents that answer on subjects: a service of NATS (ADR-32), its requests and its discovery.

What must live here: subscriptions, answers and errors as messages, $SRV.PING, INFO and STATS.  What must not: what
becomes of a request (``runtime.serving``).

All workers of an app are instances of one service, and share a queue group for each agent, so that each request goes
to one of them.  nats-py's own ``nats.micro`` handles the requests of a subscription one after the other; here they run
side by side.  Answers go out in batches.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from streams.connectors.jetstream.client import Connection, Message, Subscription, header_of, publication
from streams.connectors.jetstream.config import parse_url
from streams.connectors.nats.subjects import check_filter
from streams.core.endpoint import FAILED, Endpoint, Take
from streams.errors import ConfigurationError, LogUnavailable

__all__ = ["NatsService"]

logger = logging.getLogger("streams")

END_S = 1.0
"""For how long a server may take to note that we listen no more."""
REASON_BYTES = 1000
"""What an error may say at most: it travels in a header."""
_UNFIT_FOR_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_TYPE = "io.nats.micro.v1.{}_response"


class _Serving(Connection):
    """A connection that needs no more than its subjects: a user of a service may lack all other permissions.

    What the server refuses later on is said, once: nobody else would hear of it.
    """

    def __init__(self, url: str, settings: Callable[[], dict[str, Any]], *, timeout_s: float) -> None:
        super().__init__(url, settings, timeout_s=timeout_s)
        self._said: set[str] = set()

    def _denied(self, what: str, subject: str) -> None:
        if what == "publish":
            self._say(
                logging.WARNING,
                "the server doesn't let this user answer, so who asked waits in vain; its permissions have to allow "
                "responses (allow_responses)",
            )
        elif subject.startswith("$SRV."):
            self._say(logging.INFO, 'this user may not subscribe to "$SRV.>", so the service can\'t be discovered')
        elif not subject.startswith(f"{self._inbox}."):  # nothing is asked from here
            super()._denied(what, subject)
            self._tell_unfit()

    def _turned_down(self, why: str) -> None:
        super()._turned_down(why)
        self._tell_unfit()

    def _tell_unfit(self) -> None:
        if self._ticked and self._unfit:  # before it is open, opening raises that
            self._say(logging.WARNING, f"agents can't be asked: {self._unfit}")

    def _say(self, level: int, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            logger.log(level, "%s: %s", self.url, words)


@dataclass(slots=True)
class _Stats:
    endpoint: Endpoint
    group: str
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    took_ns: int = 0


class _Call:
    """A ``Call``."""

    __slots__ = ("_began_ns", "_message", "_service", "_stats")

    def __init__(self, service: NatsService, stats: _Stats, message: Message) -> None:
        self._service, self._stats, self._message = service, stats, message
        self._began_ns = time.perf_counter_ns()
        stats.requests += 1

    @property
    def address(self) -> str:
        return self._message.subject.decode()

    @property
    def payload(self) -> bytes:
        return self._message.payload

    @property
    def waited_for(self) -> bool:
        return bool(self._message.reply)

    def header(self, name: str) -> str | None:
        value = header_of(self._message.head, name.encode())
        return None if value is None else value.decode()

    def answer(self, body: bytes) -> None:
        most = self._service.max_payload
        if len(body) > most:
            self.refuse(FAILED, f"the answer has {len(body)} bytes, and the server takes {most} (max_payload)")
            return
        self._end(body)

    def refuse(self, code: int, why: str) -> None:
        # A line break would end the header, and the client couldn't read what follows.
        reason = " ".join(why.split()).encode()[:REASON_BYTES].decode(errors="ignore")
        self._stats.errors += 1
        self._stats.last_error = f"{code}:{reason}"
        self._end(b"", [("Nats-Service-Error", reason.encode()), ("Nats-Service-Error-Code", str(code).encode())])

    def _end(self, body: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        self._stats.took_ns += time.perf_counter_ns() - self._began_ns
        if self._message.reply:
            self._service.send(publication(self._message.reply.decode(), body, headers=headers))


class NatsService:
    """A ``Service``.  name, version: of the app."""

    def __init__(self, url: str, name: str, version: int) -> None:
        self._config = parse_url(url)
        self.url = self._config.shown
        self.max_payload = 2**20
        self._app = name
        self._identity = {
            "name": _UNFIT_FOR_NAMES.sub("-", name),
            "id": secrets.token_hex(11),
            "version": f"{version}.0.0",
            "metadata": {"app": name},
        }
        self._started = datetime.now(UTC)
        self._connection: Connection | None = None
        self._stats: list[_Stats] = []
        self._subscriptions: list[Subscription] = []
        self._out: list[bytes] = []
        self._sending: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def slow(self) -> int:
        return self._connection.slow if self._connection is not None else 0

    def check(self, endpoints: Sequence[Endpoint]) -> None:
        """Raises ConfigurationError for an address that can't be listened to, and for files that can't be read."""
        for each in endpoints:
            check_filter(each.pattern)
            if each.address.startswith(("$", "_INBOX.")):
                raise ConfigurationError(f"agent {each.agent}: {each.address}: NATS keeps such subjects for itself")
        self._config.client()

    async def open(self, endpoints: Sequence[Endpoint], take: Take) -> None:
        config = self._config
        connection = _Serving(self.url, config.client, timeout_s=config.request_timeout_ms / 1000)
        await connection.open()
        try:
            self._stats = [_Stats(each, f"{self._app}.{each.agent}") for each in endpoints]
            self.max_payload = int(connection.server.get("max_payload", self.max_payload))
            self._connection = connection
            for verb, tell in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats_now)):
                for place in ("", ".{name}", ".{name}.{id}"):
                    subject = f"$SRV.{verb}{place.format(**self._identity)}"
                    await connection.subscribe(subject, partial(self._tell, tell))
            for stats in self._stats:
                handler = partial(self._take, take, stats)
                self._subscriptions.append(await connection.subscribe(stats.endpoint.pattern, handler, stats.group))
            await connection.flush()
        except BaseException:
            self._connection, self._subscriptions = None, []
            await connection.close()
            raise

    def _take(self, take: Take, stats: _Stats, messages: list[Message]) -> None:
        for message in messages:
            take(stats.endpoint, _Call(self, stats, message))

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, data: bytes) -> None:
        """Send soon, with whatever else is ready by then.  While the connection is lost, when it is back."""
        self._out.append(data)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._out and self._connection is not None:
                data, self._out = b"".join(self._out), []
                await self._connection.write(data)
        finally:
            self._sending = None

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def end(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        connection = self._connection
        if connection is None or not connection.connected:
            return  # nobody sends anything here any more
        try:
            async with asyncio.timeout(END_S):
                for each in subscriptions:
                    await each.unsubscribe()
        except (LogUnavailable, ConfigurationError, TimeoutError) as error:
            logger.info("%s: left without a word: %s", self.url, error or "no answer")

    async def close(self) -> None:
        connection = self._connection
        if connection is None:
            return
        await self.end()
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=END_S)
        if connection.connected:
            try:
                async with asyncio.timeout(END_S):
                    await connection.flush()
            except (LogUnavailable, ConfigurationError, TimeoutError) as error:
                logger.warning("%s: the last answers may not have been sent: %s", self.url, error or "no answer")
        self._connection = None
        await connection.close()

    # ── discovery (ADR-32) ────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, tell: Any, messages: list[Message]) -> None:
        body = json.dumps(tell()).encode()
        for message in messages:
            if message.reply:
                self.send(publication(message.reply.decode(), body))

    def _ping(self) -> dict[str, Any]:
        return {"type": _TYPE.format("ping"), **self._identity}

    def _info(self) -> dict[str, Any]:
        return {
            "type": _TYPE.format("info"),
            **self._identity,
            "description": f"agents of the app {self._app}",
            "endpoints": [
                {**_endpoint(each), "metadata": {"subject": each.endpoint.address, "agent": each.endpoint.agent}}
                for each in self._stats
            ],
        }

    def _stats_now(self) -> dict[str, Any]:
        return {
            "type": _TYPE.format("stats"),
            **self._identity,
            "started": self._started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "endpoints": [
                {
                    **_endpoint(each),
                    "num_requests": each.requests,
                    "num_errors": each.errors,
                    "last_error": each.last_error,
                    "processing_time": each.took_ns,
                    "average_processing_time": each.took_ns // max(1, each.requests),
                    "data": None,
                }
                for each in self._stats
            ],
        }


def _endpoint(stats: _Stats) -> dict[str, Any]:
    return {
        "name": _UNFIT_FOR_NAMES.sub("-", stats.endpoint.agent),
        "subject": stats.endpoint.pattern,
        "queue_group": stats.group,
    }
