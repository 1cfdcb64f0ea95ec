"""Timers and cron: ticks that are durable and exactly once, and timers of each worker, which keep nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams import App
from streams.errors import ConfigurationError
from streams.testing.driver import TestDriver

MINUTE = 60_000


def beating(app: App) -> None:
    beats = app.table("beats", value=int, default=int)

    @app.timer("10s", sinks=["ticked"])
    async def beat() -> AsyncIterator[Any]:
        beats["n"] += 1
        yield beats["n"]


def test_a_timer_ticks_at_multiples_of_its_interval_and_yields_to_its_sinks() -> None:
    app = App("a", partitions=3)
    beating(app)
    with TestDriver(app) as t:
        start = t.now_ms()
        t.advance("1m")
        ticks = sorted(t.records("ticked"), key=lambda tick: tick[2])
        passed = t.now_ms() // 10_000 - start // 10_000
        assert [value for _, value, _ in ticks] == list(range(1, passed + 1))
        assert all(time % 10_000 == 0 for _, _, time in ticks)
        assert t.table("beats") == {"n": passed}


def test_ticks_are_not_doubled_over_a_restart() -> None:
    app = App("a")
    beating(app)
    with TestDriver(app) as t:
        start = t.now_ms()
        t.advance("25s")
    with TestDriver(app, after=t) as again:
        again.advance("25s")
        passed = again.now_ms() // 10_000 - start // 10_000
        assert [value for _, value in again.outputs("ticked")] == list(range(1, passed + 1))


def away(t: TestDriver, app: App, by_ms: int) -> TestDriver:
    """A driver that starts again so much later."""
    later = TestDriver(app, after=t)
    later._clock._start_ms += by_ms
    return later


def test_ticks_that_nobody_was_there_for_are_made_up_by_one() -> None:
    app = App("a")
    beating(app)
    with TestDriver(app) as t:
        t.advance("11s")
        before = len(t.outputs("ticked"))
        assert before
    with away(t, app, 60 * MINUTE) as again:
        assert len(again.outputs("ticked")) == 1
        at = again.now_ms()
        again.advance("10s")
        assert len(again.outputs("ticked")) == again.now_ms() // 10_000 - at // 10_000


def test_cron_ticks_at_the_times_of_its_expression_in_utc() -> None:
    app = App("a")

    @app.cron("*/5 * * * *", name="every-five", sinks=["ticked"])
    async def often() -> AsyncIterator[str]:
        yield "now"

    with TestDriver(app) as t:
        start = t.now_ms()
        t.advance("20m")
        times = [time for _, _, time in t.records("ticked")]
        assert times
        assert all(time % (5 * MINUTE) == 0 for time in times)
        assert len(times) == t.now_ms() // (5 * MINUTE) - start // (5 * MINUTE)
    with away(t, app, 7 * MINUTE) as again:
        made_up = [time for _, _, time in again.records("ticked")]
        assert len(made_up) == again.now_ms() // (5 * MINUTE) - t.now_ms() // (5 * MINUTE) or len(made_up) == 1


def test_a_plain_coroutine_is_called_at_each_tick() -> None:
    app = App("a")
    calls: list[int] = []

    @app.timer("1s")
    async def tick() -> None:
        calls.append(1)

    with TestDriver(app) as t:
        t.advance("10s")
        assert len(calls) >= 10


def test_a_timer_of_each_worker_ticks_without_a_task() -> None:
    app = App("a")
    sent = app.topic("sent")

    @app.timer("5s", per_worker=True)
    async def beat() -> None:
        await sent.send("here", key="k")

    assert app.build().tasks == []
    with TestDriver(app) as t:
        t.advance("20s")
        assert len(t.outputs("sent")) >= 4


def test_a_timer_function_that_fails_stops_the_app_and_is_named() -> None:
    app = App("a")

    @app.timer("10s", name="broken")
    async def tick() -> None:
        raise ValueError("no tick")

    with TestDriver(app) as t, pytest.raises(Exception, match=r"broken.*no tick"):
        t.advance("1m")


def test_functions_and_expressions_that_cannot_tick_are_refused() -> None:
    app = App("a")
    with pytest.raises(ConfigurationError, match="'never' is no cron expression"):
        app.cron("never")
    with pytest.raises(ConfigurationError):
        app.timer("0s")
    with pytest.raises(ConfigurationError, match="timer now: write it as `async def`"):

        @app.timer("1s", name="now")
        def plain() -> None: ...

    with pytest.raises(ConfigurationError, match="with per_worker=True write it as a plain `async def`"):

        @app.timer("1s", per_worker=True)
        async def generating() -> AsyncIterator[int]:
            yield 1


def test_on_start_runs_once_in_each_worker_and_may_send() -> None:
    app = App("a")
    calls: list[int] = []
    app.stream("in").to("out")

    @app.on_start
    async def begin() -> None:
        calls.append(1)
        await app.topics["in"].send("hello", key="k")

    with TestDriver(app) as t:
        assert calls == [1]
        assert t.outputs("out") == [("k", "hello")]
    with TestDriver(app, after=t):
        assert calls == [1, 1]
