"""Windows of event time: the hottest reading of each hour, and those that come too late for theirs.

It prints:

    12:20 71
    12:50 75
    13:05 60
    12:55 90, out of order, but within the grace: it counts
    13:16 61, the hour of twelve closes 15 minutes after its end: 3 readings, hottest 90
    12:59 99, too late: 99
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from streams import App, agg, tumbling
from streams.testing import TestDriver


@dataclass
class Reading:
    sensor: str
    at: datetime
    celsius: int


app = App("windows")
hourly = (
    app.stream("readings", value=Reading, timestamp=lambda r: r.at)  # event time comes from the record
    .key_by(lambda r: r.sensor)
    .window(tumbling("1h"), grace="15m")
    .aggregate(readings=agg.count(), hottest=agg.max("celsius"))
)
hourly.final().to("hottest")  # once a window; .updates() instead would give every change
hourly.late.to("too-late")

if __name__ == "__main__":
    with TestDriver(app) as t:
        for clock, celsius, remark in [
            ("12:20", 71, ""),
            ("12:50", 75, ""),
            ("13:05", 60, ""),
            ("12:55", 90, ", out of order, but within the grace: it counts"),
            ("13:16", 61, ", the hour of twelve closes 15 minutes after its end: "),
            ("12:59", 99, ", too late: "),
        ]:
            hour, minute = map(int, clock.split(":"))
            t.send("readings", Reading("boiler", datetime(2023, 6, 1, hour, minute, tzinfo=UTC), celsius))
            print(clock, f"{celsius}{remark}", end="")
            for _, window in t.outputs("hottest"):
                print(f"{window['readings']} readings, hottest {window['hottest']}", end="")
            for _, reading in t.outputs("too-late"):
                print(reading.celsius, end="")
            print()
