"""What lies outside of an app's own log: other logs, and transports that aren't logs.

What must live here: opening, checking and closing them, and making the tasks that carry records across.  What must not:
carrying (``delivery``, ``egress``, ``ingress``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from streams.connectors.log_sink import sink_on
from streams.connectors.registry import open_edge, open_foreign
from streams.connectors.renamed import ForeignTopic, foreign_topic
from streams.core.capability import Derived, derive_sink, derive_source, require
from streams.core.edge import Edge
from streams.core.log import Foreign, Log, TaskRef, TopicSpec
from streams.core.spread import BY_KEY
from streams.core.thresholds import PRODUCTION, Thresholds
from streams.dsl.app import App
from streams.dsl.blueprint import Blueprint
from streams.errors import TopicMismatch
from streams.runtime.delivery import Delivery
from streams.runtime.draw import place_of
from streams.runtime.egress import Egress
from streams.runtime.ingress import Ingress
from streams.runtime.metrics import Metrics
from streams.runtime.outages import Outages
from streams.runtime.retention import Expiry

__all__ = ["Outside"]

logger = logging.getLogger("streams")


class Outside:
    """Other logs and edges, by topic.  connect, connect_edge: from a location to what isn't opened yet."""

    def __init__(
        self,
        app: App,
        connect: Callable[[str], Log] = open_foreign,
        connect_edge: Callable[[str], Edge] = open_edge,
        outages: Outages | None = None,
        thresholds: Thresholds = PRODUCTION,
    ) -> None:
        self.logs: dict[str, Log | ForeignTopic] = {}
        self.edges: dict[str, Edge] = {}
        self._opened: dict[str, Log] = {}
        self._app = app
        self._connect = connect
        self._connect_edge = connect_edge
        self._outages = outages or Outages()
        self._thresholds = thresholds

    @property
    def carriers(self) -> list[str]:
        """URLs that ingresses, egresses and deliveries depend on.  Each of those tells ``Outages`` when it works."""
        targets = [log.url for name, log in self.logs.items() if name in self._app.outboxes]
        return sorted({*targets, *(edge.url for edge in self.edges.values())})

    async def open(self, blueprint: Blueprint) -> None:
        for spec in blueprint.foreign_topics:
            if spec.location not in self._opened:
                log = self._connect(spec.location)
                await log.open()
                self._opened[spec.location] = log
            self.logs[spec.name] = foreign_topic(self._opened[spec.location], spec)
        edges: dict[str, Edge] = {}
        for spec in blueprint.edge_topics:
            if spec.location not in edges:
                edges[spec.location] = self._connect_edge(spec.location)
                await edges[spec.location].open()
            self.edges[spec.name] = edges[spec.location]

    async def close(self) -> None:
        for log in self._opened.values():
            await log.close()
        for edge in {id(edge): edge for edge in self.edges.values()}.values():
            await edge.close()

    async def check(self, blueprint: Blueprint) -> None:
        """Raise where a topic can't do what the app wants of it; create those that the app writes."""
        for spec in blueprint.foreign_topics:
            log = self.logs[spec.name]
            if spec.name in self._app.outboxes:
                await log.create_topics([replace(spec, location="")])
                require(self._app.guarantee, place_of(spec), self.promised(spec, written=True))
            else:
                await self._check_source(log, spec)
        for spec in blueprint.edge_topics:
            edge = self.edges[spec.name]
            # Nobody asks a transport for more than it has: that it can't give exactly once is said, not refused.
            if spec.name in self._app.outboxes:
                edge.check(spec, written=True)
                self._say(f"to {place_of(spec)}", self.promised(spec, written=True).why)
            if spec.name in self._app.journals:
                edge.check(spec, written=False)
                self._say(f"from {place_of(spec)}", self.promised(spec, written=False).why)

    def promised(self, topic: TopicSpec, *, written: bool) -> Derived:
        """What holds between the app's log and a topic that lies elsewhere."""
        if topic.address:
            return self.edges[topic.name].guarantee(written=written)
        log = self.logs[topic.name]
        return derive_sink(sink_on(log, topic.name).capabilities) if written else derive_source(log.capabilities)

    def _say(self, edge: str, why: str) -> None:
        logger.info("app %s: %s: %s", self._app.name, edge, why)

    async def _check_source(self, log: Foreign, spec: TopicSpec) -> None:
        require(self._app.guarantee, place_of(spec), self.promised(spec, written=False))
        info = (await log.topics([spec.name])).get(spec.name)
        if info is not None and info.spec.partitions != spec.partitions:
            raise TopicMismatch(
                f"{place_of(spec)} has {info.spec.partitions} partitions and the app declares "
                f"{spec.partitions}; give app.topic partitions={info.spec.partitions}"
            )

    def delivery(self, blueprint: Blueprint, ref: TaskRef, log: Log, expiry: Expiry) -> Delivery | Egress | None:
        """What runs a task that carries a partition of an outbox out; None for any other task."""
        for outbox in blueprint.outboxes:
            if ref.name in outbox.task_ids:
                name, partition, version = outbox.target.name, outbox.task_ids.index(ref.name), self._app.version
                if outbox.target.address:
                    return Egress(ref, log, self.edges[name], outbox, partition, version, self._outages)
                target, how = self.logs[name], self._app.spreads.get(name, BY_KEY)
                sink = sink_on(target, name)
                told = self._outages
                return Delivery(ref, log, sink, target, outbox, partition, version, expiry, how, told, self._thresholds)
        return None

    def ingress(self, blueprint: Blueprint, ref: TaskRef, log: Log, metrics: Metrics) -> Ingress | None:
        """What runs a task that fills a partition of a journal; None for any other task."""
        for journal in blueprint.journals:
            if ref.name in journal.task_ids:
                edge, partition = self.edges[journal.source.name], journal.task_ids.index(ref.name)

                def dropped(count: int) -> None:
                    metrics.of(metrics.dropped, ref.name, count)

                version, told = self._app.version, self._outages
                return Ingress(ref, log, edge, journal, partition, version, dropped, told, self._thresholds)
        return None
