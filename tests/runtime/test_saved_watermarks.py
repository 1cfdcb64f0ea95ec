"""What a checkpoint says of its inputs' watermarks is of its own commit, and not of the one before."""

from __future__ import annotations

from streams import App
from streams.core.checkpoint import decode_checkpoint
from streams.core.watermark import MarkedWatermark, SourceWatermark
from streams.testing.driver import TestDriver


def test_a_checkpoint_holds_how_far_each_input_had_come_when_it_was_made() -> None:
    app = App("a", partitions=1)
    app.stream("in", value=int, timestamp=lambda value: value, idle_after=None).key_by(
        lambda value: str(value), key=str, value=int, name="again"
    ).to("out")
    topology = app.build()
    first, second = sorted(topology.tasks, key=lambda task: "again" in task)
    with TestDriver(app) as t:
        for time in (1_000, 5_000, 9_000):
            t.send("in", time, key="k")
            t.advance("1s")
            held = {}
            for task in (first, second):
                stored = t._log.broker.tasks[task].checkpoint
                assert stored is not None
                held[task] = decode_checkpoint(stored)
            (source,) = held[first].inputs.values()
            assert SourceWatermark(0, source).watermark == time
            (marks,) = held[second].inputs.values()
            assert MarkedWatermark([first], marks).watermark == held[first].watermark
