"""What a worker says of itself: health, tasks, restores.

What must live here: the facts, as plain data.  What must not: HTTP (``runtime.web``), acting on them (``worker``).

A worker is healthy when every task runs, none is stuck, and its log knows it as a member.  That the event loop answers
proves nothing, nor does it that a worker without tasks has none that waits.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from streams.core.batch import NEVER
from streams.core.log import distance_on
from streams.core.record import START, Position
from streams.runtime.driver import Driver, Phase
from streams.runtime.housekeeping import TOUCH_LOST_S
from streams.runtime.tables import TableReader
from streams.runtime.worker import Worker

__all__ = ["Health", "Status"]


@dataclass(frozen=True, slots=True)
class Health:
    """status: ok, starting, restoring, stuck, disconnected (from its log, or from what it
    receives from or delivers to) or stopping; only ``ok`` is healthy.
    problems: one line each."""

    status: str
    app: str
    tasks: dict[str, str]
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.status == "ok"


class Status:
    """Looks at one worker.  ``working``: set by who runs it, once it has started and until it stops."""

    def __init__(self, worker: Worker, liveness_timeout_s: float) -> None:
        self.worker = worker
        self.working = False
        self.stopping = False
        self.restores: dict[str, tuple[int, int]] = {}
        self._delivered: dict[str, tuple[Position, float]] = {}
        self._connecting: dict[str, float] = {}
        self.tables = TableReader(worker.app, worker.log.partition_for, worker.reads)
        self._liveness_timeout_s = liveness_timeout_s

    def note_restore(self, task: str, done: int, total: int) -> None:
        """A ``Progress`` callback."""
        self.restores[task] = (done, total)

    @property
    def running(self) -> bool:
        """Every task of the worker runs; it may have none, where others have them all."""
        worker = self.worker
        return self.working and worker.assigned and all(each.phase is Phase.RUNNING for each in worker.drivers.values())

    def health(self) -> Health:
        worker = self.worker
        tasks = {name: driver.phase.value for name, driver in sorted(worker.drivers.items())}
        tasks |= dict.fromkeys(sorted(worker.deliveries), "delivering")
        tasks |= {name: each.phase for name, each in sorted(worker.ingresses.items())}
        now = asyncio.get_running_loop().time()
        stuck = [*worker.stuck(now, self._liveness_timeout_s), *self._undelivered(now), *self._unheard(now)]
        waiting = [self._waiting(name, driver) for name, driver in sorted(worker.drivers.items())]
        cut_off = self._cut_off()
        problems = [*cut_off, *stuck, *(line for line in waiting if line)]
        if self.stopping:
            status = "stopping"
        elif cut_off:  # that others are stuck follows from it
            status = "disconnected"
        elif stuck:
            status = "stuck"
        elif any(driver.phase is Phase.RESTORING for driver in worker.drivers.values()):
            status = "restoring"
        elif not self.running:
            status = "starting"
        else:
            status = "ok"
        return Health(status, worker.app.name, tasks, problems)

    def _cut_off(self) -> list[str]:
        """A line for the log and each other server that has left the worker without an answer for too long."""
        found: list[str] = []
        worker = self.worker
        lost = worker.cut_off()
        if lost is not None:
            for_s = max(0.0, time.monotonic() - lost.since_s)
            words = f"out of touch with {lost.server} for {for_s:.0f} s ({lost.why})"
            found.append(f"{words}; its tasks go on when it answers")
        unwatched = [] if worker.assigned else [worker.log.url]  # no membership yet that would notice
        for server in [*unwatched, *worker.outside.carriers]:
            outage = worker.outages.lasting(server)
            if outage is not None and outage[0] >= TOUCH_LOST_S:
                found.append(f"away for {outage[0]:.0f} s: {outage[1]}; what needs it waits and tries again")
        return found

    def _undelivered(self, now: float) -> list[str]:
        """One line for each delivery that has stood still since an earlier look, for longer than is allowed."""
        found: list[str] = []
        for name, delivery in sorted(self.worker.deliveries.items()):
            known, since = self._delivered.get(name, (None, now))
            if delivery.caught_up or known != delivery.delivered:
                since = now
            self._delivered[name] = (delivery.delivered, since)
            if now - since > self._liveness_timeout_s:
                found.append(f"delivery {name} has delivered nothing for {now - since:.0f} s; look at its target")
        return found

    def _unheard(self, now: float) -> list[str]:
        """One line for each ingress that has found nobody to receive from since an earlier look, for too long."""
        self._connecting = {
            name: self._connecting.get(name, now)
            for name, ingress in sorted(self.worker.ingresses.items())
            if ingress.phase == "connecting"
        }
        return [
            f"ingress {name} has been connecting for {now - since:.0f} s; look at what it receives from"
            for name, since in self._connecting.items()
            if now - since > self._liveness_timeout_s
        ]

    def _waiting(self, task: str, driver: Driver) -> str:
        if driver.phase is Phase.RUNNING:
            return ""
        if driver.phase is Phase.RESTORING:
            done, total = self.restores.get(task, (0, 0))
            return f"task {task} restores its store: {done} of {total} changelog records"
        return f"task {task} doesn't run: {driver.phase.value}"

    def tasks(self) -> list[dict[str, Any]]:
        """One entry for each task of this worker, plain data."""
        now = asyncio.get_running_loop().time()
        deliveries = [
            {"task": name, "phase": "delivering", "caught_up": each.caught_up}
            for name, each in sorted(self.worker.deliveries.items())
        ]
        standbys = [
            {"task": name, "phase": "standby", "lag": each.lag or 0, "ready": each.ready}
            for name, each in sorted(self.worker.standbys.by_task.items())
        ]
        drivers = [self._task(name, each, now) for name, each in sorted(self.worker.drivers.items())]
        ingresses = [
            {"task": name, "phase": each.phase, "received": each.received, "lost": each.lost}
            for name, each in sorted(self.worker.ingresses.items())
        ]
        return [*drivers, *deliveries, *ingresses, *standbys]

    def _task(self, name: str, driver: Driver, now: float) -> dict[str, Any]:
        task = driver.task
        entry: dict[str, Any] = {"task": name, "phase": driver.phase.value, "lag": driver.lag, "inputs": []}
        if driver.phase is Phase.RESTORING:
            done, total = self.restores.get(name, (0, 0))
            entry["restored"] = {"done": done, "total": total}
        if task is None:
            return entry
        entry["watermark_ms"] = task.watermark if task.watermark > NEVER else None
        entry["idle_s"] = round(max(0.0, now - driver.progress_at), 3)
        for each in task.inputs:
            position = task.checkpoint.position(each.partition) or START
            end = task.ends.get(each.partition, position)
            entry["inputs"].append(
                {
                    "topic": each.partition.topic,
                    "partition": each.partition.partition,
                    "position": position.offset(),
                    "end": end.offset(),
                    "lag": distance_on(self.worker.log, each.partition, position, end),
                }
            )
        return entry
