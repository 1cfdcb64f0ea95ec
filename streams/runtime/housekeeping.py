"""What a worker does beside its tasks: what may be freed on the log, and timers that are this worker's own.

What must live here: looking at tasks, and at the membership, from beside.  What must not: starting and stopping them
(``runtime.worker``).
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

from streams.core.record import Position, TopicPartition
from streams.errors import LogUnavailable

if TYPE_CHECKING:
    from streams.dsl.timer import Timer
    from streams.runtime.clock import Clock
    from streams.runtime.worker import Worker

__all__ = ["TOUCH_LOST_S", "consumed", "tick_here", "watch_touch"]

TOUCH_EVERY_S = 1.0
TOUCH_LOST_S = 2.0
"""How long a log may leave a member without an answer before that counts: one that elects a leader is back before."""


def consumed(worker: Worker) -> dict[TopicPartition, Position]:
    """The committed positions in internal topics that only their task reads: what lies before them may be freed."""
    found: dict[TopicPartition, Position] = {}
    for driver in worker.drivers.values():
        task = driver.task
        if task is None:
            continue
        for each in task.inputs:
            position = task.checkpoint.position(each.partition)
            kind = worker.blueprint.topics[each.partition.topic].kind
            if kind in ("repartition", "journal") and position is not None:
                found[each.partition] = position
    for delivery in worker.deliveries.values():
        if delivery.position is not None:
            found[delivery.at] = delivery.position
    return found


async def watch_touch(worker: Worker) -> None:
    """Tell of an outage of the log that the membership notices, also by a worker without tasks, and of its end."""
    lost_before, who = False, "the membership waits"
    while True:
        await asyncio.sleep(TOUCH_EVERY_S)
        lost = worker.cut_off()
        if lost is not None:
            worker.outages.failed(who, LogUnavailable(f"{lost.server}: {lost.why}"))
            lost_before = True
        elif lost_before:
            worker.outages.works(worker.log.url, who)
            lost_before = False


async def tick_here(timer: Timer, clock: Clock) -> None:
    """Call a timer that each worker has for itself, whenever it is due."""
    while True:
        now = clock.now_ms()
        await asyncio.sleep((timer.next_after(now) - now) / 1000)
        result = timer.fn()
        assert inspect.isawaitable(result)
        await result
