"""Exactly once through ``kill -9``, on Mosquitto: its messages into a file, and a file's numbers to it."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.connectors.mqtt.packets import MQTT_3_1_1, MQTT_5, Publish, Pubrel, Subscription
from tests.brokers.mqtt.server import Mosquitto
from tests.integration.mqtt.helpers import PATIENCE_S, config_of, opened, send, subscribed
from tests.integration.mqtt.workers import read

ROOT = Path(__file__).resolve().parents[3]
KILLS = 5
MESSAGES = 1200

VARIANTS = pytest.mark.parametrize(
    ("version", "qos"),
    [
        pytest.param(MQTT_5, 1, id="5-1"),
        pytest.param(MQTT_3_1_1, 2, id="3.1.1-2"),
        pytest.param(MQTT_5, 2, id="5-2", marks=pytest.mark.soak),
        pytest.param(MQTT_3_1_1, 1, id="3.1.1-1", marks=pytest.mark.soak),
    ],
)


class Worker:
    """A process that is killed and started again with the same arguments."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "tests.integration.mqtt.workers", *arguments]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, cwd=ROOT, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def journal(path: Path) -> list[int]:
    return [int(message) for commit in read(path) for message in commit["messages"]]


async def reach(done: Callable[[], bool], worker: Worker) -> None:
    """Wait until a worker has come so far by itself."""
    async with asyncio.timeout(PATIENCE_S):
        while not done():
            assert worker.process.poll() in (None, 0), "the worker ended by itself"
            await asyncio.sleep(0.01)


@VARIANTS
def test_every_message_is_taken_in_once_through_kills(
    mosquitto: Mosquitto, unique: Callable[[str], str], tmp_path: Path, version: int, qos: int
) -> None:
    chance = random.Random(qos * 10 + version)
    name, path = unique("ingest"), tmp_path / "log"

    async def main() -> None:
        worker = Worker("ingest", mosquitto.url, str(version), name, str(qos), str(path))
        try:
            # Once its subscription is journaled, everything that is published has to arrive.
            await reach(lambda: any(b"T\x00\x01" in bytes.fromhex(each["delta"]) for each in read(path)), worker)
            sender = await opened(config_of(mosquitto.url, MQTT_5), name + "-sender")
            part = MESSAGES // KILLS
            for kill in range(KILLS):
                first = kill * part
                sending = asyncio.create_task(
                    send(
                        sender,
                        [
                            Publish(f"{name}/{number % 7}", b"%d" % number, qos, packet_id=number + 1)
                            for number in range(first, first + part)
                        ],
                    )
                )
                threshold = first + chance.randint(1, part - 20)
                await reach(lambda: len(journal(path)) > threshold, worker)  # noqa: B023  # awaited at once
                worker.kill()
                worker.start()
                await sending
            await reach(lambda: len(journal(path)) >= MESSAGES, worker)
            await sender.close()
        finally:
            worker.kill()

    asyncio.run(main())
    assert journal(path) == list(range(MESSAGES))


@VARIANTS
def test_every_message_is_sent_out_once_through_kills_or_at_least_once_at_qos_1(
    mosquitto: Mosquitto, unique: Callable[[str], str], tmp_path: Path, version: int, qos: int
) -> None:
    chance = random.Random(qos * 10 + version)
    name, path = unique("egress"), tmp_path / "log"
    seen: list[int] = []

    async def main() -> None:
        receiver = await opened(config_of(mosquitto.url, MQTT_5), name + "-receiver")
        await subscribed(receiver, Subscription(name, 2))

        async def collect() -> None:
            while True:
                for event in await receiver.events():
                    if isinstance(event, Publish):
                        seen.append(int(event.payload))
                        (receiver.puback if event.qos == 1 else receiver.pubrec)([event.packet_id])
                    elif isinstance(event, Pubrel):
                        receiver.pubcomp([event.packet_id])

        collecting = asyncio.create_task(collect())
        worker = Worker("egress", mosquitto.url, str(version), name, str(qos), str(path), name, str(MESSAGES))
        try:
            for kill in range(KILLS):
                threshold = kill * MESSAGES // KILLS + chance.randint(1, MESSAGES // KILLS - 20)
                await reach(lambda: len(set(seen)) > threshold, worker)  # noqa: B023  # awaited at once
                worker.kill()
                worker.start()
            await reach(lambda: len(set(seen)) >= MESSAGES and worker.process.poll() == 0, worker)
        finally:
            worker.kill()
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)
        await receiver.close()

    asyncio.run(main())
    if qos == 2:
        assert seen == list(range(MESSAGES))
    else:
        assert list(dict.fromkeys(seen)) == list(range(MESSAGES))
