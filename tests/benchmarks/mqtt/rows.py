"""The rows of the page: who takes part, and what ours is held to.

What must live here: data.  What must not: running anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.common.rows import Bar, Contender, Row

MESSAGES = {0: 200_000, 1: 100_000, 2: 50_000}
"""By quality of service."""

OURS = Contender("streams", "ours")
PAHO = Contender("paho-mqtt", "paho", 0.2)
AIOMQTT = Contender("aiomqtt", "aiomqtt", 0.1)
AIOMQTT_UVLOOP = Contender("aiomqtt on uvloop", "aiomqtt-uvloop", 0.1)
GMQTT = Contender("gmqtt", "gmqtt", 0.5)
JOURNAL = Contender("streams, journal on the embedded log", "journal-embedded")
PIPELINE = Contender("the same, and a pipeline that reads it", "journal_pipeline-embedded")
ON_KAFKA = Contender("streams, journal on Kafka", "journal-kafka", 0.5)
ON_JETSTREAM = Contender("streams, journal on JetStream", "journal-jetstream", 0.5)
NOTHING_KEPT = Contender("paho-mqtt, nothing kept", "paho", 0.2)

ALONE = [OURS, PAHO, AIOMQTT, AIOMQTT_UVLOOP, GMQTT]
BARS = [Bar(PAHO.name, 3), Bar(AIOMQTT.name, 8)]

WORK: dict[str, tuple[str, list[Contender], dict[int, list[Bar]]]] = {
    "consume": ("Consume", ALONE, {0: [], 1: BARS, 2: []}),
    "publish": ("Publish", ALONE, {0: [], 1: BARS, 2: []}),
    "journal": (
        "Journal",
        [JOURNAL, PIPELINE, ON_KAFKA, ON_JETSTREAM, NOTHING_KEPT],
        {1: [Bar(NOTHING_KEPT.name, 2)], 2: []},
    ),
}
"""Each work: its title, who takes part, and by quality of service the bars."""


def _rows() -> Iterator[Row]:
    for work, (title, contenders, bars_by_qos) in WORK.items():
        for qos, bars in bars_by_qos.items():
            yield Row(
                f"{work}-{qos}",
                f"{title}, QoS {qos}",
                "small",
                0.0,
                contenders,
                bars,
                MESSAGES[qos],
                1,
                f"{work}-{qos}",
            )


ROWS = list(_rows())
