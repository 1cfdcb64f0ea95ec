"""From a claim to a store that stands where the checkpoint stands.

Reads the facts, hands them to the pure decision (``core.recovery``), carries it out.  The end of a restore is a
position, never a count.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from streams.core.checkpoint import Checkpoint
from streams.core.graph import Subtopology
from streams.core.log import Log
from streams.core.plan import assign_prefixes
from streams.core.record import Position, TopicPartition
from streams.core.recovery import ChangelogFacts, Rebuild, Replay, resolve_recovery
from streams.core.store import Store, StoreState, prefix_bytes
from streams.runtime.stores import Stores

logger = logging.getLogger("streams")

Progress = Callable[[str, int, int], None]
"""Called with (task, offsets restored, offsets in all)."""

ENTRIES_AT_ONCE = 250_000


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a restore needs to know.

    changelogs: by state name, its changelog partition; identities: the identity of that topic.
    checkpoint: the one that the claim committed, so the ends of the changelogs are final.
    """

    log: Log
    stores: Stores
    task: str
    subtopology: Subtopology
    changelogs: Mapping[str, TopicPartition]
    identities: Mapping[str, str]
    checkpoint: Checkpoint
    progress: Progress


class _Overtaken(Exception):
    """Compaction dropped tombstones that the restore had yet to read: keys they deleted may be in the store."""


async def restore(about: Restoration) -> Store:
    """Open the task's store and bring it to the end of its changelogs.  The caller closes the store."""
    while True:
        try:
            return await _restore(about)
        except _Overtaken as overtaken:
            logger.warning("task %s: its store is set aside and rebuilt from the log: %s", about.task, overtaken)
            about.stores.set_aside(about.task)


async def _restore(about: Restoration) -> Store:
    log, task = about.log, about.task
    bounds = await log.bounds(list(about.changelogs.values()))
    facts = {
        name: ChangelogFacts(bounds[at].start, bounds[at].end, log.compaction_floor(at), about.identities[name])
        for name, at in about.changelogs.items()
    }
    store = about.stores.open(task)
    try:
        decision = resolve_recovery(store.state, about.checkpoint, facts)
        if isinstance(decision, Rebuild) and decision.why is not None:
            logger.warning("task %s: its store is set aside and rebuilt from the log: %s", task, decision.why)
            store.close()
            about.stores.set_aside(task)
            store = about.stores.open(task)
        if isinstance(decision, Rebuild | Replay):
            total = sum(since.distance(facts[name].end) for name, since in decision.since.items())
            done = 0

            def report(read: int) -> None:
                about.progress(task, done + read, total)

            for name, since in decision.since.items():
                await _replay(about, store, name, since, facts[name], report)
                done += since.distance(facts[name].end)
        return store
    except BaseException:
        store.close()
        raise


async def _replay(
    about: Restoration,
    store: Store,
    name: str,
    since: Position,
    facts: ChangelogFacts,
    progress: Callable[[int], None],
) -> None:
    """Apply one changelog from ``since`` to its end."""
    log, made, partition = about.log, about.checkpoint, about.changelogs[name]
    prefixes = assign_prefixes(store.state, about.subtopology.states)
    prefix = prefix_bytes(prefixes[name])
    reader = log.reader({partition: since})
    position = since
    entries: dict[bytes, bytes | None] = {}

    def flush() -> None:
        known = store.state
        changelogs = {**(known.changelogs if known is not None else {}), name: position}
        topics = {**(known.topics if known is not None else {}), name: facts.identity}
        # The claim's identity with a position short of the end: a crash from here on goes on where this stands.
        state = StoreState(made.log_id, made.epoch, made.number, changelogs, prefixes, topics, made.claim)
        store.load(prefix, entries, state)
        entries.clear()

    try:
        while not position.reached(facts.end):
            before = position
            for batch in await reader.fetch([partition], max_records=10_000, wait_s=1.0):
                entries.update(zip(batch.records.keys, batch.records.values, strict=True))  # type: ignore[arg-type]
                position = position.advanced(batch.lane, batch.next_offset)
            now = log.compaction_floor(partition)
            if now != facts.compaction_floor and not before.reached(now):
                raise _Overtaken(f"deletes were compacted away from the changelog of {name} while it was read")
            if len(entries) >= ENTRIES_AT_ONCE:
                flush()
            progress(since.distance(position))
            await asyncio.sleep(0)  # a log in this process never waits: health and signals would until the end
        flush()
    finally:
        await reader.close()
