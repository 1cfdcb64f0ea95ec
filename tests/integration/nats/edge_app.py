"""An app between two subjects of core NATS, for test_subjects.py.  NATS: the server's URL."""

from __future__ import annotations

import os

from streams import App

NATS = os.environ.get("NATS", "nats://localhost")

app = App("relay", partitions=2)
numbers = app.stream(app.topic(f"{NATS}/numbers.*", value=int))
numbers.to("seen")
numbers.map(lambda number: -number).to(app.topic(f"{NATS}/negated.{{key}}", value=int))

shared = App("shared", partitions=1)
shared.stream(shared.topic(f"{NATS}/jobs.*", value=int, partitions=4)).to("jobs-seen")
