"""A small app whose names come from outside, so that many can share a broker: repartition, agent, table.

APP.events ── key_by account ── agent post, table totals ──▶ APP.posted
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import msgspec

from streams import App

NAME = os.environ["APP"]


class Event(msgspec.Struct):
    id: int
    account: str
    amount: int


app = App(NAME, partitions=2, commit_interval="100ms", watermark_interval="1s")
totals = app.table("totals", key=str, value=int, default=int)
events = app.stream(app.topic(f"{NAME}.events", value=Event))


@app.agent(events.key_by(lambda event: event.account, name="accounts"), sinks=[f"{NAME}.posted"])
async def post(transfers: AsyncIterator[Event]) -> AsyncIterator[dict[str, int]]:
    async for event in transfers:
        totals[event.account] += event.amount
        yield {"id": event.id, "balance": totals[event.account]}
