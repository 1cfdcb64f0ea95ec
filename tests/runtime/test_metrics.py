"""A worker's numbers as Prometheus gets them: the client's own metrics, given the same, say the same."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from streams.runtime.metrics import COMMIT_BUCKETS_S, Metrics

SECONDS = [0.0, 0.001, 0.0011, 0.3, 1, 10, 10.5, 700.0]


def text_of(registry: CollectorRegistry) -> list[str]:
    """The lines, in order; when something was created differs by a moment."""
    return re.sub(r"(_created\{.*\}) .*", r"\1 then", generate_latest(registry).decode()).splitlines()


def test_counters_gauges_and_histograms_are_shown_as_the_client_shows_its_own() -> None:
    ours, theirs, labels = Metrics("shop"), CollectorRegistry(), ("app", "task")
    ours.families.clear()
    odd = 'a "b"\\\n-0'
    counter = Counter("n", "How many.", labels, registry=theirs)
    for each in (ours.counter("n", "How many."), counter):
        each.labels("shop", odd).inc()
        each.labels("shop", odd).inc(2)
        each.labels("shop", "never")
    gauge = Gauge("g", "How much.", labels, registry=theirs)
    for level in (ours.gauge("g", "How much."), gauge):
        level.labels("shop", "up").set(1_700_000_000_123)
        level.labels("shop", "gone").set(1)
        level.remove("shop", "gone")
        level.labels("shop", "asked").set_function(lambda: 2.5)
        with level.labels("shop", "inside").track_inprogress():
            level.labels("shop", "inside").inc()
    ours.families.append(ours.commit_seconds)
    histogram = Histogram(
        "streams_commit_seconds", "How long a commit took.", labels, registry=theirs, buckets=COMMIT_BUCKETS_S
    )
    for spread in (ours.commit_seconds, histogram):
        for number in SECONDS:
            spread.labels("shop", "a-0").observe(number)
    assert text_of(ours.registry) == text_of(theirs)
    assert 'n_total{app="shop",task="never"} 0.0' in text_of(ours.registry)


def test_what_others_count_is_shown_as_it_is_when_it_is_asked_for() -> None:
    metrics, count = Metrics("shop"), 1
    metrics.told.append(lambda: [("streams_log_reconnects", "Reconnects.", count)])
    registry = metrics.registry
    assert registry.get_sample_value("streams_log_reconnects_total", {"app": "shop"}) == 1
    count = 3
    assert registry.get_sample_value("streams_log_reconnects_total", {"app": "shop"}) == 3
