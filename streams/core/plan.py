"""What a task is made with, and what it hands out for a commit.

What must live here: plain data, and the form of a state's changes on its changelog.  What must not: the work itself
(``core.task``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streams.core.capability import Limits
from streams.core.checkpoint import Checkpoint
from streams.core.context import Partitioner
from streams.core.log import Append
from streams.core.record import Position, Records, TopicPartition
from streams.core.spread import How
from streams.core.state import StateSpec
from streams.core.store import Changes, StoreState
from streams.core.thresholds import Thresholds


@dataclass(frozen=True, slots=True)
class Plan:
    """What all tasks of an app share: names, sizes and limits.

    spreads: how the records of a topic are spread, where that isn't by key.
    state_cache_bytes: memory for the decoded values of each named state of each task.
    """

    app: str
    limits: Limits
    partitions: Mapping[str, int]
    partitioner: Partitioner
    upstream_tasks: Mapping[str, Sequence[str]]
    spreads: Mapping[str, How] = field(default_factory=dict)
    state_cache_bytes: int = 64 * 2**20
    watermark_interval_ms: int = 100
    thresholds: Thresholds = field(default_factory=Thresholds)

    def changelog(self, state: str) -> str:
        return f"{self.app}.{state}.changelog"


@dataclass(slots=True)
class Captured:
    """One slice, ready to be committed."""

    checkpoint: Checkpoint
    appends: list[Append]
    positions: dict[TopicPartition, Position]
    changes: dict[str, list[tuple[bytes, Changes]]]


def assign_prefixes(state: StoreState | None, specs: Mapping[str, StateSpec]) -> dict[str, int]:
    """The number under which the store keeps each named state: as it is, and the next free ones for new states."""
    prefixes = dict(state.prefixes) if state is not None else {}
    for name in specs:
        prefixes.setdefault(name, max(prefixes.values(), default=0) + 1)
    return prefixes


def changelog_records(taken: Sequence[tuple[bytes, Changes]], now_ms: int) -> Records:
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    for sub, changes in taken:
        keys.extend([sub + key for key in changes.deletes] if sub else changes.deletes)
        values.extend([None] * len(changes.deletes))
        keys.extend([sub + key for key, _ in changes.puts] if sub else [key for key, _ in changes.puts])
        values.extend([value for _, value in changes.puts])
    return Records(keys, values, [now_ms] * len(keys))
