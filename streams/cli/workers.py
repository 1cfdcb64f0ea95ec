"""The workers of an app on a log that they share: whether there are any, and asking one.

What must live here: finding and calling them.  What must not: what is asked (``cli.tables``), the worker that holds an
embedded log, which is reached by its control port (``cli.remote``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streams.errors import ConfigurationError, LogUnavailable

if TYPE_CHECKING:
    from streams.cli.access import ToolLog
    from streams.core.log import Log
    from streams.core.membership import Member
    from streams.dsl.app import App

__all__ = ["Workers", "kinds_on", "refuse_while_workers_run", "workers_of"]

PATIENCE_S = 10.0
LOOK_S = 0.3
TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 2.0


class Workers:
    """The addresses of an app's workers; any of them answers for all."""

    def __init__(self, app: str, addresses: Sequence[str]) -> None:
        self._app = app
        self._addresses = addresses

    async def get(self, path: str, **query: str) -> bytes:
        """The answer of the first worker that can be reached.  Raises what it answers, or LogUnavailable."""
        import aiohttp

        from streams.cli.remote import raised

        failure: Exception | None = None
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for address in self._addresses:
                try:
                    async with session.get(f"http://{address}{path}", params=query) as response:
                        body = await response.read()
                except (aiohttp.ClientError, TimeoutError) as error:
                    failure = error
                    continue
                if response.status != 200:
                    raise raised(body, response.status)
                return body
        raise LogUnavailable(
            f"app {self._app} runs, but none of its workers answers at {', '.join(self._addresses)} "
            f"({type(failure).__name__}); ask from their machine, or start them with --host and --advertise"
        )


async def workers_of(app: App, log: ToolLog) -> Workers | None:
    """The workers of an app; None while none runs.  Waits for a rebalance that is under way."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while True:
        members = await _members(app, log)
        addresses = sorted(member.address for member in members if member.address)
        if not members:
            return None
        if addresses:
            return Workers(app.name, addresses)
        if loop.time() > deadline:
            raise LogUnavailable(
                f"app {app.name} has {len(members)} workers that are dividing its tasks; try again in a moment"
            )
        await asyncio.sleep(LOOK_S)


async def refuse_while_workers_run(app: App, log: Log) -> None:
    """Raises ConfigurationError where a worker of the app is there, on whichever machine."""
    members = await log.members(app.name)
    if members:
        where = ", ".join(sorted(member.address for member in members if member.address))
        raise ConfigurationError(
            f"{len(members)} {'worker' if len(members) == 1 else 'workers'} of app {app.name} on {log.url}"
            f"{f' ({where})' if where else ''}: stop all of them first; one that was killed, or was stopped and has "
            f"a name, counts until its session is over"
        )


async def _members(app: App, log: ToolLog) -> Sequence[Member]:
    return await log.members(app.name)  # type: ignore[attr-defined,no-any-return]


def _kind_of(internal: str) -> str:
    ending = internal.rpartition(".")[2]
    return ending if ending in ("outbox", "journal") else "repartition"


async def kinds_on(log: ToolLog, names: Sequence[str], only: str = "") -> dict[str, str]:
    """Which of these topics belong to the workings of an app, and what each is, on a log that can't tell by itself.

    The apps are known by their checkpoints, and say themselves what is theirs.  only: the one topic that matters, so
    that not every app has to be asked.
    """
    import msgspec

    from streams.core.topology import TopologyRecord, control_ref
    from streams.dsl.blueprint import changelog_topic
    from streams.runtime.places import is_shared
    from streams.runtime.replies import replies_topic

    kinds: dict[str, str] = {}
    if not is_shared(log.url):
        return kinds
    for name in names:
        app, dot, what = name.rpartition(".")
        if not dot or what != "checkpoints" or not (only or name).startswith(f"{app}."):
            continue
        stored = await log.checkpoint(control_ref(app))
        if stored is None:
            continue
        try:
            record = msgspec.msgpack.decode(stored, type=TopologyRecord)
        except msgspec.DecodeError:
            continue  # somebody else's topic that is called like one of ours
        kinds[name] = "checkpoints"
        kinds[replies_topic(app).name] = "replies"
        kinds |= {changelog_topic(app, store): "changelog" for store in record.stores}
        kinds |= {topic: _kind_of(topic) for topic in record.internal_topics}
    return {name: kind for name, kind in kinds.items() if name in names}
