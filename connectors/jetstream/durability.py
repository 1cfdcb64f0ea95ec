"""What a power failure of the servers could lose.

What must live here: reading ``sync_interval`` where that can be had, and the words.  What must not: changing it.

A server acknowledges what it has written and not synced, unless its ``sync_interval`` is ``always``.  That setting is
in its varz: by a request on the system account's subjects, which an account may send that imports them, or from its
monitoring port.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any, NamedTuple

from streams.connectors.jetstream.api import Api, ApiError
from streams.connectors.jetstream.client import Connection
from streams.connectors.jetstream.names import CATALOG, app_stream
from streams.core.duration import format_duration_ms
from streams.core.telling import PowerFailure
from streams.errors import StreamsError

__all__ = ["power_failure"]

DEFAULT_MS = 120_000
PATIENCE_S = 2.0
VARZ_BYTES_MAX = 2**22


class _Sync(NamedTuple):
    """known: from where; "" when it is only assumed.  why: it couldn't be read."""

    always: bool
    interval_ms: int
    known: str
    why: str = ""


async def power_failure(api: Api, group: str, monitor_url: str) -> PowerFailure:
    """Of the commits of ``group``, or of the log as such for "".  Raises nothing that a server may cause."""
    connection = api.connection
    sync = await _sync(connection, monitor_url)
    replicas = await _replicas(api, group)
    version = connection.server.get("version", "")
    return describe(f"nats-server {version} at {connection.place}", sync, replicas)


def describe(server: str, sync: _Sync, replicas: int) -> PowerFailure:
    held = f"replicas={replicas}" if replicas else "replicas unknown"
    if sync.always:
        return PowerFailure(
            f"{server} syncs its disk before it acknowledges (sync_interval: always, {held}): a power failure loses "
            f"nothing that was committed",
            True,
        )
    interval = format_duration_ms(sync.interval_ms)
    known = (
        f"sync_interval: {interval}, from {sync.known}"
        if sync.known
        else f"sync_interval: {interval} is assumed, its default; {sync.why}"
    )
    who = (
        "a power failure"
        if replicas < 2
        else f"a power failure of more than one of the {replicas} servers, or of one while another lags,"
    )
    return PowerFailure(
        f"{server} acknowledges before fsync: {who} could lose commits of up to the last {interval} ({known}; {held}); "
        f"with sync_interval: always it loses none",
        False,
    )


async def _replicas(api: Api, group: str) -> int:
    """The least of the streams that commits go to; 0 where they can't be seen."""
    found = []
    for name in [CATALOG, *([app_stream(group)] if group else [])]:
        try:
            async with asyncio.timeout(PATIENCE_S):
                stream = await api.stream(name)
        except (StreamsError, ApiError, TimeoutError):
            continue
        if stream is not None:
            found.append(int(stream["config"].get("num_replicas", 1)))
    return min(found, default=0)


async def _sync(connection: Connection, monitor_url: str) -> _Sync:
    try:
        async with asyncio.timeout(PATIENCE_S):
            answer = await connection.request(f"$SYS.REQ.SERVER.{connection.server.get('server_id', '')}.VARZ")
        return _read(json.loads(answer.payload)["data"], "its varz")
    except (StreamsError, TimeoutError, ValueError, KeyError, TypeError):
        pass  # of a user who may not ask that, as most may not
    if not monitor_url:
        return _Sync(False, DEFAULT_MS, "", "monitor_url=http://<server>:8222 lets us read it")
    try:
        return _read(await asyncio.to_thread(_fetched, f"{monitor_url.rstrip('/')}/varz"), monitor_url)
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "reason", None) or error
        return _Sync(False, DEFAULT_MS, "", f"{monitor_url} can't be read: {why}")


def _fetched(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return json.loads(answer.read(VARZ_BYTES_MAX))


def _read(varz: dict[str, Any], where: str) -> _Sync:
    config = varz["jetstream"]["config"]
    return _Sync(bool(config.get("sync_always")), int(config["sync_interval"]) // 1_000_000, where)
