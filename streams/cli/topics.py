"""``streams topics``: what a log holds."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from streams.cli.options import AsJson, ConfigOption, LogOption, OptionalApp, log_url_of
from streams.cli.output import json_line, print_columns

__all__ = ["topics"]


def topics(
    log: LogOption = None,
    app: OptionalApp = None,
    config: ConfigOption = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Internal topics as well.")] = False,
    json: AsJson = False,
) -> None:
    """List the topics of a log."""
    from streams.cli.load import load_optional
    from streams.core.duration import format_duration_ms

    found_app = load_optional(app, config)
    url = log_url_of(log) if found_app is None else found_app.resolve_log_url(log)
    found = asyncio.run(_topics(url))
    shown = [each for each in found if everything or each["kind"] == "user"]
    if json:
        json_line(shown)
        return
    rows = [
        (
            each["topic"],
            each["kind"],
            each["partitions"],
            each["offsets"],
            "-" if each["retention_ms"] is None else format_duration_ms(each["retention_ms"]),
            "yes" if each["compact"] else "-",
        )
        for each in shown
    ]
    print_columns(["topic", "kind", "partitions", "offsets", "retention", "compacted"], rows, right=(2, 3))


async def _topics(url: str) -> list[dict[str, Any]]:
    from streams.cli.access import reach
    from streams.cli.workers import kinds_on
    from streams.core.log import distance_on
    from streams.core.record import TopicPartition

    async with reach(url) as log:
        infos = await log.topics()
        kinds = await kinds_on(log, list(infos))
        bounds = await log.bounds(
            [TopicPartition(name, number) for name, info in infos.items() for number in range(info.spec.partitions)]
        )
    held: dict[str, int] = {}
    for at, each in bounds.items():
        held[at.topic] = held.get(at.topic, 0) + distance_on(log, at, each.start, each.end)
    return [
        {
            "topic": name,
            "kind": kinds.get(name, info.spec.kind),
            "partitions": info.spec.partitions,
            "offsets": held.get(name, 0),
            "retention_ms": info.spec.retention_ms,
            "retention_bytes": info.spec.retention_bytes,
            "compact": info.spec.compact,
            "identity": info.identity,
        }
        for name, info in sorted(infos.items())
    ]
