"""The other app that the engine's own simulations torment: the operators that the first one (``sim_app``) has no use
for, agents that call each other, timers, and a topic on another log.

What must live here: such an app whose results the inputs and ticks alone decide, and its workload.  What must not:
faults, the verdict.

    clicks (by user) ─┬─ branch ─ views, rest ─ merge ─ items ─▶ pairs
                      ├─ batch(4) ─▶ fours           batch(3, within) ─▶ handfuls
                      ├─ peek, count ─▶ counted      reduce ─▶ largest      hopping windows ─▶ hops
                      ├─ to_table ─▶ last-pages      buys ─▶ another log: shipments
                      ├─ buys: agent buyer ─ asks ─▶ agent till        ─▶ bought
                      │                    └ casts ─▶ agent ledger
                      └─ key_by: count, joined with its own table ─▶ ranks
    each second ─▶ beats        each minute ─▶ minutes
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random
from typing import Any

import msgspec

from streams.core.thresholds import Thresholds
from streams.core.window import hopping
from streams.dsl import agg
from streams.dsl.app import App
from streams.errors import AskTimeout, LogUnavailable
from streams.testing.faults import draw_thresholds
from streams.testing.sim_workload import Client

__all__ = ["Click", "make_app", "thresholds", "workload"]

START_MS = 1_700_000_000_000
USERS = [f"u{number}" for number in range(5)]
PAGES = [f"page{number}" for number in range(4)]


class Click(msgspec.Struct):
    """A click of a user on a page."""

    id: int
    user: str
    page: str
    amount: int
    at: int
    kind: str = "view"


def thresholds(random: Random) -> Thresholds:
    """Small ones, but for the memory of requests: an agent that runs again may ask once more for anything."""
    return replace(draw_thresholds(random), remembered_requests=1_000)


def make_app() -> App:
    """The app, declared anew."""
    app = App("errands", partitions=2, commit_interval="30ms", watermark_interval="50ms")
    clicks = app.stream(
        app.topic("clicks", key=str, value=Click), timestamp=_event_time, out_of_orderness=2, idle_after=None
    )
    kinds = clicks.branch(buys=_is_buy, views=_is_view)
    merged = kinds["views"].merge(kinds["rest"]).named("looked")
    merged.map(_page, value=str).items().map(_listed, value=list).to("pairs")
    clicks.map(_id, value=int).batch(4, name="fours").to("by-four")
    clicks.map(_id, value=int).named("ids").batch(3, within="150ms", name="handfuls").to("by-handful")
    clicks.peek(_look).map(_amount, value=int).reduce(max, name="largest").updates().to("largest-so-far")
    hops = clicks.window(hopping("4s", "2s"), grace="500ms").aggregate(
        name="hops-4s",
        first=agg.first("id"),
        last=agg.last("id"),
        mean=agg.mean("amount"),
        some=agg.collect("id", limit=5),
        pages=agg.count_distinct("page", limit=50),
        least=agg.min("amount"),
    )
    hops.updates().to("hops-updated")
    hops.final().to("hops")
    clicks.map(_page, value=str).to_table(app.table("last-pages", key=str, value=str)).to("pages-opened")
    kinds["buys"].map(_id, value=int).to(app.topic("kafka://elsewhere/shipments", key=str, value=int))

    _add_agents(app, kinds["buys"])

    by_user = clicks.key_by(_user, key=str, value=Click, partitions=3, name="by-user")
    seen = by_user.count(name="seen")
    by_user.join(seen.table(), _rank, value=int).to("ranks")

    beats = app.table("beats", key=str, value=int, default=int)

    @app.timer("1s", name="beat", sinks=["beats-seen"])
    async def beat() -> AsyncIterator[int]:
        beats["all"] += 1
        yield beats["all"]

    @app.cron("* * * * *", name="each-minute", sinks=["minutes"])
    async def each_minute() -> AsyncIterator[str]:
        yield "a minute"

    @app.timer("700ms", name="here", per_worker=True)
    async def here() -> None:
        """Nothing to do, in each worker."""

    return app


def _add_agents(app: App, buys: Any) -> None:
    """An agent that asks one and casts to another, and what those keep."""
    takings = app.table("takings", key=str, value=int, default=int)
    booked = app.table("booked", key=str, value=int, default=int)

    @app.agent(app.topic("till-by-hand", key=str, value=Click), name="till", tables=[takings])
    async def till(events: AsyncIterator[Click]) -> AsyncIterator[int]:
        async for click in events:
            takings[click.user] += click.amount
            yield takings[click.user]

    @app.agent(app.topic("ledger-by-hand", key=str, value=Click), name="ledger", concurrency=3, tables=[booked])
    async def ledger(events: AsyncIterator[Click]) -> None:
        async for click in events:
            booked[click.user] += 1

    @app.agent(buys, name="buyer", sinks=["bought"])
    async def buyer(events: AsyncIterator[Click]) -> AsyncIterator[list[int]]:
        async for click in events:
            await ledger.cast(click, key=click.user)
            try:
                total = await till.ask(click, key=click.user, timeout="10s")
            except AskTimeout as error:  # to ask once more would be another question; to run again isn't
                raise LogUnavailable(str(error)) from error
            yield [click.id, total]


def _event_time(click: Click) -> int:
    return click.at


def _is_buy(click: Click) -> bool:
    return click.kind == "buy"


def _is_view(click: Click) -> bool:
    return click.kind == "view"


def _id(click: Click) -> int:
    return click.id


def _page(click: Click) -> str:
    return click.page


def _user(click: Click) -> str:
    return click.user


def _amount(click: Click) -> int:
    return click.amount


def _look(click: Click) -> None:
    """An effect outside, which nobody sees."""


def _listed(pair: tuple[str, str]) -> list[str]:
    return list(pair)


def _rank(click: Click, clicks: int) -> int:
    return clicks


async def workload(client: Client) -> None:
    """Some dozens of clicks, in and out of order, some by hand to the agents that others call."""
    chance = client.random
    time, made = START_MS, 0
    for _ in range(chance.randint(10, 25)):
        time += chance.choice((0, 40, 300, 900, 2500))
        for _ in range(chance.choice((1, 1, 2, 5))):
            made += 1
            click = Click(
                made,
                chance.choice(USERS),
                chance.choice(PAGES),
                chance.randint(0, 50),
                time - chance.randint(0, 3_000),
                chance.choice(("view", "view", "buy", "buy", "odd")),
            )
            await client.send("clicks", click, key=click.user, timestamp=click.at)
        if chance.random() < 0.4:
            await client.sleep(chance.choice((0.01, 0.05, 0.2, 0.6)))
    await client.send_watermark("clicks", time + 120_000)
    await client.sleep(0.5)
