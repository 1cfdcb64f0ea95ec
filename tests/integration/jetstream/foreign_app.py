"""Apps whose topics lie on streams of others; for test_foreign_workers.py.  NATS: host:port of their server."""

from __future__ import annotations

import os

from streams import App

NATS = os.environ.get("NATS", "localhost")

outward = App("outward", partitions=2, commit_interval="50ms")
outward.stream("numbers", value=int).to(outward.topic(f"jetstream://{NATS}/COPIES?subject=copies.{{key}}", value=int))

inward = App("inward", partitions=2, commit_interval="50ms")
arrived = inward.stream(inward.topic(f"jetstream://{NATS}/ORDERS?subjects=orders.*.created", value=int))
arrived.key_by(lambda number: str(number % 10), name="by-digit").count(name="digits")
arrived.to("arrived")
