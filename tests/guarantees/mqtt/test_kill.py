"""Messages from MQTT through an app to MQTT, with workers that are killed: each is processed once, and at
QoS 2 each goes out once.  paho, which knows nothing of us, sends and counts."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from streams.core.record import TopicPartition
from streams.testing.source_contract import values
from tests.brokers.mqtt.server import Mosquitto
from tests.guarantees.support import opened
from tests.stages import rounds

APP = Path(__file__).with_name("relay.py")
KILLS = rounds(7, 25)
PORTION = 770
"""How many messages are sent in each life of a worker."""
COUNT = PORTION * (KILLS + 1)
HELLO = COUNT
PATIENCE_S = 120.0


def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.002)


class Peer:
    """A client of paho's: sends numbers, and keeps what comes on ``out``."""

    def __init__(self, broker: Mosquitto, qos: int) -> None:
        self.came: list[int] = []
        self._qos = qos
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "peer", clean_session=False)
        self._client.max_inflight_messages_set(20)
        self._client.max_queued_messages_set(0)
        self._client.on_message = self._hear
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._client.subscribe("out", qos)
        assert subscribed.wait(PATIENCE_S)

    def _hear(self, client: Any, userdata: Any, message: paho.MQTTMessage) -> None:
        self.came.append(int(message.payload))

    def send(self, numbers: range) -> None:
        sent = [self._client.publish(f"in/{number % 10}", b"%d" % number, self._qos) for number in numbers]
        for each in sent:
            each.wait_for_publish(PATIENCE_S)

    def answered(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether an app listens: it is asked until something comes back."""
        assert process.poll() is None
        self.send(range(HELLO, HELLO + 1))
        time.sleep(0.05)
        return bool(self.came)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def worker(log: Path, broker: Mosquitto, settings: str) -> Iterator[subprocess.Popen[bytes]]:
    with (log.parent / "said").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "streams", "worker", "-A", f"{APP}:app", "--log", f"embedded:{log}", "--port", "0"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "BROKER": broker.url, "SETTINGS": settings},
            cwd=log.parent,
            stdout=said,
            stderr=said,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(PATIENCE_S)


@pytest.mark.parametrize(
    ("qos", "version"),
    [
        (1, "3.1.1"),
        (2, "5"),
        pytest.param(1, "5", marks=pytest.mark.soak),
        pytest.param(2, "3.1.1", marks=pytest.mark.soak),
    ],
)
def test_each_message_is_processed_once_through_kills(
    quick_mosquitto: Mosquitto, tmp_path: Path, qos: int, version: str, chance: random.Random
) -> None:
    settings, log = f"qos={qos}&version={version}", tmp_path / "log"
    peer = Peer(quick_mosquitto, qos)

    def said() -> str:
        return (tmp_path / "said").read_text()[-3000:]

    with worker(log, quick_mosquitto, settings) as process:
        until(lambda: peer.answered(process), said)  # from now on the broker keeps what is sent
    for kill in range(KILLS):
        peer.send(range(kill * PORTION, (kill + 1) * PORTION))  # it waits at the broker, in the session
        goal = len(peer.came) + chance.randrange(1, PORTION // 2)
        with worker(log, quick_mosquitto, settings) as process:
            until(lambda: len(peer.came) >= goal or process.poll() is not None, said)  # noqa: B023
            assert process.poll() is None, said()
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)
    with worker(log, quick_mosquitto, settings) as process:
        peer.send(range(KILLS * PORTION, COUNT))
        until(lambda: len(set(peer.came)) > COUNT or process.poll() is not None, said)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, said()
    peer.close()

    async def seen() -> list[bytes | None]:
        async with opened(log) as held:
            return await values(held, TopicPartition("seen", 0))

    processed = Counter(int(value or 0) for value in asyncio.run(seen()))
    hellos = processed.pop(HELLO)
    twice = {number: times for number, times in processed.items() if times > 1}
    assert (len(processed), twice) == (COUNT, {}), "processed"
    out = Counter(peer.came)
    assert out.pop(HELLO) >= hellos
    print(f"QoS {qos}, {version}: {sum(out.values()) - COUNT} came twice")
    assert set(out) == set(range(COUNT))
    if qos == 2:
        assert sum(out.values()) == COUNT, {number: times for number, times in out.items() if times > 1}
        order = [number for number in peer.came if number % 10 == 3]
        assert order == sorted(order), "in order for each topic"
