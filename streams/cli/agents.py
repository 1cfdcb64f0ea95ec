"""``streams agents``: the agents of an app, and asking one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from streams.cli.command import Verb, Verbs
from streams.cli.options import AppOption, AsJson, ConfigOption, LogOption, OptionalApp
from streams.cli.output import json_line, print_columns
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.cli.access import ToolLog
    from streams.core.log import Log
    from streams.dsl.app import App
    from streams.runtime.wire import AskRequest

__all__ = ["agents"]

agents = typer.Typer(cls=Verbs, help="List an app's agents, or ask one.", add_completion=False, rich_markup_mode=None)


@agents.callback(invoke_without_command=True)
def listing(context: typer.Context, app: OptionalApp = None, config: ConfigOption = None, json: AsJson = False) -> None:
    """List an app's agents, or ask one."""
    if context.invoked_subcommand is not None:
        return
    from streams.cli.load import load_app

    if app is None:
        raise ConfigurationError("name the app: streams agents -A shop.app")
    found = load_app(app, config)
    rows = _described(found)
    if json:
        json_line(rows)
    elif not rows:
        print(f"app {found.name} has no agents")
    else:
        columns = ["agent", "reads", "tasks", "concurrency", "tables", "writes"]
        shown = [[_joined(row[name]) for name in columns] for row in rows]
        print_columns(columns, shown, right=(2, 3))


def _joined(value: Any) -> Any:
    return (", ".join(value) or "-") if isinstance(value, list) else value


def _described(app: App) -> list[dict[str, Any]]:
    from streams.operators.agent import Agent as AgentNode

    blueprint = app.build()
    rows = []
    for name, agent in sorted(app.agents.items()):
        node = agent.results.node
        assert isinstance(node, AgentNode)
        writes = {
            spec.name
            for subtopology in blueprint.subtopologies
            for each in subtopology.nodes
            if node in each.upstream
            for spec in each.writes
        }
        rows.append(
            {
                "agent": name,
                "reads": agent.source.label,
                "inbox": agent.inbox.name,
                "tasks": agent.inbox.partitions,
                "concurrency": node.concurrency,
                "tables": [spec.name for spec in node.tables],
                "writes": sorted(writes),
            }
        )
    return rows


@agents.command("ask", cls=Verb)
def ask(
    agent: Annotated[str, typer.Argument(help="The agent.")],
    value: Annotated[str, typer.Argument(help="The request, as it would stand on the agent's topic: mostly JSON.")],
    app: AppOption,
    key: Annotated[str | None, typer.Option("--key", "-k", help="The key, where the app doesn't compute it.")] = None,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait for the answer.")] = "30s",
    cast: Annotated[bool, typer.Option("--cast", help="Don't wait for an answer.")] = False,
    config: ConfigOption = None,
    log: LogOption = None,
) -> None:
    """Ask an agent of a running worker, and print its answer as JSON."""
    from streams.cli.load import load_app
    from streams.core.duration import parse_duration_ms
    from streams.runtime.wire import AskRequest

    found = load_app(app, config)
    request = AskRequest(agent, value.encode(), key, parse_duration_ms(timeout, "--timeout"), not cast)
    answer = asyncio.run(_ask(found, found.resolve_log_url(log), request))
    if not cast:
        json_line(answer)


async def _ask(app: App, url: str, request: Any) -> Any:
    import orjson

    from streams.cli.access import reach
    from streams.cli.remote import RemoteLog
    from streams.cli.tables import check_holder
    from streams.runtime.places import is_shared

    async with reach(url) as log:
        if is_shared(url):
            return await _ask_by_log(app, log, request)  # type: ignore[arg-type]
        if not isinstance(log, RemoteLog):
            raise ConfigurationError(
                f"no worker runs app {app.name} on {url}, so nobody would answer; start it with `streams worker`"
            )
        await check_holder(app, log)
        return orjson.loads(await log.post("/agents/ask", request))


async def _ask_by_log(app: App, log: Log, asked: AskRequest) -> Any:
    """Put the request into the agent's inbox, as a worker does, and wait for the reply on the log."""
    from streams.cli.access import blueprint_on
    from streams.cli.workers import workers_of
    from streams.runtime.clock import SystemClock
    from streams.runtime.control import agent_of, request_of
    from streams.runtime.replies import replies_topic
    from streams.runtime.requests import Requests

    await blueprint_on(app, cast("ToolLog", log))
    agent = agent_of(app.agents, asked.agent)
    key, value = request_of(agent, asked)
    if await workers_of(app, log) is None:
        raise ConfigurationError(
            f"no worker runs app {app.name} on {log.url}, so nobody would answer; start it with `streams worker`"
        )
    requests = Requests(log, SystemClock(), replies_topic(app.name))
    try:
        if not asked.wait:
            return await requests.cast(agent, key, value)
        return await requests.ask(agent, key, value, asked.timeout_ms)
    finally:
        await requests.close()
