"""Requests from outside: what clients of another transport ask the agents of this worker's app.

    Call ──▶ checked: payload, key, id ──▶ inbox (``runtime.requests``) ──▶ answer after the commit ──▶ Call.answer
                     └─ unfit ─▶ 400            └─ raised ─▶ 500, no reply in time ─▶ 504, log or worker away ─▶ 503

What must live here: what becomes of a request, and when a worker listens.  What must not: any transport
(``core.endpoint.Service``), how an answer finds its way (``runtime.requests``).

Every worker listens, in one queue group, once its tasks run.  What doesn't decode never gets into an inbox, where it
would stop the task.  When the worker stops it listens no more, and answers what is under way before its tasks go.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from streams.connectors.registry import open_service
from streams.core.endpoint import BAD_REQUEST, BUSY, FAILED, TOO_LATE, UNAVAILABLE, Call, Endpoint, Service
from streams.core.mapping import describe_failure
from streams.errors import AskTimeout, ConfigurationError, LogUnavailable, RetryableError, StreamsError

if TYPE_CHECKING:
    from streams.dsl.agent import Agent
    from streams.dsl.app import App
    from streams.operators.agent import Reply
    from streams.runtime.worker import Worker

__all__ = ["KEY", "Serving", "body_of"]

logger = logging.getLogger("streams")

KEY = "Streams-Key"
IDS = ("Nats-Msg-Id", "Streams-Request-Id")
ID_LENGTH = 200
GRACE_S = 2.0
"""How long a worker that is asked to stop goes on with what has come already, at most."""
CLOSE_S = 1.0
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
WARN_EVERY_S = 10.0

_LABELS = ("app", "agent")


class Serving:
    """The endpoints of an app in one worker.  Raises ConfigurationError for what can't be had; opens nothing yet."""

    def __init__(
        self, app: App, connect: Callable[[str, str, int, Sequence[Endpoint]], Service] = open_service
    ) -> None:
        self._app = app
        by_server: dict[str, list[Endpoint]] = {}
        for agent in app.agents.values():
            for endpoint in agent.endpoints:
                by_server.setdefault(endpoint.server, []).append(endpoint)
        self._services = [
            (connect(server, app.name, app.version, endpoints), endpoints) for server, endpoints in by_server.items()
        ]
        self._opening: list[asyncio.Task[None]] = []
        self._calls: dict[str, set[asyncio.Task[None]]] = {agent: set() for agent in app.agents}
        self._counts: _Counts | None = None
        self._warned: dict[str, float] = {}
        self._worker: Worker | None = None

    def start(self, worker: Worker) -> None:
        """Listen.  Called when the worker's tasks run: else who asks would wait for a restore, where another worker
        could answer.  Doesn't block."""
        if not self._services:
            return
        self._worker = worker
        self._counts = _Counts(worker, [service for service, _ in self._services])
        loop = asyncio.get_running_loop()
        self._opening = [loop.create_task(self._open(*each)) for each in self._services]

    def check(self) -> None:
        """Raise what keeps an endpoint from being opened at all."""
        for task in self._opening:
            if task.done() and not task.cancelled():
                task.result()

    async def _open(self, service: Service, endpoints: Sequence[Endpoint]) -> None:
        pauses = iter(PAUSES_S)
        while True:
            try:
                await service.open(endpoints, self._take)
                break
            except LogUnavailable as error:
                # The tasks have a log that works; a server of questions may come later.
                logger.warning("%s; agents can't be asked there until then, trying again", error)
                await asyncio.sleep(next(pauses, PAUSES_S[-1]))
        for each in endpoints:
            logger.info("agent %s answers on %s", each.agent, each.shown)

    async def end(self, *, patient: bool) -> None:
        """Listen no more; ``patient``: and wait for the answers under way, for a moment.  Called before tasks go."""
        for task in self._opening:
            task.cancel()
        if self._opening:
            await asyncio.wait(self._opening)
        for service, _ in self._services:
            await service.end()
        under_way = {task for tasks in self._calls.values() for task in tasks}
        if under_way and patient:
            await asyncio.wait(under_way, timeout=GRACE_S)

    async def close(self) -> None:
        """Refuse what is still under way, and leave.  Called when the tasks have gone."""
        if self._worker is None:
            return
        self._worker.requests.leave()
        under_way = {task for tasks in self._calls.values() for task in tasks}
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        for service, _ in self._services:
            await service.close()

    # ── one request ───────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, endpoint: Endpoint, call: Call) -> None:
        calls = self._calls[endpoint.agent]
        if len(calls) >= endpoint.pending:
            self._refuse(
                endpoint,
                call,
                "busy",
                BUSY,
                f"{endpoint.pending} requests are under way in this worker; ask again later",
            )
            return
        task = asyncio.get_running_loop().create_task(self._handle(endpoint, call))
        calls.add(task)
        task.add_done_callback(calls.discard)

    async def _handle(self, endpoint: Endpoint, call: Call) -> None:
        assert self._counts is not None
        try:
            with self._counts.under_way.labels(self._app.name, endpoint.agent).track_inprogress():
                outcome = await self._ask(endpoint, call)
        except asyncio.CancelledError:
            self._refuse(endpoint, call, "unavailable", UNAVAILABLE, "this worker stops; ask again")
            raise
        except Exception as error:
            # A fault of ours: one request mustn't end the worker, and whoever asked is told.
            logger.exception("agent %s: a request on %s failed", endpoint.agent, endpoint.shown)
            self._refuse(endpoint, call, "failed", FAILED, describe_failure(error))
            return
        if outcome:
            self._count(endpoint, outcome)

    async def _ask(self, endpoint: Endpoint, call: Call) -> str:
        """Carry a request out and answer it; returns what to count it as, "" where it was refused."""
        agent = self._app.agents[endpoint.agent]
        try:
            identity = _identity(call)
            key = _key(agent, endpoint, call)
        except RetryableError as error:  # a schema registry that can't be reached
            self._refuse(endpoint, call, "unavailable", UNAVAILABLE, str(error))
            return ""
        except Exception as error:  # noqa: BLE001 - whatever a decoder or a user's key function raises is this request's
            why = str(error) if isinstance(error, StreamsError) else f"{type(error).__name__}: {error}"
            self._refuse(endpoint, call, "unfit", BAD_REQUEST, f"the request doesn't fit agent {agent.name}: {why}")
            return ""
        assert self._worker is not None
        requests = self._worker.requests
        if not call.waited_for:
            return await self._cast(endpoint, call, key, identity)
        try:
            reply = await requests.request(agent, key, call.payload, identity, endpoint.timeout_ms)
        except AskTimeout as error:
            self._refuse(endpoint, call, "late", TOO_LATE, str(error))
        except RetryableError as error:
            self._refuse(endpoint, call, "unavailable", UNAVAILABLE, str(error))
        except StreamsError as error:  # a record that is too large for the log
            self._refuse(endpoint, call, "unfit", BAD_REQUEST, str(error))
        else:
            return self._answer(endpoint, call, reply)
        return ""

    def _answer(self, endpoint: Endpoint, call: Call, reply: Reply) -> str:
        if reply.error is not None:
            self._refuse(endpoint, call, "failed", FAILED, reply.error)
            return ""
        try:
            body = body_of(reply.values)
        except (TypeError, ValueError) as error:
            self._refuse(endpoint, call, "failed", FAILED, f"the answer is no JSON: {describe_failure(error)}")
            return ""
        call.answer(body)
        return "answered"

    async def _cast(self, endpoint: Endpoint, call: Call, key: bytes, identity: str) -> str:
        """Nobody would ask again, so it is tried again here; the id keeps it from taking effect twice."""
        assert self._worker is not None
        agent, requests = self._app.agents[endpoint.agent], self._worker.requests
        loop = asyncio.get_running_loop()
        deadline = loop.time() + endpoint.timeout_ms / 1000
        for pause_s in (*PAUSES_S, *[PAUSES_S[-1]] * 1000):
            try:
                await requests.cast(agent, key, call.payload, identity)
                return "cast"
            except RetryableError as error:
                if loop.time() + pause_s > deadline:
                    self._refuse(endpoint, call, "lost", UNAVAILABLE, str(error))
                    return ""
                await asyncio.sleep(pause_s)
            except StreamsError as error:
                self._refuse(endpoint, call, "unfit", BAD_REQUEST, str(error))
                return ""
        return ""

    def _refuse(self, endpoint: Endpoint, call: Call, outcome: str, code: int, why: str) -> None:
        """Tell whoever asked; where nobody waits, or there is too much, say it here."""
        call.refuse(code, why)
        self._count(endpoint, outcome)
        if call.waited_for and outcome != "busy":
            return
        now, which = asyncio.get_running_loop().time(), f"{endpoint.shown} {outcome}"
        if now - self._warned.get(which, -WARN_EVERY_S) >= WARN_EVERY_S:
            self._warned[which] = now
            logger.warning("agent %s: requests on %s are turned down: %s", endpoint.agent, endpoint.shown, why)

    def _count(self, endpoint: Endpoint, outcome: str) -> None:
        assert self._counts is not None
        self._counts.requests.labels(self._app.name, endpoint.agent, outcome).inc()


