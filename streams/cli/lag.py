"""``streams lag``: how far behind each task is, from what the log says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from streams.cli.failures import report
from streams.cli.options import AppOption, AsJson, ConfigOption, LogOption
from streams.cli.output import json_line, print_columns
from streams.errors import StreamsError

if TYPE_CHECKING:
    from streams.connectors.renamed import Askable
    from streams.core.log import TopicSpec
    from streams.core.record import Bounds, TopicPartition
    from streams.dsl.app import App
    from streams.dsl.blueprint import Blueprint

__all__ = ["lag"]


def lag(app: AppOption, config: ConfigOption = None, log: LogOption = None, json: AsJson = False) -> None:
    """Show where each task stands in each of its inputs: committed position, end, and the difference."""
    from streams.cli.load import load_app

    found = load_app(app, config)
    rows = asyncio.run(_lag(found, found.resolve_log_url(log)))
    if json:
        json_line(rows)
        return
    names = ["task", "topic", "partition", "position", "end", "lag"]
    print_columns(
        names, [["-" if row[name] is None else row[name] for name in names] for row in rows], right=(2, 3, 4, 5)
    )


async def _lag(app: App, url: str) -> list[dict[str, Any]]:
    from streams.cli.access import blueprint_on, reach, task_refs_on
    from streams.connectors.renamed import foreign_topic
    from streams.core.checkpoint import decode_checkpoint
    from streams.core.log import Counts

    rows: list[dict[str, Any]] = []
    counted: dict[TopicPartition, int] = {}
    async with reach(url) as log:
        blueprint = await blueprint_on(app, log)
        inputs = _inputs(blueprint)
        wanted = [at for _, at in inputs]
        own = {spec.name for spec in blueprint.own_topics}
        elsewhere: dict[str, list[TopicSpec]] = {}
        for spec in blueprint.foreign_topics:
            elsewhere.setdefault(spec.location, []).append(spec)
        bounds = await _bounds(log, wanted, own)
        for location, specs in elsewhere.items():
            read = [spec for spec in specs if any(at.topic == spec.name for at in wanted)]
            if read:
                try:
                    async with reach(location, foreign=True) as other:
                        for spec in read:
                            bounds |= await _bounds(foreign_topic(other, spec), wanted, {spec.name})
                except StreamsError as error:  # the rest is worth showing
                    report(error)
        refs = await task_refs_on(log, app.name)
        stored = {
            task: await log.checkpoint(refs[task]) if task in refs else None
            for task in dict.fromkeys(task for task, _ in inputs)
        }
        positions = {
            (task, at): None if checkpoint is None else decode_checkpoint(checkpoint).position(at)
            for task, at in inputs
            for checkpoint in [stored[task]]
        }
        if isinstance(log, Counts):
            behind = {at: positions[task, at] or bounds[at].start for task, at in inputs if at in bounds}
            counted |= await log.backlog({at: since for at, since in behind.items() if at.topic in own})
    for task, at in inputs:
        held, position = bounds.get(at), positions[task, at]
        since = position if position is not None or held is None else held.start
        distance = None if held is None or since is None else counted.get(at, since.distance(held.end))
        rows.append(
            {
                "task": task,
                "topic": at.topic,
                "partition": at.partition,
                "position": None if position is None else position.offset(),
                "end": None if held is None else held.end.offset(),
                "lag": distance,
            }
        )
    return rows


def _inputs(blueprint: Blueprint) -> list[tuple[str, TopicPartition]]:
    """What each task reads."""
    from streams.core.record import TopicPartition

    inputs = [
        (subtopology.task_id(partition), TopicPartition(name, partition))
        for subtopology in blueprint.subtopologies
        for partition in range(subtopology.partitions)
        for name in sorted({node.reads.name for node in subtopology.nodes if node.reads is not None})
    ]
    for outbox in blueprint.outboxes:
        inputs += [(task, TopicPartition(outbox.topic.name, number)) for number, task in enumerate(outbox.task_ids)]
    return inputs


async def _bounds(log: Askable, wanted: list[TopicPartition], names: set[str]) -> dict[TopicPartition, Bounds]:
    """First and end of those partitions that are of these topics, where the log has them."""
    there = {name: info.spec.partitions for name, info in (await log.topics(names)).items()}
    return dict(await log.bounds([at for at in wanted if at.partition < there.get(at.topic, 0) and at.topic in names]))
