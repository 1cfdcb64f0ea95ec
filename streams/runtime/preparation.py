"""What is checked and made on the log before a task of an app may run.

    topics as they are ──▶ blueprint ──▶ topology record: the same, or changed behind a fence ──▶ topics made

What must live here: that, and waiting for a log that is away meanwhile.  What must not: running tasks
(``runtime.worker``), what makes two topologies the same (``core.topology``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import msgspec

from streams.core.capability import derive_commit, require
from streams.core.log import Commit, Log, TaskRef, TopicSpec
from streams.core.topology import TopologyRecord, control_ref, resolve_topology, task_refs
from streams.dsl.app import App
from streams.dsl.blueprint import Blueprint, changelog_topic
from streams.dsl.schema import incompatibility
from streams.errors import CommitUnknown, LogUnavailable, RetryableError
from streams.runtime.existing import build_on
from streams.runtime.outages import Outages
from streams.runtime.outside import Outside
from streams.runtime.places import is_shared
from streams.runtime.retention import Expiry, watch_expiry
from streams.runtime.stopping import unless_stopped

__all__ = ["Prepared", "prepare"]

logger = logging.getLogger("streams")

FEW = 6
"""How often a worker begins again that others keep from starting."""
FIRST_S, MOST_S = 0.05, 2.0
"""The first pause, and the bound of those that follow."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """refs: where the tasks are on the log, by name."""

    blueprint: Blueprint
    refs: Mapping[str, TaskRef]
    expiry: Expiry


async def prepare(
    app: App,
    log: Log,
    outside: Outside,
    more: Sequence[TopicSpec],
    now_ms: int,
    *,
    outages: Outages,
    stop: asyncio.Event,
    seed: str,
) -> Prepared:
    """Make the log ready for the app.  more: topics besides the blueprint's.  seed: of the pauses.

    Workers that start at the same time fence each other's control task: then each begins again, a few times.  Servers
    that were there a moment ago, when their log was opened, are waited for.  Raises StoppedEarly.
    """
    fenced, bound_s, chance, shared = 0, FIRST_S, Random(seed), is_shared(log.url)
    while True:
        try:
            ready = await unless_stopped(_prepared(app, log, outside, more, now_ms), stop)
        except RetryableError as error:
            outage = shared and isinstance(error, LogUnavailable | CommitUnknown)
            if outage:  # doesn't count: those who have waited for the same server fence each other when it is back
                outages.failed(f"app {app.name}: starting again", error)
            elif fenced == FEW:
                raise
            else:
                fenced += 1
                logger.info("app %s: starting again: %s", app.name, error)
        else:
            outages.works(log.url)
            return ready
        await unless_stopped(asyncio.sleep(bound_s * chance.uniform(0.5, 1.0)), stop)
        bound_s = min(MOST_S, bound_s * 2)


async def _prepared(app: App, log: Log, outside: Outside, more: Sequence[TopicSpec], now_ms: int) -> Prepared:
    require(app.guarantee, f"app {app.name}", derive_commit(log.capabilities, app.guarantee))
    blueprint = await build_on(app, log, outside.logs)
    await outside.check(blueprint)
    topics = [*blueprint.own_topics, *more]
    known = _topology(await log.checkpoint(control_ref(app.name)))
    if known is not None and resolve_topology(known, blueprint.record, incompatibility).record == known:
        # Nothing to change, so workers that start together don't fence each other.  Should another one change it right
        # now, the claims of this worker are refused.
        await log.create_topics(topics)
        refs = task_refs(known)
    else:
        refs = task_refs(await _changed(app, log, blueprint, topics))
    return Prepared(blueprint, refs, await watch_expiry(app, log, outside.logs, now_ms))


async def _changed(app: App, log: Log, blueprint: Blueprint, topics: Sequence[TopicSpec]) -> TopologyRecord:
    """The record of this app's topology, in place of what was on the log before."""
    writer = await log.fence(control_ref(app.name))
    try:
        previous = _topology(writer.checkpoint)
        start = resolve_topology(previous, blueprint.record, incompatibility)
        for change in start.changes:
            logger.warning("app %s: %s", app.name, change)
        former = task_refs(previous) if previous is not None else {}
        for task in start.fence:
            await (await log.fence(former[task])).close()
        removed = [*start.removed_topics, *(changelog_topic(app.name, name) for name in start.removed_stores)]
        if removed:
            await log.delete_topics(removed)
        await log.create_topics(topics)
        await writer.commit(Commit(msgspec.msgpack.encode(start.record)))
    finally:
        await writer.close()
    return start.record


def _topology(stored: bytes | None) -> TopologyRecord | None:
    return None if stored is None else msgspec.msgpack.decode(stored, type=TopologyRecord)
