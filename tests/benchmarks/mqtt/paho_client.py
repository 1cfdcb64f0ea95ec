"""paho-mqtt; runs in an environment of its own.

All on one thread, by ``loop_forever``: a thread of its own for the loop saves nothing.  It speaks 3.1.1, its default.

consume   a callback; acknowledgements are its own affair.  With 0 messages: subscribes, and leaves the session
publish   QoS 1 and 2: a window in flight, the next message from the callback that tells of one that is over
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.benchmarks.common import work
from tests.benchmarks.mqtt import load

IN_FLIGHT = 20
"""Its default.  It goes through all that is in flight at each acknowledgement, so that more take longer."""


def client_of(options: argparse.Namespace) -> mqtt.Client:
    return mqtt.Client(CallbackAPIVersion.VERSION2, client_id=options.name, clean_session=False)


def consume(options: argparse.Namespace, meter: work.Meter) -> None:
    client, taken, tell = client_of(options), load.Taken(options.messages, meter), load.progress_topic(options.topic)

    def on_connect(*_: Any) -> None:
        client.subscribe(options.topic, options.qos)

    def on_subscribe(*_: Any) -> None:
        if not options.messages:
            client.disconnect()
        client.publish(tell, taken.progress)

    def on_message(_: Any, __: Any, message: mqtt.MQTTMessage) -> None:
        if taken.take(bytes(message.payload)):
            client.publish(tell, taken.progress)

    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.connect(options.host, options.port)
    if options.messages:
        while not taken.done:  # as loop_forever does; from the callback, DISCONNECT would overtake the last PUBACK
            client.loop()
        client.disconnect()
    client.loop_forever()
    if options.messages:
        meter.end()
    taken.check(options.qos)


def publish(options: argparse.Namespace, meter: work.Meter) -> None:
    client, topic, qos = client_of(options), options.topic, options.qos
    left: Iterator[bytes] = iter(load.payloads(options.messages))
    over = 0

    def on_connect(*arguments: Any) -> None:
        meter.begin()
        for _ in range(IN_FLIGHT):
            send()

    def send() -> None:
        payload = next(left, None)
        if payload is not None:
            client.publish(topic, payload, qos)

    def on_publish(*_: Any) -> None:
        nonlocal over
        over += 1
        if over == options.messages:
            client.disconnect()
        send()

    client.on_connect, client.on_publish = on_connect, on_publish
    client.connect(options.host, options.port)
    client.loop_forever()
    meter.end()


def main() -> None:
    options = load.options("consume", "publish")
    meter = work.Meter()
    {"consume": consume, "publish": publish}[options.work](options, meter)
    if options.messages:
        meter.report(options.messages)
    else:
        print("{}")


if __name__ == "__main__":
    main()
