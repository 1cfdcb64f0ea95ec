"""A user's code as a type checker sees it; checked by mypy --strict with the rest, and by ``test_typing.py`` alone.

Nothing here runs.  ``assert_type`` fails the check when another type is inferred.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_type

import msgspec

from streams import Agent, App, ProcessContext, State, Stream, Table, Topic, agg, tumbling


class Transfer(msgspec.Struct):
    account: str
    amount: int
    at: datetime


@dataclass
class Alert:
    text: str


class Seen(State):
    count: int = 0


app = App("typed")

transfers = app.topic("transfers", value=Transfer, partitions=4, retention="7d")
assert_type(transfers, Topic[str, Transfer])
assert_type(app.topic("by-number", key=int, value=Alert), Topic[int, Alert])
assert_type(app.topic("plain"), Topic[Any, Any])

source = app.stream(transfers, timestamp=lambda t: t.at, out_of_orderness="1m", on_error="dead_letter")
assert_type(source, Stream[str, Transfer])
assert_type(app.stream("orders", value=Transfer, timestamp=lambda t: t.at), Stream[str, Transfer])
assert_type(app.stream("numbered", key=int, value=Alert), Stream[int, Alert])
assert_type(app.stream("untyped", timestamp=lambda v: v["at"]), Stream[Any, Any])

assert_type(source.filter(lambda t: t.amount > 3), Stream[str, Transfer])
assert_type(source.peek(lambda t: print(t.amount)), Stream[str, Transfer])
assert_type(source.map(lambda t: t.amount), Stream[str, int])
assert_type(source.map(lambda t: Alert(t.account)), Stream[str, Alert])
assert_type(source.flat_map(lambda t: [t.account, "x"]), Stream[str, str])
assert_type(source.items(), Stream[str, tuple[str, Transfer]])
assert_type(source.branch(big=lambda t: t.amount > 100)["big"], Stream[str, Transfer])
assert_type(source.merge(source.filter(bool)), Stream[str, Transfer])
assert_type(source.named("again"), Stream[str, Transfer])
assert_type(source.dedupe(lambda t: t.account, within="1h"), Stream[str, Transfer])
assert_type(source.batch(10, within="1s"), Stream[str, list[Transfer]])

by_amount = source.key_by(lambda t: t.amount)
assert_type(by_amount, Stream[int, Transfer])
assert_type(source.key_by(lambda t: t.amount, key=int, name="typed"), Stream[int, Transfer])

assert_type(source.count().updates(), Stream[str, int])
assert_type(source.count(name="n").table(), Table[str, int])
assert_type(source.reduce(lambda a, b: max(a, b, key=lambda t: t.amount)).updates(), Stream[str, Transfer])
assert_type(source.aggregate(n=agg.count()).updates(), Stream[str, dict[str, Any]])
assert_type(source.window(tumbling("1h")).count().late, Stream[str, Transfer])
assert_type(source.window(tumbling("1d")).count().final(), Stream[str, dict[str, Any]])

balances = app.table("balances", value=int, default=int)
assert_type(balances, Table[str, int])
assert_type(balances["a"], int)
assert_type(app.table("numbered-rows", key=int, value=Alert), Table[int, Alert])
assert_type(app.table("from-topic", source=transfers), Table[str, Transfer])
assert_type(source.to_table(app.table("latest", value=Transfer)), Stream[str, Transfer])
assert_type(source.join(balances), Stream[str, tuple[Transfer, int]])
assert_type(source.join(balances, how="left"), Stream[str, tuple[Transfer, int | None]])
assert_type(source.join(balances, lambda t, balance: t.amount + balance), Stream[str, int])


@app.agent(source)
async def settle(events: AsyncIterator[Transfer]) -> AsyncIterator[int]:
    async for event in events:
        balances[event.account] += event.amount
        yield balances[event.account]


assert_type(settle, Agent[str, Transfer])


@source.process(state=Seen)
def sessions(value: Transfer, state: Seen, ctx: ProcessContext) -> None:
    state.count += value.amount
    ctx.emit(state.count)


@sessions.on_timer("idle")
def close(state: Seen, ctx: ProcessContext) -> None:
    state.clear()


async def outside() -> None:
    assert_type(await balances.get("a"), int | None)
    assert_type(await balances.get("a", "none"), int | str)
    await settle.cast(Transfer("a", 1, datetime.now()))
    await transfers.send(Transfer("a", 1, datetime.now()), key="a")
