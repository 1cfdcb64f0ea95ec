"""From a claim to a store that stands where the checkpoint stands.

Reads the facts, hands them to the pure decision (``core.recovery``), carries it out.  The end of a restore is a
position, never a count.

What must live here: opening the store of a task and bringing it up once.  What must not: following a task that runs
elsewhere (``runtime.standby``), which is built from the same parts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from streams.core.checkpoint import Checkpoint
from streams.core.graph import Subtopology
from streams.core.log import Log
from streams.core.plan import assign_prefixes
from streams.core.record import START, Bounds, Fetched, Position, TopicPartition
from streams.core.recovery import ChangelogFacts, Rebuild, Resume, oldest_as_of, resolve_recovery
from streams.core.store import Store, StoreState, prefix_bytes
from streams.core.thresholds import Thresholds
from streams.runtime.clock import Clock
from streams.runtime.stores import Stores

logger = logging.getLogger("streams")

__all__ = ["Copy", "Overtaken", "Progress", "Restoration", "open_copy", "restore", "set_aside"]

Progress = Callable[[str, int, int], None]
"""Called with (task, offsets restored, offsets in all)."""


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a restore needs to know.

    changelogs: by state name, its changelog partition; identities: the identity of that topic.
    checkpoint: the one that the claim committed, so the ends of the changelogs are final.
    """

    log: Log
    stores: Stores
    clock: Clock
    task: str
    subtopology: Subtopology
    changelogs: Mapping[str, TopicPartition]
    identities: Mapping[str, str]
    checkpoint: Checkpoint
    progress: Progress
    thresholds: Thresholds = field(default_factory=Thresholds)


class Overtaken(Exception):
    """Compaction dropped tombstones that were yet to be read: keys that they deleted may be in the store."""


@dataclass(slots=True)
class Copy:
    """An open store, and what was read for it but isn't in it yet.

    positions: by state name, behind the last record that was read.  pending: by state name, last values of keys.
    floors: by state name, below which deletes were gone already when the store was opened.
    as_of_ms: of ``StoreState``; stays what it was until the whole tail has been read.
    """

    store: Store
    positions: dict[str, Position]
    floors: Mapping[str, Position]
    as_of_ms: int
    pending: dict[str, dict[bytes, bytes | None]] = field(default_factory=dict)
    entries: int = 0

    def take(self, name: str, batch: Fetched) -> None:
        """Note what a batch of a changelog says."""
        batch = batch.since(self.positions[name])  # a former value that came again at the very end would stay
        pending = self.pending.setdefault(name, {})
        before = len(pending)
        pending.update(zip(batch.records.keys, batch.records.values, strict=True))  # type: ignore[arg-type]
        self.entries += len(pending) - before
        self.positions[name] = self.positions[name].advanced(batch.lane, batch.next_offset)

    def load(self, about: Restoration, checkpoint: Checkpoint) -> None:
        """Bring what was taken into the store, as the work of ``checkpoint``: it must hold the commit of each record.

        Each state is one write, whose position is its own; a crash between two of them goes on where each stands.
        Raises Overtaken when reading took so long that deletes may have been dropped before they were reached.
        """
        self._check_age(about)
        for name in list(self.pending):
            self._load(about, checkpoint, name, self.pending.pop(name))
        self.entries = 0

    def finish(self, about: Restoration, checkpoint: Checkpoint, as_of_ms: int) -> None:
        """As ``load``, when everything that was committed by ``as_of_ms`` has been taken from every changelog."""
        self._check_age(about)
        for name in self.positions:
            self.pending.setdefault(name, {})
        for name in list(self.pending)[:-1]:
            self._load(about, checkpoint, name, self.pending.pop(name))
        self.as_of_ms = as_of_ms  # only with the last: after a crash before it the others stand where they stood
        self.load(about, checkpoint)

    def _check_age(self, about: Restoration) -> None:
        if self.as_of_ms < oldest_as_of(about.log.limits.tombstones_kept_ms, about.clock.now_ms()):
            raise Overtaken("it is too old to know of every delete in its changelogs")

    def check_floor(self, about: Restoration, name: str, before: Position) -> None:
        """Called when a batch was read from ``before`` on.  Raises Overtaken."""
        now = about.log.compaction_floor(about.changelogs[name])
        if now != self.floors[name] and not before.reached(now):
            raise Overtaken(f"deletes were compacted away from the changelog of {name} while it was read")

    def _load(self, about: Restoration, checkpoint: Checkpoint, name: str, entries: dict[bytes, bytes | None]) -> None:
        known = self.store.state
        prefixes = assign_prefixes(known, about.subtopology.states)
        state = StoreState(
            checkpoint.log_id,
            checkpoint.epoch,
            checkpoint.number,
            {**(known.changelogs if known is not None else {}), name: self.positions[name]},
            prefixes,
            {**(known.topics if known is not None else {}), name: about.identities[name]},
            checkpoint.claim,
            self.as_of_ms,
        )
        self.store.load(prefix_bytes(prefixes[name]), entries, state)


