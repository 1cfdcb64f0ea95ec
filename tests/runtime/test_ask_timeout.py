"""How long a question takes at most, when it isn't the agent but the log that doesn't answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog
from streams.core.log import Append
from streams.core.record import Positions
from streams.dsl.app import App
from streams.errors import LogUnavailable
from streams.runtime.clock import Clock
from streams.runtime.requests import Requests
from streams.testing.loop import VirtualClock, VirtualLoop


class Hung(MemoryLog):
    """A log that takes an append and doesn't answer."""

    async def append(self, appends: Sequence[Append]) -> Positions:
        await asyncio.sleep(60)
        return {}


def test_a_question_that_the_log_does_not_take_ends_at_its_own_deadline() -> None:
    app = App("bank")

    @app.agent(app.topic("by-hand", value=int), name="settle")
    async def settle(events: AsyncIterator[int]) -> AsyncIterator[int]:
        async for event in events:
            yield event

    loop = VirtualLoop()
    clock: Clock = VirtualClock(loop)

    async def ask() -> float:
        requests = Requests(Hung(MemoryBroker()), clock)
        # An outage, not a late answer: an agent that asks must not give its event up for it.
        with pytest.raises(LogUnavailable, match="within 1000 ms; the request may still be carried out"):
            await requests.ask(app.agents["settle"], b"key", b"1", 1_000)
        return loop.time()

    app.build()
    try:
        assert loop.run_until_complete(ask()) == pytest.approx(1.0)
    finally:
        loop.close()
