"""``streams lag``: how far behind each task is, from what the log says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from streams.cli.options import AppOption, AsJson, LogOption
from streams.cli.output import json_line, print_columns

if TYPE_CHECKING:
    from streams.dsl.app import App

__all__ = ["lag"]


def lag(app: AppOption, log: LogOption = None, json: AsJson = False) -> None:
    """Show where each task stands in each of its inputs: committed position, end, and the difference."""
    from streams.cli.load import load_app

    found = load_app(app)
    rows = asyncio.run(_lag(found, found.resolve_log_url(log)))
    if json:
        json_line(rows)
        return
    names = ["task", "topic", "partition", "position", "end", "lag"]
    print_columns(
        names, [["-" if row[name] is None else row[name] for name in names] for row in rows], right=(2, 3, 4, 5)
    )


async def _lag(app: App, url: str) -> list[dict[str, Any]]:
    from streams.cli.access import reach
    from streams.core.checkpoint import decode_checkpoint
    from streams.core.record import TopicPartition

    rows: list[dict[str, Any]] = []
    blueprint = app.build()
    async with reach(url) as log:
        known = await log.topics()
        for subtopology in blueprint.subtopologies:
            names = sorted({node.reads.name for node in subtopology.nodes if node.reads is not None})
            for partition in range(subtopology.partitions):
                task = subtopology.task_id(partition)
                stored = await log.checkpoint(task)
                checkpoint = None if stored is None else decode_checkpoint(stored)
                inputs = [TopicPartition(name, partition) for name in names]
                bounds = await log.bounds([at for at in inputs if at.topic in known])
                for at in inputs:
                    held = bounds.get(at)
                    position = checkpoint.position(at) if checkpoint is not None else None
                    since = position if position is not None else (held.start if held is not None else None)
                    rows.append(
                        {
                            "task": task,
                            "topic": at.topic,
                            "partition": partition,
                            "position": None if position is None else position.offset(),
                            "end": None if held is None else held.end.offset(),
                            "lag": None if held is None or since is None else since.distance(held.end),
                        }
                    )
    return rows
