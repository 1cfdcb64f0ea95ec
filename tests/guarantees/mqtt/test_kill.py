"""Messages from MQTT through an app to MQTT, with workers that are killed: each is processed once, and at
QoS 2 each goes out once.  paho, which knows nothing of us, sends and counts."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.core.record import TopicPartition
from streams.testing.source_contract import values
from tests.brokers.mqtt.server import Mosquitto
from tests.guarantees.mqtt.peer import Peer
from tests.guarantees.support import PATIENCE_S, opened
from tests.stages import rounds

APP = Path(__file__).with_name("relay.py")
KILLS = rounds(7, 25)
PORTION = 770
"""How many messages are sent in each life of a worker."""
COUNT = PORTION * (KILLS + 1)
HELLO = COUNT


def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.002)


def answered(peer: Peer[int], process: subprocess.Popen[bytes]) -> bool:
    """Whether an app listens: it is asked until something comes back."""
    assert process.poll() is None
    peer.send(range(HELLO, HELLO + 1))
    time.sleep(0.05)
    return bool(peer.came)


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
    peer = Peer(quick_mosquitto, qos, int)

    def said() -> str:
        return (tmp_path / "said").read_text()[-3000:]

    with worker(log, quick_mosquitto, settings) as process:
        until(lambda: answered(peer, process), said)  # from now on the broker keeps what is sent
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
