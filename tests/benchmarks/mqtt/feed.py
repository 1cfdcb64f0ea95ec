"""Feeds a consumer: publishes what it is to get, never far ahead of it.

Says ``ready`` when it hears how far the consumer is, and ends when everything is sent and acknowledged.  What must not
live here: anything that is measured.

Never far ahead, since mosquitto 2.0.11 gets slower with each message that waits to be acknowledged at QoS 2: it goes
through all of them for each acknowledgement, and sends more of them than it was allowed to.
"""

from __future__ import annotations

import asyncio
from collections import deque

import uvloop

from streams.connectors.mqtt.events import Pong
from streams.connectors.mqtt.packets import Puback, Pubcomp, Publish, Pubrec
from tests.benchmarks.mqtt import load
from tests.benchmarks.mqtt.ours import opened, subscribed

CHUNK = 200


async def main() -> None:
    options = load.options("feed")
    connection = await opened(options)
    await subscribed(connection, load.progress_topic(options.topic), 0)
    print("ready", flush=True)
    payloads, qos, topic = load.payloads(options.messages), options.qos, options.topic
    free = deque(range(1, connection.window + 1))
    sent, limit, in_flight = 0, 0, 0
    while sent < len(payloads) or in_flight:
        room = min(CHUNK, limit - sent, len(free) if qos else CHUNK)
        for payload in payloads[sent : sent + max(0, room)]:
            sent += 1
            packet_id = free.popleft() if qos else 0
            connection.publish(Publish(topic, payload, qos, packet_id=packet_id))
            in_flight += 1 if qos else 0
        if room > 0 and not qos:
            await asyncio.sleep(0)  # what was sent is written when the loop turns
            await connection.drain()
            if sent < limit:
                continue
        for event in await connection.events() if sent < len(payloads) or in_flight else ():
            if isinstance(event, Publish):
                limit = int(event.payload) + load.AHEAD
            elif isinstance(event, Pubrec):
                connection.pubrel([event.packet_id])
            elif isinstance(event, Puback | Pubcomp):
                free.append(event.packet_id)
                in_flight -= 1
    connection.ping()
    while not any(isinstance(event, Pong) for event in await connection.events()):
        pass  # closed with something unread, the broker might not get the rest
    await connection.close()


if __name__ == "__main__":
    uvloop.run(main())
