"""What a log may tell of itself, beyond the ``Log`` protocol; a log that has nothing to tell leaves it out.

What must live here: protocols and plain data.  What must not: any implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = ["Counts", "PowerFailure", "TellsOfPowerFailures"]


class PowerFailure(NamedTuple):
    """What a power failure could lose, in one line.  safe: nothing that was committed."""

    text: str
    safe: bool


@runtime_checkable
class TellsOfPowerFailures(Protocol):
    async def power_failure(self, group: str) -> PowerFailure:
        """Of an app's commits; "" for a log as such.  Asks the servers, for a second or two; raises nothing that a
        server may cause."""
        ...


@runtime_checkable
class Counts(Protocol):
    def counters(self) -> Mapping[str, tuple[str, int]]:
        """What has happened to the connection: (what is counted, how often) by name of the metric.  Without I/O."""
        ...
