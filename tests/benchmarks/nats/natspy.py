"""nats-py: the loop that a user writes with it, and what it can do alone.

    keyed              fetch(500), typed decode, a dict, publish_async, then the acks: at least once, and the counts are
                       gone when it stops
    keyed-asyncio      the same on the event loop that Python comes with
    consume            fetch(500) from a consumer that wants no acks
    consume-callback   an ordered consumer with a callback, the cheapest that nats-py has
    publish            publish_async, with as many under way as it allows
    publish-waited     publish, each waited for

The codec is the one that ours uses, and the event loop is uvloop, so that what differs is the client.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from typing import Any

import nats
import uvloop
from nats.js.api import AckPolicy, ConsumerConfig

from tests.benchmarks.common import work

FETCH = 500
PATIENCE_S = 60.0


async def keyed(options: argparse.Namespace, jetstream: Any, meter: work.Meter) -> None:
    decode, encode = work.decoder(options.size), work.encode
    consumer = await jetstream.pull_subscribe(f"{options.input}.0", durable=options.name, stream=options.input)
    to = f"{options.output}.0"
    counts: dict[str, int] = defaultdict(int)
    seen = 0
    while seen < options.messages:
        messages = await consumer.fetch(FETCH, timeout=PATIENCE_S)
        meter.begin()
        published = []
        for message in messages:
            user = decode(message.data).user
            counts[user] += 1
            published.append(await jetstream.publish_async(to, encode({"user": user, "count": counts[user]})))
        await asyncio.gather(*published)
        for message in messages:
            await message.ack()
        seen += len(messages)
    await jetstream._nc.flush(PATIENCE_S)
    meter.end()


async def consume(options: argparse.Namespace, jetstream: Any, meter: work.Meter) -> None:
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    consumer = await jetstream.pull_subscribe(
        f"{options.input}.0", durable=options.name, stream=options.input, config=config
    )
    seen = 0
    while seen < options.messages:
        messages = await consumer.fetch(FETCH, timeout=PATIENCE_S)
        meter.begin()
        seen += len(messages)
    meter.end()


async def consume_by_callback(options: argparse.Namespace, jetstream: Any, meter: work.Meter) -> None:
    done = asyncio.Event()
    seen = 0

    async def take(message: Any) -> None:
        nonlocal seen
        if not seen:
            meter.begin()
        seen += 1
        if seen == options.messages:
            done.set()

    await jetstream.subscribe(f"{options.input}.0", stream=options.input, cb=take, ordered_consumer=True)
    await done.wait()
    meter.end()


async def publish(options: argparse.Namespace, jetstream: Any, meter: work.Meter) -> None:
    payloads = [value for _, value in work.orders(options.size, options.messages)]
    to = f"{options.output}.0"
    meter.begin()
    answers = [await jetstream.publish_async(to, payload) for payload in payloads]
    await asyncio.gather(*answers)
    meter.end()


async def publish_waited(options: argparse.Namespace, jetstream: Any, meter: work.Meter) -> None:
    payloads = [value for _, value in work.orders(options.size, options.messages)]
    to = f"{options.output}.0"
    meter.begin()
    for payload in payloads:
        await jetstream.publish(to, payload)
    meter.end()


WORK = {
    "keyed": keyed,
    "keyed-asyncio": keyed,
    "consume": consume,
    "consume-callback": consume_by_callback,
    "publish": publish,
    "publish-waited": publish_waited,
}


async def run(options: argparse.Namespace, meter: work.Meter) -> None:
    connection = await nats.connect(options.server)
    await WORK[options.work](options, connection.jetstream(), meter)
    await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=list(WORK))
    parser.add_argument("--server", required=True)
    parser.add_argument("--name", required=True, help="of its consumer")
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--size", choices=list(work.TYPES), default="small")
    parser.add_argument("--messages", type=int, required=True)
    options = parser.parse_args()
    meter = work.Meter()
    start = asyncio.run if options.work == "keyed-asyncio" else uvloop.run
    start(run(options, meter))
    meter.report(options.messages)


if __name__ == "__main__":
    main()
