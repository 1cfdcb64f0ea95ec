"""Timers and cron: durable ticks, one task for the whole app, whatever it yields written exactly once.

It prints:

    heartbeats in 25 seconds: 2
    reports in 5 minutes: 5
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from streams import App
from streams.testing import TestDriver

app = App("reports")


@app.timer("10s", sinks=["heartbeats"])
async def heartbeat() -> AsyncIterator[str]:
    yield "still here"


@app.cron("* * * * *", sinks=["reports"])  # minute, hour, day, month, weekday; UTC
async def report() -> AsyncIterator[str]:
    yield "all is well"


if __name__ == "__main__":
    with TestDriver(app) as t:
        t.advance("25s")  # time is in the test's hands
        print("heartbeats in 25 seconds:", len(t.outputs("heartbeats")))
        t.advance("275s")
        print("reports in 5 minutes:", len(t.outputs("reports")))
