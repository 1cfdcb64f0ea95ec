"""``apps/pipeline.py`` on a real nats-server: its events, how far it has come, and the verdict.

Events are sent and results are read by nats-py alone, so that only the workers are ours.  The partition of an event is
chosen here; the results of a topic are all messages of its stream.
"""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from itertools import islice
from typing import Any
from zlib import crc32

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext

from streams.connectors.jetstream.config import parse_url
from streams.connectors.jetstream.log import JetStreamLog
from streams.core.log import TopicSpec
from streams.core.watermark import MARK_HEADER, Mark, encode_mark
from tests.guarantees.kafka.fleet import Fleet
from tests.guarantees.kafka.verifier import differences
from tests.guarantees.pipeline_oracle import FOREVER, MINUTE, START, Oracle, events
from tests.guarantees.support import APPS, Row, assert_same

APP = APPS / "pipeline.py"
PACE = {"COMMIT_INTERVAL": "100ms"}
PARTITIONS = 2
RESULTS = ("settled", "by-kind", "by-minute", "beats")
PATIENCE_S = 120.0
SEND_AT_ONCE = 500


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


class Pipeline:
    """The events of one test, and what came of them."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self.url = url
        self.oracle = Oracle()
        self.sent = 0
        self.found: dict[str, list[tuple[str, str, Any]]] = {topic: [] for topic in RESULTS}
        self._next = dict.fromkeys(RESULTS, 1)
        self._events = events(random.Random(chance.random()))
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        log = JetStreamLog(self.url)
        await log.open()
        await log.create_topics([TopicSpec("events", PARTITIONS)])
        await log.close()

    async def _connected(self) -> tuple[Client, JetStreamContext]:
        servers = list(parse_url(self.url).servers)
        client = await nats.connect(servers, max_reconnect_attempts=100, reconnect_time_wait=1)
        stream = client.jetstream(timeout=10)
        async with asyncio.timeout(PATIENCE_S):
            while True:  # a server that is back takes connections before it has its streams, or they their leaders
                try:
                    await stream.stream_info("events")
                    return client, stream
                except nats.errors.Error:
                    await asyncio.sleep(0.05)

    def send(self, count: int) -> None:
        more = list(islice(self._events, count))
        asyncio.run(self._send(more))
        self.oracle.take(more)
        self.sent += len(more)

    async def _send(self, rows: list[Row]) -> None:
        client, stream = await self._connected()
        for start in range(0, len(rows), SEND_AT_ONCE):
            told = [
                await stream.publish_async(
                    f"events.{crc32(key.encode()) % PARTITIONS}",
                    canonical(value).encode(),
                    headers={"Streams-Key": key, "Streams-Time": str(time)},
                )
                for key, value, time in rows[start : start + SEND_AT_ONCE]
            ]
            await asyncio.gather(*told)
        await client.close()

    def end(self) -> None:
        """Promise that nothing older than for ever comes: all windows close."""

        async def promise() -> None:
            client, stream = await self._connected()
            for number in range(PARTITIONS):
                mark = encode_mark(Mark("", FOREVER))
                await stream.publish(f"events.{number}", mark, headers={MARK_HEADER: "", "Streams-Time": str(START)})
            await client.close()

        asyncio.run(promise())

    # ── the verdict ─────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self) -> int:
        """Read what has come since the last time; how many results there are.  Servers may be away."""
        with suppress(nats.errors.Error, OSError, TimeoutError):
            asyncio.run(self._look())
        return sum(map(len, self.found.values()))

    async def _look(self) -> None:
        client, stream = await self._connected()
        try:
            for topic in RESULTS:
                try:
                    last = (await stream.stream_info(topic)).state.last_seq
                except nats.js.errors.NotFoundError:
                    continue
                if last < self._next[topic]:
                    continue
                reader = await stream.subscribe(
                    f"{topic}.*", ordered_consumer=True, stream=topic, config=_since(self._next[topic])
                )
                while self._next[topic] <= last:
                    message = await reader.next_msg(timeout=10)
                    self._next[topic] = message.metadata.sequence.stream + 1
                    headers = message.headers or {}
                    if MARK_HEADER not in headers:
                        entry = (message.subject, headers.get("Streams-Key", ""), json.loads(message.data))
                        self.found[topic].append(entry)
                await reader.unsubscribe()
        finally:
            await client.close()

    def complete(self) -> bool:
        self.look()
        return all(len(self.found[topic]) >= len(expected) for topic, expected in self.expected().items())

    def expected(self) -> dict[str, list[tuple[str, str]]]:
        oracle = self.oracle
        return {
            "settled": [(key, canonical(each)) for key, them in oracle.settled.items() for each in them],
            "by-kind": [
                (kind, canonical({**value, "window_start": start, "window_end": start + MINUTE}))
                for (kind, start), value in oracle.kinds.items()
            ],
            "by-minute": [
                (account, canonical({"minute": minute, "total": total}))
                for (account, minute), total in oracle.minutes.items()
            ],
        }

    def finish(self, fleet: Fleet) -> None:
        """Let the workers do what is left, stop them, and fail if anything is lost or there twice."""
        self.end()
        try:
            fleet.until(self.complete, "all results", timeout_s=PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.verdict() or 'yet nothing is wrong'}") from error
        fleet.stop_all()
        self.look()
        wrong = self.verdict()
        assert not wrong, wrong
        found: dict[str, list[object]] = {}
        for _, key, value in self.found["settled"]:
            found.setdefault(key, []).append(value)
        assert_same(found, self.oracle.settled, "the order of settled")

    def verdict(self) -> str:
        problems = [
            differences([(key, canonical(value)) for _, key, value in self.found[topic]], expected, topic)
            for topic, expected in self.expected().items()
        ]
        # A beat has no key: what comes of several ticks in one commit is in order within each partition only.
        parts = [[value for at, _, value in self.found["beats"] if at == f"beats.{n}"] for n in range(PARTITIONS)]
        beats = sorted(beat for part in parts for beat in part)
        if beats != list(range(1, len(beats) + 1)) or any(part != sorted(part) for part in parts):
            problems.append(f"beats: a tick was lost or counted twice: {self.found['beats']}")
        return "\n".join(each for each in problems if each)


def _since(seq: int) -> nats.js.api.ConsumerConfig:
    return nats.js.api.ConsumerConfig(deliver_policy=nats.js.api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=seq)
