"""What a worker counts, in the names that Prometheus shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from streams.core.telling import Counts

LABELS = ("app", "task")


class Metrics:
    """The metrics of one worker, in a registry of their own."""

    def __init__(self, app: str) -> None:
        self.app = app
        self.registry = CollectorRegistry()
        self.records_in = self._counter("streams_records_in", "Records that a task has processed and committed.")
        self.records_out = self._counter("streams_records_out", "Records that a task has committed to topics.")
        self.commits = self._counter("streams_commits", "Commits of a task.")
        self.restarts = self._counter("streams_task_restarts", "Times that a task started again from its last commit.")
        self.skipped = self._counter("streams_skipped", "Records passed over by on_error='skip'.")
        self.dead_lettered = self._counter("streams_dead_lettered", "Records moved to a dead-letter topic.")
        self.late = self._counter("streams_late", "Records that came after their window had closed.")
        self.tombstones = self._counter("streams_tombstones", "Records without a value that a stream left out.")
        self.duplicates = self._counter("streams_duplicates", "Records that dedupe left out.")
        self.lost = self._counter("streams_lost", "Offsets given up by on_lost='earliest'.")
        self.dropped = self._counter("streams_dropped", "Messages that came faster than the log took them.")
        self.restored = self._counter("streams_restored", "Offsets of changelogs read to restore stores.")
        self.lag = self._gauge("streams_lag_records", "Offsets between a task and the end of its inputs.")
        self.standby_lag = self._gauge("streams_standby_lag_records", "Offsets between a standby and its changelogs.")
        self.watermark = self._gauge("streams_watermark_ms", "Event time that a task has reached.")
        self.commit_seconds = Histogram(
            "streams_commit_seconds",
            "How long a commit took.",
            LABELS,
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, LABELS, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, LABELS, registry=self.registry)

    def forget_standby(self, task: str) -> None:
        """The worker no longer follows a task: its last lag would look like one that doesn't shrink."""
        with suppress(KeyError):  # it never came to look
            self.standby_lag.remove(self.app, task)

    def of(self, metric: Counter, task: str, by: int) -> None:
        """Add to a counter of a task; nothing for 0, so that only what happened shows."""
        if by:
            metric.labels(self.app, task).inc(by)


class EdgeCounters(Collector):
    """What the edges of an app count, as it is when the metrics are asked for.  edges: those that are open now."""

    def __init__(self, app: str, edges: Callable[[], Iterable[object]]) -> None:
        self._app = app
        self._edges = edges

    def collect(self) -> Iterator[CounterMetricFamily]:
        found: dict[str, tuple[str, int]] = {}
        for edge in {id(each): each for each in self._edges()}.values():
            for name, (text, count) in edge.counters().items() if isinstance(edge, Counts) else ():
                found[name] = text, count + found.get(name, ("", 0))[1]
        for name, (text, count) in found.items():
            family = CounterMetricFamily(name, text, labels=["app"])
            family.add_metric([self._app], count)
            yield family


class LogCounters(Collector):
    """What a log counts itself, as it is when the metrics are asked for."""

    def __init__(self, app: str, log: Counts) -> None:
        self._app = app
        self._log = log

    def collect(self) -> Iterator[CounterMetricFamily]:
        for name, (text, count) in self._log.counters().items():
            family = CounterMetricFamily(name, text, labels=["app"])
            family.add_metric([self._app], count)
            yield family
