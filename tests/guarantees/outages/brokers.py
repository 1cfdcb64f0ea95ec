"""A broker of each kind with the network before it, and the other side of the app that runs on it.

What must live here: processes, URLs, sending input and reading results without our connectors.  What must not: what
goes wrong (``faults``), what is expected then (``endurance``).

The app's input is the numbers from 0 on, its result how many with the same last digit have come so far.  Both go
between a ground's own clients and the broker directly; only workers go through the network.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from tests.brokers.kafka.admin import blocking, create_topic
from tests.brokers.kafka.proxied import ProxiedKafka
from tests.brokers.mqtt.server import Mosquitto
from tests.brokers.nats.server import NatsServer
from tests.brokers.ports import free_port
from tests.guarantees.jetstream import outsider
from tests.guarantees.kafka import pipeline
from tests.guarantees.kafka.fleet import SETTINGS
from tests.guarantees.kafka.verifier import Verifier
from tests.guarantees.mqtt.peer import Peer
from tests.guarantees.outages.app import KEYS
from tests.guarantees.outages.network import Network
from tests.guarantees.support import wait_for

__all__ = ["GROUNDS", "Broker", "Ground", "Result"]

Result = tuple[int, int]
"""A number, and how many with its last digit have come with it."""
PARTITIONS = 2
INPUT, OUTPUT = "numbers", "counted"
QUIET_S = 0.5
"""A broker that has changed nothing for so long has nothing under way with its clients."""


class Broker(Protocol):
    """A process on a port that stays the same."""

    def start(self) -> object:
        """It is in order when this returns."""

    def kill(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Ground(Protocol):
    """log, env: where workers find it.  backlog: so many numbers keep them busy for a moment.  repeats: faults after
    which the broker by itself may send some again that it has been told of: they are counted twice, and that is all."""

    @property
    def backlog(self) -> int: ...

    @property
    def repeats(self) -> Collection[str]: ...

    @property
    def broker(self) -> Broker: ...

    @property
    def network(self) -> Network: ...

    @property
    def log(self) -> str: ...

    @property
    def env(self) -> Mapping[str, str]: ...

    def send(self, numbers: Sequence[int]) -> None:
        """Each once, in order; while the broker is there."""

    def take(self) -> list[Result]:
        """The results that have come since the last call; while the broker is there."""


# ── Kafka, as the log ───────────────────────────────────────────────────────────────────────────────────────────────


class KafkaGround:
    backlog = 800
    repeats: Collection[str] = ()

    def __init__(self, broker: ProxiedKafka, network: Network) -> None:
        self.broker, self.network = broker, network
        self.log = f"kafka://{broker.proxied}?{SETTINGS}&connect_timeout_ms=2000&request_timeout_ms=4000"
        self.env: Mapping[str, str] = {}
        self._verifier = Verifier(broker.bootstrap, [OUTPUT])

    def send(self, numbers: Sequence[int]) -> None:
        now_ms = int(time.time() * 1000)
        pipeline.send(self.broker.bootstrap, INPUT, [(str(n % KEYS), b"%d" % n, now_ms) for n in numbers])

    def take(self) -> list[Result]:
        self._verifier.look()
        return [_result(value or b"") for _, _, value in self._verifier.found.pop(OUTPUT, [])]


@contextmanager
def kafka_ground(folder: Path) -> Iterator[KafkaGround]:
    broker = ProxiedKafka()
    with broker, Network(broker.proxy_port, broker.upstream_port) as network:
        blocking(create_topic(broker.client, INPUT, PARTITIONS))
        yield KafkaGround(broker, network)


# ── JetStream, as the log ───────────────────────────────────────────────────────────────────────────────────────────


class JetStreamGround:
    backlog = 800
    repeats: Collection[str] = ()

    def __init__(self, broker: NatsServer, network: Network) -> None:
        self.broker, self.network = broker, network
        self.log = (
            f"nats://127.0.0.1:{network.front}?session_timeout_ms=2000&request_timeout_ms=2000&ping_interval_ms=1000"
        )
        self.env: Mapping[str, str] = {}
        self._outsider = outsider.Outsider(broker.url, [OUTPUT])

    def send(self, numbers: Sequence[int]) -> None:
        now_ms = int(time.time() * 1000)
        self._outsider.send([outsider.message(INPUT, PARTITIONS, str(n % KEYS), b"%d" % n, now_ms) for n in numbers])

    def take(self) -> list[Result]:
        self._outsider.look()
        found = self._outsider.found[OUTPUT]
        taken = [(int(value["n"]), int(value["count"])) for _, _, value in found]
        found.clear()
        return taken


@contextmanager
def jetstream_ground(folder: Path) -> Iterator[JetStreamGround]:
    broker = NatsServer(folder / "nats")
    broker.start()
    try:
        with Network(free_port(), broker.port) as network:
            outsider.create_topic(broker.url, INPUT, PARTITIONS)
            yield JetStreamGround(broker, network)
    finally:
        broker.kill()


# ── Mosquitto, as source and sink of an app on the embedded log ─────────────────────────────────────────────────────


class KeptMosquitto(Mosquitto):
    """Killed only when all that it has acknowledged is on disk.

    It writes when a message is queued or gone, and not when one is received (PUBREC, in either direction): killed in
    between it loses or repeats by itself what nobody else can make good.  SIGUSR1 makes it write.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.file = folder / "mosquitto.db"

    def kill(self) -> None:
        """Nothing may come from workers any more; what the tests' own client is still to be told, it is told before."""
        held, since = self._written(), time.monotonic()
        while time.monotonic() < since + QUIET_S:
            time.sleep(0.05)
            now = self._written()
            if now != held:
                held, since = now, time.monotonic()
        super().kill()

    def _written(self) -> bytes:
        """What it holds at this moment."""
        known = self.file.stat().st_mtime_ns if self.file.exists() else 0
        os.kill(self.pid, signal.SIGUSR1)
        wait_for(lambda: self.file.exists() and self.file.stat().st_mtime_ns != known, "mosquitto to write")
        return self.file.read_bytes()


