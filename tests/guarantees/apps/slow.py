"""An agent that is much slower than its topic can be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from streams import App

app = App("slow", commit_interval="20ms")


@app.agent("numbers", sinks=["done"])
async def ponder(numbers: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for number in numbers:
        if number % 100 == 0:
            await asyncio.sleep(0.01)
        yield number
