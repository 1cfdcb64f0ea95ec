"""For tests: an app without a broker, the simulator, and the contracts that connectors and stores pass.

The contracts need pytest and Hypothesis, so they are imported when they are asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from streams.testing.driver import TestDriver
from streams.testing.faults import (
    Faults,
    all_faults,
    crashes,
    delays,
    duplicates,
    lost_tail,
    moves,
    no_faults,
    outages,
    reorders,
    torn_writes,
    zombies,
)
from streams.testing.sim_oracle import at_least_once, exactly_once
from streams.testing.sim_workload import Client
from streams.testing.simulation import Report, Simulation, SimulationFailed

if TYPE_CHECKING:
    from streams.testing.log_contract import LogContract
    from streams.testing.membership_contract import MembershipContract
    from streams.testing.sink_contract import SinkContract
    from streams.testing.source_contract import SourceContract
    from streams.testing.store_contract import StoreContract

__all__ = [
    "Client",
    "Faults",
    "LogContract",
    "MembershipContract",
    "Report",
    "Simulation",
    "SimulationFailed",
    "SinkContract",
    "SourceContract",
    "StoreContract",
    "TestDriver",
    "all_faults",
    "at_least_once",
    "crashes",
    "delays",
    "duplicates",
    "exactly_once",
    "lost_tail",
    "moves",
    "no_faults",
    "outages",
    "reorders",
    "torn_writes",
    "zombies",
]

_LATER = {
    "LogContract": "streams.testing.log_contract",
    "MembershipContract": "streams.testing.membership_contract",
    "SinkContract": "streams.testing.sink_contract",
    "SourceContract": "streams.testing.source_contract",
    "StoreContract": "streams.testing.store_contract",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
