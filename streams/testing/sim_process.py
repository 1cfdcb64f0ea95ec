"""Simulated processes on one event loop: killed and frozen as an operating system does it.

What must live here: which callbacks run.  What must not: what they do.

Every callback of the loop carries a context, and a context says which process it belongs to.  So nothing of a killed
process ever runs again, not even its ``finally`` blocks, and a frozen one goes on later where it stood, with its
timers overdue:

    running ── freeze ──▶ frozen ── thaw ──▶ running
       └─────── kill ────────┴──────▶ dead ── bury (after the run is judged) ──▶ its coroutines are closed

The callbacks of a process that doesn't run are kept, in order, until it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from typing import Any, TypeVarTuple

from streams.testing.loop import VirtualLoop

__all__ = ["Process", "SimLoop", "State", "outside"]

_Ts = TypeVarTuple("_Ts")

STEPS_AT_MOST = 200_000
"""A run that takes more callbacks goes round in circles without time passing."""


class State(Enum):
    """What a process does."""

    RUNNING = "running"
    FROZEN = "frozen"
    DEAD = "dead"


class Process:
    """One simulated process.  ``on_death`` is called once, when it is killed."""

    def __init__(self, name: str, loop: SimLoop) -> None:
        self.name = name
        self.state = State.RUNNING
        self.freezes = 0
        self.on_death: Callable[[], None] = lambda: None
        self._loop = loop
        self._kept: list[_Gated] = []

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a coroutine in this process."""
        context = copy_context()
        context.run(_process.set, self)
        return self._loop.create_task(work, name=name, context=context)

    @property
    def dead(self) -> bool:
        return self.state is State.DEAD

    def kill(self) -> None:
        """kill -9: nothing of the process runs any more.  A coroutine of its own that calls this must not return."""
        if not self.dead:
            self.state = State.DEAD
            self.on_death()

    def freeze(self) -> None:
        """SIGSTOP."""
        if self.state is State.RUNNING:
            self.state = State.FROZEN
            self.freezes += 1

    def thaw(self) -> None:
        """SIGCONT: everything that was due meanwhile runs now, in order."""
        if self.state is State.FROZEN:
            self._go_on()

    def bury(self) -> None:
        """Let the callbacks of a dead process run after all, so that its coroutines can be cancelled and closed."""
        self.on_death = lambda: None
        self._go_on()

    def _go_on(self) -> None:
        self.state = State.RUNNING
        kept, self._kept = self._kept, []
        for gated in kept:
            self._loop.call_soon_plain(gated)

    def keep(self, gated: _Gated) -> None:
        self._kept.append(gated)


_process: ContextVar[Process | None] = ContextVar("streams.simulated_process", default=None)


def outside(work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    """Run a coroutine that belongs to no process: the network, the simulator itself."""
    return asyncio.get_running_loop().create_task(work, name=name, context=Context())


class _Gated:
    """A callback of a process."""

    __slots__ = ("args", "callback", "context", "handle", "process")

    def __init__(self, process: Process, callback: Callable[..., Any], args: tuple[Any, ...], context: Context) -> None:
        self.process = process
        self.callback = callback
        self.args = args
        self.context = context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        # Kept while the process stood still, and cancelled by what ran before it after that.
        if self.handle is not None and self.handle.cancelled():
            return
        if self.process.state is State.RUNNING:
            self.callback(*self.args)
        else:
            self.process.keep(self)


class SimLoop(VirtualLoop):
    """An event loop on virtual time whose callbacks belong to processes."""

    def __init__(self) -> None:
        self.steps = 0
        super().__init__()

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        context = copy_context() if context is None else context
        process = context.get(_process)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        self.steps += 1
        if self.steps > STEPS_AT_MOST:
            self.stop()
        gated = _Gated(process, callback, args, context)
        gated.handle = handle = super().call_soon(gated, context=context)
        return handle

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = copy_context() if context is None else context
        process = context.get(_process)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        gated = _Gated(process, callback, args, context)
        gated.handle = handle = super().call_at(when, gated, context=context)
        return handle

    def call_soon_plain(self, gated: _Gated) -> None:
        """Schedule a kept callback again."""
        super().call_soon(gated, context=gated.context)
