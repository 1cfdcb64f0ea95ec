"""Appends outside of any task: many callers, one producer session.

What must live here: gathering what callers hand in while a write is under way, and telling each what became of its own.
What must not: sending (``producer``).

The records of one append and partition are one write, in order; appends to several partitions are several.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.connectors.kafka.producer import Runs, Session, open_session, position_behind
from streams.core.log import Append
from streams.core.record import Positions, Records, TopicPartition
from streams.errors import CommitUnknown, ConfigurationError, DataError, LogUnavailable

if TYPE_CHECKING:
    from streams.connectors.kafka.cluster import Cluster

__all__ = ["Appender"]


GROUP_BYTES = 16 * 2**20
"""What is written at once, unless one append alone is larger."""


@dataclass(slots=True)
class _Waiting:
    appends: Sequence[Append]
    size: int
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

    async def append(self, appends: Sequence[Append], size: int) -> Positions:
        """Store the records; the position behind the last one of each partition.  Errors as of ``Log.append``.

        size: of the records in bytes.

        With acks=0 no broker says where anything lies, or whether it does: there are no positions then.
        """
        # A topic that doesn't exist is waited for by this caller, not by those it would share a write with.
        unheard = {append.partition for append in appends if self._cluster.topic_id(append.partition.topic) is None}
        if unheard:
            await self._cluster.leaders(unheard)
        waiting = _Waiting(appends, size, asyncio.get_running_loop().create_future())
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
                await self._write_group(self._take_group())
        finally:
            self._writing = None

    def _take_group(self) -> list[_Waiting]:
        """Those that wait longest.  All of them in one request could be more than a broker accepts, which would end
        the connection without a word (``socket.request.max.bytes``, 100 MiB)."""
        count, size = 0, 0
        for waiting in self._waiting:
            size += waiting.size
            if count and size > GROUP_BYTES:
                break
            count += 1
        group = self._waiting[:count]
        del self._waiting[:count]
        return group

    async def _write_group(self, group: Sequence[_Waiting]) -> None:
        """Write for all of them at once; if that fails by what is wrong with one of them, for each by itself."""
        parts: dict[TopicPartition, Records] = {}
        behind: list[dict[TopicPartition, int]] = []
        for waiting in group:
            mine: dict[TopicPartition, int] = {}
            for append in waiting.appends:
                if len(append.records):
                    parts.setdefault(append.partition, Records()).extend(append.records)
                    mine[append.partition] = len(parts[append.partition])
            behind.append(mine)
        runs: dict[TopicPartition, Runs] = {}
        try:
            if self._session is None:
                self._session = await open_session(self._cluster, self._lane)
            await self._session.produce(parts, patience_s=self._patience_s, runs=runs)
        except asyncio.CancelledError:
            self._fail(group, CommitUnknown(f"{self._cluster.url}: the log was closed while it wrote"))
            raise
        except Exception as error:  # each of them is told, and raises it
            uncertain = self._session.uncertain if self._session is not None else {}
            self._session = None
            alone = self._settle(group, behind, runs, uncertain, error)
            try:
                while alone:
                    await self._write_group([alone.pop(0)])
            finally:
                self._waiting[:0] = alone  # cut short by close, which tells them
            return
        for waiting, mine in zip(group, behind):
            self._tell(waiting, runs, mine)

    def _settle(
        self,
        group: Sequence[_Waiting],
        behind: Sequence[Mapping[TopicPartition, int]],
        runs: Mapping[TopicPartition, Runs],
        uncertain: Mapping[TopicPartition, int],
        error: Exception,
    ) -> list[_Waiting]:
        """Tell each what became of its own after an error.  Those to try by themselves: nothing of theirs is stored,
        and what failed may have been another's.

        behind: for each of the group, where its records end among those of a partition.
        """
        stored = {at: sum(count for _, count in held) for at, held in runs.items()}
        begins: dict[TopicPartition, int] = {}
        left: list[_Waiting] = []
        for waiting, mine in zip(group, behind):
            done = all(count <= stored.get(at, 0) for at, count in mine.items())
            untouched = all(begins.get(at, 0) >= stored.get(at, 0) + uncertain.get(at, 0) for at in mine)
            begins.update(mine)
            if done:
                self._tell(waiting, runs, mine)
            elif untouched and isinstance(error, LogUnavailable | CommitUnknown):
                self._fail([waiting], LogUnavailable(f"{error}; nothing of this append is stored"))
            elif untouched and len(group) > 1:
                left.append(waiting)
            elif untouched or isinstance(error, DataError | ConfigurationError):
                self._fail([waiting], error)
            else:
                self._fail([waiting], CommitUnknown(f"{error}; some of this append may be stored"))
        return left

    def _fail(self, group: Sequence[_Waiting], error: Exception) -> None:
        for waiting in group:
            if not waiting.told.done():
                waiting.told.set_exception(error)

    def _tell(self, waiting: _Waiting, runs: Mapping[TopicPartition, Runs], mine: Mapping[TopicPartition, int]) -> None:
        if not waiting.told.done():  # its caller may have gone
            said = self._cluster.config.acks != "0"
            waiting.told.set_result({at: position_behind(runs[at], n) for at, n in mine.items()} if said else {})
