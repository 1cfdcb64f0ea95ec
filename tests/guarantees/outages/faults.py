"""What goes wrong with a broker, for as long as a ``with`` statement is entered.

What must live here: each fault by its name.  What must not: how long it lasts, or what is expected then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from tests.guarantees.outages.brokers import Ground
from tests.guarantees.outages.network import STATES, State

__all__ = ["FAULTS", "OF_BROKERS", "Fault", "struck"]

Fault = Literal["kill", "stop"] | State
OF_BROKERS: tuple[Fault, ...] = ("kill", "stop")
FAULTS: tuple[Fault, ...] = (*OF_BROKERS, *STATES)


@contextmanager
def struck(ground: Ground, fault: Fault) -> Iterator[None]:
    """The broker is away meanwhile, and back afterwards, whatever happens."""
    match fault:
        case "kill":
            ground.network.turn("refuse")  # what nobody listens behind refuses
            ground.broker.kill()
            try:
                yield
            finally:
                ground.broker.start()
                ground.network.turn(None)
        case "stop":
            ground.broker.pause()
            try:
                yield
            finally:
                ground.broker.resume()
        case _:
            ground.network.turn(fault)
            try:
                yield
            finally:
                ground.network.turn(None)
