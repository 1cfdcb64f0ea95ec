"""Who should run which task.  Advice only: what keeps a task safe is the fence in its commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol


class Membership(Protocol):
    """A worker's place among the workers of its app."""

    def assignments(self, tasks: Sequence[str]) -> AsyncIterator[frozenset[str]]:
        """The tasks that this worker should run, each time they change.  ``tasks``: all of the app."""
        ...


class Alone:
    """The only worker runs everything: on the embedded log, whose lock keeps others out."""

    async def assignments(self, tasks: Sequence[str]) -> AsyncIterator[frozenset[str]]:
        yield frozenset(tasks)
        await asyncio.get_running_loop().create_future()
