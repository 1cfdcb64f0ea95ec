"""An app of many stages: dedupe, repartition, window, table, agent, process with timers, timer of the wall clock.

events ── filter ── dedupe ─┬─ key_by kind ── window 1 min, final ──▶ by-kind
                            ├─ key_by account ── agent settle, table balances ──▶ settled
                            └─ key_by account ── process minutes, timers ──▶ by-minute
every 500 ms ── agent beat, table beats ──▶ beats
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from streams import App, State, agg, tumbling

PARTITIONS = 2
MINUTE = 60_000


class Event(msgspec.Struct):
    id: int
    account: str
    kind: str
    amount: int
    time: int


app = App(
    "pipeline",
    partitions=PARTITIONS,
    commit_interval=os.environ.get("COMMIT_INTERVAL", "20ms"),
    watermark_interval="50ms",
    guarantee="at_least_once" if os.environ.get("AT_LEAST_ONCE") else "exactly_once",
)
balances = app.table("balances", key=str, value=int, default=int)
beats = app.table("beat-counts", key=str, value=int, default=int)

events = (
    app.stream(
        app.topic("events", value=Event), timestamp=lambda event: event.time, out_of_orderness="30s", idle_after=None
    )
    .filter(lambda event: event.amount != 0)
    .dedupe(lambda event: event.id, within="5m")
)

(
    events.key_by(lambda event: event.kind, name="kinds")
    .window(tumbling("1m"), grace="10s")
    .aggregate(n=agg.count(), total=agg.sum("amount"), best=agg.max("amount"))
    .final()
    .to("by-kind")
)


@app.agent(events.key_by(lambda event: event.account, name="accounts"), sinks=["settled"])
async def settle(transfers: AsyncIterator[Event]) -> AsyncIterator[dict[str, int]]:
    async for event in transfers:
        balances[event.account] += event.amount
        yield {"id": event.id, "balance": balances[event.account]}


class Minutes(State):
    totals: dict[int, int] = msgspec.field(default_factory=dict)


@events.key_by(lambda event: event.account, name="sessions").process(state=Minutes)
def minutes(event: Event, state: Minutes, ctx: Any) -> None:
    minute = ctx.time // MINUTE
    state.totals[minute] = state.totals.get(minute, 0) + event.amount
    ctx.timer("flush", at=(min(state.totals) + 1) * MINUTE)


@minutes.on_timer("flush")
def flush(state: Minutes, ctx: Any) -> None:
    for minute in sorted(state.totals):
        if (minute + 1) * MINUTE > ctx.watermark:
            ctx.timer("flush", at=(minute + 1) * MINUTE)
            break
        ctx.emit({"minute": minute, "total": state.totals.pop(minute)})
    if not state.totals:
        state.clear()


minutes.to("by-minute")


@app.timer("500ms", sinks=["beats"])
async def beat() -> AsyncIterator[int]:
    beats["all"] += 1
    yield beats["all"]
