"""How a tool gets at a log: through the worker that holds it, or by opening it while nobody does.

What must live here: that choice.  What must not: what tools do with the log.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from streams.cli.remote import RemoteLog
from streams.connectors.embedded.config import parse_url
from streams.connectors.embedded.lock import FILE_NAME, read_holder
from streams.connectors.registry import open_foreign, open_log
from streams.connectors.renamed import foreign_topic
from streams.core.log import Append, Log, Reader, TaskRef, TopicInfo, TopicSpec
from streams.core.record import Bounds, Positions, TopicPartition
from streams.core.topology import TopologyRecord, control_ref, task_refs
from streams.errors import ConfigurationError, LogLocked, StreamsError

if TYPE_CHECKING:
    from streams.dsl.app import App
    from streams.dsl.blueprint import Blueprint

__all__ = ["ToolLog", "blueprint_on", "exists", "is_local", "reach", "task_refs_on"]

PATIENCE_S = 5.0
"""How long to wait for a holder without a control port: another tool, or a worker that is just starting."""
PAUSE_S = 0.05


class ToolLog(Protocol):
    """What tools use of a log; ``Log`` and ``RemoteLog`` both are one."""

    @property
    def url(self) -> str: ...
    async def close(self) -> None: ...
    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]: ...
    async def create_topics(self, specs: Sequence[TopicSpec]) -> None: ...
    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]: ...
    def reader(self, positions: Positions) -> Reader: ...
    async def append(self, appends: Sequence[Append]) -> Positions: ...
    async def checkpoint(self, task: TaskRef) -> bytes | None: ...
    def partition_for(self, key: bytes, partitions: int) -> int: ...


def is_local(log: ToolLog) -> bool:
    """True when this process has the log open itself."""
    return not isinstance(log, RemoteLog)


async def task_refs_on(log: ToolLog, app: str) -> Mapping[str, TaskRef]:
    """The tasks of an app, by name, as it left them on the log; none before its first run."""
    stored = await log.checkpoint(control_ref(app))
    return {} if stored is None else task_refs(msgspec.msgpack.decode(stored, type=TopologyRecord))


async def blueprint_on(app: App, log: ToolLog) -> Blueprint:
    """The app's blueprint, with what its topics are on their logs in place of defaults.

    A foreign log that can't be reached is passed over: its topics count as they are declared.
    """
    from streams.runtime.existing import build_on

    async with AsyncExitStack() as opened:
        there: dict[str, ToolLog | None] = {}
        for spec in app.build().foreign_topics:
            if spec.location not in there:
                try:
                    there[spec.location] = await opened.enter_async_context(reach(spec.location, foreign=True))
                except StreamsError:
                    there[spec.location] = None
        foreign = {
            spec.name: foreign_topic(held, spec)
            for spec in app.build().foreign_topics
            if (held := there[spec.location]) is not None
        }
        return await build_on(app, log, foreign)


@asynccontextmanager
async def reach(url: str, *, create: bool = False, foreign: bool = False) -> AsyncIterator[ToolLog]:
    """A log to work with inside of the block.

    create: make an embedded log that doesn't exist; else that is a ConfigurationError.  foreign: the URL is the
    location of topics that aren't on an app's own log.  Raises LogLocked when whoever holds it can't be reached.
    """
    if url.startswith("embedded:"):
        log = await _embedded(url, create)
    else:
        log = await _opened(open_foreign(url)) if foreign else await _other(url)
    try:
        yield log
    finally:
        await log.close()


async def _other(url: str) -> ToolLog:
    if url.startswith("memory:"):
        raise ConfigurationError(
            "a log in memory can only be seen by the process that has it; use --log embedded:./data"
        )
    return await _opened(open_log(url))


async def _opened(log: Log) -> ToolLog:
    await log.open()
    return cast(ToolLog, log)


def exists(url: str) -> bool:
    """True where an embedded log has been made."""
    return os.path.exists(os.path.join(parse_url(url).path, FILE_NAME))


async def _embedded(url: str, create: bool) -> ToolLog:
    path = parse_url(url).path
    if not create and not exists(url):
        raise ConfigurationError(
            f"there is no log in {path}; start a worker on it, send to it with `streams send --create`, "
            f"or name another with --log"
        )
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while True:
        holder = read_holder(path)
        if holder is not None and holder.port is not None:
            return RemoteLog(f"embedded:{path}", holder)
        try:
            if holder is None:
                return await _opened(open_log(url))
            raise LogLocked(
                f"{url}: the log is held by {holder.describe()}, which has no control port; wait for it, or stop it"
            )
        except LogLocked:
            if loop.time() >= deadline:
                raise
            await asyncio.sleep(PAUSE_S)
