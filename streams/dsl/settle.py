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

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from streams.core.graph import Graph
from streams.core.log import TopicInfo, TopicSpec
from streams.dsl.blueprint import Blueprint, draw_blueprint
from streams.errors import ConfigurationError, TopologyError
from streams.operators.matching import Matching

if TYPE_CHECKING:
    from streams.dsl.app import App

__all__ = ["matches", "settle"]


def settle(app: App, found: Mapping[str, TopicInfo] | None) -> Blueprint:
    """The blueprint of ``app``; its topics, agents and outboxes know from now on how many partitions there are.

    found: topics as they are, by name; None before anybody has looked.
    """
    held = found or {}
    for node in app.graph.nodes:
        if not getattr(node, "ports", True):
            raise TopologyError(f"{node.name}: nobody takes the window's results; add .final() or .updates()")
    app.graph.known = {}
    _expand(app, held, looked=found is not None)
    declared = {name: topic.declared for name, topic in app.topics.items()}
    specs = {**app.graph.topics(), **declared}
    there = {name: info.spec for name, info in held.items() if name in declared and info.spec.kind == "user"}
    for name, spec in there.items():
        topic = app.topics[name]
        specs[name] = replace(topic.declared, **{field: getattr(spec, field) for field in topic.undeclared})
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
        journals=list(app.journals.values()),
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


INTERNAL = (".repartition", ".changelog", ".outbox", ".inbox", ".ticks", ".journal", ".replies", ".checkpoints")
"""How topics end that apps make for themselves: no pattern means them, whichever app's they are."""


def matches(app: App, node: Matching, names: Collection[str]) -> list[str]:
    """The topics that a pattern takes in: not what this app writes, and nothing internal."""
    written = {spec.name for each in app.graph.nodes for spec in each.writes}
    return sorted(
        name for name in names if node.pattern.fullmatch(name) and name not in written and not name.endswith(INTERNAL)
    )


def _expand(app: App, held: Mapping[str, TopicInfo], *, looked: bool) -> None:
    """Put the sources of every pattern in front of it: topics of the log and those that the app declares."""
    patterns = [node for node in app.graph.nodes if isinstance(node, Matching)]
    before = {id(source) for node in patterns for source in node.found}
    nodes = [node for node in app.graph.nodes if id(node) not in before]
    known = {name: info.spec for name, info in held.items() if info.spec.kind == "user"}
    known.update({name: topic.declared for name, topic in app.topics.items() if not topic.declared.location})
    for node in patterns:
        found = [known[name] for name in matches(app, node, known)]
        if looked and not found:
            raise ConfigurationError(
                f"no topic on the log matches {node.pattern.pattern!r}; create one first, or mend the pattern"
            )
        # Before a log was looked at, the pattern itself stands for what it will find.
        sources = node.expand(found or [TopicSpec(node.pattern.pattern, app.partitions)])
        nodes[nodes.index(node) : nodes.index(node)] = sources
    app.graph.nodes = nodes
