"""The app that the engine's own simulations torment, and what is sent to it.

What must live here: one app with every kind of operator whose results the inputs alone decide, and its workload.  What
must not: faults, the verdict.

    prices ──────────────▶ table ─┐
    orders (by product) ─┬─ join ─┴▶ priced          ├─ window with grace ─▶ sold, too-late
      (bad ones are      ├─ dedupe ─▶ distinct        ├─ process with timers ─▶ sessions
       dead-lettered)    ├─ flat_map ─▶ parts         └─ those in time, key_by account:
                         │                                 ├─ agent with tables, asked as well ─▶ settled
                         └─ window of all keys ─▶ closed   └─ window ─▶ per-account ─▶ (topic) ─▶ aggregate ─▶ totals
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import msgspec

from streams.core.window import tumbling
from streams.dsl import agg
from streams.dsl.app import App
from streams.dsl.state import State
from streams.errors import AskTimeout, CommitUnknown, LogUnavailable
from streams.operators.process import ProcessContext
from streams.testing.sim_workload import Client

__all__ = ["Order", "Session", "make_app", "workload"]

START_MS = 1_700_000_000_000
SLACK_MS = 4_000
PRODUCTS = [f"p{number}" for number in range(7)]
ACCOUNTS = [f"a{number}" for number in range(5)]


class Order(msgspec.Struct):
    """An order.  ``late``: its time lies before what its stream waits for.  ``kind``: buy or cancel."""

    id: int
    product: str
    account: str
    amount: int
    at: int
    kind: str = "buy"
    late: bool = False


class Session(State):
    """The orders of a product without a long pause between them."""

    orders: int = 0
    amount: int = 0


def make_app() -> App:
    """The app, declared anew."""
    app = App("torment", partitions=2, commit_interval="30ms", watermark_interval="50ms")
    orders = app.stream(
        app.topic("orders", key=str, value=Order),
        timestamp=_event_time,
        out_of_orderness=SLACK_MS / 1000,
        idle_after=None,
        on_error="dead_letter",
    )
    prices = app.table("prices", source="price-list", key=str, value=int)
    in_order = orders.filter(_can_be_made)

    in_order.join(prices, _priced, how="left", value=dict).to("priced")
    in_order.dedupe(_identity, within="20s", name="distinct-orders").to("distinct")
    in_order.flat_map(_parts, value=dict).to("parts")
    sold = in_order.window(tumbling("5s"), grace="1s").aggregate(name="sold-5s", n=agg.count(), sum=agg.sum("amount"))
    sold.final().to("sold")
    sold.late.to("too-late")

    @in_order.process(state=Session, name="sessions")
    def sessions(order: Order, session: Session, ctx: ProcessContext) -> None:
        session.orders += 1
        session.amount += order.amount
        ctx.timer("idle", after="6s")
        if session.orders % 3 == 0:
            ctx.timer("third", after="1s")

    @sessions.on_timer("idle")
    def idle(session: Session, ctx: ProcessContext) -> None:
        ctx.emit({"product": ctx.key, "orders": session.orders, "amount": session.amount, "at": ctx.time})
        session.clear()

    @sessions.on_timer("third")
    def third(session: Session, ctx: ProcessContext) -> None:
        ctx.emit({"product": ctx.key, "third": session.orders, "at": ctx.time})

    sessions.to("sessions-closed")

    balances = app.table("balances", key=str, value=int, default=int)
    odd_cancels = app.table("odd-cancels", key=str, value=int)
    by_account = in_order.filter(_in_time).key_by(_account, key=str, value=Order, name="by-account")

    @app.agent(by_account, name="settle", sinks=["settled"], tables=[balances, odd_cancels])
    async def settle(events: AsyncIterator[Order]) -> AsyncIterator[dict[str, Any]]:
        async for order in events:
            if order.amount == 13:
                raise ValueError("nobody orders thirteen")
            balances[order.account] += order.amount
            if order.kind == "cancel":
                if order.account in odd_cancels:
                    del odd_cancels[order.account]
                else:
                    odd_cancels[order.account] = 1
            yield {"id": order.id, "amount": order.amount}

    accounts = by_account.window(tumbling("5s"), grace="500ms").aggregate(
        name="accounts-5s", n=agg.count(), sum=agg.sum("amount"), most=agg.max("amount")
    )
    per_account = app.topic("per-account", key=str)
    accounts.final().to(per_account)
    app.stream(per_account, idle_after=None).aggregate(name="totals", windows=agg.count(), sum=agg.sum("sum")).to(
        "totals-seen"
    )
    return app


def _event_time(order: Order) -> int:
    return order.at


def _can_be_made(order: Order) -> bool:
    if order.amount < 0:
        raise ValueError("a negative amount")
    return True


def _in_time(order: Order) -> bool:
    return not order.late


def _account(order: Order) -> str:
    return order.account


def _identity(order: Order) -> int:
    return order.id


def _priced(order: Order, price: int | None) -> dict[str, Any]:
    return {"id": order.id, "costs": None if price is None else price * order.amount}


def _parts(order: Order) -> list[dict[str, Any]]:
    return [{"id": order.id, "part": number} for number in range(order.amount % 9)]


async def workload(client: Client) -> None:
    """Some dozens of orders, in and out of order, bad ones and repeated ones, and a few questions to the agent."""
    chance = client.random
    for product in PRODUCTS[: chance.randint(3, len(PRODUCTS))]:
        await client.send("price-list", chance.randint(1, 9), key=product, timestamp=START_MS - 60_000)
    await client.sleep(chance.choice((0, 0.1, 0.5)))
    time, made, asked = START_MS, 0, 0
    for _ in range(chance.randint(15, 40)):
        time += chance.choice((0, 40, 300, 300, 900, 2500))
        for _ in range(chance.choice((1, 1, 1, 2, 6))):
            made += 1
            await _order(client, made, time)
        if chance.random() < 0.12:
            many = chance.choice((1, 2, 3, 5))  # more than two are answered by one commit now and then
            await asyncio.gather(*(_ask(client, asked + number, time) for number in range(many)))
            asked += many
        if chance.random() < 0.3:
            await client.sleep(chance.choice((0.01, 0.05, 0.2, 0.6)))
    for topic in ("orders", "price-list", "per-account"):
        await client.send_watermark(topic, time + 120_000)
    await client.sleep(0.5)


async def _order(client: Client, number: int, time: int) -> None:
    chance = client.random
    product = chance.choice(PRODUCTS)
    late = chance.random() < 0.08
    order = Order(
        number,
        product,
        chance.choice(ACCOUNTS),
        chance.randint(0, 20),
        time - (chance.randint(8_000, 30_000) if late else chance.randint(0, SLACK_MS - 1)),
        "cancel" if chance.random() < 0.2 else "buy",
        late,
    )
    if chance.random() < 0.04:
        await client.send_bytes("orders", b"{not an order", key=product.encode())
    if chance.random() < 0.04:
        await client.send("orders", None, key=product, timestamp=time)
    if chance.random() < 0.04:
        order.amount = -1
    for _ in range(chance.choice((1, 1, 1, 1, 2))):
        await client.send("orders", order, key=product, timestamp=order.at)


async def _ask(client: Client, number: int, time: int) -> None:
    """Ask about an account that nobody else touches: the answer is known.  All are of one task, so that its memory of
    requests fills up."""
    accounts = (f"asked-{number}-{spell}" for spell in count())
    account = next(each for each in accounts if client.app_partition(each.encode(), 2) == 0)
    amount = number % 12 + 1
    try:
        answer = await client.ask(
            "settle", Order(-number - 1, "none", account, amount, time), key=account, timeout="2s"
        )
    except (AskTimeout, LogUnavailable, CommitUnknown) as error:
        if client.faultless:
            raise AssertionError(f"nothing went wrong, and the question {number} got no answer: {error}") from error
        return
    assert answer == {"id": -number - 1, "amount": amount}, f"asked for {amount}, and the answer was {answer}"
