"""Delivering to replicated streams of others, whose leaders are killed while somebody else writes to them, too."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext

from streams.connectors.jetstream.foreign import ForeignJetStream
from streams.connectors.log_sink import sink_on
from streams.core.log import Append, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.errors import RetryableError
from streams.testing.log_scenarios import task_ref
from tests.brokers.nats.cluster import NatsCluster

PATIENCE_S = 240.0
COUNT, PORTION = 1_200, 60
KILL_AT = {300: "TARGET", 600: "S-=out"}


async def create(stream: JetStreamContext, config: dict[str, Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:  # until the servers have elected who may
            with suppress(nats.errors.Error, TimeoutError):
                request = json.dumps(config | {"num_replicas": 3, "storage": "file"}).encode()
                answer = await stream._nc.request(f"$JS.API.STREAM.CREATE.{config['name']}", request, timeout=5)
                if "error" not in json.loads(answer.data):
                    return


async def deliver(log: ForeignJetStream, reached: dict[int, asyncio.Event]) -> None:
    """What a delivery task does: from the target's position on, anew after each error."""
    while True:
        with suppress(RetryableError):
            await log.create_topics([TopicSpec("TARGET")])
            writer = await sink_on(log, "TARGET").fence(task_ref(0))
            done = int(writer.delivered or b"0")
            while done < COUNT:
                numbers = range(done, min(COUNT, done + PORTION))
                records = Records([b"k"] * len(numbers), [b"%d" % each for each in numbers], [1_000] * len(numbers))
                await writer.deliver([Append(TopicPartition("TARGET", 0), records)], b"%d" % numbers.stop)
                done = numbers.stop
                if done in reached:
                    reached[done].set()
            return
        await asyncio.sleep(0.1)


async def write_beside(stream: JetStreamContext, done: asyncio.Event) -> None:
    while not done.is_set():
        with suppress(nats.errors.Error, TimeoutError):
            await stream.publish("theirs", b"-1", timeout=5)
        await asyncio.sleep(0.002)


async def read(stream: JetStreamContext) -> list[int]:
    last = (await stream.stream_info("TARGET")).state.last_seq
    reader = await stream.subscribe(">", ordered_consumer=True, stream="TARGET")
    found, at = [], 0
    while at < last:
        message = await reader.next_msg(timeout=PATIENCE_S)
        at = message.metadata.sequence.stream
        if message.subject == "ours":
            found.append(int(message.data))
    return found


@pytest.mark.parametrize("atomic", [True, False], ids=["batches", "one-by-one"])
def test_each_record_is_there_once_whichever_leader_is_killed(tmp_path: Path, atomic: bool) -> None:
    async def scenario(cluster: NatsCluster) -> None:
        client = await nats.connect(cluster.url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.2)
        stream = client.jetstream(timeout=10)
        await create(stream, {"name": "TARGET", "subjects": ["ours", "theirs"], "allow_atomic": atomic})
        place = cluster.url.removeprefix("nats://")
        log = ForeignJetStream(f"jetstream://{place}?subject=ours&replicas=3&request_timeout_ms=2000")
        await log.open()
        reached, done = {count: asyncio.Event() for count in KILL_AT}, asyncio.Event()
        beside = asyncio.ensure_future(write_beside(stream, done))
        delivering = asyncio.ensure_future(deliver(log, reached))
        try:
            async with asyncio.timeout(PATIENCE_S):
                for count, name in KILL_AT.items():
                    await reached[count].wait()
                    leader = await asyncio.to_thread(cluster.leader_of, name)
                    cluster.kill(leader)
                    await asyncio.to_thread(cluster.start, leader)
                    await asyncio.to_thread(cluster.until_whole, ["TARGET", "S-=out"])
                await delivering
        finally:
            done.set()
            delivering.cancel()
            await beside
        assert await read(stream) == list(range(COUNT))
        await log.close()
        await client.close()

    with NatsCluster(tmp_path) as cluster:
        asyncio.run(scenario(cluster))
