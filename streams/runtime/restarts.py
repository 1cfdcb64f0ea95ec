"""Tasks that begin again: what passes is waited out, at a pace that slows down while nothing gets done.

What must live here: that pace.  What must not: what a task does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from streams.errors import Fenced, RetryableError
from streams.runtime.owner import FENCED_PAUSE_S

__all__ = ["run_until"]

logger = logging.getLogger("streams")

LEAST_S, MOST_S = 0.1, 10.0


async def run_until(
    stop: asyncio.Event, live: Callable[[], Awaitable[None]], done: Callable[[], object], who: str
) -> None:
    """Call ``live`` again and again until ``stop`` is set.

    done: how far it has got; the pause after an error grows while that stays the same.  who: names it in the line that
    is logged.  Raises what isn't a RetryableError.
    """
    pause_s = LEAST_S
    while not stop.is_set():
        before = done()
        try:
            await live()
        except RetryableError as error:
            logger.log(logging.INFO if isinstance(error, Fenced) else logging.WARNING, "%s: %s", who, error)
            pause_s = LEAST_S if done() != before else min(MOST_S, pause_s * 2)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FENCED_PAUSE_S if isinstance(error, Fenced) else pause_s):
                    await stop.wait()
