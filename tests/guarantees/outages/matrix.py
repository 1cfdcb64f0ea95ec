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
LEAVING_S = 5
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
    """For each broker its end and its standstill, and a share of the faults of networks: each fault once at least.

    What is longer than a session, a request and a keep-alive is among them.  The last outage of each ends its workers.
    """
    chance = random.Random(seed)
    faults = chance.sample(STATES, len(STATES))
    chosen: dict[str, list[Cell]] = {}
    for broker in chance.sample(BROKERS, len(BROKERS)):
        some = [faults.pop() for _ in range(min(len(faults), 1 if broker == "kafka" else 2))]
        first, *others = chance.sample(OF_BROKERS, len(OF_BROKERS))
        cells = [(first, 5, False), *((fault, 1, True) for fault in some), *((fault, 5, True) for fault in others)]
        chosen[broker] = [
            Cell(broker, fault, away_s, busy, MOST_WORKERS[broker], leaves=number == len(cells))
            for number, (fault, away_s, busy) in enumerate(cells, 1)
        ]
    return {broker: chosen[broker] for broker in BROKERS}
