"""A standby: the store of a task that runs elsewhere, kept nearly up to date, so that taking the task over is quick.

    no commit yet ─▶ open the store ─▶ ┌▶ ends ─▶ records ─▶ checkpoint, ends, checkpoint ─▶ load ─┐
         ▲                             └───────────────────── a moment ◀────────────────────────┘
         └── close it, drop what wasn't loaded ◀── another claim, a lost tail, an outage

What must live here: following, and saying when the store is ready.  What must not: claiming, running, who should follow
what (``core.assignment``).  Nothing here fences anybody, and nothing here is on the way of a commit.

Why the store can be trusted by whoever claims the task next.  A store that says "commit n of this claim" must hold
nothing from after n and nothing from another line, else a tail that the log lost and wrote again with other content
would stay in it unseen (protocol 7).  Records don't say which commit made them.  So:

1. **The checkpoint is read after the records.**  A record that was read is committed, and its commit wrote a checkpoint
   in the same transaction.  ``Log.checkpoint`` answers with the last one committed *when it is asked*: on Kafka it
   reads up to the high watermark of the task's own checkpoint partition, which the record's checkpoint had reached
   before its transaction could end, and waits for the marker, which may arrive there later than in the changelog.  If
   the log has lost nothing, the answer, n, is the commit of the last record or a later one.  Naming a later one is
   harmless: what the store hasn't got yet lies behind its position.
2. **If the log loses a record after n was read**, it loses n too, and ``Checkpoint.made`` doesn't know n any more.
3. **If it loses one before n is read**, n may be on the new line, and name records that it never made.  Nobody commits
   after a loss but under a new claim: the former owner's commit is refused, or it died with the log.  So after n the
   ends are read, then the checkpoint once more.  Either something was committed after the loss and before the ends were
   read: then the last checkpoint has another claim than the one that was read before the first record.  Or nothing was:
   then the ends lie before the records.  In both cases nothing is loaded, and following begins again from the store.
4. **A claim has no effects** (protocol 1), but is a new claim: what was read and not loaded is dropped, and read again.
5. **A store of a former life**, and one that is opened again, go through the same decision as after a claim
   (``resolve_recovery``): one that stands behind is brought up, one that stands ahead, is too old (protocol 12) or on
   another line is set aside.  That the checkpoint needn't be a claim's doesn't matter: the next claim decides anew.

A standby ends by being cancelled.  What it has read and not loaded is read again by the driver: that takes no longer
than loading it here would.  Its store is closed when its coroutine has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any

from streams.core.checkpoint import Checkpoint, decode_checkpoint
from streams.core.graph import Subtopology
from streams.core.log import Reader, TaskRef
from streams.core.record import Position, TopicPartition
from streams.errors import (
    LogUnavailable,
    PositionLost,
    RetryableError,
    StoreCorrupt,
    StreamsError,
    TopicRecreated,
)
from streams.runtime.driver import Services
from streams.runtime.restore import Copy, Overtaken, Restoration, open_copy

logger = logging.getLogger("streams")

__all__ = ["Standby", "Standbys"]

INTERVAL_S = 1.0
LONGEST_PAUSE_S = 10.0


class _Again(Exception):
    """What was read can't be trusted, or what it belongs to can't be told: begin again with what the store says."""


class Standby:
    """Follows the changelogs of one task into the task's store.

    changed: called when ``ready`` has changed.
    """

    def __init__(
        self,
        services: Services,
        subtopology: Subtopology,
        partition: int,
        ref: TaskRef,
        changed: Callable[[], None],
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.id = ref.name
        self.ready = False
        self.lag: int | None = None
        """Offsets that the store is behind the changelogs, as of the last look; None before the first."""
        self.rounds = 0
        """How often the store has been brought to where the changelogs ended when a look began."""
        self._services = services
        self._thresholds = services.plan.thresholds
        self._subtopology = subtopology
        self._changelogs = {
            name: TopicPartition(services.plan.changelog(name), partition) for name in subtopology.states
        }
        self._ref = ref
        self._who = f"standby of task {self.id} waits"
        self._changed = changed
        self._interval_s = interval_s
        self._failures = 0

    async def run(self) -> None:
        """Follow until cancelled.  Trouble with log or store never ends it: it goes on from what is on disk."""
        try:
            while True:
                try:
                    await self._follow()
                except (_Again, Overtaken, PositionLost, TopicRecreated) as error:
                    logger.info("standby of task %s begins again: %s", self.id, error)
                except StoreCorrupt as error:
                    logger.warning("standby of task %s: its store is set aside and rebuilt: %s", self.id, error)
                    self._services.stores.set_aside(self.id)
                    self._note(None)
                except StreamsError as error:
                    # A task that can't go on stops its worker; a follower mustn't, since others work in it.
                    if self._failures and isinstance(error, RetryableError):
                        logger.debug("standby of task %s waits: %s", self.id, error)
                    else:
                        self._services.outages.failed(self._who, error)
                self._failures += 1
                await asyncio.sleep(min(LONGEST_PAUSE_S, self._interval_s * 2 ** min(self._failures - 1, 8)))
        finally:
            self._services.metrics.forget_standby(self.id)

    async def _follow(self) -> None:
        about, at = await self._about(), list(self._changelogs.values())
        log = self._services.log
        asked_ms, bounds = self._services.clock.now_ms(), await log.bounds(at)
        while (checkpoint := await self._checkpoint()) is None:
            await asyncio.sleep(self._interval_s)  # the task has never run; its store couldn't say what it holds
            asked_ms, bounds = self._services.clock.now_ms(), await log.bounds(at)
        copy, _ = open_copy(about(checkpoint), bounds, asked_ms)
        if copy.store.state is None:
            self._note(None)  # it may have been set aside just now
        reader: Reader | None = None
        try:
            reader = log.reader({self._changelogs[name]: position for name, position in copy.positions.items()})
            while True:
                await self._round(about(checkpoint), copy, reader)
                self._failures = 0
                self._services.outages.works(log.url, self._who)
                await asyncio.sleep(self._interval_s)
        finally:
            copy.store.close()
            if reader is not None:
                await reader.close()

    async def _about(self) -> Callable[[Checkpoint], Restoration]:
        services = self._services
        topics = await services.log.topics([at.topic for at in self._changelogs.values()])
        missing = sorted({at.topic for at in self._changelogs.values()} - topics.keys())
        if missing:
            raise LogUnavailable(f"there is no topic {missing[0]} yet, or any more")
        identities = {name: topics[at.topic].identity for name, at in self._changelogs.items()}

        def about(checkpoint: Checkpoint) -> Restoration:
            return Restoration(
                services.log,
                services.stores,
                services.clock,
                self.id,
                self._subtopology,
                self._changelogs,
                identities,
                checkpoint,
                lambda task, done, total: None,
            )

        return about

    async def _checkpoint(self) -> Checkpoint | None:
        stored = await self._services.log.checkpoint(self._ref)
        return decode_checkpoint(stored) if stored is not None else None

    # ── a round ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _round(self, about: Restoration, copy: Copy, reader: Reader) -> None:
        """Bring the store to where the changelogs end now."""
        services = self._services
        began_ms = services.clock.now_ms()
        bounds = await services.log.bounds(list(self._changelogs.values()))
        ends = {name: bounds[at].end for name, at in self._changelogs.items()}
        before = dict(copy.positions)
        self._check(copy, ends)
        self._note(self._behind(copy, ends))
        while wanted := [name for name, position in copy.positions.items() if not position.reached(ends[name])]:
            await self._read(about, copy, reader, wanted)
            if copy.entries >= self._thresholds.standby_entries:
                copy.load(about, await self._maker(about, copy))
                self._note(self._behind(copy, ends))
            await asyncio.sleep(0)
        if copy.positions != before:
            copy.finish(about, await self._maker(about, copy), began_ms)
        copy.as_of_ms = began_ms
        self.rounds += 1
        self._note(self._behind(copy, ends))

    async def _read(self, about: Restoration, copy: Copy, reader: Reader, wanted: list[str]) -> None:
        """One fetch of the changelogs of which something is left."""
        names = {self._changelogs[name]: name for name in wanted}
        stood = {name: copy.positions[name] for name in wanted}
        most = self._thresholds.standby_records
        for batch in await reader.fetch(list(names), max_records=most, wait_s=self._interval_s):
            copy.take(names[batch.partition], batch)
        for name, position in stood.items():
            copy.check_floor(about, name, position)

    def _check(self, copy: Copy, ends: Mapping[str, Position]) -> None:
        """Raise where what was read isn't a part of what the log holds."""
        for name, position in copy.positions.items():
            if not ends[name].reached(position):
                raise _Again(f"the changelog of {name} ends before what was read of it")

    async def _maker(self, about: Restoration, copy: Copy) -> Checkpoint:
        """The checkpoint that made what was read, or one after it; see the head of this module."""
        maker = await self._same_claim(about)
        bounds = await self._services.log.bounds(list(self._changelogs.values()))
        self._check(copy, {name: bounds[at].end for name, at in self._changelogs.items()})
        await self._same_claim(about)
        return maker

    async def _same_claim(self, about: Restoration) -> Checkpoint:
        checkpoint = await self._checkpoint()
        if checkpoint is None or checkpoint.claim != about.checkpoint.claim:
            raise _Again("another worker has claimed the task")
        return checkpoint

    def _behind(self, copy: Copy, ends: Mapping[str, Position]) -> int:
        """Offsets that the store itself, without what waits to be loaded, is behind."""
        known = copy.store.state
        stands = known.changelogs if known is not None else {}
        return sum(stands.get(name, Position()).distance(end) for name, end in ends.items())

    def _note(self, lag: int | None) -> None:
        self.lag = lag
        if lag is not None:
            metrics = self._services.metrics
            metrics.standby_lag.labels(metrics.app, self.id).set(lag)
        near, far = self._thresholds.ready_lag, self._thresholds.far_behind
        ready = lag is not None and (lag <= near or (self.ready and lag <= far))
        if ready != self.ready:
            self.ready = ready
            self._changed()


class Standbys:
    """The standbys of a worker.  ``by_task``: those that follow now."""

    def __init__(self, start: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        self.by_task: dict[str, Standby] = {}
        self._start = start
        self._running: dict[str, asyncio.Task[None]] = {}

    @property
    def ready(self) -> frozenset[str]:
        """The tasks whose state is here, up to date or nearly."""
        return frozenset(task for task, standby in self.by_task.items() if standby.ready)

    async def keep(self, tasks: Collection[str]) -> None:
        """End every standby of another task.  Afterwards their stores are closed, so that a driver can open them."""
        ending = {task: running for task, running in self._running.items() if task not in tasks}
        for task, running in ending.items():
            running.cancel()
            del self.by_task[task], self._running[task]
        if ending:
            await asyncio.wait(ending.values())

    def take_up(self, tasks: Iterable[str], make: Callable[[str], Standby]) -> None:
        """Begin to follow; called when no driver has the store of any of ``tasks`` open."""
        for task in sorted(set(tasks) - self.by_task.keys()):
            standby = self.by_task[task] = make(task)
            self._running[task] = self._start(f"standby {task}", standby.run())
