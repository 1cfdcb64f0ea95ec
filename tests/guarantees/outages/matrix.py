"""All outages: each broker, each fault, for how long, what workers do, how many there are.

What must live here: which cells there are, their names, and the few that each landing runs.  What must not: what
happens in one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from tests.guarantees.outages.faults import FAULTS, OF_BROKERS, Fault
from tests.guarantees.outages.network import STATES

__all__ = ["BROKERS", "Cell", "few", "whole"]

BROKERS = ("kafka", "nats", "mqtt")
MOST_WORKERS = {"kafka": 2, "nats": 2, "mqtt": 1}
"""An embedded log has one."""
LENGTHS_S = (1, 5, 15, 60)
FEW_S = 4
LEAVING_S = 1
"""An outage in which workers are stopped lasts until they have ended: its length is of no interest."""


@dataclass(frozen=True, slots=True)
class Cell:
    """busy: workers have something to do when the outage begins.  leaves: they are stopped (SIGTERM) meanwhile."""

    broker: str
    fault: Fault
    away_s: int
    busy: bool
    workers: int
    leaves: bool = False

    def __str__(self) -> str:
        work, end = "busy" if self.busy else "idle", "leave" if self.leaves else "stay"
        return f"{self.broker}-{self.fault}-{self.away_s}s-{work}-{self.workers}-{end}"


def whole() -> Iterator[Cell]:
    """Every cell; those of one broker and as many workers one after the other, since they share them."""
    for broker in BROKERS:
        for workers in range(1, MOST_WORKERS[broker] + 1):
            for away_s, fault, busy in product(LENGTHS_S, FAULTS, (False, True)):
                yield Cell(broker, fault, away_s, busy, workers)
            for fault, busy in product(FAULTS, (False, True)):
                yield Cell(broker, fault, LEAVING_S, busy, workers, leaves=True)


def few(seed: int) -> dict[str, list[Cell]]:
    """What each landing runs on each broker: each fault once at least, and on each an outage that outlasts a session.
    The last one of each ends its workers: others are started only once."""
    chance = random.Random(seed)
    long = dict(zip(("nats", "mqtt"), chance.sample(OF_BROKERS, 2), strict=True)) | {"kafka": "stop"}
    faults = chance.sample(STATES, len(STATES))
    chosen = {}
    for broker in BROKERS:
        workers = MOST_WORKERS[broker]
        short = [faults.pop()] if broker != "mqtt" else []  # whose pauses grow from outage to outage
        chosen[broker] = [
            Cell(broker, long[broker], FEW_S, False, workers),
            *(Cell(broker, fault, 1, True, workers) for fault in short),
            Cell(broker, faults.pop(), LEAVING_S, True, workers, leaves=True),
        ]
    return chosen
