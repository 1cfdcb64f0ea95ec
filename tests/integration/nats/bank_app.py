"""Agents that answer on subjects, for test_services.py.  NATS: the server's URL, with a login where it wants one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from streams import App

NATS, _, SETTINGS = os.environ.get("NATS", "nats://localhost").partition("?")


class Transfer(msgspec.Struct):
    account: str
    amount: int


app = App("bank", partitions=2, commit_interval=os.environ.get("COMMIT_INTERVAL", "100ms"))
balances = app.table("balances", value=int, default=int)


@app.agent(app.stream("transfers", value=Transfer).key_by(lambda t: t.account), sinks=["settled"])
async def settle(transfers: AsyncIterator[Transfer]) -> AsyncIterator[int]:
    """Answers with the balance; refuses 13."""
    async for transfer in transfers:
        balances[transfer.account] += transfer.amount
        yield balances[transfer.account]
        if transfer.amount == 13:
            raise ValueError("no 13, bitte schön")


@app.agent(app.stream("notes", value=str), sinks=["noted"])
async def note(notes: AsyncIterator[str]) -> AsyncIterator[Any]:
    """Answers with as many bytes as it is asked for, or after as many seconds."""
    async for text in notes:
        word, _, number = text.partition(" ")
        if word == "sleep":
            await asyncio.sleep(float(number))
        yield b"x" * int(number) if word == "bytes" else {"noted": text}


def at(subject: str) -> str:
    return f"{NATS}/{subject}?{SETTINGS}"


settle.serve(at("bank.settle"), timeout="1m")
note.serve(at("bank.note"), timeout="1m")
note.serve(at("bank.note.{key}"), timeout="1m")
note.serve(at("bank.hasty.{key}"), timeout="1s")
