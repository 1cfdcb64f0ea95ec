"""A worker's numbers for Prometheus' client.

What must live here: from ``runtime.metrics`` to the client's families.  What must not: counting, or HTTP
(``runtime.web``).  It is imported only where somebody asks for metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from streams.runtime.metrics import Family, Metrics

__all__ = ["registry_of"]


def registry_of(metrics: Metrics) -> CollectorRegistry:
    """A registry of its own for the metrics of a worker; what is asked of it is how they stand then."""
    registry = CollectorRegistry()
    registry.register(_Numbers(metrics))
    return registry


class _Numbers(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for family in self._metrics.families:
            yield _shown(family)
        for told in self._metrics.told:
            for name, text, count in told():
                counter = CounterMetricFamily(name, text, labels=["app"])
                counter.add_metric([self._metrics.app], count)
                yield counter


def _shown(family: Family) -> Metric:
    if family.kind == "counter":
        counter = CounterMetricFamily(family.name, family.text, labels=family.label_names)
        for labels, value in family.values.items():
            counter.add_metric(labels, value.now, created=value.created)
        return counter
    if family.kind == "gauge":
        gauge = GaugeMetricFamily(family.name, family.text, labels=family.label_names)
        for labels, value in family.values.items():
            gauge.add_metric(labels, value.now)
        return gauge
    histogram = HistogramMetricFamily(family.name, family.text, labels=family.label_names)
    bounds = [*(str(float(bound)) for bound in family.buckets), "+Inf"]
    for labels, value in family.values.items():
        histogram.add_metric(labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.number)
        named = dict(zip(family.label_names, labels, strict=True))
        histogram.add_sample(f"{family.name}_created", named, value.created)
    return histogram
