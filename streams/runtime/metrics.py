"""What a worker counts, in the names that Prometheus shows.

What must live here: the numbers.  What must not: the client of Prometheus (``runtime.prometheus``), which is imported
when somebody asks for them: most workers are never asked, and counting needs none of it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from streams.core.telling import Counts

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Family", "Metrics", "Told", "Value", "edge_counters", "log_counters"]

LABELS = ("app", "task")
COMMIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

Told = Callable[[], Iterable[tuple[str, str, int]]]
"""Gives counters that others keep, as they are now: (name, what is counted, how often)."""


class Value:
    """One number, or the distribution of many.  created: when it was first asked for, in seconds since the epoch."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.created = time.time()
        self.number = 0.0
        self.counts = [0] * (len(buckets) + 1) if buckets else []
        self._buckets = buckets
        self._look: Callable[[], float] | None = None

    def inc(self, by: float = 1) -> None:
        self.number += by

    def set(self, to: float) -> None:
        self.number = to

    def set_function(self, look: Callable[[], float]) -> None:
        """Have ``look`` called for the number whenever it is asked for."""
        self._look = look

    def observe(self, number: float) -> None:
        """Of a distribution: one more number.  A number that equals the bound of a bucket is in it."""
        self.number += number
        self.counts[bisect_left(self._buckets, number)] += 1

    @contextmanager
    def track_inprogress(self) -> Iterator[None]:
        """One more inside of the block."""
        self.number += 1
        try:
            yield
        finally:
            self.number -= 1

    @property
    def now(self) -> float:
        return self.number if self._look is None else self._look()


class Family:
    """One metric: its values by those of its labels.  buckets: the upper bounds of a histogram's."""

    def __init__(
        self,
        kind: Literal["counter", "gauge", "histogram"],
        name: str,
        text: str,
        labels: tuple[str, ...],
        buckets: tuple[float, ...] = (),
    ) -> None:
        self.kind = kind
        self.name = name
        self.text = text
        self.label_names = labels
        self.buckets = buckets
        self.values: dict[tuple[str, ...], Value] = {}

    def labels(self, *labels: str) -> Value:
        """The value of these labels, made when it is first asked for."""
        assert len(labels) == len(self.label_names)
        found = self.values.get(labels)
        if found is None:
            found = self.values[labels] = Value(self.buckets)
        return found

    def remove(self, *labels: str) -> None:
        """Show it no more.  Raises KeyError where there is none."""
        del self.values[labels]


class Metrics:
    """The metrics of one worker."""

    def __init__(self, app: str) -> None:
        self.app = app
        self.families: list[Family] = []
        self.told: list[Told] = []
        self.records_in = self.counter("streams_records_in", "Records that a task has processed and committed.")
        self.records_out = self.counter("streams_records_out", "Records that a task has committed to topics.")
        self.commits = self.counter("streams_commits", "Commits of a task.")
        self.restarts = self.counter("streams_task_restarts", "Times that a task started again from its last commit.")
        self.skipped = self.counter("streams_skipped", "Records passed over by on_error='skip'.")
        self.dead_lettered = self.counter("streams_dead_lettered", "Records moved to a dead-letter topic.")
        self.late = self.counter("streams_late", "Records that came after their window had closed.")
        self.tombstones = self.counter("streams_tombstones", "Records without a value that a stream left out.")
        self.duplicates = self.counter("streams_duplicates", "Records that dedupe left out.")
        self.lost = self.counter("streams_lost", "Offsets given up by on_lost='earliest'.")
        self.dropped = self.counter("streams_dropped", "Messages that came faster than the log took them.")
        self.restored = self.counter("streams_restored", "Offsets of changelogs read to restore stores.")
        self.lag = self.gauge("streams_lag_records", "Offsets between a task and the end of its inputs.")
        self.standby_lag = self.gauge("streams_standby_lag_records", "Offsets between a standby and its changelogs.")
        self.watermark = self.gauge("streams_watermark_ms", "Event time that a task has reached.")
        self.commit_seconds = Family(
            "histogram", "streams_commit_seconds", "How long a commit took.", LABELS, COMMIT_BUCKETS_S
        )
        self.families.append(self.commit_seconds)

    def counter(self, name: str, text: str, labels: tuple[str, ...] = LABELS) -> Family:
        """A new metric that only grows."""
        self.families.append(Family("counter", name, text, labels))
        return self.families[-1]

    def gauge(self, name: str, text: str, labels: tuple[str, ...] = LABELS) -> Family:
        """A new metric that goes up and down."""
        self.families.append(Family("gauge", name, text, labels))
        return self.families[-1]

    def forget_standby(self, task: str) -> None:
        """The worker no longer follows a task: its last lag would look like one that doesn't shrink."""
        with suppress(KeyError):  # it never came to look
            self.standby_lag.remove(self.app, task)

    def of(self, metric: Family, task: str, by: int) -> None:
        """Add to a counter of a task; nothing for 0, so that only what happened shows."""
        if by:
            metric.labels(self.app, task).inc(by)

    @cached_property
    def registry(self) -> CollectorRegistry:
        """All of it as Prometheus' client takes it, which is imported by the first call."""
        from streams.runtime.prometheus import registry_of

        return registry_of(self)


def edge_counters(edges: Callable[[], Iterable[object]]) -> Told:
    """What the edges of an app count, over all of them.  edges: those that are open now."""

    def told() -> Iterable[tuple[str, str, int]]:
        found: dict[str, tuple[str, int]] = {}
        for edge in {id(each): each for each in edges()}.values():
            for name, (text, count) in edge.counters().items() if isinstance(edge, Counts) else ():
                found[name] = text, count + found.get(name, ("", 0))[1]
        return [(name, text, count) for name, (text, count) in found.items()]

    return told


def log_counters(log: Counts) -> Told:
    """What a log counts itself."""
    return lambda: [(name, text, count) for name, (text, count) in log.counters().items()]
