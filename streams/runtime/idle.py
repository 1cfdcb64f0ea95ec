"""Whether there is anything left to do: for ``--until-idle``.

What must live here: looking at what is committed and at the ends of the inputs.  What must not: ending the worker.

Idle is two looks with the same ends, all of them processed and committed, with time for in-band marks between.  On a
log that workers share, the tasks of the others count as well, by their checkpoints: what they have yet to write may
come to ours, and a worker that leaves early would hand them over for nothing.
"""

from __future__ import annotations

import asyncio

from streams.core.checkpoint import decode_checkpoint
from streams.core.record import START, Position, TopicPartition
from streams.errors import LogUnavailable
from streams.runtime.places import is_shared
from streams.runtime.worker import Worker

__all__ = ["Idle"]

BETWEEN_S = 0.15
LOOK_AT_OTHERS_EVERY_S = 0.5

Ends = dict[TopicPartition, Position]


class Idle:
    """Looks at one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._shared = is_shared(worker.log.url)
        self._between_s = BETWEEN_S + 2 * worker.app.watermark_interval_ms / 1000
        self._seen: Ends | None = None
        self._seen_at = 0.0
        self._looked_at = float("-inf")

    async def look(self) -> bool:
        """True when nothing is left to do.  Called again and again."""
        worker = self._worker
        now = asyncio.get_running_loop().time()
        if self._shared and worker.caught_up and now - self._looked_at < LOOK_AT_OTHERS_EVERY_S:
            return False
        self._looked_at = now
        ends = await self._ends() if worker.caught_up else None
        if ends is None or not worker.caught_up:
            self._seen = None
            return False
        if ends != self._seen:
            self._seen, self._seen_at = ends, now
            return False
        return now - self._seen_at >= self._between_s

    async def _ends(self) -> Ends | None:
        """The ends of all inputs as the log has them now; None while one isn't read and committed up to there."""
        try:
            committed = self._committed_here()
            others = await self._committed_elsewhere() if self._shared else {}
            if others is None:
                return None
            committed.update(others)
            bounds = await self._worker.log.bounds(list(committed))
        except LogUnavailable:
            return None
        if all(position.reached(bounds[at].end) for at, position in committed.items()):
            return {at: each.end for at, each in bounds.items()}
        return None

    def _committed_here(self) -> Ends:
        worker = self._worker
        own = {spec.name for spec in worker.blueprint.own_topics}
        tasks = [driver.task for driver in worker.drivers.values()]
        committed = {
            each.partition: task.checkpoint.position(each.partition) or START
            for task in tasks
            if task is not None
            for each in task.inputs
            if each.partition.topic in own  # for the others ``caught_up`` has to do, which knows their ends
        }
        committed.update({delivery.at: delivery.delivered for delivery in worker.deliveries.values()})
        return committed

    async def _committed_elsewhere(self) -> Ends | None:
        """What tasks that don't run here have committed; None while one of them has never run."""
        worker, blueprint = self._worker, self._worker.blueprint
        own = {spec.name for spec in blueprint.own_topics}
        committed: Ends = {}
        wanted: dict[str, list[TopicPartition]] = {}
        for each in blueprint.subtopologies:
            topics = sorted({node.reads.name for node in each.nodes if node.reads is not None} & own)
            for partition, task in enumerate(each.task_ids):
                wanted[task] = [TopicPartition(topic, partition) for topic in topics]
        for outbox in blueprint.outboxes:
            for partition, task in enumerate(outbox.task_ids):
                wanted[task] = [TopicPartition(outbox.topic.name, partition)]
        away = [task for task in wanted if task not in worker.drivers and task not in worker.deliveries]
        stored = await asyncio.gather(*(worker.log.checkpoint(worker.ref(task)) for task in away))
        for task, checkpoint in zip(away, stored, strict=True):
            if checkpoint is None:
                return None
            found = decode_checkpoint(checkpoint)
            committed.update({at: found.position(at) or START for at in wanted[task]})
        return committed