class MosquittoGround:
    backlog = 200
    """The broker writes all that it holds for each message."""
    repeats: Collection[str] = ("kill", "stop")
    """Mosquitto 2.0.11 forgets that it has sent PUBREL when it is connected to again before it could send it once more:
    it sends the message itself again, whose identifier the worker has forgotten behind its PUBCOMP."""

    def __init__(self, broker: KeptMosquitto, network: Network, folder: Path) -> None:
        self.broker, self.network = broker, network
        self.log = f"embedded:{folder / 'log'}"
        url, settings = f"mqtt://127.0.0.1:{network.front}", "qos=2&keep_alive_s=4&answer_timeout_s=2"
        self.env = {"INPUT": f"{url}/in/+?{settings}", "OUTPUT": f"{url}/out?{settings}"}
        self._peer = Peer(broker, 2, _result)
        self._taken = 0

    def send(self, numbers: Sequence[int]) -> None:
        self._peer.send(numbers)

    def take(self) -> list[Result]:
        came = self._peer.came[self._taken :]
        self._taken += len(came)
        return came

    def close(self) -> None:
        self._peer.close()


@contextmanager
def mosquitto_ground(folder: Path) -> Iterator[MosquittoGround]:
    broker = KeptMosquitto(folder / "mosquitto")
    broker.start()
    try:
        with Network(free_port(), broker.port) as network:
            ground = MosquittoGround(broker, network, folder)
            try:
                yield ground
            finally:
                ground.close()
    finally:
        broker.stop()


def _result(value: bytes) -> Result:
    found = json.loads(value)
    return int(found["n"]), int(found["count"])


GROUNDS: Mapping[str, Callable[[Path], AbstractContextManager[Ground]]] = {
    "kafka": kafka_ground,
    "nats": jetstream_ground,
    "mqtt": mosquitto_ground,
}
