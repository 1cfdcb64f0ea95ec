"""Seeds of the simulation, over the project's own apps: some that are the same each time, and fresh ones.

The tests are of one size, so that several processes share them well.  ``STREAMS_SIMULATION_SEEDS`` says how many of
the former there are; ``GUARANTEE_SEED`` where the fresh ones begin.
"""

from __future__ import annotations

import os

import pytest

from streams.testing.simulate import Tally, fresh_seed, run_seeds
from tests.stages import rounds

pytestmark = pytest.mark.slow

AT_ONCE = 20
SEEDS = int(os.environ.get("STREAMS_SIMULATION_SEEDS", rounds(200, 4_000)))
FRESH = rounds(20, 2_000)
COMMON = {
    "killed",
    "killed in a call",
    "frozen",
    "moved",
    "given to two",
    "unavailable",
    "commit repeated",
    "records repeated",
}
"""Faults that strike some time within each stretch of seeds: one that never does proves nothing."""


def tally_of(first: int, count: int) -> Tally:
    total = Tally()
    for tally in run_seeds(first, count):
        total.add(tally)
    assert total.failures == [], total.failures[0][1]
    return total


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_seeds_pass(first: int) -> None:
    count = min(AT_ONCE, SEEDS - first)
    total = tally_of(first, count)
    assert total.seeds == count
    assert count < AT_ONCE or set(total.struck) >= COMMON


@pytest.mark.parametrize("stretch", range(0, FRESH, AT_ONCE))
def test_seeds_pass_that_nobody_had_before(stretch: int) -> None:
    base = int(os.environ.get("GUARANTEE_SEED") or fresh_seed())
    print(f"GUARANTEE_SEED={base}")
    tally_of(base + stretch, AT_ONCE)
