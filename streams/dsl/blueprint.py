"""The blueprint: everything that a worker needs to know of an app, computed once from its graph.

What must live here: topics to create, tasks to run, the topology record.  What must not: running anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from streams.core.graph import Graph, Subtopology
from streams.core.log import TopicSpec
from streams.core.topology import StoreRecord, TopologyRecord
from streams.dsl.foreign import Journal, Outbox


@dataclass(frozen=True, slots=True)
class Blueprint:
    """An app as a plan.

    topics: everything to create on the log, changelogs included, and what lies elsewhere.  upstream_tasks: who writes
    watermarks into which repartition topic.  ticks: there are durable timers, so a task writes their ticks.
    """

    app: str
    subtopologies: Sequence[Subtopology]
    topics: Mapping[str, TopicSpec]
    upstream_tasks: Mapping[str, Sequence[str]]
    record: TopologyRecord
    outboxes: Sequence[Outbox] = ()
    ticks: bool = False
    journals: Sequence[Journal] = ()

    @property
    def partitions(self) -> dict[str, int]:
        return {name: spec.partitions for name, spec in self.topics.items()}

    @property
    def ticker(self) -> str:
        """The task that writes the ticks of timers."""
        return f"{self.app}.ticker"

    @property
    def own_topics(self) -> list[TopicSpec]:
        """The topics on the app's own log."""
        return [spec for spec in self.topics.values() if not spec.location]

    @property
    def foreign_topics(self) -> list[TopicSpec]:
        """The topics on other logs."""
        return [spec for spec in self.topics.values() if spec.location and not spec.address]

    @property
    def edge_topics(self) -> list[TopicSpec]:
        """The topics of transports that aren't logs."""
        return [spec for spec in self.topics.values() if spec.address]

    def subtopology_of_task(self, task: str) -> tuple[Subtopology, int]:
        """The subtopology and partition of a task id."""
        name, _, partition = task.rpartition("-")
        return next(each for each in self.subtopologies if each.name == name), int(partition)

    @property
    def tasks(self) -> list[str]:
        deliveries = [task for outbox in self.outboxes for task in outbox.task_ids]
        ticker = [self.ticker] if self.ticks else []
        ingresses = [task for journal in self.journals for task in journal.task_ids]
        return [task for each in self.subtopologies for task in each.task_ids] + deliveries + ticker + ingresses


def changelog_topic(app: str, state: str) -> str:
    return f"{app}.{state}.changelog"


def draw_blueprint(
    app: str,
    version: int,
    graph: Graph,
    declared: Mapping[str, TopicSpec],
    outboxes: Sequence[Outbox] = (),
    *,
    ticks: bool = False,
    journals: Sequence[Journal] = (),
) -> Blueprint:
    """Compute the blueprint.  ``declared``: topics of the app that no node reads or writes."""
    subtopologies = graph.subtopologies()
    topics = {**declared, **graph.topics()}
    stores: dict[str, StoreRecord] = {}
    for each in subtopologies:
        for state in each.states.values():
            stores[state.name] = StoreRecord(each.name, state.fingerprint, state.schema)
            name = changelog_topic(app, state.name)
            topics[name] = TopicSpec(name, each.partitions, "changelog", compact=True)
    topics = {name: spec if spec.kind == "user" else replace(spec, owner=app) for name, spec in topics.items()}
    record = TopologyRecord(
        app=app,
        version=version,
        partitions={each.name: each.partitions for each in subtopologies},
        stores=stores,
        internal_topics={
            spec.name: spec.partitions for spec in topics.values() if spec.kind in ("repartition", "outbox", "journal")
        },
        slots=[],
        sources={node.reads.name: each.name for each in subtopologies for node in each.nodes if node.reads is not None},
    )
    drawn = Blueprint(app, subtopologies, topics, graph.upstream_tasks(), record, outboxes, ticks, journals)
    return replace(drawn, record=structs.replace(record, slots=drawn.tasks))
