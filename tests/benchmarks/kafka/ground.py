"""The ground that all contenders stand on: the broker, the topics with the orders, and the check of what came out.

What must live here: what is done on the broker beside the contenders.  What must not: anything that is measured, except
the broker's own CPU time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import murmur2

from tests.benchmarks.common import work
from tests.benchmarks.common.runs import Orders, Run, cpu_s
from tests.benchmarks.kafka import contenders
from tests.benchmarks.workload import START_MS

BATCH_BYTES = 1_000_000
POLL_S = 0.05

BROKER = {
    "log.retention.ms": "-1",
    "transaction.max.timeout.ms": "900000",
    "message.max.bytes": "10000000",
}
"""Settings of the broker: orders have timestamps of 2023, which default retention would delete at once."""


def partition_of(key: bytes, partitions: int) -> int:
    """Where the Java client puts a key."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


class Ground:
    """One broker; every method is called in the harness's process, between measurements."""

    def __init__(self, bootstrap: str, pid: int | None) -> None:
        self.server = bootstrap
        self.pid = pid

    def broker_cpu_s(self) -> float:
        return cpu_s(self.pid) if self.pid is not None else 0.0

    # ── topics ────────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Any]:
        client = AIOKafkaAdminClient(bootstrap_servers=self.server)
        await client.start()
        try:
            yield client
        finally:
            await client.close()

    async def create(self, partitions: int, *names: str) -> None:
        async with self.admin() as client:
            done = await client.create_topics([NewTopic(name, partitions, 1) for name in names], timeout_ms=20_000)
        failed = [error for error in done.topic_errors if error[1]]
        if failed:
            raise SystemExit(f"topics could not be made: {failed}")

    async def prepare(self, run: Run) -> None:
        await self.create(run.partitions, *contenders.topics(run))

    async def delete(self, *prefixes: str) -> None:
        """Remove every topic whose name begins so, so that the next contender finds the broker as this one did."""
        async with self.admin() as client:
            names = [name for name in await client.list_topics() if name.startswith(prefixes)]
            if names:
                await client.delete_topics(names, timeout_ms=20_000)

    # ── orders ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def fill(self, orders: Orders, *, users: int = work.USERS, each_once: bool = False) -> None:
        """Make the topic and append the orders, uncompressed, each where the Java client would put it."""
        await self.create(orders.partitions, orders.topic)
        rows = work.orders(orders.size, orders.messages, users, each_once=each_once)
        producer = AIOKafkaProducer(bootstrap_servers=self.server, max_batch_size=BATCH_BYTES, acks="all")
        await producer.start()
        orders.ends = await append(producer, orders.topic, orders.partitions, rows)
        await producer.stop()

    @asynccontextmanager
    async def held_back(
        self, orders: Orders, *, users: int = work.USERS, each_once: bool = False
    ) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Fill the topic in a transaction that is open still: awaiting what is yielded makes all orders readable."""
        await self.create(orders.partitions, orders.topic)
        rows = work.orders(orders.size, orders.messages, users, each_once=each_once)
        producer = AIOKafkaProducer(
            bootstrap_servers=self.server,
            max_batch_size=BATCH_BYTES,
            transactional_id=f"fill-{orders.topic}",
            transaction_timeout_ms=900_000,
        )
        await producer.start()
        await producer.begin_transaction()
        orders.ends = await append(producer, orders.topic, orders.partitions, rows)
        try:
            yield producer.commit_transaction
        finally:
            await producer.stop()

    async def _committed(self, admin: Any, group: str, orders: Orders) -> int:
        offsets = await admin.list_consumer_group_offsets(group)
        return sum(
            min(offsets[place].offset, end)
            for place, end in ((TopicPartition(orders.topic, n), end) for n, end in enumerate(orders.ends))
            if place in offsets and offsets[place].offset > 0
        )

    async def until_committed(self, group: str, orders: Orders, timeout_s: float = 600) -> None:
        """Return when the group's offsets stand for all orders.  TimeoutError after ``timeout_s``."""
        async with asyncio.timeout(timeout_s), self.admin() as admin:
            while await self._committed(admin, group, orders) < orders.messages:  # noqa: ASYNC110 - it is the broker's
                await asyncio.sleep(POLL_S)

    # ── the check ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def fault(self, run: Run, orders: Orders) -> str | None:
        """Read the outputs as a committed reader does: None if they are right, else what is wrong with them."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.server,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            places = [TopicPartition(run.output, number) for number in range(orders.partitions)]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            seen, highest = 0, defaultdict[bytes, int](int)
            while any([await consumer.position(place) < ends[place] for place in places]):
                for records in (await consumer.getmany(timeout_ms=500, max_records=10_000)).values():
                    for record in records:
                        seen += 1
                        key, count = record.key.strip(b'"'), int(record.value)
                        highest[key] = max(highest[key], count)
        finally:
            await consumer.stop()
        if seen != orders.messages:
            return f"{seen:,} outputs for {orders.messages:,} orders"
        wrong = sum(highest[key] != count for key, count in orders.last.items())
        return f"the last count of {wrong:,} users is wrong" if wrong else None


async def append(producer: Any, topic: str, partitions: int, rows: Iterable[tuple[bytes, bytes]]) -> list[int]:
    """Send the rows in large batches of one partition each; returns how many went to each.

    Timestamps are those of the orders.
    """
    where: dict[bytes, int] = {}
    builders: list[Any] = [producer.create_batch() for _ in range(partitions)]
    ends = [0] * partitions
    for number, (key, value) in enumerate(rows):
        partition = where.get(key)
        if partition is None:
            partition = where[key] = partition_of(key, partitions)
        timestamp = START_MS + number
        if builders[partition].append(key=key, value=value, timestamp=timestamp) is None:
            builders[partition].close()
            await producer.send_batch(builders[partition], topic, partition=partition)
            builders[partition] = producer.create_batch()
            builders[partition].append(key=key, value=value, timestamp=timestamp)
        ends[partition] += 1
    for partition, builder in enumerate(builders):
        builder.close()
        if builder.record_count():
            await producer.send_batch(builder, topic, partition=partition)
    await producer.flush()
    return ends
