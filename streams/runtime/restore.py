"""From a claim to a store that stands where the checkpoint stands.

Reads the facts, hands them to the pure decision (``core.recovery``), carries it out.  The end of a restore is a
position, never a count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from streams.core.checkpoint import Checkpoint
from streams.core.graph import Subtopology
from streams.core.log import Log
from streams.core.record import Position, TopicPartition
from streams.core.recovery import ChangelogFacts, Rebuild, Replay, resolve_recovery
from streams.core.store import Store, StoreState, prefix_bytes
from streams.core.task import assign_prefixes
from streams.runtime.stores import Stores

logger = logging.getLogger("streams")

Progress = Callable[[str, int, int], None]
"""Called with (task, offsets restored, offsets in all)."""

ENTRIES_AT_ONCE = 250_000


async def restore(
    log: Log,
    stores: Stores,
    task: str,
    subtopology: Subtopology,
    changelogs: Mapping[str, TopicPartition],
    checkpoint: Checkpoint,
    progress: Progress,
) -> Store:
    """Open the task's store and bring it to the end of its changelogs.  The caller closes the store.

    ``checkpoint`` is the one that the claim committed, so the ends of the changelogs are final.
    """
    while True:
        try:
            return await _restore(log, stores, task, subtopology, changelogs, checkpoint, progress)
        except _Overtaken as overtaken:
            logger.warning("task %s: its store is set aside and rebuilt from the log: %s", task, overtaken)
            stores.set_aside(task)


class _Overtaken(Exception):
    """Compaction dropped tombstones that the restore had yet to read: keys they deleted may be in the store."""


async def _restore(
    log: Log,
    stores: Stores,
    task: str,
    subtopology: Subtopology,
    changelogs: Mapping[str, TopicPartition],
    checkpoint: Checkpoint,
    progress: Progress,
) -> Store:
    bounds = await log.bounds(list(changelogs.values()))
    facts = {
        name: ChangelogFacts(bounds[at].start, bounds[at].end, log.compaction_floor(at))
        for name, at in changelogs.items()
    }
    store = stores.open(task)
    try:
        decision = resolve_recovery(store.state, checkpoint, facts)
        if isinstance(decision, Rebuild) and decision.why is not None:
            logger.warning("task %s: its store is set aside and rebuilt from the log: %s", task, decision.why)
            store.close()
            stores.set_aside(task)
            store = stores.open(task)
        if isinstance(decision, Rebuild | Replay):
            total = sum(since.distance(facts[name].end) for name, since in decision.since.items())
            done = 0

            def report(read: int) -> None:
                progress(task, done + read, total)

            for name, since in decision.since.items():
                end = facts[name].end
                floor = facts[name].compaction_floor
                await _replay(log, store, name, changelogs[name], since, end, floor, subtopology, checkpoint, report)
                done += since.distance(end)
        return store
    except BaseException:
        store.close()
        raise


async def _replay(
    log: Log,
    store: Store,
    name: str,
    partition: TopicPartition,
    since: Position,
    end: Position,
    floor: Position,
    subtopology: Subtopology,
    checkpoint: Checkpoint,
    progress: Callable[[int], None],
) -> None:
    prefixes = assign_prefixes(store.state, subtopology.states)
    prefix = prefix_bytes(prefixes[name])
    reader = log.reader({partition: since})
    position = since
    entries: dict[bytes, bytes | None] = {}

    def flush() -> None:
        known = store.state
        changelogs = {**(known.changelogs if known is not None else {}), name: position}
        # The claim's identity with a position short of the end: a crash from here on goes on where this stands.
        state = StoreState(checkpoint.log_id, checkpoint.epoch, checkpoint.number, changelogs, prefixes)
        store.load(prefix, entries, state)
        entries.clear()

    try:
        while not position.reached(end):
            before = position
            for batch in await reader.fetch([partition], max_records=10_000, wait_s=1.0):
                entries.update(zip(batch.records.keys, batch.records.values, strict=True))  # type: ignore[arg-type]
                position = position.advanced(batch.lane, batch.next_offset)
            now = log.compaction_floor(partition)
            if now != floor and not before.reached(now):
                raise _Overtaken(f"deletes were compacted away from the changelog of {name} while it was read")
            if len(entries) >= ENTRIES_AT_ONCE:
                flush()
            progress(since.distance(position))
        flush()
    finally:
        await reader.close()
