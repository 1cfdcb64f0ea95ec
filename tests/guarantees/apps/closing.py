"""One window of very many keys, all of which close at once."""

from __future__ import annotations

from streams import App, agg, tumbling

app = App("closing", partitions=2, commit_interval="20ms", watermark_interval="20ms")

(
    app.stream("readings", value=int, idle_after=None)
    .window(tumbling("1h"))
    .aggregate(n=agg.count(), total=agg.sum(lambda value: value, type=int))
    .final()
    .to("hourly")
)
