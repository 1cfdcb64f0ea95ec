"""What can go wrong in a simulation: the flags that a test combines, and how often each strikes in one run.

What must live here: the flags, and the odds and thresholds that a seed draws.  What must not: carrying a fault out
(``sim_log``, ``sim_cluster``).

Each seed draws which of the allowed faults it uses and how often: a run in which everything fails all the time gets
nowhere, and hides the faults that need a long quiet stretch before them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Flag, auto
from random import Random

from streams.core.thresholds import Thresholds

__all__ = [
    "Faults",
    "Odds",
    "all_faults",
    "crashes",
    "delays",
    "draw_odds",
    "draw_thresholds",
    "duplicates",
    "lost_tail",
    "moves",
    "no_faults",
    "outages",
    "reorders",
    "torn_writes",
    "zombies",
]


class Faults(Flag):
    """Faults to simulate; combine them with ``|``.

    CRASHES: workers are killed as by kill -9 at any await, and started again, on the same disks or on empty ones.
    DUPLICATES: requests reach the log twice; readers hand out records again.
    REORDERS: partitions are read in any order, batches end anywhere, and some are held back.
    TORN_WRITES: a crash takes back the last writes of the stores (needs CRASHES).
    DELAYS: requests and answers take their time or get lost: the outcome of a commit is unknown, and it may be
    carried out later.  The clocks of workers differ.
    ZOMBIES: workers stand still (as by SIGSTOP) while others take their tasks, and go on then.
    OUTAGES: the log can't be reached for a while.
    MOVES: tasks move, are given to two workers at once, and workers are stopped in order.
    LOST_TAIL: the log's machine loses its power, and its last commits.  What a log says is safe then isn't: only for
    logs that acknowledge before they sync.
    """

    NONE = 0
    CRASHES = auto()
    DUPLICATES = auto()
    REORDERS = auto()
    TORN_WRITES = auto()
    DELAYS = auto()
    ZOMBIES = auto()
    OUTAGES = auto()
    MOVES = auto()
    LOST_TAIL = auto()


no_faults = Faults.NONE
crashes = Faults.CRASHES
duplicates = Faults.DUPLICATES
reorders = Faults.REORDERS
torn_writes = Faults.TORN_WRITES
delays = Faults.DELAYS
zombies = Faults.ZOMBIES
outages = Faults.OUTAGES
moves = Faults.MOVES
lost_tail = Faults.LOST_TAIL
all_faults = crashes | duplicates | reorders | torn_writes | delays | zombies | outages | moves
"""Everything that a log which keeps its promises can meet: all but ``lost_tail``."""


@dataclass(slots=True)
class Odds:
    """How often what happens in one run: chances from 0 to 1 at each call, or at each look of the simulator.

    At a call of the log: crash_at_call, crash_at_commit, crash_at_trim (right after records were freed), unavailable,
    commit_unknown, repeat_request, slow_call (and how long, slow_ms), slow_fence (while the former owner works on).
    At a fetch: cut, shuffle, hold_back, repeat_records.  At each of the simulator's looks (``look_ms`` apart): crash,
    freeze, move, double, restart, tidy, power_cut.  torn: a crash takes writes back.
    new_disk: a killed worker comes back with empty disks.
    """

    crash_at_call: float = 0.0
    crash_at_commit: float = 0.0
    crash_at_trim: float = 0.0
    unavailable: float = 0.0
    commit_unknown: float = 0.0
    repeat_request: float = 0.0
    slow_call: float = 0.0
    slow_ms: int = 0
    slow_fence: float = 0.0
    cut: float = 0.0
    shuffle: float = 0.0
    hold_back: float = 0.0
    repeat_records: float = 0.0
    crash: float = 0.0
    freeze: float = 0.0
    move: float = 0.0
    double: float = 0.0
    restart: float = 0.0
    tidy: float = 0.0
    power_cut: float = 0.0
    torn: float = 0.0
    new_disk: float = 0.0
    skew_ms: int = 0
    look_ms: int = 400
    active: list[str] = field(default_factory=list)


def draw_odds(faults: Faults, random: Random) -> Odds:
    """The odds of one run.  At least one of the allowed faults is drawn; each of them three times out of four."""
    allowed = [each for each in Faults if each in faults]
    drawn = [each for each in allowed if random.random() < 0.75]
    if allowed and not drawn:
        drawn = [random.choice(allowed)]
    odds = Odds(look_ms=random.choice((150, 400, 900)), tidy=random.choice((0.0, 0.1, 0.5)))
    odds.active = [str(each.name).lower() for each in drawn]
    harsh = random.choice((0.3, 1.0, 1.0, 2.0))
    for fault in drawn:
        _set(odds, fault, harsh, random)
    return odds


def draw_thresholds(random: Random) -> Thresholds:
    """The thresholds of one run: so small that a few records reach beyond each of them."""
    return Thresholds(
        piece_records=random.choice((2, 5, 50)),
        dirty_entries=random.choice((3, 100)),
        guessed_change_bytes=random.choice((64, 16_384)),
        weighed_values=random.choice((1, 32)),
        state_cache_bytes=random.choice((0, 0, 1_500)),
        timers_at_once=random.choice((1, 1, 2)),
        remembered_requests=random.choice((8, 12)),
        checkpoint_history=random.choice((2, 5)),
        restore_records=random.choice((1, 1, 4)),
        restore_entries=random.choice((1, 4, 30)),
        standby_records=random.choice((1, 3, 20)),
        standby_entries=random.choice((1, 4, 30)),
        ready_lag=random.choice((0, 5)),
        far_behind=10,
        delivery_records=random.choice((1, 3, 20)),
        ingress_records=random.choice((1, 3)),
        housekeeping_s=random.choice((0.2, 0.5, 2.0)),
    )


def _set(odds: Odds, fault: Faults, harsh: float, random: Random) -> None:
    if fault is Faults.CRASHES:
        odds.crash_at_call = 0.002 * harsh
        odds.crash_at_commit = random.choice((0.0, 0.01, 0.03)) * harsh
        odds.crash_at_trim = random.choice((0.0, 0.04)) * harsh
        odds.crash = 0.1 * harsh
        odds.new_disk = random.choice((0.0, 0.3))
    elif fault is Faults.TORN_WRITES:
        odds.torn = 0.7
    elif fault is Faults.DUPLICATES:
        odds.repeat_request = 0.05 * harsh
        odds.repeat_records = 0.1 * harsh
    elif fault is Faults.REORDERS:
        odds.cut = odds.shuffle = 0.5
        odds.hold_back = 0.1
    elif fault is Faults.DELAYS:
        odds.slow_call = random.choice((0.1, 0.5))
        odds.slow_ms = random.choice((5, 50, 400))
        odds.commit_unknown = random.choice((0.0, 0.01, 0.03)) * harsh
        odds.skew_ms = random.choice((0, 2000))
    elif fault is Faults.ZOMBIES:
        odds.freeze = 0.15 * harsh
    elif fault is Faults.OUTAGES:
        odds.unavailable = 0.01 * harsh
    elif fault is Faults.MOVES:
        odds.move = 0.25 * harsh
        odds.double = 0.1 * harsh
        odds.restart = 0.05 * harsh
        odds.slow_fence = random.choice((0.0, 0.5))
    elif fault is Faults.LOST_TAIL:
        odds.power_cut = 0.25 * harsh
