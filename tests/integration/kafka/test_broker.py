"""The brokers that the other tests rely on: what they promise is so, or those tests would show nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError

from tests.brokers.kafka import admin
from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.kafka.cluster import KafkaCluster
from tests.brokers.kafka.secured import USERS, Listener, Mechanism, SecuredKafka

pytestmark = pytest.mark.soak  # tests of the tests' own broker

ROOT = Path(__file__).resolve().parents[3]


def produce(bootstrap: str, topic: str, *values: bytes) -> None:
    produce_as({"bootstrap_servers": bootstrap, "enable_idempotence": True}, topic, *values)


def produce_as(client: admin.Client, topic: str, *values: bytes) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), AIOKafkaProducer(**client, acks="all") as producer:
            for value in values:
                await producer.send_and_wait(topic, value, partition=0)

    asyncio.run(run())


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    async def run() -> list[bytes]:
        async with asyncio.timeout(60), AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
            consumer.assign([TopicPartition(topic, 0)])
            await consumer.seek_to_beginning()
            return [(await consumer.getone()).value for _ in range(count)]

    return asyncio.run(run())


def test_a_broker_answers_when_it_is_said_to_run(kafka: KafkaBroker, unique: Callable[[str], str]) -> None:
    topic = unique("orders")
    kafka.create_topic(topic)
    produce(kafka.bootstrap, topic, b"one", b"two")
    assert consume(kafka.bootstrap, topic, 2) == [b"one", b"two"]


@pytest.mark.usefixtures("kafka_jars")
def test_a_broker_starts_without_the_archive_of_its_classes(tmp_path: Path) -> None:
    for options in ((), ("-Xshare:auto", f"-XX:SharedArchiveFile={tmp_path / 'missing.jsa'}")):
        with KafkaBroker(java_options=options) as broker:
            assert broker.running


def test_a_restart_keeps_the_port_and_the_data(kafka_own: KafkaBroker) -> None:
    bootstrap = kafka_own.bootstrap
    kafka_own.create_topic("orders")
    produce(bootstrap, "orders", b"before")
    first = kafka_own.pid
    kafka_own.kill()
    assert not kafka_own.running
    with pytest.raises(OSError, match="Connect call failed"):
        asyncio.run(asyncio.wait_for(asyncio.open_connection("127.0.0.1", kafka_own.port), 5))
    kafka_own.start()
    assert (kafka_own.bootstrap, kafka_own.pid != first) == (bootstrap, True)
    produce(bootstrap, "orders", b"after the kill")
    kafka_own.restart()
    produce(bootstrap, "orders", b"after the stop")
    assert consume(bootstrap, "orders", 3) == [b"before", b"after the kill", b"after the stop"]


def test_a_paused_broker_says_nothing_until_it_is_resumed(kafka_own: KafkaBroker) -> None:
    kafka_own.pause()
    with pytest.raises((TimeoutError, KafkaConnectionError)):
        asyncio.run(asyncio.wait_for(admin.ready(kafka_own.client), 1))
    kafka_own.resume()
    kafka_own.wait_until_ready()


def test_another_broker_leads_after_a_kill(kafka_cluster: KafkaCluster) -> None:
    kafka_cluster.create_topic("orders")
    leader = kafka_cluster.leader_of("orders")
    produce(kafka_cluster.bootstrap, "orders", b"before")
    leader.kill()
    assert kafka_cluster.leader_of("orders", other_than=leader.node_id).node_id != leader.node_id
    produce(kafka_cluster.bootstrap, "orders", b"after")
    assert consume(kafka_cluster.bootstrap, "orders", 2) == [b"before", b"after"]
    kafka_cluster.start()
    kafka_cluster.wait_until_in_sync("orders")


@pytest.mark.usefixtures("kafka_jars")
def test_no_broker_and_no_data_outlive_a_killed_test_run() -> None:
    code = (
        "from tests.brokers.kafka.broker import KafkaBroker\n"
        "broker = KafkaBroker().start()\n"
        "print(broker.pid, broker.folder, flush=True)\n"
        "input()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().split()
        broker = os.pidfd_open(int(pid))
        assert Path(folder).is_dir()
        run.send_signal(signal.SIGKILL)

        async def gone() -> None:
            ended = asyncio.Event()
            asyncio.get_running_loop().add_reader(broker, ended.set)
            async with asyncio.timeout(30):
                await ended.wait()
                await admin.until(removed)

        async def removed() -> bool | None:
            return None if await asyncio.to_thread(Path(folder).exists) else True

        try:
            asyncio.run(gone())
        finally:
            os.close(broker)


def connect(client: admin.Client) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), admin.admin(client) as connected:
            assert (await connected.describe_cluster())["brokers"]

    asyncio.run(run())


@pytest.mark.parametrize("listener", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"])
def test_who_has_the_password_or_a_token_gets_in(
    kafka_secured: SecuredKafka, listener: Listener, mechanism: Mechanism
) -> None:
    for user in USERS:
        connect(kafka_secured.client_of(user, listener, mechanism))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_wrong_password_is_refused(kafka_secured: SecuredKafka, mechanism: Mechanism) -> None:
    with pytest.raises(KafkaConnectionError):
        connect(kafka_secured.client_of("alice", "SASL_SSL", mechanism, password="wrong"))


def test_only_who_trusts_the_authority_and_shows_a_certificate_gets_in(kafka_secured: SecuredKafka) -> None:
    connect(kafka_secured.client_of("alice", "SSL"))
    distrusting = ssl.create_default_context(cafile=str(kafka_secured.stranger.certificate))
    with pytest.raises(KafkaConnectionError):
        connect(kafka_secured.client_of("alice", "SASL_SSL") | {"ssl_context": distrusting})
    nameless = ssl.create_default_context(cafile=str(kafka_secured.authority.certificate))
    with pytest.raises(KafkaConnectionError):
        connect(kafka_secured.client_of("alice", "SSL") | {"ssl_context": nameless})


def test_a_user_may_do_what_was_granted_and_nothing_else(
    kafka_secured: SecuredKafka, unique: Callable[[str], str]
) -> None:
    granted, withheld = unique("granted"), unique("withheld")
    kafka_secured.create_topic(granted)
    kafka_secured.create_topic(withheld)
    alice = kafka_secured.client_of("alice", "SSL")
    with pytest.raises(TopicAuthorizationFailedError):
        produce_as(alice, granted, b"before")
    kafka_secured.grant("alice", "topic", granted, "write")
    produce_as(alice, granted, b"after")
    with pytest.raises(TopicAuthorizationFailedError):
        produce_as(alice, withheld, b"after")
