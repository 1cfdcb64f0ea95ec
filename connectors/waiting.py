"""How a reader within the process waits for records.

What must live here: the loop around looking and waiting.  What must not: where the records are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from streams.core.record import Fetched


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
