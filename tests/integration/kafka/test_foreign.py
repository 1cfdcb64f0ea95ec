"""Kafka as source and target of an app on another log, and another log as source of an app on Kafka: on a real broker,
with workers that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as At

from streams.connectors.kafka.log import KafkaLog
from streams.connectors.log_sink import LogSink
from streams.core.log import Append, Log, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.testing.sink_contract import ALERTS, Read, SinkContract
from streams.testing.source_contract import Feed, SourceContract, values
from tests.brokers.kafka.broker import KafkaBroker
from tests.guarantees.support import acknowledged
from tests.guarantees.support import opened as on_disk

APPS = Path(__file__).with_name("foreign_app.py")
COUNT = 30_000
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def emptied(kafka_jars: None) -> Iterator[KafkaBroker]:
    """A broker of this module's own, whose topics may all be removed."""
    with KafkaBroker() as broker:
        yield broker


@asynccontextmanager
async def opened(broker: KafkaBroker, *topics: TopicSpec) -> AsyncGenerator[KafkaLog]:
    log = KafkaLog(f"kafka://{broker.bootstrap}?linger_ms=0")
    await log.open()
    try:
        await log.delete_topics(list(await log.topics()))
        await log.create_topics(topics)
        yield log
    finally:
        await log.close()


class OnKafka:
    @pytest.fixture(autouse=True)
    def _broker(self, emptied: KafkaBroker) -> None:
        self.broker = emptied

    @asynccontextmanager
    async def sources(self) -> AsyncGenerator[tuple[Log, Feed]]:
        async with opened(self.broker, TopicSpec("readings", partitions=2)) as log:

            async def feed(partition: int, fed: list[bytes]) -> None:
                records = Records([b"key"] * len(fed), list(fed), [1000] * len(fed))
                await log.append([Append(TopicPartition("readings", partition), records)])

            yield log, feed

    @asynccontextmanager
    async def sinks(self) -> AsyncGenerator[tuple[LogSink, Read]]:
        async with opened(self.broker, TopicSpec("alerts")) as log:

            async def read() -> list[bytes | None]:
                return await values(log, ALERTS)

            yield LogSink(log), read


class TestKafkaAsSource(OnKafka, SourceContract): ...


class TestKafkaAsSink(OnKafka, SinkContract): ...


# ── workers that are killed ─────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def worker(app: str, log: str, folder: Path, *options: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker's life; it is over at the end of the block, however it ended."""
    folder.mkdir(exist_ok=True)
    with (folder / "said").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "streams", "worker", "-A", f"{APPS}:{app}", "--log", log, *options],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
            cwd=folder,
            stdout=said,
            stderr=said,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(PATIENCE_S)


def run_through_kills(
    app: str, log: str, folder: Path, progress: Callable[[], int], feed: Callable[[range], None], **env: str
) -> None:
    """Feed ``app`` in portions; kill -9 it in the middle of each but the last, which it may finish."""
    portion = COUNT // 4
    for first in range(0, COUNT, portion):
        at = progress() + 1
        feed(range(first, first + portion))
        if first + portion == COUNT:
            break
        with worker(app, log, folder, **env) as process:
            deadline = time.monotonic() + PATIENCE_S
            while progress() < at:
                assert process.poll() is None, (folder / "said").read_text()[-3000:]
                assert time.monotonic() < deadline, (folder / "said").read_text()[-3000:]
            process.send_signal(signal.SIGKILL)
            assert process.wait(PATIENCE_S) == -signal.SIGKILL
    with worker(app, log, folder, "--until-idle", **env) as process:
        assert process.wait(PATIENCE_S) == 0, (folder / "said").read_text()[-3000:]


def written(broker: KafkaBroker, topic: str) -> Callable[[], int]:
    """How much a topic on Kafka holds, markers included."""

    async def ends() -> int:
        log = KafkaLog(f"kafka://{broker.bootstrap}")
        await log.open()
        try:
            known = (await log.topics([topic])).get(topic)
            parts = [TopicPartition(topic, number) for number in range(known.spec.partitions if known else 0)]
            return sum(each.end.offset() for each in (await log.bounds(parts)).values())
        finally:
            await log.close()

    return lambda: asyncio.run(ends())


