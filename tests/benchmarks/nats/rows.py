"""The rows of the page: who takes part on JetStream, and what ours is held to.

What must live here: data.  What must not: running anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.common.rows import Bar, Contender, Row

MESSAGES = {"small": 500_000, "large": 200_000}
SIZES = {"small": "95 bytes", "large": "1 kB"}
PARTITIONS = 2
COMMIT_INTERVAL_S = 0.1

OURS = Contender("streams", "ours")
NAIVE = Contender("nats-py loop, at least once", "natspy-asyncio", 0.2)
NAIVE_UVLOOP = Contender("nats-py loop on uvloop, at least once", "natspy", 0.2)
FASTSTREAM = Contender("faststream, at least once", "faststream", 0.05)
FETCH = Contender("nats-py, fetch(500)", "natspy", 0.2)
ORDERED = Contender("nats-py, ordered consumer with a callback", "natspy-callback")
WINDOW = Contender("nats-py, publish_async", "natspy", 0.2)
WAITED = Contender("nats-py, publish, one at a time", "natspy-waited", 0.05)

BARS = [Bar(NAIVE.name, 5), Bar(FASTSTREAM.name, 5)]

WORK: dict[str, tuple[str, list[Contender], list[Bar]]] = {
    "keyed": ("Keyed count", [OURS, NAIVE, NAIVE_UVLOOP, FASTSTREAM], BARS),
    "consume": ("Consume alone", [OURS, FETCH, ORDERED], [Bar(FETCH.name, 5)]),
    "publish": ("Publish alone", [OURS, WINDOW, WAITED], [Bar(WINDOW.name, 5)]),
}
"""Each work: its title, who takes part, and the bars.  Callbacks, waits and uvloop are there to be seen beside."""


def _rows() -> Iterator[Row]:
    for work, (title, contenders, bars) in WORK.items():
        for size, bytes_each in SIZES.items():
            yield Row(
                f"{work}-{size}",
                f"{title}, orders of {bytes_each}",
                size,
                COMMIT_INTERVAL_S,
                contenders,
                bars,
                MESSAGES[size],
                PARTITIONS,
                work,
            )


ROWS = list(_rows())
