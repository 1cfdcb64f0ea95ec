"""The ticker: writes the ticks of timers and cron, each exactly once.

One task for the whole app: its checkpoint holds, for each timer, the time of its last tick; a commit holds that and the
tick's record.  Ticks that were missed while no worker ran are made up by one tick, the latest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from streams.core.checkpoint import Checkpoint, claimed, decode_checkpoint, encode_checkpoint
from streams.core.log import Append, Commit, Log, TaskRef
from streams.core.record import Records, TopicPartition
from streams.dsl.timer import Timer
from streams.errors import RetryableError
from streams.runtime.clock import Clock
from streams.runtime.outages import Outages

LONGEST_SLEEP_S = 1.0
"""So that a wall clock which is set forward is noticed."""


class Ticker:
    """Runs the durable timers of an app."""

    def __init__(
        self, ref: TaskRef, timers: Sequence[Timer], log: Log, clock: Clock, topology: int, outages: Outages
    ) -> None:
        self.id = ref.name
        self._timers = [timer for timer in timers if timer.topic is not None]
        self._log = log
        self._clock = clock
        self._ref = ref
        self._topology = topology
        self._outages = outages
        self._who = f"{ref.name} starts again"
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ask the ticker to let go; ``run`` returns soon after."""
        self._stop.set()

    async def run(self) -> None:
        """Tick until stopped.  Fenced, it claims again for as long as it is assigned here."""
        while not self._stop.is_set():
            try:
                await self._live()
            except RetryableError as error:
                self._outages.failed(self._who, error)
                await self._sleep(LONGEST_SLEEP_S)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _live(self) -> None:
        writer = await self._log.fence(self._ref)
        try:
            previous = decode_checkpoint(writer.checkpoint) if writer.checkpoint is not None else None
            checkpoint = claimed(previous, log_id=self._log.identity, topology=self._topology)
            now = self._clock.now_ms()
            last = {timer.name: checkpoint.facts.get(timer.name, now) for timer in self._timers}
            checkpoint = msgspec.structs.replace(checkpoint, facts=last)
            await writer.commit(Commit(encode_checkpoint(checkpoint)))
            while not self._stop.is_set():
                now = self._clock.now_ms()
                appends = []
                facts = dict(checkpoint.facts)
                for timer in self._timers:
                    tick = _latest_due(timer, facts[timer.name], now)
                    if tick is not None:
                        facts[timer.name] = tick
                        assert timer.topic is not None
                        records = Records([None], [str(tick).encode()], [tick])
                        appends.append(Append(TopicPartition(timer.topic.name, 0), records))
                if appends:
                    checkpoint = _next(checkpoint, facts)
                    await writer.commit(Commit(encode_checkpoint(checkpoint), appends))
                self._outages.works(self._log.url, self._who)
                soonest = min(timer.next_after(max(facts[timer.name], now)) for timer in self._timers)
                await self._sleep(min(LONGEST_SLEEP_S, max(0.001, (soonest - self._clock.now_ms()) / 1000)))
        finally:
            await writer.close()


def _next(checkpoint: Checkpoint, facts: dict[str, int]) -> Checkpoint:
    return msgspec.structs.replace(checkpoint, number=checkpoint.number + 1, facts=facts)


def _latest_due(timer: Timer, last: int, now: int) -> int | None:
    """The latest tick behind ``last`` that is due at ``now``."""
    due = timer.next_after(last)
    if due > now:
        return None
    if timer.every_ms:
        return now // timer.every_ms * timer.every_ms
    while (later := timer.next_after(due)) <= now:
        due = later
    return due
