"""``apps/pipeline.py`` on a real broker: its events, how far it has come, and the verdict.

The app and its oracle are those of the embedded log (``pipeline_oracle``).  Events are sent by aiokafka's producer and
results are read by aiokafka's consumer, so that only the workers are ours.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.core.watermark import MARK_HEADER, Mark, encode_mark
from tests.brokers.kafka.admin import blocking, create_topic
from tests.guarantees.kafka.fleet import Fleet
from tests.guarantees.kafka.verifier import Verifier, differences, group_offsets, hanging, read_all
from tests.guarantees.pipeline_oracle import FOREVER, START, Oracle, canonical, events
from tests.guarantees.support import APPS, assert_same

APP = APPS / "pipeline.py"
WITH_STANDBYS = Path(__file__).with_name("apps") / "standby_pipeline.py"
TALKING = Path(__file__).with_name("apps") / "talking_pipeline.py"
PACE = {"COMMIT_INTERVAL": "100ms"}
"""What the app asks for by itself, 20 ms, is for a log in the same process."""
PARTITIONS = 2
RESULTS = ("settled", "by-kind", "by-minute", "beats")
CHANGELOG = "pipeline.balances.changelog"
LEFT_UNREAD_S = 60.0


def send(bootstrap: str, topic: str, rows: Sequence[tuple[str, bytes, int]]) -> None:
    """Records (key, value, time in ms), each there once, in order, when this returns."""

    async def deliver() -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=5, max_batch_size=200_000
        ) as producer:
            told = [
                await producer.send(topic, value, key.encode(), timestamp_ms=time_ms) for key, value, time_ms in rows
            ]
            await asyncio.gather(*told)

    asyncio.run(deliver())


class Pipeline:
    """The events of one test, and what came of them."""

    def __init__(self, bootstrap: str, chance: random.Random, replication: int = 1) -> None:
        self.bootstrap = bootstrap
        self.oracle = Oracle()
        self.verifier = Verifier(bootstrap, RESULTS)
        self.sent = 0
        self._events = events(random.Random(chance.random()))
        # Events have old times: by default Kafka would drop them as soon as it looks.
        keep = {"retention.ms": "-1"}
        blocking(create_topic({"bootstrap_servers": bootstrap}, "events", PARTITIONS, replication, keep))

    # ── what goes in ────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, count: int) -> None:
        more = list(islice(self._events, count))
        send(self.bootstrap, "events", [(key, canonical(value).encode(), time) for key, value, time in more])
        self.oracle.take(more)
        self.sent += len(more)

    def top_up(self, backlog: int) -> None:
        """Send as many events as were committed meanwhile, so that there always is work."""
        missing = backlog - self.left()
        if missing >= backlog // 10:
            self.send(missing)

    def end(self) -> None:
        """Promise that nothing older than for ever comes: all windows close."""

        async def promise() -> None:
            async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, enable_idempotence=True) as producer:
                for partition in range(PARTITIONS):
                    mark = encode_mark(Mark("", FOREVER))
                    # Its own time is that of the last events: brokers refuse records from the future.
                    await producer.send_and_wait(
                        "events", mark, None, partition, timestamp_ms=START, headers=[(MARK_HEADER, b"")]
                    )

        asyncio.run(promise())

    # ── how far it has come ─────────────────────────────────────────────────────────────────────────────────────────

    def done(self) -> int:
        """Events whose effects are committed, by the group's offsets; while no broker answers, as if none were."""
        try:
            held = group_offsets(self.bootstrap, "pipeline")
        except (KafkaError, OSError, TimeoutError):
            return 0
        return sum(offset for at, offset in held.items() if at.topic == "events" and offset > 0)

    def left(self) -> int:
        return self.sent - self.done()

    def complete(self) -> bool:
        """As many results as there should be, or more."""
        counts = {topic: len(expected) for topic, expected in self.oracle.results().items()}
        self.verifier.look()
        return all(self.verifier.count(topic) >= count for topic, count in counts.items())

    # ── the verdict ─────────────────────────────────────────────────────────────────────────────────────────────────

    def finish(self, fleet: Fleet) -> None:
        """Let the workers that run do what is left, stop them, and fail if anything is lost or there twice."""
        self.end()
        try:
            fleet.until(self.complete, "all results", timeout_s=LEFT_UNREAD_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.verdict() or 'yet nothing is wrong'}") from error
        fleet.stop_all()
        self.verifier.look()
        wrong = self.verdict()
        assert not wrong, wrong
        open_ones = hanging(self.bootstrap, [*RESULTS, CHANGELOG, "pipeline.checkpoints"])
        assert not open_ones, f"transactions were left open: {open_ones}"
        assert self.done() == self.sent + PARTITIONS, "the group's offsets aren't those of the events (and two marks)"
        self._check_order()
        self._check_table()

    def verdict(self) -> str:
        """What is lost or there twice, in a few lines; empty if nothing is."""
        problems = [
            differences(((key, canonical(value)) for key, value in self.verifier.results(topic)), expected, topic)
            for topic, expected in self.oracle.results().items()
        ]
        # Without a key they are spread over the partitions.
        beats = sorted(value for _, value in self.verifier.results("beats"))
        if beats != list(range(1, len(beats) + 1)):
            problems.append(f"beats: a tick was lost or counted twice: {beats}")
        return "\n".join(each for each in problems if each)

    def _check_order(self) -> None:
        found: dict[str, list[object]] = {}
        for key, value in self.verifier.results("settled"):
            found.setdefault(key, []).append(value)
        assert_same(found, self.oracle.settled, "the order of settled")

    def _check_table(self) -> None:
        table = {key: value for key, value in read_all(self.bootstrap, CHANGELOG) if value is not None}
        assert_same(table, self.oracle.balances, "balances")
