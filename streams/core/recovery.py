"""What to do with a task's store after a claim: a pure decision over facts.

What must live here: ``resolve_recovery`` and the rules.  What must not: reading the facts or carrying the decision out
(``runtime.restore``).

    no store yet, or of another log, or of a commit that the log doesn't know   ──▶ Rebuild
    tombstones may have been compacted away behind the store's position         ──▶ Rebuild
    the log can't tell whether they were, and the store is old or of unknown age ──▶ Rebuild
    the store stands behind its changelog                                       ──▶ Replay
    the store stands at the end of its changelogs                               ──▶ Resume
    the store stands *beyond* the end of a changelog that knows its commit      ──▶ Rebuild (the log lost a tail)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from streams.core.checkpoint import Checkpoint, partition_key
from streams.core.record import START, Bounds, Position, TopicPartition
from streams.core.store import StoreState
from streams.errors import PositionBeyondEnd, PositionLost, TopicRecreated


@dataclass(frozen=True, slots=True)
class ChangelogFacts:
    """One changelog partition after the claim.  ``end`` is final, since only the claimant may write it.

    identity: of the topic.
    """

    start: Position
    end: Position
    compaction_floor: Position
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """The store is what the checkpoint says; go on."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Apply each changelog from the given position to its end."""

    since: Mapping[str, Position]


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Set the store aside and apply every changelog from its first record.  ``why`` is None for a new store."""

    why: str | None
    since: Mapping[str, Position] = field(default_factory=dict)


Recovery = Resume | Replay | Rebuild


def oldest_as_of(tombstones_kept_ms: int | None, now_ms: int) -> int:
    """The ``StoreState.as_of_ms`` before which a store may have missed deletes; 0 on a log that tells its floors.

    Half of what the log promises: clocks differ, and a restore takes its time (protocol 12).
    """
    return 0 if tombstones_kept_ms is None else max(1, now_ms - tombstones_kept_ms // 2)


def resolve_recovery(
    store: StoreState | None,
    checkpoint: Checkpoint,
    changelogs: Mapping[str, ChangelogFacts],
    *,
    oldest_as_of_ms: int = 0,
) -> Recovery:
    """Decide from the store's identity, the claimed checkpoint and what the changelogs hold now.

    ``oldest_as_of_ms``: by ``oldest_as_of``; of an older store no tail is read.
    """
    whole = {name: facts.start for name, facts in changelogs.items()}
    if store is None:
        return Rebuild(None, whole)
    if store.log_id != checkpoint.log_id:
        return Rebuild(f"it belongs to log {store.log_id}, and this is {checkpoint.log_id}", whole)
    if not checkpoint.made(store.epoch, store.number, store.claim):
        return Rebuild(f"the log doesn't know its commit {store.number} of epoch {store.epoch}", whole)
    since: dict[str, Position] = {}
    for name, facts in changelogs.items():
        stands = store.changelogs.get(name, START)
        if name in store.topics and store.topics[name] != facts.identity:
            return Rebuild(f"the changelog of {name} was begun anew since", whole)
        if not facts.end.reached(stands):
            return Rebuild(f"it stands beyond the end of the changelog of {name}", whole)
        if not stands.reached(facts.compaction_floor) and not stands.reached(facts.end):
            return Rebuild(f"deletes may have been compacted away from the changelog of {name}", whole)
        if name in store.changelogs and store.as_of_ms < oldest_as_of_ms and not stands.reached(facts.end):
            return Rebuild(f"it is too old to know of every delete in the changelog of {name}", whole)
        if not stands.reached(facts.start):
            return Rebuild(f"the changelog of {name} starts behind its position", whole)
        if not stands.reached(facts.end):
            since[name] = stands
    return Replay(since) if since else Resume()


def resolve_changelogs(checkpoint: Checkpoint, identities: Mapping[str, str], *, renewed: bool = False) -> Checkpoint:
    """The checkpoint with the identity of each changelog topic.

    ``renewed``: a new version of the app claims, which may have dropped a state and begun its changelog anew.  Raises
    TopicRecreated: a changelog that isn't the one which the task wrote has lost what stood in it.
    """
    for topic, identity in identities.items():
        if checkpoint.topics.get(topic, identity) != identity and not renewed:
            raise TopicRecreated(
                f"{topic}: the changelog was deleted and created again, so the state that stood in it is gone; "
                f"`streams reset` starts the app over, or restore the topic"
            )
    return msgspec.structs.replace(checkpoint, topics={**checkpoint.topics, **identities})


@dataclass(frozen=True, slots=True)
class InputFacts:
    """One input partition after the claim.

    on_lost: the user's choice for records removed unread.  internal: the app itself makes and drops the topic.
    first: where to begin without a position; None for the first record.
    """

    bounds: Bounds
    identity: str
    on_lost: Literal["fail", "earliest"] = "fail"
    internal: bool = False
    first: Position | None = None


def resolve_inputs(
    checkpoint: Checkpoint, facts: Mapping[TopicPartition, InputFacts], *, renewed: bool = False
) -> tuple[Checkpoint, int]:
    """The checkpoint with a position for every input, and how many offsets were given up by choice.

    ``renewed``: a new version of the app claims; internal topics that it made anew are read from their start.
    An input without a position begins where the user says, else at the topic's first record.  Raises TopicRecreated,
    PositionLost and PositionBeyondEnd.
    """
    positions, lost = dict(checkpoint.positions), 0
    topics, inputs = dict(checkpoint.topics), dict(checkpoint.inputs)
    for partition, each in facts.items():
        key = partition_key(partition)
        known = checkpoint.topics.get(partition.topic)
        if renewed and each.internal and known != each.identity:
            positions.pop(key, None)
            inputs.pop(key, None)
            known = None
        if known is not None and known != each.identity:
            raise TopicRecreated(
                f"{partition}: the topic is not the one that the position was taken from (it was deleted and created "
                f"again); `streams reset` starts the app over, or restore the topic"
            )
        topics[partition.topic] = each.identity
        position = positions.get(key)
        if position is None:
            positions[key] = each.bounds.start if each.first is None else each.first
        elif not position.reached(each.bounds.start):
            if each.on_lost == "fail":
                raise PositionLost(
                    topic=partition.topic,
                    partition=partition.partition,
                    position=position.offset(),
                    first=each.bounds.start.offset(),
                )
            lost += position.distance(each.bounds.start)
            positions[key] = each.bounds.start
        elif not each.bounds.end.reached(position):
            raise PositionBeyondEnd(
                f"{partition}: the task stands at {position.offset()} but the log ends at {each.bounds.end.offset()}: "
                f"the log has lost records that were acknowledged, or another one was put in its place; bring the log "
                f"back, or start over with `streams reset`"
            )
    return msgspec.structs.replace(checkpoint, positions=positions, topics=topics, inputs=inputs), lost
