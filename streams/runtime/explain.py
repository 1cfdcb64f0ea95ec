"""The plan of an app: tasks, topics, stores, and the guarantee of each edge with its reason.

What must live here: from a blueprint and a log's capabilities to plain data.  What must not: how it is printed
(``cli.explain``), the rules themselves (``core.capability``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from streams.connectors.registry import open_edge
from streams.core.capability import (
    Capabilities,
    Derived,
    Durability,
    Guarantee,
    derive_commit,
    derive_sink,
    derive_source,
)
from streams.core.duration import format_duration_ms
from streams.core.endpoint import promises
from streams.core.graph import Node, SourceNode, Subtopology
from streams.core.log import TopicSpec
from streams.core.thresholds import PRODUCTION
from streams.core.urls import without_secrets
from streams.dsl.app import App
from streams.dsl.blueprint import changelog_topic
from streams.operators.agent import Agent
from streams.operators.map import Peek
from streams.runtime.draw import place_of, short_name
from streams.runtime.places import is_shared

__all__ = ["Edge", "Explanation", "explain"]


@dataclass(frozen=True, slots=True)
class Edge:
    """One way that data takes, and how often its effects are seen at the other end."""

    source: str
    target: str
    guarantee: str
    why: str


@dataclass(frozen=True, slots=True)
class SubtopologyPlan:
    name: str
    tasks: list[str]
    reads: list[str]
    writes: list[str]
    stores: list[str]


@dataclass(frozen=True, slots=True)
class TopicPlan:
    name: str
    kind: str
    partitions: int
    retention_ms: int | None
    retention_bytes: int | None
    compact: bool


@dataclass(frozen=True, slots=True)
class StorePlan:
    name: str
    subtopology: str
    kind: str
    changelog: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that ``streams explain`` shows.  ``fingerprint``: equal for apps that fit the same state."""

    app: str
    version: int
    log: str
    asked: str
    fingerprint: str
    subtopologies: list[SubtopologyPlan]
    topics: list[TopicPlan]
    stores: list[StorePlan]
    edges: list[Edge]
    warnings: list[str]


CapabilitiesOf = Callable[[str], Capabilities]
"""The URL of a log to what it can do, as a source and as a target."""


def explain(app: App, log_url: str, of: CapabilitiesOf) -> Explanation:
    """The plan of ``app`` on the log ``log_url``."""
    blueprint = app.build()
    capabilities = of(log_url)
    edges: list[Edge] = []
    for subtopology in blueprint.subtopologies:
        edges.extend(_edges(app, subtopology, capabilities, of))
    for outbox in blueprint.outboxes:
        target = outbox.target
        if target.address:
            derived = open_edge(target.location).guarantee(written=True)
        else:
            derived = derive_sink(of(target.location))
        edges.append(Edge(outbox.topic.name, place_of(outbox.target), derived.guarantee.value, derived.why))
    for journal in blueprint.journals:
        derived = open_edge(journal.source.location).guarantee(written=False)
        edges.append(Edge(place_of(journal.source), journal.topic.name, derived.guarantee.value, derived.why))
    edges.extend(
        Edge(endpoint.shown, f"agent {agent.name}, {way}", derived.guarantee.value, derived.why)
        for agent in app.agents.values()
        for endpoint in agent.endpoints
        for way, derived in promises(PRODUCTION.remembered_requests)
    )
    return Explanation(
        app=app.name,
        version=app.version,
        log=without_secrets(log_url),
        asked=app.guarantee.replace("_", " "),
        fingerprint=blueprint.record.fingerprint,
        subtopologies=[_subtopology(app, each) for each in blueprint.subtopologies],
        topics=[_topic(spec) for spec in blueprint.topics.values()],
        stores=[
            StorePlan(
                state.name,
                short_name(app, each.name),
                state.kind,
                changelog_topic(app.name, state.name),
                state.fingerprint,
            )
            for each in blueprint.subtopologies
            for state in each.states.values()
        ],
        edges=edges,
        warnings=[*_warnings(app, capabilities, of), *_about_standbys(app, log_url)],
    )


def _subtopology(app: App, each: Subtopology) -> SubtopologyPlan:
    return SubtopologyPlan(
        short_name(app, each.name),
        each.task_ids,
        sorted({node.reads.name for node in each.nodes if node.reads is not None}),
        sorted({spec.name for node in each.nodes for spec in node.writes}),
        list(each.states),
    )


