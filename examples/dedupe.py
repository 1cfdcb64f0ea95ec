"""Leave out what was sent twice, and write in batches what a slow target takes better together.

It prints:

    batch: ['a', 'b', 'c']
    batch: ['d'], which had waited for five seconds
"""

from __future__ import annotations

from dataclasses import dataclass

from streams import App
from streams.testing import TestDriver


@dataclass
class Event:
    id: str
    device: str


app = App("ingest")

(
    app.stream("events", value=Event)
    .key_by(lambda e: e.device)  # what is equal has to meet in one task to be compared
    .dedupe(lambda e: e.id, within="1h")
    .batch(3, within="5s")
    .to("batches")
)

if __name__ == "__main__":
    with TestDriver(app) as t:
        for id in ["a", "b", "a", "b", "c", "a", "d"]:
            t.send("events", Event(id, "sensor"))
        for _, batch in t.outputs("batches"):
            print("batch:", [event.id for event in batch])
        t.advance("6s")
        for _, batch in t.outputs("batches"):
            print("batch:", [event.id for event in batch], end=", which had waited for five seconds\n")
