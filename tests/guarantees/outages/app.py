"""Counts numbers by their last digit: an input, a repartition topic, a table, an output.

INPUT, OUTPUT: the topics, of the log or elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import msgspec

from streams import App

KEYS = 10


class Counted(msgspec.Struct):
    n: int
    count: int


app = App("outage", partitions=2, commit_interval="100ms")
counts = app.table("counts", key=str, value=int, default=int)
numbers = app.stream(app.topic(os.environ.get("INPUT", "numbers"), value=int))
counted = app.topic(os.environ.get("OUTPUT", "counted"), value=Counted)


@app.agent(numbers.key_by(lambda n: str(n % KEYS), name="digits"), sinks=[counted])
async def count(digits: AsyncIterator[int]) -> AsyncIterator[Counted]:
    async for n in digits:
        counts[str(n % KEYS)] += 1
        yield Counted(n, counts[str(n % KEYS)])