def _topic(spec: TopicSpec) -> TopicPlan:
    return TopicPlan(place_of(spec), spec.kind, spec.partitions, spec.retention_ms, spec.retention_bytes, spec.compact)


def _edges(app: App, subtopology: Subtopology, capabilities: Capabilities, of: CapabilitiesOf) -> list[Edge]:
    found: list[Edge] = []

    def add(source: str, target: str, derived: Derived) -> None:
        edge = Edge(source, target, derived.guarantee.value, derived.why)
        if edge not in found:
            found.append(edge)

    tasks = f"tasks of {short_name(app, subtopology.name)}"
    for node in subtopology.nodes:
        if node.reads is not None:
            location = node.reads.location
            add(place_of(node.reads), tasks, derive_source(of(location) if location else capabilities))
    for node in subtopology.nodes:
        for spec in node.writes:
            # At least once is a choice for outputs only: what is internal stays in the fenced commit (protocol 8).
            asked = app.guarantee if spec.kind == "user" else "exactly_once"
            add(tasks, spec.name, derive_commit(capabilities, asked))
    for state in subtopology.states:
        add(tasks, changelog_topic(app.name, state), derive_commit(capabilities, "exactly_once"))
    for node in subtopology.nodes:
        if isinstance(node, Peek | Agent):
            add(node.label(), "outside, by its own calls", _outside(node))
    return found


def _about_standbys(app: App, log_url: str) -> list[str]:
    if not app.standbys or is_shared(log_url):
        return []
    return [f"standbys={app.standbys} has no effect: on this log there is one worker, and nobody to follow it"]


def _outside(node: Node) -> Derived:
    what = "a peek" if isinstance(node, Peek) else "an HTTP call of an agent"
    return Derived(Guarantee.AT_LEAST_ONCE, f"{what} isn't part of the commit: it is repeated after a crash")


def _warnings(app: App, capabilities: Capabilities, of: CapabilitiesOf) -> list[str]:
    found: list[str] = []
    commit = derive_commit(capabilities, app.guarantee)
    if app.guarantee == "exactly_once" and commit.guarantee is not Guarantee.EXACTLY_ONCE:
        found.append(f"a worker would refuse to start: exactly once can't be had on this log ({commit.why})")
    if capabilities.durable is Durability.NONE:
        found.append("the log survives nothing: it is gone with its process")
    elif capabilities.durable is Durability.PROCESS:
        found.append("a power failure may take back the last commits (durable=false); each is still all or nothing")
    blueprint = app.build()
    written = {spec.name for node in app.graph.nodes for spec in node.writes}
    for subtopology in blueprint.subtopologies:
        for node in subtopology.sources:
            found.extend(_about_source(cast(SourceNode, node), subtopology))
    written |= {outbox.target.name for outbox in blueprint.outboxes}
    found.extend(
        f"{spec.name} keeps records for {format_duration_ms(spec.retention_ms)} by their timestamps: results of "
        f"older event times (a replay, late windows) may be dropped as they come; give it a longer retention"
        for spec in blueprint.topics.values()
        if spec.kind == "user"
        and not spec.address
        and spec.retention_ms is not None
        and spec.name in written
        and (of(spec.location) if spec.location else capabilities).expires_by_timestamp
    )
    return found


def _about_source(source: SourceNode, subtopology: Subtopology) -> list[str]:
    assert source.reads is not None
    spec = source.reads
    found: list[str] = []
    limits = [
        *([format_duration_ms(spec.retention_ms)] if spec.retention_ms is not None else []),
        *([f"{spec.retention_bytes} bytes"] if spec.retention_bytes is not None else []),
    ]
    if limits and source.on_lost == "fail":
        found.append(
            f"{spec.name} keeps {' or '.join(limits)}: a task that falls further behind stops with PositionLost "
            f"(on_lost='earliest' would go on and count what is gone)"
        )
    if limits and source.on_lost == "earliest":
        found.append(f"{spec.name} keeps {' or '.join(limits)}: what is removed unread is passed over and counted")
    windowed = any(state.kind == "windowed" for state in subtopology.states.values())
    if windowed and source.timed and source.idle_after_ms is None and spec.kind == "user" and spec.partitions > 1:
        found.append(
            f"{spec.name}: with idle_after=None one partition without records holds every window open; set idle_after"
        )
    return found
