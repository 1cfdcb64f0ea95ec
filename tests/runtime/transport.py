"""A transport for tests of apps with edges: what comes in is given beforehand, what goes out is kept.

What must live here: that edge.  What must not: faults by seed (``edge_ground``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from streams.core.capability import Derived, Guarantee
from streams.core.edge import Keep, Received
from streams.core.log import TopicSpec
from streams.core.record import Records

__all__ = ["Transport"]


class Transport:
    """An edge, for every location.

    come: what comes in, each once.  out: what has gone out.  groups: for whom.  silent: cleared, connecting takes for
    ever.  swallows: so does sending.
    """

    url = "fake://there"

    def __init__(self, come: Sequence[bytes] = ()) -> None:
        self.come = list(come)
        self.out: list[bytes | None] = []
        self.groups: set[str] = set()
        self.silent = asyncio.Event()
        self.silent.set()
        self.swallows = False

    def __call__(self, location: str) -> Transport:
        return self

    def guarantee(self, *, written: bool) -> Derived:
        return Derived(Guarantee.AT_LEAST_ONCE, "fake")

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def check(self, topic: TopicSpec, *, written: bool) -> None: ...

    async def intake(self, source: TopicSpec, group: str, partition: int, state: bytes | None) -> Intake:
        self.groups.add(group)
        await self.silent.wait()
        return Intake(self)

    async def outlet(self, target: TopicSpec, group: str, partition: int, state: bytes | None) -> Outlet:
        self.groups.add(group)
        return Outlet(self)


class Intake:
    lost = 0

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def receive(self, *, max_records: int, max_bytes: int, wait_s: float) -> Received | None:
        some, self.transport.come = self.transport.come, []
        if not some:
            await asyncio.sleep(wait_s)
            return None
        return Received(Records([b"k"] * len(some), list(some), [5] * len(some)))

    async def stored(self) -> None: ...

    async def end(self) -> None: ...

    async def close(self) -> None: ...


class Outlet:
    batch = 10
    under_way = sent = 0
    keeps_first = False
    connected = True
    state = None

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def send(self, records: Records, keep: Keep) -> None:
        if self.transport.swallows:
            self.transport.out += records.values
            await asyncio.get_running_loop().create_future()
        self.transport.out += records.values

    async def close(self) -> None: ...
