"""``streams tables``: what an app's tables hold, committed, with a worker or without one."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import quote

import typer

from streams.cli.options import AppOption, AsJson, ConfigOption, LogOption
from streams.cli.output import json_line
from streams.errors import ConfigurationError, LogUnavailable

if TYPE_CHECKING:
    from streams.cli.access import ToolLog
    from streams.cli.remote import RemoteLog
    from streams.cli.workers import Workers
    from streams.core.log import Log
    from streams.core.state import KeyedState
    from streams.dsl.app import App
    from streams.runtime.tables import TableReader

__all__ = ["tables"]


def tables(
    app: AppOption,
    name: Annotated[str | None, typer.Argument(help="A table; none lists them.")] = None,
    key: Annotated[str | None, typer.Argument(help="A key, as text; none lists rows.")] = None,
    prefix: Annotated[str, typer.Option(help="Rows whose keys begin so.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Rows at most.")] = 100,
    config: ConfigOption = None,
    log: LogOption = None,
    json: AsJson = False,
) -> None:
    """Show tables: their names, rows, or the value of one key.

    The workers that run are asked. While none does, the stores of this machine are brought up to date from the log
    first.
    """
    from streams.cli.load import load_app

    found = load_app(app, config)
    shown = asyncio.run(_look(found, found.resolve_log_url(log), name, key, prefix, limit))
    if json or (name is not None and key is not None):
        json_line(shown)
    elif name is None:
        print("\n".join(shown) if shown else f"app {found.name} has no tables")
    else:
        _print_rows(shown)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    from streams.runtime.tables import encode_json

    width = max((len(row["key"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['key']:<{width}}  {encode_json(row['value']).decode()}")


async def _look(app: App, url: str, name: str | None, key: str | None, prefix: str, limit: int) -> Any:
    from streams.cli.access import reach
    from streams.cli.remote import RemoteLog
    from streams.cli.workers import workers_of
    from streams.runtime.places import is_shared

    if name is None:
        return sorted(app.views)
    async with reach(url) as log:
        if isinstance(log, RemoteLog):
            await check_holder(app, log)
            return await _remote(log, name, key, prefix, limit)
        workers = await workers_of(app, log) if is_shared(url) else None
        if workers is not None:
            return await _remote(workers, name, key, prefix, limit)
        return await _local(app, log, name, key, prefix, limit)


# ── through a worker ────────────────────────────────────────────────────────────────────────────────────────────────


async def _remote(log: RemoteLog | Workers, name: str, key: str | None, prefix: str, limit: int) -> Any:
    import orjson

    path = f"/tables/{quote(name, safe='')}"
    if key is not None:
        return orjson.loads(await log.get(f"{path}/{quote(key, safe='')}"))
    rows: list[dict[str, Any]] = []
    after: str | None = None
    while len(rows) < limit:
        query = {"prefix": prefix, "limit": str(min(1000, limit - len(rows)))}
        page = orjson.loads(await log.get(path, **query, **({"after": after} if after is not None else {})))
        rows.extend(page["rows"])
        after = page["after"]
        if after is None:
            break
    return rows


async def check_holder(app: App, log: RemoteLog) -> None:
    """Raise ConfigurationError when the worker that holds the log runs another app."""
    holding = await log.holding()
    if holding.app != app.name:
        raise ConfigurationError(
            f"{log.url} is held by a worker of app {holding.app!r}, not {app.name!r}; stop it first, or name its app"
        )


# ── without one ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def _local(app: App, log: ToolLog, name: str, key: str | None, prefix: str, limit: int) -> Any:
    with ExitStack() as opened:
        reader = await _restored(app, log, name, opened)  # type: ignore[arg-type]
        if key is not None:
            return await reader.get(name, key)
        rows: list[dict[str, Any]] = []
        after: str | None = None
        while len(rows) < limit:
            page = await reader.page(name, prefix=prefix, limit=min(1000, limit - len(rows)), after=after)
            rows.extend({"key": row.key, "value": row.value} for row in page.rows)
            after = page.after
            if after is None:
                break
        return rows


async def _restored(app: App, log: Log, table: str, opened: ExitStack) -> TableReader:
    """The stores of the tasks that hold ``table``, as of the last commit.

    No worker runs, so the ends of the changelogs are final, as they are after a claim.
    """
    from streams.cli.access import blueprint_on, task_refs_on
    from streams.cli.progress import RestoreProgress
    from streams.core.checkpoint import decode_checkpoint
    from streams.core.plan import assign_prefixes
    from streams.core.record import TopicPartition
    from streams.core.state import CacheBudget, KeyedState
    from streams.core.store import StoreView, prefix_bytes
    from streams.dsl.blueprint import changelog_topic
    from streams.runtime.clock import SystemClock
    from streams.runtime.process import own_directory
    from streams.runtime.restore import Restoration, restore
    from streams.runtime.stores import RocksStores
    from streams.runtime.tables import OpenReads, TableReader

    blueprint = await blueprint_on(app, cast("ToolLog", log))
    view = app.views.get(table)
    stores = RocksStores(opened.enter_context(own_directory(app, log)))
    held: dict[str, KeyedState[Any]] = {}
    wanted = [each for each in blueprint.subtopologies if view is not None and view.state.name in each.states]
    topics = await log.topics()
    refs = await task_refs_on(log, app.name)
    with RestoreProgress() as progress:
        for subtopology in wanted:
            for partition in range(subtopology.partitions):
                task = subtopology.task_id(partition)
                stored = await log.checkpoint(refs[task]) if task in refs else None
                if stored is None or view is None:
                    raise LogUnavailable(f"app {app.name} hasn't run on {log.url} yet, so its tables hold nothing")
                names = {state: changelog_topic(app.name, state) for state in subtopology.states}
                changelogs = {state: TopicPartition(topic, partition) for state, topic in names.items()}
                identities = {state: topics[topic].identity for state, topic in names.items()}
                checkpoint = decode_checkpoint(stored)
                store = await restore(
                    Restoration(
                        log, stores, SystemClock(), task, subtopology, changelogs, identities, checkpoint, progress
                    )
                )
                opened.callback(store.close)
                number = assign_prefixes(store.state, subtopology.states)[view.state.name]
                spec = view.state
                held[task] = KeyedState(
                    StoreView(store, prefix_bytes(number)), spec.encode, spec.decode, budget=CacheBudget(0)
                )

    def state_of(task: str, _: str) -> KeyedState[Any]:
        return held[task]

    return TableReader(app, log.partition_for, OpenReads(state_of))
