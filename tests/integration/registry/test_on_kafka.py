"""The whole way on a real broker: another program's Avro in, a worker, Avro out, with the registry away at first."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from tests.brokers.kafka.broker import KafkaBroker
from tests.integration.registry.fake import FakeRegistry

ROOT = Path(__file__).resolve().parents[3]
ORDER = '{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}]}'
CONF = {"subject.name.strategy": topic_subject_name_strategy}
APP = """
from dataclasses import dataclass

from streams import App
from streams.registry import SchemaRegistry


@dataclass
class Order:
    id: int
    colour: str = "white"


registry = SchemaRegistry()
app = App("{name}")
orders = app.stream(app.topic("{name}-in", value=registry.avro(Order)), on_error="skip")
orders.key_by(lambda order: order.id % 7, key=int).to(app.topic("{name}-out", key=int, value=registry.avro(Order)))
"""
TIMEOUT_S = 120


async def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number, value in enumerate(values):
            await producer.send(topic, value, partition=number % 2)


async def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    settings = {"auto_offset_reset": "earliest", "isolation_level": "read_committed"}
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, **settings) as consumer, asyncio.timeout(TIMEOUT_S):
        found = [(await consumer.getone()).value for _ in range(count)]
        more = await consumer.getmany(timeout_ms=500)
        return found + [record.value for records in more.values() for record in records]


def test_records_of_others_come_through_once_though_the_registry_was_away(kafka: KafkaBroker, tmp_path: Path) -> None:
    name = f"shop-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(f"{name}-in", 2)
    kafka.create_topic(f"{name}-out", 2)
    (tmp_path / "shop.py").write_text(APP.replace("{name}", name))
    with FakeRegistry() as fake:
        client = SchemaRegistryClient({"url": fake.url})
        write, written = AvroSerializer(client, ORDER, conf=CONF), []
        for number in range(200):
            raw = write({"id": number}, SerializationContext(f"{name}-in", MessageField.VALUE))
            assert raw is not None
            written.append(raw)
        asyncio.run(produce(kafka.bootstrap, f"{name}-in", written))
        fake.stop()
        worker = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "streams",
                "worker",
                "-A",
                "shop",
                "--log",
                f"kafka://{kafka.bootstrap}",
                "--until-idle",
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "STREAMS_REGISTRY_URL": fake.url},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        overdue = threading.Timer(TIMEOUT_S, worker.kill)
        overdue.start()
        try:
            assert worker.stderr is not None
            said = []
            for line in worker.stderr:
                said.append(line)
                if not fake.running and "what needs it waits" in line:
                    fake.start()
            assert worker.wait() == 0, "".join(said)
        finally:
            overdue.cancel()
            worker.kill()
            worker.communicate()
        assert sum("can't be reached" in line for line in said) == 1, "once, however often it is tried"
        read = AvroDeserializer(client, conf=CONF)
        found = asyncio.run(consume(kafka.bootstrap, f"{name}-out", 200))
        context = SerializationContext(f"{name}-out", MessageField.VALUE)
        values = [read(raw, context) for raw in found]
        assert sorted(values, key=lambda value: value["id"]) == [{"id": n, "colour": "white"} for n in range(200)]
        internal = [subject for subject in fake.subjects if subject.startswith(f"{name}.")]
        assert sorted(fake.subjects) == [f"{name}-in-value", f"{name}-out-value", *internal]
        assert len(internal) == 1, "what crosses the repartition topic has a subject of its own"
