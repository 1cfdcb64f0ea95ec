"""An agent keeps a table, and answers whoever asks.

It prints:

    asked, and answered after the commit: anna has 30
    refused: agent book: ValueError: ben has only 5
    booked without waiting: anna has 40
    the table: {'anna': 40, 'ben': 5}
    on the topic: [('anna', 30), ('ben', 5), ('anna', 40)]
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from streams import App
from streams.errors import AgentFailed
from streams.testing import TestDriver


@dataclass
class Booking:
    account: str
    amount: int


app = App("bank")
balances = app.table("balances", key=str, value=int, default=int)


@app.agent(app.stream("bookings", value=Booking).key_by(lambda b: b.account), sinks=["statements"])
async def book(bookings: AsyncIterator[Booking]) -> AsyncIterator[int]:
    async for booking in bookings:
        balance = balances[booking.account] + booking.amount
        if balance < 0:
            # Told to the one who asked, with nothing changed.  On a topic: see dead_letters.py.
            raise ValueError(f"{booking.account} has only {balances[booking.account]}")
        balances[booking.account] = balance
        yield balance  # the answer, and a record for the sinks


if __name__ == "__main__":
    with TestDriver(app) as t:
        print("asked, and answered after the commit: anna has", t.run(book.ask(Booking("anna", 30))))
        t.send("bookings", Booking("ben", 5))
        try:
            t.run(book.ask(Booking("ben", -6)))
        except AgentFailed as error:
            print("refused:", str(error).partition(" (")[0])
        t.run(book.cast(Booking("anna", 10)))
        t.advance("1s")
        print("booked without waiting: anna has", t.run(balances.get("anna")))
        print("the table:", t.table("balances"))
        print("on the topic:", t.outputs("statements"))
