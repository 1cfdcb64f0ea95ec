"""What the scenarios ask the broker about contenders that serve.

What must live here: who has joined, orders at a rate, outputs as they arrive.  What must not: starting and stopping
(``common/serving.py``), and what a scenario makes of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.protocol.group import MemberAssignment

from tests.benchmarks.common import work
from tests.benchmarks.common.serving import START_TIMEOUT_S
from tests.benchmarks.kafka.ground import Ground, partition_of

TICK_S = 0.005


async def joined(where: Ground, group: str, members: int, tasks: int, timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait until the group is stable and its members share the tasks evenly."""
    deadline = time.monotonic() + timeout_s
    async with where.admin() as admin:
        while (shares := await _shares(admin, group)) != [tasks // members] * members:
            if time.monotonic() > deadline:
                raise RuntimeError(f"after {timeout_s:g} s the group's members have {shares} of {tasks} tasks")
            await asyncio.sleep(0.2)


async def _shares(admin: Any, group: str) -> list[int]:
    """How many partitions each member has."""
    try:
        (response,) = await admin.describe_consumer_groups([group])
    except GroupCoordinatorNotAvailableError:  # the broker's first group: it is making the topic of groups
        return []
    _, _, state, _, _, members, *_ = response.groups[0]
    if state != "Stable":
        return []
    assignments = [MemberAssignment.decode(member[-1]) for member in members if member[-1]]
    return [sum(len(partitions) for _, partitions in each.assignment) for each in assignments]


class Feed:
    """Sends orders at an even rate, stamped with the time of sending, until it is stopped."""

    def __init__(self, where: Ground, topic: str, partitions: int, rate: int, users: int = work.USERS) -> None:
        self.sent = 0
        self._where, self._topic, self._partitions, self._rate = where, topic, partitions, rate
        self._stop = asyncio.Event()
        chance = random.Random(3)
        rows = work.orders("small", min(users, 100_000), users)
        pool = [(key, value, partition_of(key, partitions)) for key, value in rows]
        chance.shuffle(pool)
        self._pool = pool

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self._where.server, max_batch_size=1_000_000)
        await producer.start()
        began, pool = time.monotonic(), self._pool
        try:
            while not self._stop.is_set():
                due = int((time.monotonic() - began) * self._rate) - self.sent
                builders = [producer.create_batch() for _ in range(self._partitions)]
                now_ms = int(time.time() * 1000)
                for number in range(self.sent, self.sent + due):
                    key, value, partition = pool[number % len(pool)]
                    builders[partition].append(key=key, value=value, timestamp=now_ms)
                for partition, builder in enumerate(builders):
                    builder.close()
                    if builder.record_count():
                        await producer.send_batch(builder, self._topic, partition=partition)
                self.sent += due
                await asyncio.sleep(TICK_S)
            await producer.flush()
        finally:
            await producer.stop()


@asynccontextmanager
async def feeding(feed: Feed) -> AsyncIterator[Feed]:
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        feed.stop()
        await task


@asynccontextmanager
async def watching(
    where: Ground, topic: str, partitions: int, seen: Callable[[int, Any, int], None]
) -> AsyncIterator[None]:
    """Call ``seen(partition, records, now in ms)`` for committed outputs as they arrive."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=where.server,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
    )
    await consumer.start()
    consumer.assign([TopicPartition(topic, number) for number in range(partitions)])

    async def watch() -> None:
        while True:
            for place, records in (await consumer.getmany(timeout_ms=1000)).items():
                seen(place.partition, records, int(time.time() * 1000))

    task = asyncio.create_task(watch())
    try:
        yield
        if task.done():
            await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        await consumer.stop()
