"""``apps/pipeline.py`` on a real nats-server: its events, how far it has come, and the verdict.

Events are sent and results are read by nats-py alone, so that only the workers are ours.  The partition of an event is
chosen here; the results of a topic are all messages of its stream.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
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
from streams.core.record import TopicPartition
from streams.core.watermark import MARK_HEADER, Mark, encode_mark
from streams.errors import LogUnavailable
from tests.guarantees.kafka.fleet import LOOK_S, Fleet
from tests.guarantees.kafka.verifier import differences
from tests.guarantees.pipeline_oracle import FOREVER, START, Oracle, canonical, events
from tests.guarantees.support import APPS, assert_same

APP = APPS / "pipeline.py"
PACE = {"COMMIT_INTERVAL": "100ms"}
PARTITIONS = 2
RESULTS = ("settled", "by-kind", "by-minute", "beats")
PATIENCE_S = 240.0
SEND_AT_ONCE = 500
ANSWER_S = 2.0
ALREADY_THERE = 10071
"""The error code for another sequence than was expected."""
Message = tuple[str, dict[str, str], bytes]


class Pipeline:
    """The events of one test, and what came of them."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self.url = url
        self.oracle = Oracle()
        self.sent = self._stored = 0
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
        """A client of a server that answers; gives up within seconds."""
        client = await nats.connect(
            list(parse_url(self.url).servers),
            connect_timeout=5,
            max_reconnect_attempts=2,
            reconnect_time_wait=0.1,
            error_cb=_passed_over,
        )
        return client, client.jetstream(timeout=ANSWER_S)

    def send(self, count: int) -> None:
        """Whatever happens to servers meanwhile: each event is there once, in order, when this returns."""
        more = list(islice(self._events, count))
        rows = [
            (
                f"events.{crc32(key.encode()) % PARTITIONS}",
                {"Streams-Key": key, "Streams-Time": str(time)},
                canonical(value).encode(),
            )
            for key, value, time in more
        ]
        asyncio.run(self._send(rows))
        self.oracle.take(more)
        self.sent += len(more)

    async def _send(self, rows: list[Message]) -> None:
        done = 0
        async with asyncio.timeout(PATIENCE_S):
            while done < len(rows):
                with suppress(nats.errors.Error, OSError, TimeoutError):
                    client, _ = await self._connected()
                    try:
                        while done < len(rows):
                            done += await self._send_batch(client, rows[done : done + SEND_AT_ONCE])
                    finally:
                        await client.close()

    async def _send_batch(self, client: Client, rows: list[Message]) -> int:
        """One atomic batch, which expects to follow what was sent before it: where an answer was lost it is sent again,
        and refused if it had been stored."""
        batch, reply = secrets.token_hex(8), client.new_inbox()
        answers = await client.subscribe(reply, max_msgs=1)
        for number, (subject, headers, payload) in enumerate(rows, 1):
            lines = {**headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            if number == 1:
                lines["Nats-Expected-Last-Sequence"] = str(self._stored)
            last = number == len(rows)
            if last:
                lines["Nats-Batch-Commit"] = "1"
            await client.publish(subject, payload, reply=reply if last else "", headers=lines)
        answer = json.loads((await answers.next_msg(timeout=ANSWER_S)).data or b"{}")
        if "error" in answer and answer["error"].get("err_code") != ALREADY_THERE:
            await asyncio.sleep(LOOK_S)
            return 0
        if "error" not in answer and "seq" not in answer:
            await asyncio.sleep(LOOK_S)  # nobody leads the stream
            return 0
        self._stored += len(rows)
        return len(rows)

    def end(self) -> None:
        """Promise that nothing older than for ever comes: all windows close."""
        mark = encode_mark(Mark("", FOREVER))
        headers = {MARK_HEADER: "", "Streams-Time": str(START)}
        asyncio.run(self._send([(f"events.{number}", headers, mark) for number in range(PARTITIONS)]))

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
                    message = await reader.next_msg(timeout=ANSWER_S)
                    self._next[topic] = message.metadata.sequence.stream + 1
                    headers = message.headers or {}
                    if MARK_HEADER not in headers:
                        entry = (message.subject, headers.get("Streams-Key", ""), json.loads(message.data))
                        self.found[topic].append(entry)
                await reader.unsubscribe()
        finally:
            await client.close()

    async def _look_last(self) -> None:
        """Everything that is committed, once the topics have taken it in."""
        log = JetStreamLog(self.url)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(LogUnavailable, nats.errors.Error, OSError, TimeoutError):
                    await log.open()
                    await log.bounds([TopicPartition(topic, n) for topic in RESULTS for n in range(PARTITIONS)])
                    await self._look()
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


async def _passed_over(error: Exception) -> None:
    """A server that was killed is missed by what is asked of it; the client would print it besides."""


def _since(seq: int) -> nats.js.api.ConsumerConfig:
    return nats.js.api.ConsumerConfig(deliver_policy=nats.js.api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=seq)
