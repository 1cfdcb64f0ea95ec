"""Group commit: one fsync for all the writes that wait for one.

What must live here: who waits for what.  What must not: writing, RocksDB.

    submit ──▶ waiting ── start, one at a time, in a thread ──▶ synced ──▶ visible, then the callers go on
                              │ meanwhile others submit: theirs is the next one

A sync starts with the next turn of the event loop, so that everybody who writes in this turn shares it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial

from streams.connectors.embedded.catalog import Partition
from streams.errors import CommitUnknown, StreamsError

__all__ = ["Flusher"]


class Flusher:
    """Runs ``sync`` in ``executor``; for use on one event loop.

    sync: makes everything written durable up to a number; blocks; raises StreamsError.
    written: the number of the last write.
    """

    def __init__(self, url: str, executor: Executor, sync: Callable[[int], None], written: Callable[[], int]) -> None:
        self._url = url
        self._executor = executor
        self._sync = sync
        self._written = written
        self._waiting: list[asyncio.Future[None]] = []
        self._ends: dict[Partition, int] = {}
        self._busy = False

    def submit(self, ends: Mapping[Partition, int]) -> asyncio.Future[None]:
        """Ask for a sync of what was just written.  ``ends`` become visible with it, even if nobody awaits it.

        The future raises CommitUnknown when the sync fails.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        self._ends.update(ends)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start)
        return future

    async def idle(self) -> None:
        """Wait until nothing is on its way.  Doesn't raise for a sync that fails."""
        while self._busy:
            await asyncio.wait([self.submit({})])

    def _start(self) -> None:
        waiting, self._waiting = self._waiting, []
        ends, self._ends = self._ends, {}
        running = asyncio.get_running_loop().run_in_executor(self._executor, self._sync, self._written())
        running.add_done_callback(partial(self._finish, waiting, ends))

    def _finish(
        self, waiting: list[asyncio.Future[None]], ends: dict[Partition, int], running: asyncio.Future[None]
    ) -> None:
        error = running.exception()
        if error is not None:
            # What waits for the next sync was written to the same log and is as unknown.
            self._fail([*waiting, *self._waiting], error)
            self._waiting = []
            self._ends = {}
            self._busy = False
            return
        for partition, end in ends.items():
            partition.show(end)
        for future in waiting:
            if not future.done():
                future.set_result(None)
        if self._waiting:
            self._start()
        else:
            self._busy = False

    def _fail(self, waiting: list[asyncio.Future[None]], error: BaseException) -> None:
        for future in waiting:
            if not future.done():
                told = error
                if isinstance(error, StreamsError):
                    told = CommitUnknown(
                        f"{self._url}: the write could not be synced, so it may be lost or not ({error}); fence the "
                        f"task anew and read its checkpoint"
                    )
                    told.__cause__ = error
                future.set_exception(told)
                future.exception()  # its caller may have been cancelled: no complaint that nobody looked
