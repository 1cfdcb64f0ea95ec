"""A stop that no transport holds up.

What must live here: how long what is awaited may still take once a task is to let go.  What must not: what is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["LET_GO_S", "CutOff", "Stop", "StoppedEarly", "unless_stopped"]

T = TypeVar("T")

LET_GO_S = 5.0
"""How long a transport that has answered before may take after a stop: less than a worker waits for its tasks."""


class CutOff(Exception):
    """The stop didn't wait any longer.  For who awaits; it goes no further."""


class StoppedEarly(Exception):
    """The stop came before the start was over: there is nothing to let go of."""


async def unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T:
    """What ``work``, a part of a start, returns, which may take as long as an outage.  Cancels it and raises
    StoppedEarly when ``stop`` is set first, or was."""
    waiting, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait({waiting})
            if not waiting.cancelled():
                waiting.exception()  # whoever cancels doesn't want to know, and asyncio would complain
    if waiting.cancelled():
        raise StoppedEarly
    return waiting.result()


class Stop:
    """Asks a task to let go.  event: set by that."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._awaited: tuple[asyncio.Timeout, Callable[[], float]] | None = None

    def is_set(self) -> bool:
        return self.event.is_set()

    def set(self) -> None:
        """A second call changes nothing."""
        if self.event.is_set():
            return
        self.event.set()
        if self._awaited is not None:
            limit, patience_s = self._awaited
            limit.reschedule(asyncio.get_running_loop().time() + patience_s())

    async def bound(self, work: Awaitable[T], patience_s: Callable[[], float]) -> T:
        """What ``work`` returns, which may take for ever until the stop, and ``patience_s`` from then on, or from now
        if it was before.  Cancels it and raises CutOff when that is over.  One at a time."""
        try:
            async with asyncio.timeout(patience_s() if self.is_set() else None) as limit:
                self._awaited = limit, patience_s
                try:
                    return await work
                finally:
                    self._awaited = None
        except TimeoutError:
            if not limit.expired():
                raise  # it is the work's own
            raise CutOff("a stop didn't wait any longer") from None
