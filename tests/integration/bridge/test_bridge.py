"""The bridge as a worker between real brokers: each record goes through once, and what can't go yet waits in order."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import nats as nats_py
from nats.aio.client import Client
from nats.aio.msg import Msg

from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.packets import Publish, Subscription
from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.mqtt.server import Mosquitto
from tests.brokers.nats.clients import taken
from tests.brokers.nats.server import NatsServer
from tests.guarantees.kafka_log.reading import records_of
from tests.integration.mqtt.helpers import config_of, opened, send, subscribed, take

PATIENCE_S = 120.0


@contextmanager
def bridge(folder: Path, routes: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that runs the bridge; killed on leaving if it still runs."""
    (folder / "bridge.toml").write_text(f"log = 'embedded:{folder}/log'\n{routes}")
    command = [sys.executable, "-m", "streams", "worker", "-A", "streams.apps.bridge", "--config", "bridge.toml"]
    command += ["--port", "0"]
    with (folder / "said").open("ab") as said:
        process = subprocess.Popen(
            command, cwd=folder, stdout=said, stderr=said, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(PATIENCE_S)


def stopped(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0, said(folder)


def said(folder: Path) -> str:
    return (folder / "said").read_text()


def listens(folder: Path) -> bool:
    """Whether the bridge that was started last has all its sources subscribed to."""
    found = re.findall(r"health, metrics and tables on (\S+)", said(folder))
    if not found or "works on" not in said(folder).rpartition("health, metrics")[2]:
        return False
    try:
        with urllib.request.urlopen(f"{found[-1]}/health", timeout=PATIENCE_S) as answer:
            tasks = json.load(answer)["tasks"]
    except urllib.error.URLError:
        return False
    phases = {phase for name, phase in tasks.items() if ".journal-" in name}
    return phases == {"receiving"}


async def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            assert process.poll() is None, said(folder)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def mqtt(broker: Mosquitto, client_id: str, *, clean_start: bool = True) -> AsyncIterator[Connection]:
    connection = await opened(config_of(broker.url, 5), client_id, clean_start=clean_start)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def nats_client(server: NatsServer) -> AsyncIterator[Client]:
    client = await nats_py.connect(server.url)
    try:
        yield client
    finally:
        await client.close()


def messages(topic: str, numbers: range) -> list[Publish]:
    return [Publish(topic, b"%d" % number, 2, packet_id=place + 1) for place, number in enumerate(numbers)]


def test_each_transport_leads_to_each_other(
    mosquitto: Mosquitto, nats: NatsServer, kafka: KafkaBroker, tmp_path: Path
) -> None:
    routes = f"""
        [[routes]]
        from = "{mosquitto.url}/plant/#?qos=2"
        to = ["{nats.url}/heat.{{key}}", "kafka://{kafka.bootstrap}/bridged-heat"]
        include = ["plant/+/heat"]
        key = "{{topic[1]}}"

        [[routes]]
        from = "{nats.url}/commands.>"
        to = "{mosquitto.url}/commands/{{key}}?qos=2"
        key = "{{topic:/}}"
        decode = "json"
        encode = "msgpack"

        [[routes]]
        from = "kafka://{kafka.bootstrap}/bridged-heat"
        to = {{topic = "{mosquitto.url}/all-heat?qos=1", label = "all-heat"}}
    """
    assert "?" not in nats.url

    async def check() -> None:
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        async with nats_client(nats) as client, mqtt(mosquitto, "checker") as connection:
            await client.subscribe("heat.>", cb=hear)
            await taken(client)
            await subscribed(connection, Subscription("commands/#", 2), Subscription("all-heat", 1))
            with bridge(tmp_path, routes) as process:
                await until(lambda: listens(tmp_path), process, tmp_path)
                await send(connection, messages("plant/7/heat", range(100)) + [Publish("plant/7/light", b"0", 0)])
                found = await take(connection, 100)
                assert [(each.topic, each.payload) for each in found] == [("all-heat", b"%d" % n) for n in range(100)]
                await client.publish("commands.oven.1", b'{"on": true}')
                [command] = await take(connection, 1)
                assert (command.topic, command.payload) == ("commands/commands/oven/1", b"\x81\xa2on\xc3")
                await until(lambda: len(heard) >= 100, process, tmp_path)
                stopped(process, tmp_path)
            assert [(each.subject, each.data) for each in heard] == [("heat.7", b"%d" % n) for n in range(100)]
            records = await records_of(kafka.bootstrap, "bridged-heat")
            assert [(record.key, record.value) for record in records] == [(b"7", b"%d" % n) for n in range(100)]

    asyncio.run(check())
    lines = [line for line in said(tmp_path).splitlines() if "route" in line]
    assert "plant/#?qos=2 to nats://" in lines[0]
    assert "in exactly once (" in lines[0]
    assert "out at least once (" in lines[0]
    assert ": exactly once (" in lines[1]
    assert "in at most once (" in lines[2]


def test_over_a_link_that_is_down_all_waits_in_order_through_kills(
    mosquitto: Mosquitto, own_mosquitto: Mosquitto, tmp_path: Path
) -> None:
    count, kills = 3_000, 3
    routes = f"""
        [[routes]]
        from = "{mosquitto.url}/meters/+?qos=2"
        to = "{own_mosquitto.url}/site/{{key}}?qos=2"
        key = "{{topic}}"
    """
    portion = count // (kills + 1)

    async def check() -> None:
        async with mqtt(own_mosquitto, "archive", clean_start=False) as archive:
            await subscribed(archive, Subscription("site/#", 2))
        own_mosquitto.stop()
        async with mqtt(mosquitto, "meter") as meter:
            for number in range(kills + 1):
                with bridge(tmp_path, routes) as process:
                    if not number:
                        await until(lambda: listens(tmp_path), process, tmp_path)
                    await send(meter, messages("meters/1", range(number * portion, (number + 1) * portion)))
        own_mosquitto.start()
        with bridge(tmp_path, routes) as process:
            async with mqtt(own_mosquitto, "archive", clean_start=False) as archive:
                found = await take(archive, count)
            stopped(process, tmp_path)
            async with mqtt(own_mosquitto, "last") as last:
                await send(last, [Publish("site/end", b"end", 2, packet_id=1)])
            async with mqtt(own_mosquitto, "archive", clean_start=False) as archive:
                found += await take(archive, 1)
        assert [each.payload for each in found] == [*(b"%d" % number for number in range(count)), b"end"]
        assert {each.topic for each in found} == {"site/meters/1", "site/end"}

    asyncio.run(check())
    assert "it is tried again" in said(tmp_path)
