"""What is there already of an app's topics: looked at before it starts.

What must live here: the question to the logs.  What must not: what follows from it (``dsl.settle``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from streams.core.log import TopicInfo
from streams.dsl.app import App
from streams.dsl.blueprint import Blueprint

__all__ = ["build_on", "look"]


class Lookable(Protocol):
    """The part of a log that says which topics there are."""

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]: ...


async def look(app: App, log: Lookable, foreign: Mapping[str, Lookable]) -> dict[str, TopicInfo]:
    """The topics that the app declares and that exist; ``foreign``: by topic, the log of those that lie elsewhere."""
    own = [name for name, topic in app.topics.items() if not topic.spec.location]
    held = dict(await log.topics(own)) if own else {}
    for name, other in foreign.items():
        held.update(await other.topics([name]))
    return held


async def build_on(app: App, log: Lookable, foreign: Mapping[str, Lookable] | None = None) -> Blueprint:
    """The app's blueprint with what its topics are on the log in place of defaults."""
    return app.build(await look(app, log, foreign or {}))
