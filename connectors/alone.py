"""The membership of logs that serve one process at a time.

What must live here: that.  What must not: how workers find each other on other logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection

from streams.core.membership import Assignment, OutOfTouch, Wanted


class Alone:
    """The only worker runs everything: on a log that serves one process at a time."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted

    async def assignments(self) -> AsyncIterator[Assignment]:
        yield Assignment(frozenset(task.name for task in self._wanted.tasks))
        await asyncio.get_running_loop().create_future()

    def report(self, held: Collection[str], ready: Collection[str]) -> None:
        """Nobody else wants to know."""

    def out_of_touch(self) -> OutOfTouch | None:
        """The log is in this process."""
        return None

    async def close(self) -> None:
        """There is nothing to leave."""
