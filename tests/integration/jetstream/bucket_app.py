"""An app on another log whose table is a KV bucket, and that writes to a bucket and an object store; for
test_buckets.py.  NATS: host:port of their server."""

from __future__ import annotations

import os

from streams import App

NATS = os.environ.get("NATS", "localhost")

app = App("buckets", commit_interval="50ms")
prices = app.table("prices", source=app.topic(f"nats-kv://{NATS}/prices", key=str, value=int))
orders = app.stream("orders", key=str, value=int)
bills = orders.join(prices, lambda count, price: count * price, how="inner", value=int)
bills.to(app.topic(f"nats-kv://{NATS}/bills", value=int))
bills.to(app.topic(f"nats-object://{NATS}/papers", value=int))
