"""The reference: a bare aiokafka loop that does the work and nothing else.

``getmany(1000)``, typed decode, a dict, encode, ``send_batch`` of outputs and changelog, and a transaction each
interval, of all partitions, that holds the group's offsets too.  It has no fencing of tasks, no restore and no spill:
what a framework adds is seen against it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections import defaultdict
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.benchmarks.common import work

Records = list[tuple[bytes, bytes, int]]


async def send(producer: Any, topic: str, partition: int, records: Records) -> None:
    """Append the records in as few batches as they fit."""
    builder = producer.create_batch()
    for key, value, timestamp in records:
        if builder.append(key=key, value=value, timestamp=timestamp) is None:
            builder.close()
            await producer.send_batch(builder, topic, partition=partition)
            builder = producer.create_batch()
            builder.append(key=key, value=value, timestamp=timestamp)
    builder.close()
    await producer.send_batch(builder, topic, partition=partition)


async def run(options: argparse.Namespace, meter: work.Meter) -> None:
    decode, encode = work.decoder(options.size), work.encode
    consumer = AIOKafkaConsumer(
        options.input,
        bootstrap_servers=options.bootstrap,
        group_id=options.name,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=options.bootstrap,
        transactional_id=f"{options.name}-0",
        enable_idempotence=True,
        max_batch_size=131_072,
    )
    await consumer.start()
    await producer.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    counts: dict[int, dict[str, int]] = defaultdict(dict)
    dirty: dict[int, set[str]] = defaultdict(set)
    positions: dict[TopicPartition, int] = {}
    seen, in_transaction, commit_at = 0, False, 0.0

    async def commit() -> None:
        for partition, users in dirty.items():
            known = counts[partition]
            await send(
                producer,
                f"{options.name}-changelog",
                partition,
                [(user.encode(), encode(known[user]), 0) for user in users],
            )
        dirty.clear()
        await producer.send_offsets_to_transaction(positions, options.name)
        await producer.commit_transaction()
        positions.clear()

    while not stop.is_set() and (not options.messages or seen < options.messages):
        fetched = await consumer.getmany(max_records=work.BATCH_RECORDS, timeout_ms=50)
        if fetched:
            meter.begin()
        for place, records in fetched.items():
            if not in_transaction:
                await producer.begin_transaction()
                in_transaction, commit_at = True, loop.time() + options.commit_interval
            known, changed = counts[place.partition], dirty[place.partition]
            out: Records = []
            for record in records:
                user = decode(record.value).user
                known[user] = count = known.get(user, 0) + 1
                changed.add(user)
                out.append((record.key, encode(count), record.timestamp))
            await send(producer, options.output, place.partition, out)
            positions[place] = records[-1].offset + 1
            seen += len(records)
        if in_transaction and loop.time() >= commit_at:
            await commit()
            in_transaction = False
    if in_transaction:
        await commit()
    meter.end()
    await consumer.stop()
    await producer.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--name", required=True, help="of the group, the transactions and <name>-changelog")
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--size", choices=list(work.TYPES), default="small")
    parser.add_argument("--messages", type=int, required=True, help="0: until SIGTERM")
    parser.add_argument("--commit-interval", type=float, required=True, help="in seconds")
    options = parser.parse_args()
    meter = work.Meter()
    uvloop.run(run(options, meter))
    if options.messages:
        meter.report(options.messages)


if __name__ == "__main__":
    main()
