"""aiomqtt; runs in an environment of its own.

consume   ``async for``; acknowledgements are its own affair
publish   ``gather`` over as many as paho, which is inside, has in flight by default

It speaks 3.1.1, its default.  ``-uvloop``: on uvloop, as ours is; else on the event loop that Python comes with.
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

AT_ONCE = 20


async def consume(options: argparse.Namespace, client: Any, meter: work.Meter) -> None:
    taken, tell = load.Taken(options.messages, meter), load.progress_topic(options.topic)
    async with client:
        await client.subscribe(options.topic, options.qos)
        await client.publish(tell, taken.progress)
        async for message in client.messages:
            if taken.take(message.payload):
                await client.publish(tell, taken.progress)
            if taken.done:
                break
    meter.end()
    taken.check(options.qos)


async def publish(options: argparse.Namespace, client: Any, meter: work.Meter) -> None:
    payloads, topic, qos = load.payloads(options.messages), options.topic, options.qos
    client.pending_calls_threshold = AT_ONCE  # beyond, it warns at each call
    async with client:
        meter.begin()
        for start in range(0, len(payloads), AT_ONCE):
            await asyncio.gather(*(client.publish(topic, each, qos) for each in payloads[start : start + AT_ONCE]))
    meter.end()


async def run(options: argparse.Namespace, meter: work.Meter) -> None:
    import aiomqtt

    client = aiomqtt.Client(options.host, options.port, identifier=options.name, clean_session=False)
    await {"consume": consume, "publish": publish}[options.work.partition("-")[0]](options, client, meter)


def main() -> None:
    options = load.options("consume", "publish", "consume-uvloop", "publish-uvloop")
    meter = work.Meter()
    (uvloop.run if options.work.endswith("-uvloop") else asyncio.run)(run(options, meter))
    meter.report(options.messages)


if __name__ == "__main__":
    main()
