"""``apps/pipeline.py`` on a real nats-server: its events, how far it has come, and the verdict.

Events are sent and results are read by nats-py alone (``outsider``), so that only the workers are ours.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from itertools import islice

import nats

from streams.connectors.jetstream.log import JetStreamLog
from streams.core.record import TopicPartition
from streams.core.watermark import MARK_HEADER, Mark, encode_mark
from streams.errors import LogUnavailable
from tests.guarantees.jetstream.outsider import Outsider, create_topic, message
from tests.guarantees.kafka.fleet import LOOK_S, Fleet
from tests.guarantees.kafka.verifier import differences
from tests.guarantees.pipeline_oracle import FOREVER, START, Oracle, canonical, events
from tests.guarantees.support import APPS, assert_same

APP = APPS / "pipeline.py"
PACE = {"COMMIT_INTERVAL": "100ms"}
PARTITIONS = 2
RESULTS = ("settled", "by-kind", "by-minute", "beats")
PATIENCE_S = 240.0


class Pipeline:
    """The events of one test, and what came of them."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self.url = url
        self.oracle = Oracle()
        self.sent = 0
        self._outsider = Outsider(url, RESULTS)
        self.found = self._outsider.found
        self._events = events(random.Random(chance.random()))
        create_topic(url, "events", PARTITIONS)

    def send(self, count: int) -> None:
        """Whatever happens to servers meanwhile: each event is there once, in order, when this returns."""
        more = list(islice(self._events, count))
        rows = [message("events", PARTITIONS, key, canonical(value).encode(), time) for key, value, time in more]
        self._outsider.send(rows)
        self.oracle.take(more)
        self.sent += len(more)

    def end(self) -> None:
        """Promise that nothing older than for ever comes: all windows close."""
        mark = encode_mark(Mark("", FOREVER))
        headers = {MARK_HEADER: "", "Streams-Time": str(START)}
        self._outsider.send([(f"events.{number}", headers, mark) for number in range(PARTITIONS)])

    # ── the verdict ─────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self) -> int:
        """Read what has come since the last time; how many results there are.  Servers may be away."""
        return self._outsider.look()

    async def _look_last(self) -> None:
        """Everything that is committed, once the topics have taken it in."""
        log = JetStreamLog(self.url)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(LogUnavailable, nats.errors.Error, OSError, TimeoutError):
                    await log.open()
                    await log.bounds([TopicPartition(topic, n) for topic in RESULTS for n in range(PARTITIONS)])
                    await self._outsider.read()
                    await log.close()
                    return
                await asyncio.sleep(LOOK_S)

    def complete(self) -> bool:
        self.look()
        return all(len(self.found[topic]) >= len(expected) for topic, expected in self.oracle.results().items())

    def finish(self, fleet: Fleet) -> None:
        """Let the workers do what is left, stop them, and fail if anything is lost or there twice."""
        self.end()
        try:
            fleet.until(self.complete, "all results", timeout_s=PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.verdict() or 'yet nothing is wrong'}") from error
        fleet.stop_all()
        asyncio.run(self._look_last())
        wrong = self.verdict()
        assert not wrong, wrong
        found: dict[str, list[object]] = {}
        for _, key, value in self.found["settled"]:
            found.setdefault(key, []).append(value)
        assert_same(found, self.oracle.settled, "the order of settled")

    def verdict(self) -> str:
        problems = [
            differences([(key, canonical(value)) for _, key, value in self.found[topic]], expected, topic)
            for topic, expected in self.oracle.results().items()
        ]
        # A beat has no key: what comes of several ticks in one commit is in order within each partition only.
        parts = [[value for at, _, value in self.found["beats"] if at == f"beats.{n}"] for n in range(PARTITIONS)]
        beats = sorted(beat for part in parts for beat in part)
        if beats != list(range(1, len(beats) + 1)) or any(part != sorted(part) for part in parts):
            problems.append(f"beats: a tick was lost or counted twice: {self.found['beats']}")
        return "\n".join(each for each in problems if each)
