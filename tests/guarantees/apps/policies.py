"""A typed stream under the policy that the environment names."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from streams import App

POLICY: Any = os.environ.get("POLICY", "fail")

app = App("policies", commit_interval="20ms")


class Order(msgspec.Struct):
    id: int
    amount: int


def check(order: Order) -> Order:
    if order.amount == 13:
        raise ValueError("nobody orders 13")
    return order


orders = app.stream(app.topic("orders", value=Order), on_error=POLICY)
orders.map(check).to("checked")
