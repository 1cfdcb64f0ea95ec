"""The verdict on a simulation: what the log holds in the end, against what it should hold.

What must live here: reading outcomes off the log, comparing them.  What must not: running anything (``simulation``).

What should be there isn't computed by a model: it is what the same app makes of the same inputs in a run without
faults, on one worker.  So records are compared as multisets for each key, and in order where the topology fixes one:
where a task has one input, and nothing upstream brings several together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streams.core.graph import Subtopology
from streams.core.record import TopicPartition
from streams.core.store import prefix_bytes
from streams.core.watermark import MARK_HEADER
from streams.dsl.app import App
from streams.dsl.blueprint import Blueprint, changelog_topic
from streams.operators.batching import Batching
from streams.state.memory import MemoryDisk
from streams.testing.sim_server import Entry, Server

__all__ = ["Expectation", "Outcome", "at_least_once", "collect", "differing_stores", "exactly_once"]


@dataclass(slots=True)
class Outcome:
    """What a run left on the log.

    outputs: by topic and key the records that the app wrote, as (value, timestamp) in their order on the log.
    tables: by name the contents of tables and aggregates.
    ordered: topics in which the order of a key's records is fixed.
    """

    outputs: dict[str, dict[bytes | None, list[tuple[bytes | None, int]]]] = field(default_factory=dict)
    tables: dict[str, dict[Any, Any]] = field(default_factory=dict)
    ordered: frozenset[str] = frozenset()


Expectation = Callable[[Outcome, Outcome], Iterable[str]]
"""(what should be there, what is there) to what is wrong, a line each."""


def exactly_once(expected: Outcome, found: Outcome) -> list[str]:
    """Every input has its effects exactly once: outputs and tables are those of a run without faults."""
    wrong = []
    for topic, by_key in expected.outputs.items():
        wrong += _compare(topic, by_key, found.outputs.get(topic, {}), topic in expected.ordered)
    return wrong + _compare_tables(expected, found)


def at_least_once(expected: Outcome, found: Outcome) -> list[str]:
    """For apps with guarantee="at_least_once": nothing is missing, tables are exact, outputs may repeat."""
    wrong = []
    for topic, by_key in expected.outputs.items():
        for key, records in by_key.items():
            missing = Counter(records) - Counter(found.outputs.get(topic, {}).get(key, []))
            wrong += [f"topic {topic}, key {key!r}: {count} × missing: {one}" for one, count in missing.items()]
    return wrong + _compare_tables(expected, found)


def _compare(
    topic: str,
    expected: Mapping[bytes | None, list[tuple[bytes | None, int]]],
    found: Mapping[bytes | None, list[tuple[bytes | None, int]]],
    ordered: bool,
) -> list[str]:
    wrong = []
    for key in sorted({*expected, *found}, key=lambda key: key or b""):
        should, is_there = expected.get(key, []), found.get(key, [])
        if should == is_there:
            continue
        missing, extra = Counter(should) - Counter(is_there), Counter(is_there) - Counter(should)
        wrong += [f"topic {topic}, key {key!r}: {count} × missing: {one}" for one, count in missing.items()]
        wrong += [f"topic {topic}, key {key!r}: {count} × too many: {one}" for one, count in extra.items()]
        if not missing and not extra and ordered:
            wrong.append(f"topic {topic}, key {key!r}: the order is {is_there} and should be {should}")
    return wrong


def _compare_tables(expected: Outcome, found: Outcome) -> list[str]:
    return [
        f"table {name}, key {key!r}: holds {held.get(key)!r} and should hold {should.get(key)!r}"
        for name, should in expected.tables.items()
        for held in (found.tables.get(name, {}),)
        for key in sorted({*should, *held}, key=repr)
        if should.get(key) != held.get(key)
    ]


# ── reading the log ───────────────────────────────────────────────────────────────────────────────────────────────────


def collect(app: App, server: Server) -> Outcome:
    """What the app has written.  What hangs on the wall clock (timers, batches with a time limit) is left out."""
    blueprint = app.build()
    unsteady = _unsteady(app, blueprint)
    outcome = Outcome(ordered=frozenset(_ordered(blueprint)))
    for each in blueprint.subtopologies:
        if each.name in unsteady:
            continue
        for spec in (spec for node in each.nodes for spec in node.writes if spec.kind == "user"):
            by_key = outcome.outputs.setdefault(spec.name, {})
            by_key.clear()
            for number in range(spec.partitions):
                for entry in server.journal.get(TopicPartition(spec.name, number), []):
                    if not entry.given and not _is_mark(entry):
                        by_key.setdefault(entry.key, []).append((entry.value, entry.timestamp))
    for name, view in app.views.items():
        owner = next((each for each in blueprint.subtopologies if view.state.name in each.states), None)
        if owner is None or owner.name in unsteady:
            continue
        outcome.tables[name] = {
            view.keys.decode(key): view.result(view.state.decode(value))
            for number in range(owner.partitions)
            for key, value in _last(server, TopicPartition(changelog_topic(app.name, view.state.name), number)).items()
        }
    return outcome


def differing_stores(app: App, server: Server, task: str, disk: MemoryDisk) -> list[str]:
    """Where the store of a task that has caught up isn't what its changelogs say."""
    subtopology, partition = app.build().subtopology_of_task(task)
    wrong = []
    prefixes = disk.state.prefixes if disk.state is not None else {}
    for name in subtopology.states:
        should = _last(server, TopicPartition(changelog_topic(app.name, name), partition))
        prefix = prefix_bytes(prefixes[name]) if name in prefixes else None
        held = {}
        if prefix is not None:
            held = {key[len(prefix) :]: value for key, value in disk.data.items() if key.startswith(prefix)}
        wrong += [
            f"task {task}: its store holds {held.get(key)!r} as {key!r} of {name}, and its changelog says {value!r}"
            for key, value in sorted({**dict.fromkeys(held), **should}.items())
            if held.get(key) != value
        ]
    return wrong


