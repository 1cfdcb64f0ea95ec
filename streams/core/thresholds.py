"""How many of everything a task takes, keeps or loads at once: the sizes at which its structures change their ways.

What must live here: those numbers, with the values that suit production.  What must not: what a log takes
(``core.capability.Limits``), what users set (``dsl.app``).

Whoever runs tasks hands one down (``core.plan.Plan``).  Tests and the simulator hand down small ones, so that a few
records fill a heap beyond its horizon, a cache beyond its generations, a memory beyond its bound.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRODUCTION", "Thresholds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Sizes; none of them may change any result.

    Work:
        piece_records: rows that are processed at once at most, and half of what an input buffers.
        dirty_entries: changed entries of all states that make a task commit.
        guessed_change_bytes: what a changed entry is taken to weigh before one was seen; caution costs a few early
            commits.
        weighed_values: values of a batch that are weighed, to learn how large entries are.
        state_cache_bytes: for the decoded values of each named state of each task, in place of its share of the app's
            ``cache_bytes``.
        timers_at_once: timers that are read from the store at once, and that fire at once.  Four times as many are
            kept in memory.
        remembered_requests: answered requests that a task remembers for each agent.
        checkpoint_history: former claims that a checkpoint knows, and so the oldest store that it knows again.

    Restores:
        restore_records, restore_entries: records read at once; entries that wait at most before they are loaded.
        standby_records, standby_entries: the same for a standby.  Less than a restore's: tasks at work on the same
            event loop wait for it.
        ready_lag: offsets that a standby may be behind and still be taken over at once.
        far_behind: offsets from which on one that was ready no longer is.

    Edges:
        delivery_records: records of an outbox that are delivered at once.
        ingress_records, ingress_bytes: what a source from outside hands over for one commit.

    Beside the tasks:
        housekeeping_s: how often a worker frees what its tasks have consumed, and looks whether one is stuck.
    """

    piece_records: int = 1000
    dirty_entries: int = 100_000
    guessed_change_bytes: int = 16_384
    weighed_values: int = 32
    state_cache_bytes: int | None = None
    timers_at_once: int = 1000
    remembered_requests: int = 10_000
    checkpoint_history: int = 64
    restore_records: int = 10_000
    restore_entries: int = 250_000
    standby_records: int = 5_000
    standby_entries: int = 50_000
    ready_lag: int = 10_000
    far_behind: int = 1_000_000
    delivery_records: int = 1000
    ingress_records: int = 10_000
    ingress_bytes: int = 4 * 2**20
    housekeeping_s: float = 5.0


PRODUCTION = Thresholds()
