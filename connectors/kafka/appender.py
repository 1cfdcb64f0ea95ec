"""Appends outside of any task: many callers, one producer session.

What must live here: gathering what callers hand in while a write is under way, and telling each what became of its own.
What must not: sending (``producer``).

The records of one append and partition are one write, in order; appends to several partitions are several.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.connectors.kafka.producer import Session, open_session, position_behind
from streams.core.log import Append
from streams.core.record import Positions, Records, TopicPartition
from streams.errors import CommitUnknown, LogUnavailable, StreamsError

if TYPE_CHECKING:
    from streams.connectors.kafka.cluster import Cluster

__all__ = ["Appender"]


@dataclass(slots=True)
class _Waiting:
    appends: Sequence[Append]
    told: asyncio.Future[Positions]


class Appender:
    """Writes what it is given in groups.  One session, made anew after an error."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lane = cluster.lane("appends")
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._patience_s = cluster.config.request_timeout_ms / 1000

    async def append(self, appends: Sequence[Append]) -> Positions:
        """Store the records; the position behind the last one of each partition.  Errors as of ``Log.append``."""
        # A topic that doesn't exist is this caller's error, not that of those it shares a write with.
        await self._cluster.leaders({append.partition for append in appends})
        waiting = _Waiting(appends, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())
        return await waiting.told

    async def close(self) -> None:
        """What is still waiting is told that it isn't stored."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        for waiting in self._waiting:
            if not waiting.told.done():
                waiting.told.set_exception(LogUnavailable(f"{self._cluster.url}: the log is closed"))
        self._waiting.clear()
        self._cluster.drop(self._lane)

    async def _write(self) -> None:
        try:
            while self._waiting:
                if self._cluster.config.linger_ms:
                    await asyncio.sleep(self._cluster.config.linger_ms / 1000)
                group, self._waiting = self._waiting, []
                await self._write_group(group)
        finally:
            self._writing = None

    async def _write_group(self, group: list[_Waiting]) -> None:
        parts: dict[TopicPartition, Records] = {}
        behind: list[dict[TopicPartition, int]] = []
        for waiting in group:
            mine: dict[TopicPartition, int] = {}
            for append in waiting.appends:
                if len(append.records):
                    parts.setdefault(append.partition, Records()).extend(append.records)
                    mine[append.partition] = len(parts[append.partition])
            behind.append(mine)
        try:
            if self._session is None:
                self._session = await open_session(self._cluster, self._lane)
            runs = await self._session.produce(parts, patience_s=self._patience_s)
        except asyncio.CancelledError:
            self._fail(group, CommitUnknown(f"{self._cluster.url}: the log was closed while it wrote"))
            raise
        except StreamsError as error:
            self._session = None
            # Of several partitions, and of several batches of one, some may be stored already.
            several = len(parts) > 1 or not isinstance(error, LogUnavailable)
            unknown = several and isinstance(error, LogUnavailable)
            self._fail(group, CommitUnknown(str(error)) if unknown else error)
            return
        for waiting, mine in zip(group, behind):
            if not waiting.told.done():
                waiting.told.set_result({at: position_behind(runs[at], count) for at, count in mine.items()})

    def _fail(self, group: list[_Waiting], error: StreamsError) -> None:
        for waiting in group:
            if not waiting.told.done():
                waiting.told.set_exception(error)