def _last(server: Server, at: TopicPartition) -> dict[bytes, bytes]:
    contents: dict[bytes, bytes] = {}
    for entry in server.journal.get(at, []):
        assert entry.key is not None, "a changelog has keys"
        if entry.value is None:
            contents.pop(entry.key, None)
        else:
            contents[entry.key] = entry.value
    return contents


def _is_mark(entry: Entry) -> bool:
    return bool(entry.headers) and entry.headers is not None and entry.headers[0][0] == MARK_HEADER


# ── what the topology fixes ───────────────────────────────────────────────────────────────────────────────────────────


def _writers(blueprint: Blueprint) -> dict[str, list[Subtopology]]:
    writers: dict[str, list[Subtopology]] = {}
    for each in blueprint.subtopologies:
        for topic in {spec.name for node in each.nodes for spec in node.writes}:
            writers.setdefault(topic, []).append(each)
    return writers


def _unsteady(app: App, blueprint: Blueprint) -> set[str]:
    """The subtopologies whose results hang on the wall clock, and all behind them."""
    topics = {timer.topic.name for timer in app.timers if timer.topic is not None}
    found: set[str] = set()
    while True:
        more = {
            each.name
            for each in blueprint.subtopologies
            if any(node.reads is not None and node.reads.name in topics for node in each.nodes)
            or any(isinstance(node, Batching) and node.within_ms is not None for node in each.nodes)
        }
        if more == found:
            return found
        found = more
        topics |= {
            spec.name
            for each in blueprint.subtopologies
            if each.name in found
            for node in each.nodes
            for spec in node.writes
        }


def _ordered(blueprint: Blueprint) -> Iterable[str]:
    writers = _writers(blueprint)

    def fixed(subtopology: Subtopology, seen: frozenset[str]) -> bool:
        read = {node.reads.name for node in subtopology.sources if node.reads is not None}
        if len(read) != 1 or subtopology.name in seen:
            return False
        upstream = writers.get(next(iter(read)), [])
        return not upstream or (
            len(upstream) == 1 and upstream[0].partitions == 1 and fixed(upstream[0], seen | {subtopology.name})
        )

    for topic, by in writers.items():
        if len(by) == 1 and fixed(by[0], frozenset()):
            yield topic
