"""The other side of an app on a real nats-server: sends its input and reads its results by nats-py alone.

What must live here: messages, each stored once and read once whatever happens to servers meanwhile.  What must not:
what an app should come to (its oracle), workers.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Collection
from contextlib import suppress
from typing import Any
from zlib import crc32

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext

from streams.connectors.jetstream.config import parse_url
from streams.connectors.jetstream.log import JetStreamLog
from streams.core.log import TopicSpec
from streams.core.watermark import MARK_HEADER
from tests.guarantees.kafka.fleet import LOOK_S

PATIENCE_S = 240.0
SEND_AT_ONCE = 500
ANSWER_S = 2.0
ALREADY_THERE = 10071
"""The error code for another sequence than was expected."""
Message = tuple[str, dict[str, str], bytes]


def message(topic: str, partitions: int, key: str, value: bytes, time_ms: int) -> Message:
    """A record in the partition of its key."""
    subject = f"{topic}.{crc32(key.encode()) % partitions}"
    return subject, {"Streams-Key": key, "Streams-Time": str(time_ms)}, value


def create_topic(url: str, topic: str, partitions: int) -> None:
    async def create() -> None:
        log = JetStreamLog(url)
        await log.open()
        try:
            await log.create_topics([TopicSpec(topic, partitions)])
        finally:
            await log.close()

    asyncio.run(create())


class Outsider:
    """The only one who writes the stream that it sends to.  found: subject, key and value of each result."""

    def __init__(self, url: str, results: Collection[str]) -> None:
        self.url = url
        self.found: dict[str, list[tuple[str, str, Any]]] = {topic: [] for topic in results}
        self._stored = 0
        self._next = dict.fromkeys(results, 1)

    def send(self, messages: list[Message]) -> None:
        """Each is there once, in order, when this returns."""
        asyncio.run(self._send(messages))

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

    def look(self) -> int:
        """Read what has come since the last time; how many results there are.  Servers may be away."""
        with suppress(nats.errors.Error, OSError, TimeoutError):
            asyncio.run(self.read())
        return sum(map(len, self.found.values()))

    async def read(self) -> None:
        """As ``look``.  Raises when a server is away."""
        client, stream = await self._connected()
        try:
            for topic in self._next:
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


async def _passed_over(error: Exception) -> None:
    """A server that was killed is missed by what is asked of it; the client would print it besides."""


def _since(seq: int) -> nats.js.api.ConsumerConfig:
    return nats.js.api.ConsumerConfig(deliver_policy=nats.js.api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=seq)
