"""Apps on an embedded log with a topic on Kafka, and one on Kafka that reads an embedded log; for test_foreign.py.

KAFKA: host:port of the broker.  EMBEDDED: the folder of the embedded log that the last one reads.
"""

from __future__ import annotations

import os

from streams import App

KAFKA = f"kafka://{os.environ.get('KAFKA', 'localhost')}"

outward = App("outward", partitions=2)
outward.stream("numbers", value=int).to(outward.topic(f"{KAFKA}/copies?linger_ms=0", value=int))

inward = App("inward", partitions=2)
arrived = inward.stream(inward.topic(f"{KAFKA}/origin", value=int))
arrived.key_by(lambda number: str(number % 10), name="by-digit").count(name="digits")
arrived.to("arrived")

across = App("across", partitions=2)
across.stream(across.topic(f"embedded:{os.environ.get('EMBEDDED', '.')}/numbers", value=int)).to("landed")
