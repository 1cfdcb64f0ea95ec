"""Tasks that begin again: what passes is waited out, at a pace that slows down until it has gone well for a while.

What must live here: that pace.  What must not: what a task does.

Each pause is by chance anything up to a bound that doubles: else all tasks whose broker went away come back in the same
instant, each with a claim and a few commits, and again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random

from streams.errors import Fenced, RetryableError
from streams.runtime.outages import Outages
from streams.runtime.owner import FENCED_PAUSE_S

__all__ = ["run_until"]

LEAST_S, FIRST_S, MOST_S = 0.1, 1.0, 10.0
"""No pause is shorter; the bounds of the first one and of all."""
HEALTHY_S = 30.0
"""Who has worked for so long, and got something done, begins with short pauses again: less shows nothing, since a
message that makes the other end hang up lets through what comes before it each time."""


async def run_until(
    stop: asyncio.Event,
    live: Callable[[], Awaitable[None]],
    done: Callable[[], object],
    who: str,
    *,
    seed: str,
    outages: Outages | None = None,
) -> None:
    """Call ``live`` again and again until ``stop`` is set.

    done: how far it has got.  who: names it in the line that is logged.  seed: what, with that, the pauses come from:
    not the same anywhere else, and the same again in a simulation.  Raises what isn't a RetryableError.
    """
    outages = outages or Outages()
    loop, chance, bound_s = asyncio.get_running_loop(), Random(f"{seed} {who}"), FIRST_S
    while not stop.is_set():
        before, began_s = done(), loop.time()
        try:
            await live()
        except RetryableError as error:
            fenced = isinstance(error, Fenced)
            outages.failed(who, error)
            if loop.time() - began_s >= HEALTHY_S and done() != before:
                bound_s = FIRST_S
            pause_s = FENCED_PAUSE_S
            if not fenced:
                pause_s = max(LEAST_S, bound_s * chance.random())
                bound_s = min(MOST_S, bound_s * 2)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await stop.wait()
