"""How much a test does: what each landing needs, or all of it.

What must live here: the one switch between the stages.  What must not: what any test does with it.

    CI           every landing    few rounds, most seeds fixed     make test
    soak         an hour or more  all rounds, fresh seeds          make soak    (STREAMS_SOAK=1)

A test that repeats something by chance takes its number of repetitions from ``rounds``.  A test that only proves at
length what another one proves already is marked ``soak``, and runs in that stage alone.
"""

from __future__ import annotations

import os

__all__ = ["SOAK", "rounds"]

SOAK = os.environ.get("STREAMS_SOAK", "") not in ("", "0")


def rounds(ci: int, soak: int) -> int:
    """How often to do something: ``ci`` times for a landing, ``soak`` times in ``make soak``."""
    assert 0 < ci <= soak
    return soak if SOAK else ci
