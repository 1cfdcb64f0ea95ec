"""An agent that clients of NATS ask.  NATS: the server's URL.  Each request has an id of its own in its value, too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import msgspec

from streams import App


class Deposit(msgspec.Struct):
    id: str
    account: str
    amount: int


class Settled(msgspec.Struct):
    id: str
    balance: int


app = App("bank", partitions=2)
balances = app.table("balances", value=int, default=int)


@app.agent(app.stream("deposits", value=Deposit).key_by(lambda d: d.account), sinks=["settled"])
async def settle(deposits: AsyncIterator[Deposit]) -> AsyncIterator[Settled]:
    async for deposit in deposits:
        balances[deposit.account] += deposit.amount
        await asyncio.sleep(0.005)  # so that a kill finds some of them half done
        yield Settled(deposit.id, balances[deposit.account])


settle.serve(f"{os.environ.get('NATS', 'nats://localhost')}/bank.settle")
