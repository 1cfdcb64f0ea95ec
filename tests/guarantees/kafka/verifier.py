"""The other eye: reads what is committed on a real broker, by a client that isn't ours, and counts.

What must live here: reading with aiokafka's own consumer, and saying what is lost and what is there twice.  What must
not: our reader (it isn't to be checked by itself), workers (``fleet``), what an app should come to (its oracle).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.core.watermark import MARK_HEADER
from tests.guarantees.kafka.endings import until_ends_are_carried_out

SHOWN = 4
PATIENCE_S = 30.0
"""How long the brokers may keep committed records from a reader; in tests that stop them it is asked again."""

Result = tuple[str, str]
"""Key and value of a record, the value as canonical JSON."""


@dataclass
class Verifier:
    """Reads topics with read_committed, each record once, over however many calls of ``look``."""

    bootstrap: str
    topics: Collection[str]
    found: dict[str, list[tuple[TopicPartition, bytes | None, bytes | None]]] = field(default_factory=dict)
    _next: dict[TopicPartition, int] = field(default_factory=dict)

    def look(self) -> Verifier:
        """Read what has been committed since the last time.  While brokers are away it finds nothing new."""
        with suppress(KafkaError, OSError, TimeoutError):  # of a broker that was stopped; the next look goes on here
            asyncio.run(self._look())
        return self

    def count(self, topic: str) -> int:
        return len(self.found.get(topic, ()))

    def total(self) -> int:
        return sum(len(each) for each in self.found.values())

    def results(self, topic: str) -> list[tuple[str, Any]]:
        """Key and value of every record, partition by partition, in order."""
        held = sorted(self.found.get(topic, ()), key=lambda each: each[0].partition)
        return [
            (key.decode() if key is not None else "", None if value is None else json.loads(value))
            for _, key, value in held
        ]

    async def _look(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.bootstrap,
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="none",
                request_timeout_ms=5_000,
            )
            await consumer.start()
            try:
                await self._read(consumer)
            finally:
                await consumer.stop()

    async def _read(self, consumer: Any) -> None:
        existing = await consumer.topics()
        at = [
            TopicPartition(topic, number)
            for topic in self.topics
            if topic in existing
            for number in await _partitions(consumer, topic)
        ]
        if not at:
            return
        consumer.assign(at)
        starts, ends = await consumer.beginning_offsets(at), await consumer.end_offsets(at)
        for each in at:
            self._next.setdefault(each, starts[each])
            consumer.seek(each, self._next[each])
        while any(self._next[each] < ends[each] for each in at):
            for each, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    if not any(name == MARK_HEADER for name, _ in record.headers):
                        self.found.setdefault(each.topic, []).append((each, record.key, record.value))
                    self._next[each] = record.offset + 1
            for each in at:  # past markers and what was aborted
                self._next[each] = max(self._next[each], await consumer.position(each))


async def _partitions(consumer: Any, topic: str) -> list[int]:
    while True:
        found = consumer.partitions_for_topic(topic)
        if found:
            return sorted(found)
        await consumer._client.force_metadata_update()  # it knows topics of others only once it has asked for all


def read_all(bootstrap: str, topic: str) -> list[tuple[str, Any]]:
    """What is committed in a topic, by a consumer of its own."""
    verifier = Verifier(bootstrap, [topic])
    asyncio.run(verifier._look())
    return verifier.results(topic)


def hanging(bootstrap: str, topics: Iterable[str]) -> list[str]:
    """Partitions in which a transaction is still open: what is committed behind it can't be read.

    One that has been ended, and whose end is only still to reach its partitions, isn't open: it is waited for.
    """

    async def ends(isolation: str) -> dict[TopicPartition, int]:
        async with asyncio.timeout(PATIENCE_S):
            consumer = AIOKafkaConsumer(
                bootstrap_servers=bootstrap, isolation_level=isolation, enable_auto_commit=False
            )
            await consumer.start()
            try:
                at = [
                    TopicPartition(topic, number) for topic in topics for number in await _partitions(consumer, topic)
                ]
                found: dict[TopicPartition, int] = await consumer.end_offsets(at)
                return found
            finally:
                await consumer.stop()

    async def settled() -> None:
        async with asyncio.timeout(4 * PATIENCE_S):
            await until_ends_are_carried_out(bootstrap)

    asyncio.run(settled())
    stable, high = asyncio.run(ends("read_committed")), asyncio.run(ends("read_uncommitted"))
    return [f"{at.topic}-{at.partition}: stable to {stable[at]} of {high[at]}" for at in high if stable[at] < high[at]]


def group_offsets(bootstrap: str, group: str) -> Mapping[TopicPartition, int]:
    """What the group has committed, as everybody's lag tools see it."""

    async def ask() -> Mapping[TopicPartition, int]:
        async with asyncio.timeout(PATIENCE_S):
            admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5_000)
            await admin.start()
            try:
                held = await admin.list_consumer_group_offsets(group)
                return {at: each.offset for at, each in held.items()}
            finally:
                await admin.close()

    return asyncio.run(ask())


def members(bootstrap: str, group: str) -> int:
    """How many members the group has now."""

    async def ask() -> int:
        async with asyncio.timeout(PATIENCE_S):
            admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5_000)
            await admin.start()
            try:
                (answer,) = await admin.describe_consumer_groups([group])
                _, _, _, _, _, held, *_ = answer.groups[0]
                return len(held)
            finally:
                await admin.close()

    return asyncio.run(ask())


def differences(found: Iterable[Result], expected: Iterable[Result], what: str) -> str:
    """One line of what is lost and what is there twice, wrong or unasked for; empty if nothing is."""
    have, want = Counter(found), Counter(expected)
    lost, more = want - have, have - want
    if not lost and not more:
        return ""
    twice = {each: times for each, times in more.items() if each in want}
    strange = [each for each in more if each not in want]
    return (
        f"{what}: {lost.total()} lost of {want.total()}: {list(lost)[:SHOWN]}; {sum(twice.values())} too often: "
        f"{list(twice)[:SHOWN]}; {len(strange)} that nobody asked for: {strange[:SHOWN]}"
    )
