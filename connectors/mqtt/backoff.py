"""How long to wait before the next try to connect.

What must live here: the times.  What must not: waiting, and whether to try again (``connection``).
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """Grows twofold up to ``most_s``, each time by chance between nothing and all of it.

    Else all clients of a broker that went away come back in the same instant, and again.  ``chance`` gives numbers from
    0 to 1, such as random.random.
    """

    def __init__(self, chance: Callable[[], float], *, least_s: float = 0.2, most_s: float = 30.0) -> None:
        self._chance, self._least_s, self._most_s = chance, least_s, most_s
        self._tries = 0

    def next_s(self) -> float:
        """How long to wait now.  Never nothing at all: a tenth of the least time, or a broker is hammered at."""
        ceiling_s = min(self._most_s, self._least_s * 2.0 ** min(self._tries, 60))
        self._tries += 1
        return max(self._least_s / 10, ceiling_s * self._chance())

    def reset(self) -> None:
        """A connection has proved itself."""
        self._tries = 0
