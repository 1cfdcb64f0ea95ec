"""A client of paho's, which knows nothing of us: sends numbers over MQTT and keeps what comes back.

What must live here: that.  What must not: workers, or what is expected of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.brokers.mqtt.server import Mosquitto
from tests.guarantees.support import PATIENCE_S, wait_for

T = TypeVar("T")
LANES = 10


class Peer(Generic[T]):
    """Its session outlives its connections, and it connects again by itself.  came: what came on ``out``, decoded."""

    def __init__(self, broker: Mosquitto, qos: int, decode: Callable[[bytes], T]) -> None:
        self.came: list[T] = []
        self._qos = qos
        self._decode = decode
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "peer", clean_session=False)
        self._client.max_inflight_messages_set(20)
        self._client.max_queued_messages_set(0)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._hear
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._client.subscribe("out", qos)
        assert subscribed.wait(PATIENCE_S)

    def _hear(self, client: Any, userdata: Any, message: paho.MQTTMessage) -> None:
        self.came.append(self._decode(bytes(message.payload)))

    def send(self, numbers: Iterable[int]) -> None:
        """Each to ``in/`` and its last digit.  The broker has them all when this returns."""
        wait_for(self._client.is_connected, "the broker to have the tests' client again")
        sent = [self._client.publish(f"in/{number % LANES}", b"%d" % number, self._qos) for number in numbers]
        for each in sent:
            each.wait_for_publish(PATIENCE_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
