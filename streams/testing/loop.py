"""An event loop in which time is virtual: it stands still while anything can run, and jumps when all wait.

What must live here: the loop.  What must not: what runs on it.  Sleeping costs nothing, and a run repeats exactly,
since nothing depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, TypeVarTuple, Unpack

Args = TypeVarTuple("Args")
LEAST_S = 1e-6
"""The shortest wait."""


class _NoWaiting(selectors.BaseSelector):
    """A selector that, asked to wait, moves the clock on instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._inner = selectors.DefaultSelector()
        self._loop = loop

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing will ever wake it: a deadlock in what is simulated")
        if timeout > 0:
            self._loop.now_s += timeout
        return self._inner.select(0)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time, which begins at 0."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_NoWaiting(self))

    def time(self) -> float:
        return self.now_s

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        # What is due within asyncio's resolution runs without the clock moving on: whoever then waits for the rest, and
        # there is always a rest when seconds are added up, would wait for ever.
        if when > self.now_s:
            when = max(when, self.now_s + LEAST_S)
        return super().call_at(when, callback, *args, context=context)


class VirtualClock:
    """The wall clock that goes with a virtual loop."""

    def __init__(self, loop: VirtualLoop, start_ms: int = 1_700_000_000_000) -> None:
        self._loop = loop
        self._start_ms = start_ms

    def now_ms(self) -> int:
        return self._start_ms + round(self._loop.now_s * 1000)
