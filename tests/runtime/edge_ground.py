"""Where ingress and egress are tormented: processes on a simulated log, which are killed and frozen at any await.

What must live here: the log, the processes and the faults.  What must not: transports, verdicts.  A run is a function
of its seed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Protocol, TypeVar

from streams.core.capability import Limits
from streams.core.checkpoint import Checkpoint
from streams.errors import LogUnavailable
from streams.testing.faults import Odds
from streams.testing.loop import VirtualClock
from streams.testing.sim_log import Network, SimLog
from streams.testing.sim_process import Process, SimLoop
from streams.testing.sim_server import Request, Server

__all__ = ["Ground"]

logger = logging.getLogger("streams")

SETTLE_S = 600.0


class Carrier(Protocol):
    """An ingress or an egress."""

    def stop(self) -> None: ...

    def run(self) -> Coroutine[Any, Any, None]: ...


C = TypeVar("C", bound=Carrier)


class WatchfulServer(Server):
    """Calls ``watch`` after each commit."""

    watch: Callable[[Checkpoint], None] = staticmethod(lambda checkpoint: None)

    def commit(self, request: Request) -> Any:
        ends = super().commit(request)
        made = self.made(request.task)
        assert made is not None
        self.watch(made)
        return ends


class Ground:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"{seed} ground")
        self.loop = SimLoop()
        self.clock = VirtualClock(self.loop)
        self.server = WatchfulServer(self.clock.now_ms, Limits(max_commit_records=50))
        harsh = self.random.choice((0.0, 0.3, 1.0, 2.0))
        self.transport_errors = self.random.choice((0.0, 0.02, 0.1)) * harsh
        odds = Odds(
            crash_at_call=self.random.choice((0.0, 0.005, 0.03)) * harsh,
            crash_at_commit=self.random.choice((0.0, 0.02, 0.1)) * harsh,
            unavailable=self.random.choice((0.0, 0.02)) * harsh,
            commit_unknown=self.random.choice((0.0, 0.02, 0.1)) * harsh,
            repeat_request=self.random.choice((0.0, 0.1)),
            slow_call=self.random.choice((0.0, 0.3)),
            slow_ms=self.random.choice((5, 50, 400)),
            cut=self.random.choice((0.0, 0.5)),
            repeat_records=self.random.choice((0.0, 0.3)),
        )
        self.network = Network(self.server, odds, Random(f"{seed} network"), self.loop.time)
        self.carriers: dict[Process, tuple[Any, asyncio.Task[None]]] = {}
        self._count = 0

    async def step(self, process: Process, what: str) -> None:
        """An await at the transport: takes a while, the process may die there, or the transport fail."""
        await asyncio.sleep(0)
        await self.network.travel(process, self.network.odds.crash_at_call, what)
        if self.network.strikes(self.transport_errors):
            raise LogUnavailable(f"simulated: the transport failed at {what}")

    async def connecting(self, process: Process) -> None:
        await asyncio.sleep(self.random.choice((0.0, 0.0, 0.3, 1.0)))
        await self.step(process, "connect")

    def start(self, make: Callable[[SimLog, Process], C]) -> C:
        """A process in which a carrier runs."""
        self._count += 1
        process = Process(f"worker{self._count}", self.loop)
        log = SimLog(self.network, process)
        process.spawn(log.open(), "open")
        carrier = make(log, process)
        self.carriers[process] = carrier, process.spawn(carrier.run(), process.name)
        return carrier

    @property
    def living(self) -> list[Process]:
        return [process for process in self.carriers if not process.dead]

    async def torment(self, make: Callable[[SimLog, Process], C], tidy: Callable[[C], Coroutine[Any, Any, None]]) -> C:
        """Processes come and go for a while; returns the last one, which is left in peace."""
        for _ in range(self.random.randrange(5, 40)):
            await asyncio.sleep(self.random.choice((0.01, 0.1, 0.5, 2.0)))
            self.check()
            chosen = self.random.choice(self.living) if self.living else None
            what = self.random.random()
            if chosen is None or what < 0.2:
                self.start(make)
            elif what < 0.35:
                chosen.kill()
            elif what < 0.5:
                chosen.freeze()
            elif what < 0.65:
                chosen.thaw()
            elif what < 0.75:
                self.carriers[chosen][0].stop()
            else:
                await tidy(self.carriers[chosen][0])
        self.network.calm = True
        for process in self.living:
            process.thaw() if self.random.random() < 0.5 else process.kill()
            self.carriers[process][0].stop()
        await self.until(lambda: all(self.carriers[process][1].done() for process in self.living))
        self.check()
        return self.start(make)

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = self.loop.time() + SETTLE_S
        while not condition():
            assert self.loop.time() < deadline, "nothing goes on"
            self.check()
            await asyncio.sleep(0.05)

    def check(self) -> None:
        """Raise what ended a carrier."""
        for process, (_, task) in self.carriers.items():
            if task.done() and not task.cancelled() and not process.dead:
                task.result()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        collecting, level = gc.isenabled(), logger.level
        gc.disable()  # so that nothing of a dead process is collected while others run
        logger.setLevel(logging.CRITICAL)
        try:
            self.loop.run_until_complete(work)
        finally:
            self._end()
            logger.setLevel(level)
            if collecting:
                gc.enable()

    def _end(self) -> None:
        """Close every coroutine, those of the dead included."""
        self.network.calm = True
        self.loop.steps = 0
        for process in self.carriers:
            process.bury()
        for _ in range(5):
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            if left:
                self.loop.run_until_complete(asyncio.wait(left, timeout=60.0))
        self.loop.close()