class _Counts:
    """What a worker with endpoints counts besides."""

    def __init__(self, worker: Worker, services: Sequence[Service]) -> None:
        metrics = worker.metrics
        self.requests = metrics.counter(
            "streams_requests",
            "Requests of clients by outcome: answered, cast, failed, late, unfit, unavailable, busy, lost.",
            (*_LABELS, "outcome"),
        )
        self.under_way = metrics.gauge(
            "streams_requests_under_way", "Requests of clients that wait for an answer.", _LABELS
        )
        slow = metrics.gauge(
            "streams_slow_consumer",
            "How often a server of requests was lost while the worker was behind with reading.",
            ("app", "server"),
        )
        for service in services:
            slow.labels(worker.app.name, service.url).set_function(partial(getattr, service, "slow"))


def _identity(call: Call) -> str:
    for name in IDS:
        found = call.header(name)
        if found:
            if len(found) > ID_LENGTH:
                raise ValueError(f"{name} is longer than {ID_LENGTH} characters")
            return f"client:{found}"  # apart from those that agents make for themselves
    return uuid.uuid4().hex


def _key(agent: Agent[Any, Any], endpoint: Endpoint, call: Call) -> bytes:
    """The key of a request as bytes.  Everything is decoded once: what doesn't must not get into the inbox."""
    value = agent.values.decode(call.payload)
    text = endpoint.key_in(call.address)
    if text is None:
        text = call.header(KEY)
    if text is not None:
        return agent.source.keys.encode(agent.source.keys.decode(text.encode()))
    if agent.source.key_fn is None:
        raise ConfigurationError(f"it has no key; send the header {KEY}, or serve the agent on a subject with {{key}}")
    return agent.source.keys.encode(agent.source.key_fn(value))


def body_of(values: Sequence[Any]) -> bytes:
    """What was yielded, as an answer: nothing, one value, or a list; JSON, but bytes by themselves go as they are."""
    if not values:
        return b""
    if len(values) > 1:
        return msgspec.json.encode(values)
    return values[0] if isinstance(values[0], bytes) else msgspec.json.encode(values[0])
