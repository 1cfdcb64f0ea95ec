"""How loops wait: a reader within the process for records, any other loop to be woken.

What must live here: the loop around looking and waiting, and wake-ups.  What must not: where the records are, and what
is done between two waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from streams.core.record import Fetched

__all__ = ["Wake", "fetch_or_wait"]


class Wake:
    """Wakes a loop that does a step and waits, over and over.

    A wake-up is consumed by the wait that it ends, whatever became of the step before.  A wait suspends even when a
    wake-up is there already.  So a loop whose steps all fail at once can't spin and keep everything else from running.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._news = asyncio.Event()

    def set(self) -> None:
        """End the wait that goes on, or the next one."""
        self._event.set()

    def set_by_others(self) -> None:
        """As ``set``, and end the pause after a failure as well: what it failed at is there again, since others have
        been heard by it."""
        self._event.set()
        self._news.set()

    async def wait(self, most_s: float, *, least_s: float = 0.0) -> None:
        """Return at a wake-up, but not before ``least_s`` unless others are heard, and after ``most_s`` without one."""
        await asyncio.sleep(0)
        await self._until(self._news, least_s)
        await self._until(self._event, most_s - least_s)
        self._event.clear()
        self._news.clear()

    async def _until(self, event: asyncio.Event, most_s: float) -> None:
        if most_s > 0.0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(most_s):
                    await event.wait()


async def fetch_or_wait(
    look: Callable[[], Awaitable[Sequence[Fetched]]], arrived: asyncio.Event, wait_s: float
) -> Sequence[Fetched]:
    """What ``look`` finds, as soon as it finds something; empty after ``wait_s``.  ``arrived`` is set by each write."""
    deadline: float | None = None
    loop = asyncio.get_running_loop()
    while True:
        arrived.clear()  # before looking: a write in between must wake
        found = await look()
        if found:
            return found
        now = loop.time()
        if deadline is None:
            deadline = now + wait_s
        if now >= deadline:
            return []
        try:
            async with asyncio.timeout_at(deadline):
                await arrived.wait()
        except TimeoutError:
            deadline = now  # one look more: the record may have come in the same turn of the loop
