"""An edge for tests of apps: nothing comes in by itself, and what goes out is kept on a log in memory.

What must live here: that edge.  What must not: what a test sends (``driver``).
"""

from __future__ import annotations

import asyncio

from streams.connectors.memory.log import MemoryLog
from streams.core.capability import Derived, Guarantee
from streams.core.edge import Keep, Received
from streams.core.log import Append, TopicSpec
from streams.core.record import Records, TopicPartition

__all__ = ["QuietEdge"]


class QuietIntake:
    """Receives nothing."""

    lost = 0

    async def receive(self, *, max_records: int, max_bytes: int, wait_s: float) -> Received | None:
        await asyncio.sleep(wait_s)
        return None

    async def stored(self) -> None: ...

    async def end(self) -> None: ...

    async def close(self) -> None: ...


class QuietOutlet:
    """Appends to a topic."""

    batch = 1000
    under_way = sent = 0
    keeps_first = False
    connected = True
    state = None

    def __init__(self, log: MemoryLog, at: TopicPartition) -> None:
        self._log = log
        self._at = at

    async def send(self, records: Records, keep: Keep) -> None:
        await self._log.append([Append(self._at, records)])

    async def close(self) -> None: ...


class QuietEdge:
    """An ``Edge`` that is a log in memory to those who write to it."""

    url = "memory:"

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def guarantee(self, *, written: bool) -> Derived:
        return Derived(Guarantee.AT_LEAST_ONCE if written else Guarantee.AT_MOST_ONCE, "it is a test")

    async def open(self) -> None:
        await self._log.open()

    async def close(self) -> None:
        await self._log.close()

    def check(self, topic: TopicSpec, *, written: bool) -> None: ...

    async def intake(self, source: TopicSpec, group: str, partition: int, state: bytes | None) -> QuietIntake:
        return QuietIntake()

    async def outlet(self, target: TopicSpec, group: str, partition: int, state: bytes | None) -> QuietOutlet:
        return QuietOutlet(self._log, TopicPartition(target.name, 0))
