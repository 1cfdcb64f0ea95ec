"""A broker behind a rough network: connections break before a request or before its answer, and some stand still.

What must live here: what befalls a connection, and when.  What must not: the proxy (``relay``), what is expected then.

Workers use the listener that leads through the proxy; the tests' own clients, and the broker itself, the other one.  An
answer that is lost is the hard case: the request was carried out, and whoever sent it doesn't know.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from tests.brokers.kafka.proxied import ProxiedKafka
from tests.guarantees.relay import Link, Relay, Way

FAULTS = ("request lost", "answer lost", "answer late")


class RoughNetwork(Relay):
    """``trouble`` lets one fault happen to some connection."""

    def __init__(self, broker: ProxiedKafka, chance: random.Random) -> None:
        super().__init__(broker.proxy_port, broker.upstream_port)
        self.happened: Counter[str] = Counter()
        self._chance = chance
        self._armed: dict[Link, tuple[str, float]] = {}

    def trouble(self) -> None:
        """To the next request or answer of a connection by chance: lost with its connection, or late."""
        fault = self._chance.choice([*FAULTS, "answer lost"])
        self.soon(self._arm, fault, self._chance.uniform(0.1, 3.0), self._chance.random())

    def _arm(self, fault: str, late_s: float, choice: float) -> None:
        self._armed = {link: each for link, each in self._armed.items() if link in self.links}
        free = [link for link in self.links if link not in self._armed]
        if free:
            self._armed[free[int(choice * len(free))]] = fault, late_s

    async def passes(self, link: Link, way: Way, chunk: bytes) -> bool:
        if not self._armed.get(link, ("", 0.0))[0].startswith(way):
            return True
        fault, late_s = self._armed.pop(link)
        self.happened[fault] += 1
        if fault.endswith("lost"):
            link.done.set()
            return False
        await asyncio.sleep(late_s)
        return True
