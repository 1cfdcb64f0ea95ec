"""The ticker from one life to the next: what its first commit is for, and what a zombie's ticks come to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from streams import App
from streams.core.checkpoint import decode_checkpoint
from streams.testing.driver import TestDriver

HOUR_MS = 3_600_000


def hourly() -> App:
    app = App("a")

    @app.timer("1h", name="hourly", sinks=["ticked"])
    async def tick() -> AsyncIterator[Any]:
        yield "now"

    return app


def test_a_tick_that_was_due_before_the_first_one_ever_was_written_is_made_up() -> None:
    # Without a commit at its start the ticker would forget since when it has been there: a worker that is restarted
    # more often than a timer ticks would never let it tick.
    app = hourly()
    with TestDriver(app) as t:
        began_ms = t.now_ms()
        assert t.outputs("ticked") == []
    later = TestDriver(app, after=t)
    later._clock._start_ms += HOUR_MS
    with later as again:
        due_ms = (began_ms // HOUR_MS + 1) * HOUR_MS
        assert [time for _, _, time in again.records("ticked")] == [due_ms]


def test_a_ticker_that_has_only_begun_has_said_since_when() -> None:
    with TestDriver(hourly()) as t:
        ticker = t._worker.ticker
        assert ticker is not None
        stored = t._log.broker.tasks[ticker.id].checkpoint
        assert stored is not None
        assert decode_checkpoint(stored).facts.keys() == {"hourly"}
