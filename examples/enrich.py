"""Join a stream with a table: each order with its customer, as known at that moment.

It prints:

    2 teapots for Anna in Bern
    1 kettle for Anna in Basel
    3 cups for somebody unknown
"""

from __future__ import annotations

from dataclasses import dataclass

from streams import App
from streams.testing import TestDriver


@dataclass
class Customer:
    name: str
    city: str


@dataclass
class Order:
    customer: str
    item: str


def address(order: Order, customer: Customer | None) -> str:
    if customer is None:
        return f"{order.item} for somebody unknown"
    return f"{order.item} for {customer.name} in {customer.city}"


app = App("shop", partitions=4)
customers = app.topic("customers", value=Customer, compact=True)  # the log keeps the last record of each key
addresses = app.table("addresses", source=customers)

# key_by brings an order to the task that holds its customer.
app.stream("orders", value=Order).key_by(lambda o: o.customer).join(addresses, address, how="left").to("shipments")

if __name__ == "__main__":
    with TestDriver(app) as t:
        t.send("customers", Customer("Anna", "Bern"), key="c1")
        t.send("orders", Order("c1", "2 teapots"))
        print(t.outputs("shipments")[0][1])
        t.send("customers", Customer("Anna", "Basel"), key="c1")
        t.send("orders", Order("c1", "1 kettle"))
        print(t.outputs("shipments")[0][1])
        t.send("orders", Order("c2", "3 cups"))
        print(t.outputs("shipments")[0][1])
