"""``streams reset``: make an app forget that it ever ran.

    marker ──▶ internal topics, changelogs and local stores removed ──▶ checkpoints forgotten, the marker with them

The marker stands in the control record as a version that no app has: a reset that was cut off halfway can't be mistaken
for an app that may go on with half of its state.  Running it again finishes it.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from streams.cli.options import AppOption, AsJson, ConfigOption, LogOption
from streams.cli.output import json_line
from streams.errors import ConfigurationError, LogCorrupt

if TYPE_CHECKING:
    from streams.cli.access import ToolLog
    from streams.core.log import Log, TaskRef
    from streams.dsl.app import App

__all__ = ["reset"]

MARKER_VERSION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Found:
    """What a reset would remove."""

    tasks: list[TaskRef]
    topics: list[str]
    stores: Path | None
    outputs: list[str]
    journals: list[str]


def reset(
    app: AppOption,
    config: ConfigOption = None,
    log: LogOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    json: AsJson = False,
) -> None:
    """Start an app over: drop its positions, tables, windows, timers and internal topics.

    The app's own topics stay as they are. It reads its inputs from their first record again, and writes its outputs
    once more behind those that are there. Refused while a worker runs.
    """
    from streams.cli.load import load_app

    found = load_app(app, config)
    url = found.resolve_log_url(log)
    removed = asyncio.run(_reset(found, url, yes))
    if json:
        json_line(
            {
                "app": found.name,
                "checkpoints": [task.name for task in removed.tasks],
                "topics": removed.topics,
                "stores": None if removed.stores is None else str(removed.stores),
            }
        )
    else:
        print(
            f"app {found.name} starts over: {len(removed.tasks)} checkpoints and {len(removed.topics)} internal topics "
            f"removed"
        )


async def _reset(app: App, url: str, yes: bool) -> _Found:
    from streams.cli.workers import refuse_while_workers_run
    from streams.connectors.registry import open_log

    _check_there(url)
    log = open_log(url)
    await log.open()  # an embedded log refuses, with the holder's name, while a worker runs
    try:
        await refuse_while_workers_run(app, log)
        found = await _find(app, log)
        if found.journals:
            typer.echo(
                f"app {app.name} no longer reads {', '.join(found.journals)} as it was: what came in there is removed "
                f"too, and nobody can send it again.",
                err=True,
            )
        if not yes:
            _confirm(app, log.url, found)
            await refuse_while_workers_run(app, log)
        await _remove(app, log, found)
        return found
    finally:
        await log.close()


def _check_there(url: str) -> None:
    from streams.connectors.embedded.config import parse_url
    from streams.connectors.embedded.lock import FILE_NAME

    if url.startswith("memory:"):
        raise ConfigurationError("a log in memory ends with its process; there is nothing to reset")
    if url.startswith("embedded:") and not (Path(parse_url(url).path) / FILE_NAME).exists():
        raise ConfigurationError(f"there is no log in {parse_url(url).path}, so there is nothing to reset; see --log")


async def _find(app: App, log: Log) -> _Found:
    import msgspec

    from streams.cli.access import blueprint_on
    from streams.core.topology import TopologyRecord, control_ref, task_refs
    from streams.dsl.blueprint import changelog_topic
    from streams.runtime.process import state_directory
    from streams.runtime.replies import replies_topic

    blueprint = await blueprint_on(app, cast("ToolLog", log))
    stored = await log.checkpoint(control_ref(app.name))
    records = [blueprint.record]
    if stored is not None:
        records.append(msgspec.msgpack.decode(stored, type=TopologyRecord))
    tasks = {name: ref for record in records for name, ref in task_refs(record).items()}
    topics = {topic for record in records for topic in record.internal_topics}
    topics |= {changelog_topic(app.name, name) for record in records for name in record.stores}
    topics.add(replies_topic(app.name).name)
    existing = await log.topics()
    # A journal holds what nobody can send again: it is read once more, as far as it goes and the app still wants it.
    journals = {journal.topic.name: journal.topic.partitions for journal in blueprint.journals}
    kept = {name for name in journals.keys() & existing.keys() if existing[name].spec.partitions == journals[name]}
    lost = sorted({topic for topic in topics - kept if topic.endswith(".journal")} & existing.keys())
    topics -= kept
    held = [ref for _, ref in sorted(tasks.items()) if await log.checkpoint(ref) is not None]
    outputs = sorted({spec.name for node in app.graph.nodes for spec in node.writes if spec.kind == "user"})
    directory = state_directory(app, log)
    stores = directory if directory is not None and directory.exists() else None
    return _Found(held, sorted(topics & existing.keys()), stores, outputs, lost)


def _confirm(app: App, url: str, found: _Found) -> None:
    typer.echo(
        f"app {app.name} on {url}: {len(found.tasks)} checkpoints, {len(found.topics)} internal topics and its local "
        f"stores will be removed.",
        err=True,
    )
    if found.outputs:
        typer.echo(f"What it wrote stays, and will be written again: {', '.join(found.outputs)}.", err=True)
    typer.confirm("Start the app over?", abort=True, err=True)


async def _forget_deliveries(app: App, log: Log) -> None:
    """At each target of an outbox: a delivered position from before would stand beyond the new outbox."""
    from streams.connectors.registry import open_foreign

    for outbox in app.build().outboxes:
        if outbox.target.address:
            continue  # it keeps none
        target = open_foreign(outbox.target.location)
        await target.open()
        try:
            await target.forget([outbox.ref_at_target(log.identity, p) for p in range(outbox.topic.partitions)])
        finally:
            await target.close()


async def _remove(app: App, log: Log, found: _Found) -> None:
    import msgspec

    from streams.core.log import Commit
    from streams.core.topology import TopologyRecord, control_ref
    from streams.runtime.places import every_place

    control = control_ref(app.name)
    record = app.build().record
    try:
        writer = await log.fence(control)
    except LogCorrupt:
        await log.forget([control])  # what it stood on is gone, so nothing of it can be kept
        writer = await log.fence(control)
    marker = TopologyRecord(
        app=app.name,
        version=MARKER_VERSION,
        partitions=record.partitions,
        stores=record.stores,
        internal_topics=record.internal_topics,
        slots=[*record.slots, *(task.name for task in found.tasks if task.name not in record.slots)],
    )
    await writer.commit(Commit(msgspec.msgpack.encode(marker)))
    await writer.close()
    await _forget_deliveries(app, log)
    await log.delete_topics(found.topics)
    if found.stores is not None:
        with every_place(found.stores):
            shutil.rmtree(found.stores)
    await log.forget([*found.tasks, control])