def set_aside(about: Restoration, why: str) -> None:
    """Move the closed store of the task away, and say so."""
    logger.warning("task %s: its store is set aside and rebuilt from the log: %s", about.task, why)
    about.stores.set_aside(about.task)


def open_copy(
    about: Restoration, bounds: Mapping[TopicPartition, Bounds], asked_ms: int
) -> tuple[Copy, Mapping[str, Position]]:
    """Open the store if it may go on from where it stands, else a new one; and where to read each changelog from.

    ``bounds`` of the changelogs were asked for at ``asked_ms``.  The caller closes the store.
    """
    log = about.log
    facts = {
        name: ChangelogFacts(bounds[at].start, bounds[at].end, log.compaction_floor(at), about.identities[name])
        for name, at in about.changelogs.items()
    }
    store = about.stores.open(about.task)
    try:
        oldest_ms = oldest_as_of(log.limits.tombstones_kept_ms, asked_ms)
        decision = resolve_recovery(store.state, about.checkpoint, facts, oldest_as_of_ms=oldest_ms)
        if isinstance(decision, Rebuild) and decision.why is not None:
            store.close()
            set_aside(about, decision.why)
            store = about.stores.open(about.task)
        known = store.state
        stands = dict(known.changelogs) if known is not None else {}
        since = {} if isinstance(decision, Resume) else decision.since
        positions = {name: since.get(name, stands.get(name, START)) for name in about.changelogs}
        floors = {name: each.compaction_floor for name, each in facts.items()}
        # What it has of a changelog may be all of it, or nothing: in both cases it has missed nothing up to now.
        behind = known is not None and any(name in stands for name in since)
        return Copy(store, positions, floors, known.as_of_ms if known is not None and behind else asked_ms), since
    except BaseException:
        store.close()
        raise


async def restore(about: Restoration) -> Store:
    """Open the task's store and bring it to the end of its changelogs.  The caller closes the store."""
    while True:
        try:
            return await _restore(about)
        except Overtaken as overtaken:
            set_aside(about, str(overtaken))


async def _restore(about: Restoration) -> Store:
    began_ms = about.clock.now_ms()
    bounds = await about.log.bounds(list(about.changelogs.values()))
    copy, since = open_copy(about, bounds, began_ms)
    try:
        ends = {name: bounds[about.changelogs[name]].end for name in since}
        total = sum(since[name].distance(end) for name, end in ends.items())
        done = 0
        for name, end in ends.items():
            await _replay(about, copy, name, end, lambda read: about.progress(about.task, done + read, total))  # noqa: B023
            done += since[name].distance(end)
        if since:
            copy.finish(about, about.checkpoint, began_ms)
        return copy.store
    except BaseException:
        copy.store.close()
        raise


async def _replay(about: Restoration, copy: Copy, name: str, end: Position, progress: Callable[[int], None]) -> None:
    """Apply one changelog to its end."""
    log, partition = about.log, about.changelogs[name]
    since = copy.positions[name]
    reader = log.reader({partition: since})
    try:
        while not copy.positions[name].reached(end):
            before = copy.positions[name]
            for batch in await reader.fetch([partition], max_records=about.thresholds.restore_records, wait_s=1.0):
                copy.take(name, batch)
            copy.check_floor(about, name, before)
            if copy.entries >= about.thresholds.restore_entries:
                copy.load(about, about.checkpoint)
            progress(since.distance(copy.positions[name]))
            await asyncio.sleep(0)  # a log in this process never waits: health and signals would until the end
    finally:
        await reader.close()
