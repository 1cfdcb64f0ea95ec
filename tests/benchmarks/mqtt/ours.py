"""Our client alone: the connection that a source and an outbox of ours have, on uvloop as in a worker.

consume   acknowledges as messages come, all of a batch at once
publish   as many in flight as the broker takes
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque

import uvloop

from streams.connectors.mqtt.config import parse_url
from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel, Suback, Subscription
from tests.benchmarks.common import work
from tests.benchmarks.mqtt import load


async def opened(options: argparse.Namespace) -> Connection:
    config = parse_url(options.server)
    return await Connection.open(config, config.session(options.name, clean_start=False))


async def subscribed(connection: Connection, topic: str, qos: int) -> None:
    """Returns when the broker has answered; nothing else may come meanwhile."""
    connection.subscribe(1, [Subscription(topic, qos)])
    (answer,) = await connection.events()
    assert isinstance(answer, Suback), answer
    assert answer.reasons == (qos,), answer


async def consume(options: argparse.Namespace, meter: work.Meter) -> None:
    connection = await opened(options)
    await subscribed(connection, options.topic, options.qos)
    taken, qos, tell = load.Taken(options.messages, meter), options.qos, load.progress_topic(options.topic)
    connection.publish(Publish(tell, taken.progress))
    while not taken.done or connection.unacked:
        events = await connection.events()
        messages = [event for event in events if type(event) is Publish]
        if messages and taken.take_all([message.payload for message in messages]):
            connection.publish(Publish(tell, taken.progress))
        if qos == 1:
            connection.puback([message.packet_id for message in messages])
        elif qos == 2:
            connection.pubrec([message.packet_id for message in messages])
            connection.pubcomp([event.packet_id for event in events if type(event) is Pubrel])
    await connection.close()
    meter.end()
    taken.check(qos)


async def publish(options: argparse.Namespace, meter: work.Meter) -> None:
    connection = await opened(options)
    payloads, topic, qos = load.payloads(options.messages), options.topic, options.qos
    meter.begin()
    if qos:
        await publish_acknowledged(connection, topic, qos, payloads)
    else:
        for start in range(0, len(payloads), load.WINDOW):
            for payload in payloads[start : start + load.WINDOW]:
                connection.publish(Publish(topic, payload))
            await asyncio.sleep(0)  # what was sent is written when the loop turns
            await connection.drain()
    await connection.close()
    meter.end()


async def publish_acknowledged(connection: Connection, topic: str, qos: int, payloads: list[bytes]) -> None:
    """At QoS 1 and 2; returns when all handshakes are over."""
    free = deque(range(1, connection.window + 1))
    sent, open_ids = 0, 0
    while sent < len(payloads) or open_ids:
        for payload in payloads[sent : sent + len(free)]:
            connection.publish(Publish(topic, payload, qos, packet_id=free.popleft()))
            sent += 1
            open_ids += 1
        events = await connection.events()
        over = [event.packet_id for event in events if type(event) is Puback or type(event) is Pubcomp]
        if qos == 2:
            connection.pubrel([event.packet_id for event in events if type(event) is Pubrec])
        free.extend(over)
        open_ids -= len(over)


def main() -> None:
    options = load.options("consume", "publish")
    meter = work.Meter()
    uvloop.run({"consume": consume, "publish": publish}[options.work](options, meter))
    meter.report(options.messages)


if __name__ == "__main__":
    main()
