"""The web endpoint of a worker: health, metrics, tables by key.

    GET /health                 200 when every task runs and none is stuck; else 503 that names the tasks
    GET /metrics                Prometheus text
    GET /tasks                  what each task does, its positions and its lag
    GET /tables                 names
    GET /tables/{name}          rows; ?prefix= ?limit= ?after=
    GET /tables/{name}/{key}    the committed value; 404 where there is none
    POST /peer/…                the same for other workers of the app (``runtime.peers``), on a log that is shared

What must live here: HTTP.  What must not: what is said (``runtime.status``, ``runtime.tables``).

It changes nothing and has no authentication: it listens on the loopback address unless told otherwise.  Any worker
answers for any key; it asks the owner of the key's task.  Where $STREAMS_CLUSTER_TOKEN is set, the workers' own
questions need it; it is the same for all workers of an app, and guards nothing else.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streams.core.state import KeyedState
from streams.errors import ConfigurationError, LogUnavailable, StreamsError
from streams.runtime.peers import TOKEN_VARIABLE, PeerRead, PeerScan, cluster_token, scan_state
from streams.runtime.status import Status
from streams.runtime.tables import ROWS_MAX, BadRequest, NoSuchKey, NoSuchTable, encode_json

__all__ = ["error_body", "http_status", "json_reply", "routes", "serve", "serve_on", "unless_gone", "web_app"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Asked = TypeVar("_Asked", PeerRead, PeerScan)


def json_reply(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=encode_json(value), status=status, content_type="application/json")


def http_status(error: StreamsError) -> int:
    """The HTTP status that tells a caller which of the three it is: his fault, not there, or try again."""
    if isinstance(error, NoSuchTable | NoSuchKey):
        return 404
    if isinstance(error, BadRequest | ConfigurationError):
        return 400
    return 503 if isinstance(error, LogUnavailable) else 500


def error_body(error: StreamsError) -> dict[str, str]:
    return {"error": type(error).__name__, "message": str(error)}


@web.middleware
async def unless_gone(request: web.Request, handler: Handler) -> web.StreamResponse:
    """For every endpoint: a caller that breaks off in the midst of a request is no fault of ours, for which aiohttp
    would log a traceback."""
    try:
        return await handler(request)
    except ConnectionError:
        if request.transport is not None and not request.transport.is_closing():
            raise
        return web.Response(status=400)  # nobody reads it


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except StreamsError as error:
        return json_reply(error_body(error), http_status(error))


def routes(status: Status) -> list[web.RouteDef]:
    """What may be asked of a worker by anybody who can reach it."""

    async def health(_: web.Request) -> web.Response:
        found = status.health()
        return json_reply(found, 200 if found.ok else 503)

    async def metrics(_: web.Request) -> web.Response:
        held = status.worker.metrics
        for driver in status.worker.drivers.values():
            # Tasks count at their commits: one that doesn't come to commit would show the lag of its better days.
            held.lag.labels(held.app, driver.id).set(driver.lag)
        return web.Response(body=generate_latest(held.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def tasks(_: web.Request) -> web.Response:
        return json_reply(status.tasks())

    async def tables(_: web.Request) -> web.Response:
        return json_reply(status.tables.names())

    async def rows(request: web.Request) -> web.Response:
        query = request.query
        try:
            limit = int(query.get("limit", "100"))
        except ValueError:
            raise BadRequest(f"limit={query['limit']!r} is no whole number") from None
        name = request.match_info["name"]
        page = await status.tables.page(name, prefix=query.get("prefix", ""), limit=limit, after=query.get("after"))
        return json_reply(page)

    async def value(request: web.Request) -> web.Response:
        return json_reply(await status.tables.get(request.match_info["name"], request.match_info["key"]))

    return [
        web.get("/health", health),
        web.get("/metrics", metrics),
        web.get("/tasks", tasks),
        web.get("/tables", tables),
        web.get("/tables/{name}", rows),
        web.get("/tables/{name}/{key:.+}", value),
    ]


def _peer_routes(status: Status) -> list[web.RouteDef]:
    """What other workers of the app ask.  Answered from what runs here, or not at all: they know where else to ask."""
    worker, token = status.worker, cluster_token()

    async def body(request: web.Request) -> bytes:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if token and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise web.HTTPUnauthorized(text=f"${TOKEN_VARIABLE} is missing or another one here")
        return await request.read()

    def held(asked: PeerRead | PeerScan) -> KeyedState[Any]:
        if (asked.app, asked.log_id) != (worker.app.name, worker.log.identity):
            raise LogUnavailable(f"this is a worker of app {worker.app.name} on {worker.log.url}")
        found = worker.held(asked.task, asked.state)
        if found is None:
            raise LogUnavailable(f"task {asked.task} doesn't run here now")
        return found

    def encoder(state: str) -> Callable[[Any], bytes]:
        return worker.state_spec(state).encode

    async def read(request: web.Request) -> web.Response:
        asked = _decoded(await body(request), PeerRead)
        value = held(asked).committed(asked.key)
        return _packed(None if value is None else encoder(asked.state)(value))

    async def scan(request: web.Request) -> web.Response:
        asked = _decoded(await body(request), PeerScan)
        limit = min(asked.limit, ROWS_MAX + 1)
        found = scan_state(held(asked), asked.first, asked.end, limit)
        encode = encoder(asked.state)
        return _packed([(key, encode(value)) for key, value in found])

    return [web.post("/peer/read", read), web.post("/peer/scan", scan)]


def _decoded(body: bytes, kind: type[_Asked]) -> _Asked:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"the request can't be read: {error}") from error


def _packed(value: Any) -> web.Response:
    return web.Response(body=msgspec.msgpack.encode(value), content_type="application/x-msgpack")


def web_app(status: Status, *, peers: bool = False) -> web.Application:
    """The endpoint as an aiohttp application; with ``peers`` it answers the other workers of the app as well."""
    app = web.Application(middlewares=[unless_gone, _errors])
    app.add_routes(routes(status))
    if peers:
        app.add_routes(_peer_routes(status))
    return app


@asynccontextmanager
async def serve(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve ``app`` inside of the block; gives the port, which is chosen by the system for ``port=0``.

    Raises ConfigurationError where the address can't be had.
    """
    async with _running(app) as runner:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"can't listen on {host}:{port} ({error.strerror}); choose another --port or --host"
            ) from error
        yield int(runner.addresses[0][1])


@asynccontextmanager
async def serve_on(app: web.Application, listening: socket.socket) -> AsyncIterator[None]:
    """Serve ``app`` inside of the block, on a socket that listens already."""
    async with _running(app) as runner:
        await web.SockSite(runner, listening).start()
        yield


@asynccontextmanager
async def _running(app: web.Application) -> AsyncIterator[web.AppRunner]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handle_signals=False)
    await runner.setup()
    try:
        yield runner
    finally:
        await runner.cleanup()