def committed(broker: KafkaBroker, topic: str, partitions: int) -> list[bytes]:
    """What another program sees that reads a topic with read_committed."""

    async def read() -> list[bytes]:
        found: list[bytes] = []
        async with (
            asyncio.timeout(PATIENCE_S),
            AIOKafkaConsumer(
                bootstrap_servers=broker.bootstrap, isolation_level="read_committed", enable_auto_commit=False
            ) as consumer,
        ):
            parts = [At(topic, number) for number in range(partitions)]
            consumer.assign(parts)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(parts)
            while any([await consumer.position(at) < end for at, end in ends.items()]):
                for batch in (await consumer.getmany(timeout_ms=500)).values():
                    found.extend(each.value for each in batch)
        return found

    return asyncio.run(read())


def numbers(folder: Path) -> Callable[[range], None]:
    """Writes numbers to an embedded log, in two partitions, each under a key of its own.

    They are of today: a topic of Kafka deletes what is older than its retention, which goes by these times.
    """
    now_ms = time.time_ns() // 1_000_000

    async def fill(portion: range) -> None:
        parts = [Records(), Records()]
        for number in portion:
            part = parts[number % 2]
            part.keys.append(b"%d" % number)
            part.values.append(b"%d" % number)
            part.timestamps.append(now_ms + number)
        async with on_disk(folder) as log:
            await log.create_topics([TopicSpec("numbers", partitions=2)])
            await log.append([Append(TopicPartition("numbers", index), part) for index, part in enumerate(parts)])

    return lambda portion: asyncio.run(fill(portion))


def once_each(found: Sequence[bytes | None]) -> None:
    repeated = {value: times for value, times in Counter(found).items() if times > 1}
    assert (repeated, len(found)) == ({}, COUNT)


def test_what_an_app_on_an_embedded_log_writes_to_kafka_is_there_once_through_kills(
    kafka_own: KafkaBroker, tmp_path: Path
) -> None:
    kafka_own.create_topic("copies", 5)
    run_through_kills(
        "outward",
        f"embedded:{tmp_path / 'log'}",
        tmp_path / "worker",
        written(kafka_own, "copies"),
        numbers(tmp_path / "log"),
        KAFKA=kafka_own.bootstrap,
    )
    once_each(committed(kafka_own, "copies", 5))


def test_an_app_on_an_embedded_log_reads_what_is_committed_on_kafka_once_through_kills(
    kafka_own: KafkaBroker, tmp_path: Path
) -> None:
    kafka_own.create_topic("origin", 3)

    async def fill(portion: range) -> None:
        settings = {"bootstrap_servers": kafka_own.bootstrap, "linger_ms": 20}
        async with AIOKafkaProducer(**settings, transactional_id="origin") as producer:
            for wanted in (False, True):  # each is written twice, and the first time taken back
                await producer.begin_transaction()
                for number in portion:
                    await producer.send("origin", b"%d" % number, key=b"%d" % number)
                await (producer.commit_transaction() if wanted else producer.abort_transaction())

    log = tmp_path / "log"
    run_through_kills(
        "inward",
        f"embedded:{log}",
        tmp_path / "worker",
        lambda: acknowledged(log) // 10,  # the first commits are claims
        lambda portion: asyncio.run(fill(portion)),
        KAFKA=kafka_own.bootstrap,
    )

    async def arrived() -> list[bytes | None]:
        async with on_disk(log) as found:
            return [each for number in range(2) for each in await values(found, TopicPartition("arrived", number))]

    once_each(asyncio.run(arrived()))


def test_an_app_on_kafka_reads_an_embedded_log_once_through_kills(kafka_own: KafkaBroker, tmp_path: Path) -> None:
    run_through_kills(
        "across",
        f"kafka://{kafka_own.bootstrap}?session_timeout_ms=2000&heartbeat_interval_ms=400",
        tmp_path / "worker",
        written(kafka_own, "landed"),
        numbers(tmp_path / "log"),
        EMBEDDED=str(tmp_path / "log"),
    )
    once_each(committed(kafka_own, "landed", 2))
