"""What becomes of topics where the app leaves something open: the log says, or what they are joined with.

What must live here: that decision, pure, and the blueprint that follows from it.  What must not: looking at a log (the
worker does, before it starts, and hands in what is there).

    declared by the app                     ──▶ so it is to be; a topic that is otherwise is refused
    not declared, the topic exists          ──▶ as it is
    not declared, it doesn't exist yet      ──▶ as many partitions as what feeds the same tasks has, else the default

The last line is what makes co-partitioning come about by itself: a key_by in front of a join with a table gets the
partitions of the table's topic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from streams.core.graph import Graph
from streams.core.log import TopicInfo, TopicSpec
from streams.dsl.blueprint import Blueprint, draw_blueprint
from streams.errors import TopologyError

if TYPE_CHECKING:
    from streams.dsl.app import App

__all__ = ["settle"]


def settle(app: App, held: Mapping[str, TopicInfo]) -> Blueprint:
    """The blueprint of ``app``; its topics, agents and outboxes know from now on how many partitions there are."""
    for node in app.graph.nodes:
        if not getattr(node, "ports", True):
            raise TopologyError(f"{node.name}: nobody takes the window's results; add .final() or .updates()")
    app.graph.known = {}
    declared = {name: topic.declared for name, topic in app.topics.items()}
    specs = {**app.graph.topics(), **declared}
    there = {name: info.spec for name, info in held.items() if name in declared and info.spec.kind == "user"}
    for name, found in there.items():
        topic = app.topics[name]
        specs[name] = replace(topic.declared, **{field: getattr(found, field) for field in topic.undeclared})
    uncounted = {name for name, topic in app.topics.items() if "partitions" in topic.undeclared and name not in there}
    app.graph.known = specs = counted(app.graph, specs, uncounted | app.uncounted)
    for name, topic in app.topics.items():
        topic.spec = specs[name]
    for agent in app.agents.values():
        agent.inbox = specs[agent.inbox.name]
    return draw_blueprint(
        app.name,
        app.version,
        app.graph,
        {name: specs[name] for name in declared},
        [replace(outbox, target=specs[outbox.target.name]) for outbox in app.outboxes.values()],
        ticks=any(timer.topic is not None for timer in app.timers),
    )


def counted(graph: Graph, specs: Mapping[str, TopicSpec], uncounted: set[str]) -> dict[str, TopicSpec]:
    """``specs`` with a number of partitions for those that nobody counted: that of what feeds the same tasks.

    A topic of the user's goes by other ones of the user's only: what is internal must not decide how it is made.
    """
    found = dict(specs)
    for nodes in graph.groups():
        read = {node.reads.name for node in nodes if node.reads is not None}
        given = {specs[name].partitions for name in read if name not in uncounted and specs[name].kind == "user"}
        inner = {specs[name].partitions for name in read if name not in uncounted}
        users = {specs[name].partitions for name in read if specs[name].kind == "user"}
        for name in read & uncounted:
            choices = given if specs[name].kind == "user" else given or inner or users
            if len(choices) == 1:
                found[name] = replace(specs[name], partitions=next(iter(choices)))
    return found
