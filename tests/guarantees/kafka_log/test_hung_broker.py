"""One broker of three that hangs: what it led goes on elsewhere, and all of it within the time-outs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from streams.connectors.kafka.log import KafkaLog
from streams.core.log import Append, Commit, TopicSpec
from streams.core.membership import TaskRef
from streams.core.record import START, Records, TopicPartition
from streams.errors import RetryableError
from tests.brokers.kafka.cluster import KafkaCluster

TIMEOUT_S, CONNECT_S, TRANSACTION_S = 2.0, 1.0, 6.0
SETTINGS = "request_timeout_ms=2000&connect_timeout_ms=1000&transaction_timeout_ms=6000&linger_ms=0&replication=3"
ELECTION_S = 15.0
"""Until the other brokers have noticed and chosen anew, on a busy machine."""
LONGEST_S = ELECTION_S + TRANSACTION_S + 5 * (TIMEOUT_S + CONNECT_S)
TASKS = 6
PARTITIONS = 6


def test_a_broker_that_hangs_holds_nobody_up_for_longer_than_the_time_outs(
    kafka_cluster: KafkaCluster, unique: Callable[[str], str]
) -> None:
    topic, app = unique("topic"), unique("app")
    committed: dict[int, list[bytes]] = {slot: [] for slot in range(TASKS)}
    longest_s: dict[int, float] = dict.fromkeys(range(TASKS), 0.0)
    done = asyncio.Event()

    async def work(log: KafkaLog, slot: int) -> None:
        """As a driver does: commit; after an error fence anew and believe the checkpoint."""
        number, writer, at = 0, None, TopicPartition(topic, slot % PARTITIONS)
        last = time.monotonic()
        while not done.is_set():
            value = b"%d/%d" % (slot, number)
            try:
                if writer is None:
                    writer = await log.fence(TaskRef(app, slot, f"{app}-{slot}"))
                    if writer.checkpoint == value:
                        committed[slot].append(value)
                        number += 1
                        continue
                await writer.commit(Commit(value, [Append(at, Records([None], [value], [1]))], {at: START}))
            except RetryableError:
                if writer is not None:
                    await writer.close()
                writer = None
            else:
                committed[slot].append(value)
                number += 1
                now = time.monotonic()
                longest_s[slot], last = max(longest_s[slot], now - last), now
        if writer is not None:
            await writer.close()

    async def further(more: int) -> None:
        """Wait until each task has committed so many more."""
        before = {slot: len(each) for slot, each in committed.items()}
        async with asyncio.timeout(LONGEST_S):
            while any(len(each) < before[slot] + more for slot, each in committed.items()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def run() -> None:
        log = KafkaLog(f"kafka://{kafka_cluster.bootstrap}?{SETTINGS}")
        await log.open()
        try:
            await log.create_topics([TopicSpec(topic, PARTITIONS)])
            working = [asyncio.ensure_future(work(log, slot)) for slot in range(TASKS)]
            await further(3)
            hung = await asyncio.to_thread(kafka_cluster.leader_of, topic, 0)
            hung.pause()
            try:
                await further(5)
                partitions = [TopicPartition(topic, each) for each in range(PARTITIONS)]
                reader = log.reader(dict.fromkeys(partitions, START))
                read: set[bytes | None] = set()
                expected = {value for each in committed.values() for value in each}
                async with asyncio.timeout(LONGEST_S):
                    while not expected <= read:
                        for batch in await reader.fetch(partitions, max_records=1000, wait_s=0.2):
                            read.update(batch.records.values)
                await reader.close()
            finally:
                hung.resume()
            await further(3)
            done.set()
            await asyncio.gather(*working)
            found: list[bytes | None] = []
            positions = {TopicPartition(topic, each): START for each in range(PARTITIONS)}
            bounds = await log.bounds(positions)
            reader = log.reader(positions)
            while any(not positions[at].reached(bounds[at].end) for at in positions):
                for batch in await reader.fetch(positions, max_records=1000, wait_s=0.2):
                    found += batch.records.values
                    positions[batch.partition] = positions[batch.partition].advanced(batch.lane, batch.next_offset)
            await reader.close()
            assert sorted(map(str, found)) == sorted(str(value) for each in committed.values() for value in each)
        finally:
            await log.close()

    asyncio.run(run())
    print({slot: (len(committed[slot]), round(longest_s[slot], 2)) for slot in committed})
