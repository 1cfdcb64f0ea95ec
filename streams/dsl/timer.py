"""Timers and cron: agents over a topic of ticks.

The ticker (``runtime.ticker``) writes one record a tick in a fenced commit that also holds the time of that tick, so a
tick is neither lost nor doubled; the function is an agent over them, so what it yields is exactly once as well.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from streams.core.log import TopicSpec
from streams.core.policy import FAIL
from streams.dsl.agent import add_agent, sinks_of
from streams.dsl.codec import value_codec
from streams.dsl.keys import key_codec
from streams.dsl.naming import check_name
from streams.dsl.stream import Stream
from streams.dsl.table import tables_named_by
from streams.dsl.topic import Topic
from streams.errors import ConfigurationError
from streams.operators.source import Source

if TYPE_CHECKING:
    from streams.dsl.app import App

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Timer:
    """One timer.  ``topic`` is None for a timer per worker; ``every_ms`` is 0 for cron."""

    name: str
    every_ms: int
    cron: str
    fn: Callable[[], Any]
    topic: TopicSpec | None

    def next_after(self, time_ms: int) -> int:
        """The first tick behind ``time_ms``: multiples of the interval since the epoch, or cron times in UTC."""
        if self.every_ms:
            return (time_ms // self.every_ms + 1) * self.every_ms
        then: datetime = _croniter()(self.cron, datetime.fromtimestamp(time_ms / 1000, UTC)).get_next(datetime)
        return round(then.timestamp() * 1000)


def _croniter() -> Any:
    # Here: an app without cron does without.  One that has it has called this while it was declared, before any tick.
    from croniter import croniter  # type: ignore[import-untyped,unused-ignore]

    return croniter


def add_timer(
    app: App, *, every_ms: int, cron: str, name: str, per_worker: bool, sinks: Iterable[Topic[Any, Any] | str]
) -> Callable[[F], F]:
    """The decorator behind ``App.timer`` and ``App.cron``."""
    if not every_ms and not _croniter().is_valid(cron):
        raise ConfigurationError(
            f"{cron!r} is no cron expression; write five fields like '0 * * * *', or a timer of more than 0"
        )

    def decorate(fn: F) -> F:
        label = check_name(name or fn.__name__, "a timer")
        if not (inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)):
            raise ConfigurationError(f"timer {label}: write it as `async def` without arguments")
        if per_worker:
            if not inspect.iscoroutinefunction(fn):
                raise ConfigurationError(f"timer {label}: with per_worker=True write it as a plain `async def`")
            app.timers.append(Timer(label, every_ms, cron, fn, None))
            return fn
        topic = TopicSpec(app.internal(label, "ticks", f"timer {label}"), 1, "repartition")
        codec = value_codec(int)
        source = Source(name=f"{label}.ticks", topic=topic, decode=codec.decode, timed=False)
        app.add(source)
        ticks: Stream[Any, int] = Stream(app, source, label, 1, key_codec(None), int, FAIL)
        agent = add_agent(app, label, ticks, _on_ticks(fn), 1, tables_named_by(fn))
        sinks_of(sinks, agent.results)
        app.timers.append(Timer(label, every_ms, cron, fn, topic))
        return fn

    return decorate


def _on_ticks(fn: Callable[[], Any]) -> Callable[[AsyncIterator[int]], Any]:
    """The agent that calls ``fn`` for each tick."""
    if inspect.isasyncgenfunction(fn):

        async def produce(ticks: AsyncIterator[int]) -> AsyncIterator[Any]:
            async for _ in ticks:
                async for value in fn():
                    yield value

        return produce

    async def call(ticks: AsyncIterator[int]) -> None:
        async for _ in ticks:
            await fn()

    return call
