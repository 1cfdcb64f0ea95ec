"""The rows of the page: who takes part on Kafka, and what ours is held to.

What must live here: data.  What must not: running anything.
"""

from __future__ import annotations

from tests.benchmarks.common.rows import Bar, Contender, Row

MESSAGES = {"small": 2_000_000, "large": 500_000}
"""Orders of a topic."""

OURS = Contender("streams", "ours")
BARE = Contender("bare aiokafka loop", "bare")
JAVA = Contender("Kafka Streams (Java)", "kstreams")
QUIX = Contender("quixstreams", "quixstreams", 0.1)
FAUST = Contender("faust-streaming", "faust", 0.005)
FAUST_LARGE = Contender("faust-streaming", "faust", 0.02)
BYTEWAX = Contender("bytewax, at least once", "bytewax", 0.1)

BARS = [Bar(BARE.name, 0.65), Bar(JAVA.name, 0.5, goal=1.0), Bar(QUIX.name, 6), Bar(FAUST.name, 60)]

ROWS = [
    Row(
        "keyed",
        "orders of 95 bytes, a commit each second",
        "small",
        1.0,
        [OURS, BARE, JAVA, QUIX, FAUST, BYTEWAX],
        BARS,
        MESSAGES["small"],
    ),
    Row(
        "keyed-100ms",
        "orders of 95 bytes, a commit each 0.1 s",
        "small",
        0.1,
        [OURS, BARE, JAVA, QUIX],
        BARS[:3],
        MESSAGES["small"],
    ),
    Row(
        "large",
        "orders of 1 kB, a commit each second",
        "large",
        1.0,
        [OURS, BARE, JAVA, QUIX, FAUST_LARGE, BYTEWAX],
        BARS,
        MESSAGES["large"],
    ),
]
