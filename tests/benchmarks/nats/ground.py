"""The ground that all contenders stand on: the server, the streams with the orders, and the check of what came out.

What must live here: what is done on the server beside the contenders.  What must not: anything that is measured, except
the server's own CPU time.

Orders lie in a topic of ours, with the key in a header and two partitions, and for the others in a stream of one
subject without any headers: nats-py takes headers apart line by line, which it need not.  The same for outputs.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import nats
import orjson
from nats.js.errors import NotFoundError

from streams.connectors.jetstream.client import Connection, Message, publication
from streams.connectors.jetstream.config import parse_url
from streams.connectors.jetstream.log import JetStreamLog
from streams.core.log import Append, TopicSpec
from streams.core.record import Records, TopicPartition
from tests.benchmarks.common import work
from tests.benchmarks.common.runs import Orders, Run, cpu_s
from tests.benchmarks.nats.contenders import plain
from tests.benchmarks.workload import START_MS

WINDOW = 1000
PATIENCE_S = 60.0


class Ground:
    """One server; every method is called in the harness's process, between measurements."""

    def __init__(self, url: str, pid: int | None) -> None:
        self.server = url
        self.pid = pid

    def broker_cpu_s(self) -> float:
        return cpu_s(self.pid) if self.pid is not None else 0.0

    @asynccontextmanager
    async def log(self) -> AsyncIterator[JetStreamLog]:
        log = JetStreamLog(self.server)
        await log.open()
        try:
            yield log
        finally:
            await log.close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        connection = await nats.connect(self.server)
        try:
            yield connection.jetstream()
        finally:
            await connection.close()

    # ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def prepare(self, run: Run) -> None:
        """The output of a run; its own app is made by itself."""
        if run.program == "ours":
            async with self.log() as log:
                await log.create_topics([TopicSpec(run.output, run.partitions)])
            return
        async with self.client() as client:
            await client.add_stream(name=plain(run.output), subjects=[f"{plain(run.output)}.0"])

    async def delete(self, *prefixes: str) -> None:
        """Remove every stream of topics, and of apps, whose name begins so."""
        begin = tuple(start + prefix for prefix in prefixes for start in ("", "plain-", "S-"))
        async with self.client() as client:
            for stream in await client.streams_info():
                if stream.config.name.startswith(begin):
                    await client.delete_stream(stream.config.name)

    async def stored(self, stream: str) -> int:
        """How many messages a stream has."""
        async with self.client() as client:
            try:
                return int((await client.stream_info(stream)).state.messages)
            except NotFoundError:
                return 0

    async def until_stored(self, stream: str, messages: int, timeout_s: float = 600) -> None:
        """Return when a stream has so many messages.  TimeoutError after ``timeout_s``."""
        async with asyncio.timeout(timeout_s), self.client() as client:
            while (await client.stream_info(stream)).state.messages < messages:  # noqa: ASYNC110 - it is the server's
                await asyncio.sleep(0.02)

    # ── orders ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def fill(self, orders: Orders) -> None:
        """Make the topic, and the plain stream, and append the orders to both."""
        async with self.log() as log:
            await log.create_topics([TopicSpec(orders.topic, orders.partitions)])
            parts = [Records() for _ in range(orders.partitions)]
            for number, (key, value) in enumerate(work.orders(orders.size, orders.messages)):
                part = parts[log.partition_for(key, orders.partitions)]
                part.keys.append(key)
                part.values.append(value)
                part.timestamps.append(START_MS + number)
            await log.append([Append(TopicPartition(orders.topic, n), part) for n, part in enumerate(parts)])
            orders.ends = [len(part) for part in parts]
        async with self.client() as client:
            await client.add_stream(name=plain(orders.topic), subjects=[f"{plain(orders.topic)}.0"])
        await self._publish(f"{plain(orders.topic)}.0", work.orders(orders.size, orders.messages))

    async def _publish(self, subject: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Without headers; by windows, each answered: a server drops what it is sent too fast."""
        connection = Connection(self.server, parse_url(self.server).client, timeout_s=PATIENCE_S)
        await connection.open()
        answered = asyncio.Event()
        left = 0

        def count(messages: list[Message]) -> None:
            nonlocal left
            left -= len(messages)
            if left <= 0:
                answered.set()

        inbox = connection.inbox()
        await connection.subscribe(inbox, count)
        source = iter(rows)
        try:
            while part := [publication(subject, value, inbox) for _, value in islice(source, WINDOW)]:
                left = len(part)
                answered.clear()
                await connection.write(b"".join(part))
                async with asyncio.timeout(PATIENCE_S):
                    await answered.wait()
        finally:
            await connection.close()

    # ── the check ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def fault(self, run: Run, orders: Orders) -> str | None:
        """Read the outputs by a client that isn't ours: None if they are right, else what is wrong with them."""
        if run.work == "consume":
            return None  # it counts by itself
        stream = run.output if run.program == "ours" else plain(run.output)
        if run.program == "ours":
            async with self.log() as log:  # waits until the topic has taken in what is committed
                await log.bounds([TopicPartition(run.output, number) for number in range(run.partitions)])
        seen = await self.stored(stream)
        if seen != orders.messages:
            return f"{seen:,} outputs for {orders.messages:,} orders"
        if run.work == "publish":
            return None
        highest: dict[bytes, int] = defaultdict(int)
        async with self.client() as client:
            done = asyncio.Event()
            left = seen

            async def take(message: Any) -> None:
                nonlocal left
                if run.program == "ours":
                    key, count = message.headers["Streams-Key"].strip('"').encode(), int(message.data)
                else:
                    output = orjson.loads(message.data)
                    key, count = output["user"].encode(), output["count"]
                highest[key] = max(highest[key], count)
                left -= 1
                if not left:
                    done.set()

            await client.subscribe(f"{stream}.*", stream=stream, cb=take, ordered_consumer=True)
            async with asyncio.timeout(10 * PATIENCE_S):
                await done.wait()
        wrong = sum(highest[key] != count for key, count in orders.last.items())
        return f"the last count of {wrong:,} users is wrong" if wrong else None
