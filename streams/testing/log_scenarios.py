"""What the tests of a log's contract stand on: how they run, and how they write and read.

What must live here: helpers, some of them useful in a log's own tests.  What must not: tests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from streams.core.log import Append, Log, Reader, TaskRef, TopicSpec
from streams.core.record import Fetched, Headers, Position, Records, TopicPartition

__all__ = [
    "COUNTS",
    "ORDERS",
    "OTHERS",
    "TOPICS",
    "YEARS_MS",
    "LogTests",
    "append",
    "entries_of",
    "fetch",
    "now_ms",
    "numbered",
    "read_all",
    "records",
    "task_ref",
    "values_of",
]

T = TypeVar("T")
Scenario = Callable[[Log], Awaitable[T]]

ORDERS = TopicPartition("orders", 0)
OTHERS = TopicPartition("orders", 1)
COUNTS = TopicPartition("counts", 0)
TOPICS = [TopicSpec("orders", partitions=2), TopicSpec("counts", kind="changelog", compact=True, owner="app")]

# Generous: how long a log may take to do what it was asked for, never how long a test takes.
PATIENCE_S = 30.0
YEARS_MS = 10 * 365 * 24 * 3600 * 1000


def task_ref(number: int, group: str = "app") -> TaskRef:
    """A task of a group."""
    return TaskRef(group, number, f"{group}.task-{number}")


def records(
    *values: bytes | None, keys: Sequence[bytes | None] | None = None, headers: list[Headers | None] | None = None
) -> Records:
    """Columns with these values; the timestamps are 1000, 1001, …."""
    count = len(values)
    known: list[bytes | None] = [b"key"] * count
    return Records(list(keys) if keys is not None else known, list(values), list(range(1000, 1000 + count)), headers)


def append(at: TopicPartition, *values: bytes | None, key: bytes | None = b"key") -> Append:
    """An append of records that all have one key."""
    return Append(at, records(*values, keys=[key] * len(values)))


def numbered(first: int, count: int) -> list[bytes | None]:
    return [b"%d" % number for number in range(first, first + count)]


async def read_all(
    log: Log, at: TopicPartition, position: Position | None = None, *, max_records: int = 1000
) -> list[Fetched]:
    """Every batch from ``position`` (the start, when left out) to the end of ``at``, as one reader gets them."""
    bounds = (await log.bounds([at]))[at]
    reader = log.reader({at: bounds.start if position is None else position})
    batches: list[Fetched] = []
    reached = bounds.start if position is None else position
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not reached.reached(bounds.end):
                for batch in await reader.fetch([at], max_records=max_records, wait_s=PATIENCE_S):
                    batches.append(batch)
                    reached = reached.advanced(batch.lane, batch.next_offset)
    finally:
        await reader.close()
    return batches


async def values_of(log: Log, at: TopicPartition, position: Position | None = None) -> list[bytes | None]:
    return [value for batch in await read_all(log, at, position) for value in batch.records.values]


async def entries_of(log: Log, at: TopicPartition) -> list[tuple[bytes | None, bytes | None]]:
    batches = await read_all(log, at)
    return [entry for batch in batches for entry in zip(batch.records.keys, batch.records.values)]


async def fetch(reader: Reader, *partitions: TopicPartition, max_records: int = 1000) -> list[Fetched]:
    """The next batches, waiting for them."""
    async with asyncio.timeout(PATIENCE_S):
        return list(await reader.fetch(partitions, max_records=max_records, wait_s=PATIENCE_S))


def now_ms() -> int:
    """The wall clock, by which logs judge the age of records."""
    return time.time_ns() // 1_000_000


class LogTests:
    """Knows how to make a log and how to run a scenario on one.

    shared: a new log is an emptied server, with the identity that it had before.
    """

    shared = False

    def make_log(self) -> Log:
        """A log that is new and empty; the test opens and closes it."""
        raise NotImplementedError

    def reopen_log(self, log: Log) -> Log | None:
        """A log on what ``log`` left behind, not opened; None where a log doesn't outlive its process."""
        raise NotImplementedError

    async def maintain(self, log: Log, now_ms: int) -> bool:
        """Have retention and compaction done as of ``now_ms``; return False where a server does that, some time."""
        await log.maintain(now_ms)
        return True

    async def compact(self, log: Log, now_ms: int) -> bool:
        """As ``maintain``, of compaction alone: for a log that does this itself and has a server for the rest."""
        return await self.maintain(log, now_ms)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Log]:
        log = self.make_log()
        await log.open()
        try:
            await log.create_topics(TOPICS)
            yield log
        finally:
            await log.close()

    def run(self, scenario: Scenario[T]) -> T:
        """Run ``scenario`` on a new log with the topics that these tests use."""

        async def main() -> T:
            async with self.opened() as log:
                return await scenario(log)

        return asyncio.run(main())
