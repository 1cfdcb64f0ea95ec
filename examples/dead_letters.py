"""Bad records: stop (the default), skip and count, or move them aside together with what was wrong.

It prints:

    good: [('a', 5.0), ('b', 2.5)]
    dead letter: b'{"shop":"c","total":10,"items":0}'
    dead letter: b'not even JSON'
"""

from __future__ import annotations

from dataclasses import dataclass

from streams import App
from streams.testing import TestDriver


@dataclass
class Order:
    shop: str
    total: int
    items: int


def price(order: Order) -> float:
    return order.total / order.items


app = App("orders")

# A dead letter is written in the commit that passes its record over, so it is neither lost nor doubled.
orders = app.stream("orders", value=Order, on_error="dead_letter")
orders.key_by(lambda order: order.shop).map(price).to("prices")

if __name__ == "__main__":
    with TestDriver(app) as t:
        t.send("orders", Order("a", 10, 2))
        t.send("orders", Order("c", 10, 0))  # fails in price
        t.send_bytes("orders", b"not even JSON")  # fails before
        t.send("orders", Order("b", 5, 2))
        print("good:", t.outputs("prices"))
        for _, letter in t.outputs("orders.dead-letters"):
            print("dead letter:", letter)
