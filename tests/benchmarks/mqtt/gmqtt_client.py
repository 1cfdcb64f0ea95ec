"""gmqtt; runs in an environment of its own.

consume   a callback; acknowledgements are its own affair, and go out before the callback, as is its default
publish   QoS 1 and 2: a window, until its storage of what is in flight is empty; then the next

It speaks MQTT 5, its default, and runs on uvloop, as ours does.
"""

# The package is installed in the peer's environment only.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import uvloop

from tests.benchmarks.common import work
from tests.benchmarks.mqtt import load

WINDOW = load.WINDOW // 2
"""It has one identifier less than the broker takes in flight."""


async def consume(options: argparse.Namespace, client: Any, meter: work.Meter) -> None:
    taken, tell, done = load.Taken(options.messages, meter), load.progress_topic(options.topic), asyncio.Event()
    answered = asyncio.Event()

    def on_subscribe(*_: Any) -> None:
        if not taken.done:
            client.publish(tell, taken.progress)
        else:
            answered.set()

    def on_message(_: Any, __: str, payload: bytes, ___: int, ____: Any) -> int:
        if taken.take(payload):
            client.publish(tell, taken.progress)
        if taken.done:
            done.set()
        return 0

    client.on_subscribe, client.on_message = on_subscribe, on_message
    await client.connect(options.host, options.port)
    client.subscribe(options.topic, options.qos)
    await done.wait()
    # At QoS 2 it hands out messages before their handshakes are over, and doesn't say when they are: the answer to this
    # comes behind the last PUBREL.
    client.subscribe(options.topic, options.qos)
    await answered.wait()
    await client.disconnect()
    meter.end()
    taken.check(options.qos)


async def publish(options: argparse.Namespace, client: Any, storage: Any, meter: work.Meter) -> None:
    payloads, topic, qos = load.payloads(options.messages), options.topic, options.qos
    await client.connect(options.host, options.port)
    meter.begin()
    for start in range(0, len(payloads), WINDOW):
        for payload in payloads[start : start + WINDOW]:
            client.publish(topic, payload, qos)
        await (storage.wait_empty() if qos else asyncio.sleep(0))
    await client.disconnect()
    meter.end()


async def run(options: argparse.Namespace, meter: work.Meter) -> None:
    import gmqtt
    from gmqtt.storage import PersistentStorage

    storage = PersistentStorage()
    session = {"clean_session": False, "session_expiry_interval": 3600}
    client = gmqtt.Client(options.name, persistent_storage=storage, **session)
    if options.work == "consume":
        await consume(options, client, meter)
    else:
        await publish(options, client, storage, meter)


def main() -> None:
    options = load.options("consume", "publish")
    meter = work.Meter()
    uvloop.run(run(options, meter))
    meter.report(options.messages)


if __name__ == "__main__":
    main()
