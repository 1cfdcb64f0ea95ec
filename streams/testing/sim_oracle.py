"""The verdict on a simulation: what the log holds in the end, against what it should hold.

What must live here: reading outcomes off the log, comparing them.  What must not: running anything (``simulation``).

What should be there isn't computed by a model: it is what the same app makes of the same inputs in a run without
faults, on one worker.  So records are compared as multisets for each key, and in order where the topology fixes one:
where a task has one input, and nothing upstream brings several together.  Where a batch with a time limit ends hangs on
the wall clock: of such lists it is compared what they hold, one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streams.core.graph import Node, Subtopology
from streams.core.log import TopicSpec
from streams.core.record import TopicPartition
from streams.core.store import prefix_bytes
from streams.core.watermark import MARK_HEADER
from streams.dsl.app import App
from streams.dsl.blueprint import Blueprint, changelog_topic
from streams.operators.agent import requests_state
from streams.operators.batching import Batching
from streams.state.memory import MemoryDisk
from streams.testing.sim_server import Entry, Server

__all__ = [
    "Expectation",
    "Outcome",
    "at_least_once",
    "collect",
    "differing_stores",
    "exactly_once",
    "overgrown_memories",
]


@dataclass(slots=True)
class Outcome:
    """What a run left on the log.

    outputs: by topic and key the records that the app wrote, as (value, timestamp) in their order on the log.
    tables: by name the contents of tables and aggregates.
    lists: by topic and partition what the lists of batches with a time limit hold, one after the other.
    ordered: topics in which the order of a key's records is fixed.
    """

    outputs: dict[str, dict[bytes | None, list[tuple[bytes | None, int]]]] = field(default_factory=dict)
    tables: dict[str, dict[Any, Any]] = field(default_factory=dict)
    ordered: frozenset[str] = frozenset()
    lists: dict[str, dict[int, list[Any]]] = field(default_factory=dict)


Expectation = Callable[[Outcome, Outcome], Iterable[str]]
"""(what should be there, what is there) to what is wrong, a line each."""


def exactly_once(expected: Outcome, found: Outcome) -> list[str]:
    """Every input has its effects exactly once: outputs and tables are those of a run without faults."""
    wrong = []
    for topic, by_key in expected.outputs.items():
        wrong += _compare(topic, by_key, found.outputs.get(topic, {}), topic in expected.ordered)
    return wrong + _compare_tables(expected, found) + _compare_lists(expected, found)


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


def _compare_lists(expected: Outcome, found: Outcome) -> list[str]:
    return [
        f"topic {topic}, partition {number}: its lists hold {held} one after the other, and should hold {should}"
        for topic, by_number in expected.lists.items()
        for number, should in by_number.items()
        if (held := found.lists.get(topic, {}).get(number)) != should
    ]


# ── reading the log ───────────────────────────────────────────────────────────────────────────────────────────────────


def collect(app: App, server: Server, elsewhere: Server | None = None) -> Outcome:
    """What the app has written.  What hangs on the wall clock is left out, but for what ``Outcome.lists`` tells."""
    blueprint = app.build()
    unsteady = _unsteady(blueprint)
    outcome = Outcome(ordered=frozenset(_ordered(blueprint)))
    for each in blueprint.subtopologies:
        loose = {spec.name for node in each.nodes if node in unsteady for spec in node.writes}
        for node in each.nodes:
            for spec in (spec for spec in node.writes if spec.kind == "user"):
                if spec.name not in loose:
                    outcome.outputs[spec.name] = _outputs(server, spec)
                elif all(isinstance(one, Batching) for one in node.upstream):
                    outcome.lists[spec.name] = _lists(server, spec)
    if elsewhere is not None:
        for outbox in blueprint.outboxes:
            outcome.outputs[outbox.target.name] = _outputs(elsewhere, outbox.target)
    kept_by = {
        state.name: node in unsteady for each in blueprint.subtopologies for node in each.nodes for state in node.states
    }
    for name, view in app.views.items():
        owner = next((each for each in blueprint.subtopologies if view.state.name in each.states), None)
        if owner is None or kept_by[view.state.name]:
            continue
        outcome.tables[name] = {
            view.keys.decode(key): view.result(view.state.decode(value))
            for number in range(owner.partitions)
            for key, value in _last(server, TopicPartition(changelog_topic(app.name, view.state.name), number)).items()
        }
    return outcome


def _written(server: Server, topic: str, number: int) -> Iterator[Entry]:
    """The records that the app wrote to a partition."""
    for entry in server.journal.get(TopicPartition(topic, number), []):
        if not entry.given and not _is_mark(entry):
            yield entry


def _outputs(server: Server, spec: TopicSpec) -> dict[bytes | None, list[tuple[bytes | None, int]]]:
    by_key: dict[bytes | None, list[tuple[bytes | None, int]]] = {}
    for number in range(spec.partitions):
        for entry in _written(server, spec.name_there, number):
            by_key.setdefault(entry.key, []).append((entry.value, entry.timestamp))
    return by_key


def _lists(server: Server, spec: TopicSpec) -> dict[int, list[Any]]:
    return {
        number: [
            one for entry in _written(server, spec.name, number) for one in msgspec.json.decode(entry.value or b"")
        ]
        for number in range(spec.partitions)
    }


def overgrown_memories(app: App, server: Server, most: int) -> list[str]:
    """Agents that remember more than ``most`` answered requests: over restarts that would grow without bound."""
    return [
        f"task {owner.task_id(number)}: agent {name} remembers {kept} requests, and {most} are what it may"
        for name in app.agents
        for state in (requests_state(name).name,)
        for owner in app.build().subtopologies
        if state in owner.states
        for number in range(owner.partitions)
        for held in (_last(server, TopicPartition(changelog_topic(app.name, state), number)),)
        if (kept := sum(1 for key in held if key.startswith(b"r"))) > most
    ]


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


def _unsteady(blueprint: Blueprint) -> set[Node]:
    """The nodes whose results hang on the wall clock: batches with a time limit, and all behind them."""
    found: set[Node] = set()
    while True:
        nodes = [node for each in blueprint.subtopologies for node in each.nodes]
        topics = {spec.name for node in found for spec in node.writes}
        states = {state.name for node in found for state in node.states}
        more = {
            node
            for node in nodes
            if (isinstance(node, Batching) and node.within_ms is not None)
            or found.intersection(node.upstream)
            or (node.reads is not None and node.reads.name in topics)
            or states.intersection(state.name for state in node.states)
        }
        if more == found:
            return found
        found = more


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
