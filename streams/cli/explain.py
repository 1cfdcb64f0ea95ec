"""``streams explain``: the plan of an app, and the guarantee of each edge with its reason."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from streams.cli.options import AppOption, AsJson, ConfigOption, LogOption
from streams.cli.output import json_line, print_columns

if TYPE_CHECKING:
    from streams.core.capability import Capabilities
    from streams.dsl.app import App
    from streams.runtime.explain import Explanation

__all__ = ["explain"]


def explain(app: AppOption, config: ConfigOption = None, log: LogOption = None, json: AsJson = False) -> None:
    """Show the plan of an app: tasks, topics, stores, the guarantee of each edge and why. Nothing is changed."""
    from streams.cli.load import load_app
    from streams.runtime.explain import explain as explained
    from streams.runtime.places import is_shared

    found = load_app(app, config)
    url = found.resolve_log_url(log)
    unseen = asyncio.run(_look(found, url)) if is_shared(url) else None
    plan = explained(found, url, lambda each: _capabilities_of(each, own=each == url))
    if unseen is not None:
        plan.warnings.append(f"the log wasn't looked at, so topics are shown as the app declares them ({unseen})")
    if json:
        json_line(plan)
    else:
        _print(plan)


async def _look(app: App, url: str) -> str | None:
    """Let what topics are on a shared log count where the app doesn't say; the reason if that can't be had."""
    from streams.cli.access import reach
    from streams.errors import StreamsError
    from streams.runtime.existing import build_on

    try:
        async with reach(url) as log:
            await build_on(app, log)
    except StreamsError as error:
        return str(error)
    return None


def _capabilities_of(url: str, *, own: bool) -> Capabilities:
    """What a log can do as a source, as a commit point, and as a target.  Nothing is opened."""
    from streams.connectors.log_sink import LogSink
    from streams.connectors.registry import open_foreign, open_log

    return LogSink(open_log(url) if own else open_foreign(url)).capabilities


def _print(plan: Explanation) -> None:
    from streams.core.duration import format_duration_ms

    print(f"app {plan.app}, version {plan.version}, on {plan.log}; asked for: {plan.asked}; shape {plan.fingerprint}")
    print("\nTasks")
    print_columns(
        ["subtopology", "tasks", "reads", "stores"],
        [
            (each.name, len(each.tasks), ", ".join(each.reads), ", ".join(each.stores) or "-")
            for each in plan.subtopologies
        ],
        right=(1,),
    )
    print("\nTopics")
    print_columns(
        ["topic", "kind", "partitions", "retention", "compacted"],
        [
            (
                each.name,
                each.kind,
                each.partitions,
                "-" if each.retention_ms is None else format_duration_ms(each.retention_ms),
                "yes" if each.compact else "-",
            )
            for each in plan.topics
        ],
        right=(2,),
    )
    print("\nStores")
    print_columns(
        ["store", "kind", "tasks of", "changelog"],
        [(each.name, each.kind, each.subtopology, each.changelog) for each in plan.stores],
    )
    print("\nGuarantees")
    print_columns(
        ["from", "to", "guarantee", "why"],
        [(each.source, each.target, each.guarantee, each.why) for each in plan.edges],
    )
    if plan.warnings:
        print("\nWarnings")
        for line in plan.warnings:
            print(f"- {line}")
