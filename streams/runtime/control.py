"""The control endpoint: how other processes of this machine reach an embedded log through the worker that holds it.

What must live here: carrying out what the tools ask.  What must not: the tools (``cli``).

It listens on the loopback address, on a port that the system chooses, and asks for a token; port and token stand in
the log's lock file, which only its owner can read.  Bodies are msgpack (``runtime.wire``); reads are chunks of bounded
size, each from a position that the caller names, so nothing is kept here between two requests.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from streams.core.membership import TaskRef
from streams.dsl.agent import Agent
from streams.errors import ConfigurationError, RequestError, StreamsError
from streams.runtime.status import Status
from streams.runtime.tables import BadRequest
from streams.runtime.web import error_body, http_status, json_reply, routes, serve_on, unless_gone
from streams.runtime.wire import (
    AskRequest,
    BoundsReply,
    FetchReply,
    FetchRequest,
    Holding,
    Specs,
    WireBatch,
    appends_of,
    decode,
    encode,
    from_pairs,
    partitions_of,
    to_pairs,
)

__all__ = ["MAX_BODY_BYTES", "agent_of", "control_app", "request_of", "serve_control"]

MAX_BODY_BYTES = 256 * 2**20
"""Above the largest record that an embedded log takes by default."""
LONGEST_WAIT_S = 2.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def control_app(status: Status, token: str) -> web.Application:
    """The endpoint as an aiohttp application; every request carries ``token``."""
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, expected):
            return json_reply({"error": "RequestError", "message": "the token is missing or wrong"}, 401)
        try:
            return await handler(request)
        except msgspec.MsgspecError as error:
            return json_reply(error_body(BadRequest(f"the request can't be read: {error}")), 400)
        except StreamsError as error:
            return json_reply(error_body(error), http_status(error))

    app = web.Application(middlewares=[unless_gone, guarded], client_max_size=MAX_BODY_BYTES)
    app.add_routes([*routes(status), *_log_routes(status), web.post("/agents/ask", _asking(status))])
    return app


def _log_routes(status: Status) -> list[web.RouteDef]:
    log = status.worker.log

    async def holding(_: web.Request) -> web.Response:
        return _reply(Holding(status.worker.app.name, log.identity))

    async def topics(_: web.Request) -> web.Response:
        return _reply(dict(await log.topics()))

    async def create(request: web.Request) -> web.Response:
        await log.create_topics(decode(await request.read(), type=Specs))
        return _reply(None)

    async def bounds(request: web.Request) -> web.Response:
        found = await log.bounds(partitions_of(await request.read()))
        reply: BoundsReply = list(found.items())
        return _reply(reply)

    async def append(request: web.Request) -> web.Response:
        return _reply(to_pairs(await log.append(appends_of(await request.read()))))

    async def checkpoint(request: web.Request) -> web.Response:
        return _reply(await log.checkpoint(decode(await request.read(), type=TaskRef)))

    async def fetch(request: web.Request) -> web.Response:
        asked = decode(await request.read(), type=FetchRequest)
        positions = from_pairs(asked.positions)
        reader = log.reader(positions)
        try:
            wait_s = min(asked.wait_s, LONGEST_WAIT_S)
            found = await reader.fetch(list(positions), max_records=asked.max_records, wait_s=wait_s)
            return _reply(FetchReply([WireBatch.of(each) for each in found], to_pairs(reader.ends())))
        finally:
            await reader.close()

    return [
        web.get("/log", holding),
        web.get("/log/topics", topics),
        web.post("/log/topics", create),
        web.post("/log/bounds", bounds),
        web.post("/log/append", append),
        web.post("/log/checkpoint", checkpoint),
        web.post("/log/fetch", fetch),
    ]


def _reply(value: Any) -> web.Response:
    return web.Response(body=encode(value), content_type="application/x-msgpack")


def _asking(status: Status) -> Handler:
    async def ask(request: web.Request) -> web.Response:
        asked = decode(await request.read(), type=AskRequest)
        agent = agent_of(status.worker.app.agents, asked.agent)
        key, value = request_of(agent, asked)
        if not asked.wait:
            await status.worker.cast(agent, key, value)
            return json_reply(None)
        return json_reply(await status.worker.ask(agent, key, value, asked.timeout_ms))

    return ask


def agent_of(agents: Mapping[str, Agent[Any, Any]], name: str) -> Agent[Any, Any]:
    """Raises RequestError where the app has no such agent."""
    agent = agents.get(name)
    if agent is None:
        raise RequestError(f"the app has no agent {name!r}; its agents: {', '.join(sorted(agents)) or 'none'}")
    return agent


def request_of(agent: Agent[Any, Any], asked: AskRequest) -> tuple[bytes, bytes]:
    """The key and value of a request as bytes, both checked: what doesn't decode must not get into the inbox.

    Raises BadRequest, ConfigurationError.
    """
    try:
        return _encoded(agent, asked)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise BadRequest(f"agent {agent.name}: the request doesn't fit it: {error}") from error


def _encoded(agent: Agent[Any, Any], asked: AskRequest) -> tuple[bytes, bytes]:
    value = agent.values.decode(asked.value)
    if asked.key is not None:
        key: Any = agent.source.keys.decode(asked.key.encode())
    elif agent.source.key_fn is not None:
        key = agent.source.key_fn(value)
    else:
        raise ConfigurationError(
            f"agent {agent.name}: give the request a key, since its stream has no key_by before it"
        )
    return agent.source.keys.encode(key), agent.values.encode(value)


@asynccontextmanager
async def serve_control(status: Status, token: str, listening: socket.socket) -> AsyncIterator[None]:
    """Serve the endpoint on a socket that listens already, inside of the block (``runtime.door``)."""
    async with serve_on(control_app(status, token), listening):
        yield
