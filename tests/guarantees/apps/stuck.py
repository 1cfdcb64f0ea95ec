"""Agents that can't come to an end, by the scenario that the environment names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from streams import App

SCENARIO = os.environ["SCENARIO"]
app = App("stuck", barrier_timeout="1s")
calls = app.stream("calls")

if SCENARIO == "asks itself":

    @app.agent(calls)
    async def myself(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            yield await myself.ask(event, key="k")

elif SCENARIO == "ask each other":

    @app.agent(calls)
    async def first(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            yield await second.ask(event, key="k")

    @app.agent("never-sent")
    async def second(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            yield await first.ask(event, key="k")

else:

    @app.agent(calls)
    async def silent(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            await asyncio.Event().wait()
            yield event
