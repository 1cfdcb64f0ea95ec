"""Results that their topic would drop: told before and when it happens.

What must live here: which output topics expire by timestamp, and the lines that say so.  What must not: expiring.

Kafka judges the age of a record by its timestamp, and the result of a window of 2013 has one of 2013: in a topic that
keeps seven days, which is the default there, it is gone before anybody reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from streams.core.duration import format_duration_ms
from streams.core.log import Append, Foreign, Log, TopicSpec
from streams.core.record import TopicPartition
from streams.dsl.app import App
from streams.dsl.blueprint import Blueprint

__all__ = ["Expiry", "watch_expiry"]

logger = logging.getLogger("streams")


async def watch_expiry(app: App, log: Log, foreign: Mapping[str, Foreign], now_ms: int) -> Expiry:
    """What looks out for results that are dropped; what can be foreseen is told at once, in a line a topic.

    Called when all topics are there.  foreign: by topic, the log of those that lie elsewhere.
    """
    blueprint = app.build()
    written = {spec.name for node in app.graph.nodes for spec in node.writes if spec.kind == "user"}
    written |= {outbox.target.name for outbox in blueprint.outboxes}
    kept: dict[str, int] = {}
    for name in sorted(written):
        retention_ms = blueprint.topics[name].retention_ms
        if retention_ms is not None and foreign.get(name, log).capabilities.expires_by_timestamp:
            kept[name] = retention_ms
    if kept:
        older = await _source_with_older(blueprint, log, foreign, now_ms - min(kept.values()))
        for name, retention_ms in kept.items() if older else ():
            logger.warning("%s", _line(name, retention_ms, f"{older} holds older ones"))
    return Expiry(kept)


async def _source_with_older(
    blueprint: Blueprint, log: Log, foreign: Mapping[str, Foreign], than_ms: int
) -> str | None:
    """A topic that the app reads and that holds records from before."""
    for subtopology in blueprint.subtopologies:
        for node in subtopology.sources:
            assert node.reads is not None
            spec = blueprint.topics[node.reads.name]
            if spec.kind == "user" and await _holds_older(spec, foreign.get(spec.name, log), than_ms):
                return spec.name
    return None


async def _holds_older(spec: TopicSpec, log: Foreign, than_ms: int) -> bool:
    if not log.capabilities.expires_by_timestamp:
        return False  # it would have to be read through
    partitions = [TopicPartition(spec.name, number) for number in range(spec.partitions)]
    if not await log.topics([spec.name]):
        return False
    bounds, young = await log.bounds(partitions), await log.offsets_at(dict.fromkeys(partitions, than_ms))
    return any(not bounds[at].start.reached(young[at]) for at in partitions)


def _line(topic: str, retention_ms: int, why: str) -> str:
    return (
        f"topic {topic} keeps records for {format_duration_ms(retention_ms)} by their timestamps, and {why}: results "
        f"with such event times are dropped as they come; give the topic a longer retention"
    )


class Expiry:
    """Looks at what is written, and says once for each topic when it would be dropped.

    kept: topics with the time for which they keep records by their timestamps.
    """

    def __init__(self, kept: Mapping[str, int]) -> None:
        self._kept = dict(kept)

    def look(self, appends: Sequence[Append], now_ms: int) -> None:
        if not self._kept:
            return
        for append in appends:
            retention_ms = self._kept.get(append.partition.topic)
            if retention_ms is not None and append.records.timestamps:
                age_ms = now_ms - min(append.records.timestamps)
                if age_ms > retention_ms:
                    del self._kept[append.partition.topic]
                    days = f"what was just written to it is {age_ms // 86_400_000} days old"
                    logger.warning("%s", _line(append.partition.topic, retention_ms, days))
