"""The topology record: what an app looked like when it last ran on this log, and whether it may go on.

What must live here: the record, and ``resolve_topology`` as a pure decision.  What must not: reading or writing it.  On
the log the record is the checkpoint of the control task ``<app>.control``, so it changes by fenced commit.

Task ids, stores and internal topics come from stable names.  Adding is compatible and rolls.  What would lose or
misread something that the log holds is refused, unless the app states a higher version, which says: I know.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from streams.core.membership import TaskRef
from streams.errors import TopologyChanged


class StoreRecord(msgspec.Struct, frozen=True):
    """A named state: who holds it, what kind of operator keeps it, and the schema of its values ("" when fixed)."""

    subtopology: str
    fingerprint: str
    schema: str = ""


class TopologyRecord(msgspec.Struct, frozen=True):
    """The shape of an app.

    sources: topic to the subtopology that reads it.  slots: number the tasks for logs that need a place for each; only
    ever appended.
    """

    app: str
    version: int
    partitions: dict[str, int]
    stores: dict[str, StoreRecord]
    internal_topics: dict[str, int]
    slots: list[str]
    sources: dict[str, str] = {}

    @property
    def fingerprint(self) -> str:
        shape = (self.partitions, sorted(self.stores.items()), self.internal_topics)
        return format(zlib.crc32(msgspec.msgpack.encode(shape, order="sorted")), "08x")


@dataclass(frozen=True, slots=True)
class Start:
    """Go on with this record.  ``changes`` are compatible and told in the log; empty when nothing changed.

    removed_stores, removed_topics: what a new version gave up; their contents are dropped before the record is
    written, so that a crash in between drops them again.
    fence: tasks of the former record, to be fenced before anything else when the version changed.
    """

    record: TopologyRecord
    changes: Sequence[str] = ()
    removed_stores: Sequence[str] = ()
    removed_topics: Sequence[str] = ()
    fence: Sequence[str] = ()


Incompatibility = Callable[[str, str], str | None]
"""Two schemas to the first reason, in words, why values of the old one can't be read by the new one."""


def resolve_topology(
    previous: TopologyRecord | None, current: TopologyRecord, incompatibility: Incompatibility
) -> Start:
    """Decide whether the app may run on what the log holds.  Raises TopologyChanged, with the changes and choices."""
    if previous is None:
        return Start(current)
    if current.version < previous.version:
        raise TopologyChanged(
            f"app {current.app!r} is version {current.version}, but version {previous.version} has already run on this "
            f"log; deploy the newer code, or set version={previous.version + 1} to go back on purpose"
        )
    conflicts, lost_stores, lost_topics = _conflicts(previous, current, incompatibility)
    record = msgspec.structs.replace(
        current, slots=_slots(previous, current), sources={**previous.sources, **current.sources}
    )
    if conflicts and current.version == previous.version:
        raise TopologyChanged(
            f"app {current.app!r} doesn't fit what it left on the log: {'; '.join(conflicts)}. Choose one: give the "
            f"operator its former name= back (rename), run `streams reset` to start from nothing (reset), or set "
            f"App(version={current.version + 1}) to drop what no longer fits (new version)"
        )
    if current.version > previous.version:
        fence = list(previous.slots)
        return Start(record, conflicts, lost_stores, lost_topics, fence)
    return Start(record, _additions(previous, current))


def _conflicts(
    previous: TopologyRecord, current: TopologyRecord, incompatibility: Incompatibility
) -> tuple[list[str], list[str], list[str]]:
    conflicts: list[str] = []
    stores: list[str] = []
    topics: list[str] = []
    for name, count in previous.partitions.items():
        now = current.partitions.get(name)
        if now is not None and now != count:
            conflicts.append(f"the tasks of {name} were {count} and would be {now}")
            stores.extend(store for store, held in previous.stores.items() if held.subtopology == name)
    for name, held in previous.stores.items():
        store = current.stores.get(name)
        if store is None:
            conflicts.append(f"the store {name} is gone")
            stores.append(name)
        elif store.fingerprint != held.fingerprint:
            conflicts.append(f"the store {name} held {held.fingerprint} and would hold {store.fingerprint}")
            stores.append(name)
        elif store.subtopology != held.subtopology:
            conflicts.append(f"the store {name} moved from the tasks of {held.subtopology} to {store.subtopology}")
            stores.append(name)
        elif store.schema != held.schema and (why := incompatibility(held.schema, store.schema)) is not None:
            conflicts.append(f"the values of store {name} changed: {why}")
            stores.append(name)
    for topic, reader in previous.sources.items():
        now_read_by = current.sources.get(topic, reader)
        if now_read_by != reader:
            conflicts.append(
                f"the topic {topic} was read by the tasks of {reader} and would be read by those of {now_read_by}, "
                f"again from its start"
            )
    for name, count in previous.internal_topics.items():
        now = current.internal_topics.get(name)
        if now is None:
            conflicts.append(f"the internal topic {name} is gone, with the records in it that nobody read yet")
            topics.append(name)
        elif now != count:
            conflicts.append(f"the internal topic {name} had {count} partitions and would have {now}")
            topics.append(name)
    return conflicts, sorted(set(stores)), topics


def _additions(previous: TopologyRecord, current: TopologyRecord) -> list[str]:
    added = [f"new tasks of {name}" for name in current.partitions if name not in previous.partitions]
    added += [f"new store {name}" for name in current.stores if name not in previous.stores]
    added += [f"no more tasks of {name}" for name in previous.partitions if name not in current.partitions]
    return added


def _slots(previous: TopologyRecord, current: TopologyRecord) -> list[str]:
    known = set(previous.slots)
    return [*previous.slots, *(task for task in current.slots if task not in known)]


def control_ref(app: str) -> TaskRef:
    """The control task of an app, whose checkpoint is the topology record."""
    return TaskRef(app, 0, f"{app}.control")


def task_refs(record: TopologyRecord) -> Mapping[str, TaskRef]:
    """Every task that the record numbers, by its name; slot 0 is the control task's."""
    return {name: TaskRef(record.app, slot, name) for slot, name in enumerate(record.slots, start=1)}
