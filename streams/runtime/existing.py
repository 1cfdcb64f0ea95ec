"""What is there of an app's topics: looked at before it starts, and now and then while it runs.

What must live here: the question to the logs, and what is new since.  What must not: what follows from it for the app
(``dsl.settle``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Protocol

from streams.core.log import TopicInfo
from streams.dsl.app import App
from streams.dsl.blueprint import Blueprint
from streams.dsl.settle import matches
from streams.errors import RetryableError
from streams.operators.matching import Matching

__all__ = ["Watch", "build_on", "look", "watch_topics"]

logger = logging.getLogger("streams")

WATCH_S = 30.0


class Lookable(Protocol):
    """The part of a log that says which topics there are."""

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]: ...


async def look(app: App, log: Lookable, foreign: Mapping[str, Lookable]) -> dict[str, TopicInfo]:
    """The topics that the app declares and that exist; with patterns in it, all there are.

    foreign: by topic, the log of those that lie elsewhere.
    """
    own = [name for name, topic in app.topics.items() if not topic.spec.location]
    every = any(isinstance(node, Matching) for node in app.graph.nodes)
    held = dict(await log.topics(None if every else own)) if own or every else {}
    for name, other in foreign.items():
        held.update(await other.topics([name]))
    return held


async def build_on(app: App, log: Lookable, foreign: Mapping[str, Lookable] | None = None) -> Blueprint:
    """The app's blueprint with what its topics are on the log in place of defaults."""
    return app.build(await look(app, log, foreign or {}))


class Watch:
    """Notices what a running app doesn't read: partitions and matching topics that came later."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._told: set[str] = set()

    def news(self, held: Mapping[str, TopicInfo]) -> list[str]:
        """One line, told once, for each."""
        app, blueprint = self._app, self._app.build()
        read = {node.reads.name for each in blueprint.subtopologies for node in each.sources if node.reads is not None}
        lines = [
            f"topic {name} has {held[name].spec.partitions} partitions now, and this app reads {reads} of them; start "
            f"it again to read all"
            for name in sorted(read & held.keys())
            if held[name].spec.partitions > (reads := blueprint.topics[name].partitions)
        ]
        users = [name for name, info in held.items() if info.spec.kind == "user"]
        for node in app.graph.nodes:
            if isinstance(node, Matching):
                lines += [
                    f"topic {name} matches {node.pattern.pattern!r} now; start the app again to read it"
                    for name in matches(app, node, users)
                    if name not in read
                ]
        new = [line for line in lines if line not in self._told]
        self._told.update(new)
        return new


async def watch_topics(app: App, log: Lookable, foreign: Mapping[str, Lookable]) -> None:
    """Look every now and then, for ever, and say what is new."""
    watch = Watch(app)
    while True:
        await asyncio.sleep(WATCH_S)
        with suppress(RetryableError):  # whoever needs the log will say so
            for line in watch.news(await look(app, log, foreign)):
                logger.warning("%s", line)
