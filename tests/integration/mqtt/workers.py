"""Processes that a test kills: MQTT into a file and a sequence of numbers into MQTT, each over a log that is a file.

What must live here: the least around ``Inflight`` and ``Outbox`` that is exactly once.  What must not: what a source
and a sink do besides.

    python -m tests.integration.mqtt.workers ingest <url> <version> <client id> <qos> <file>
    python -m tests.integration.mqtt.workers egress <url> <version> <client id> <qos> <file> <topic> <count>

The file holds commits, each a line of JSON, synced before anything is said of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from streams.connectors.mqtt.config import MqttConfig
from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.errors import ConnectionLost
from streams.connectors.mqtt.events import Event, Pong
from streams.connectors.mqtt.inflight import Batch, Inflight
from streams.connectors.mqtt.outbox import Outbox, Say
from streams.connectors.mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel, Suback, Subscription
from tests.integration.mqtt.helpers import config_of


class Log:
    """Commits in a file.  What a crash tore off is cut off."""

    def __init__(self, path: Path) -> None:
        self.commits = read(path)
        whole = "".join(json.dumps(each) + "\n" for each in self.commits)
        path.write_text(whole)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def deltas(self) -> list[bytes]:
        return [bytes.fromhex(each["delta"]) for each in self.commits]

    async def commit(self, delta: bytes, messages: list[str]) -> None:
        if delta or messages:
            # Slow, as a commit on another machine is: whoever speaks before it is durable is killed in between.
            await asyncio.sleep(0.005)
            line = json.dumps({"delta": delta.hex(), "messages": messages}) + "\n"
            os.write(self._file, line.encode())
            await asyncio.to_thread(os.fsync, self._file)


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


async def connection_for(state: Inflight | Outbox, log: Log, config: MqttConfig, client_id: str) -> Connection:
    while True:
        state.connecting()
        await commit_all(state, log)
        try:
            return await Connection.open(config, config.session(client_id, clean_start=False))
        except ConnectionLost as error:
            if error.before_connect:
                state.unsent()
            await asyncio.sleep(0.05)


async def commit_all(state: Inflight | Outbox, log: Log) -> Say:
    batch = state.take()
    if batch is None:
        return Say()
    await log.commit(batch.delta, [])
    if isinstance(batch, Batch):
        assert isinstance(state, Inflight)
        state.committed(batch)
        return Say()
    assert isinstance(state, Outbox)
    return state.committed(batch)


async def ingest(config: MqttConfig, client_id: str, qos: int, log: Log) -> None:
    inflight = Inflight(log.deltas())
    wanted = {client_id + "/#": qos}
    while True:
        connection = await connection_for(inflight, log, config, client_id)
        try:
            await take_in(connection, inflight, wanted, log)
        except ConnectionLost:
            connection.abort()


async def take_in(connection: Connection, inflight: Inflight, wanted: dict[str, int], log: Log) -> None:
    inflight.connected(connection.connected.session_present)
    await commit_all(inflight, log)
    add, _ = inflight.missing(wanted)
    if add:
        connection.subscribe(1, [Subscription(name, qos, retain_handling=1) for name, qos in add.items()])
    while True:
        fresh = []
        for event in await connection.events():
            if isinstance(event, Publish):
                if inflight.message(event):
                    fresh.append(event.payload.decode())
            elif isinstance(event, Pubrel):
                inflight.release(event.packet_id)
            elif isinstance(event, Pong):
                inflight.ponged(event.number)
            elif isinstance(event, Suback):
                inflight.subscribed(wanted)
        batch = inflight.take()
        if batch is None:
            continue
        await log.commit(batch.delta, fresh)
        acks = inflight.committed(batch)
        connection.puback(acks.pubacks)
        connection.pubrec(acks.pubrecs)
        connection.pubcomp(acks.pubcomps)
        if inflight.unpinged:
            inflight.pinged(connection.ping())


async def egress(config: MqttConfig, client_id: str, qos: int, log: Log, topic: str, count: int) -> None:
    outbox = Outbox(log.deltas())
    while True:
        connection = await connection_for(outbox, log, config, client_id)
        try:
            await send_out(connection, outbox, qos, log, topic, count)
            await connection.close()
            return
        except ConnectionLost:
            outbox.disconnected()
            connection.abort()


async def send_out(connection: Connection, outbox: Outbox, qos: int, log: Log, topic: str, count: int) -> None:
    waiting: list[tuple[int, int, bool]] = []

    def say(what: Say) -> None:
        connection.pubrel(what.pubrel)
        waiting.extend(what.publish)
        while waiting and connection.window:
            sequence, packet_id, dup = waiting.pop(0)
            connection.publish(Publish(topic, b"%d" % sequence, qos, False, dup, packet_id))

    say(outbox.connected(connection.connected.session_present))
    while outbox.position < count:
        while outbox.next_sequence < count and len(outbox) < connection.connected.send_maximum:
            outbox.assign(outbox.next_sequence, qos)
        say(await commit_all(outbox, log))
        if len(outbox):
            for event in await connection.events():
                answer(event, outbox)
            say(Say())
    await commit_all(outbox, log)


def answer(event: Event, outbox: Outbox) -> None:
    if isinstance(event, Puback):
        outbox.puback(event.packet_id)
    elif isinstance(event, Pubrec):
        outbox.pubrec(event.packet_id, event.reason)
    elif isinstance(event, Pubcomp):
        outbox.pubcomp(event.packet_id)


def main(what: str, url: str, version: str, client_id: str, qos: str, path: str, *rest: str) -> None:
    config, log = config_of(url, int(version), receive_maximum=100), Log(Path(path))
    if what == "ingest":
        asyncio.run(ingest(config, client_id, int(qos), log))
    else:
        asyncio.run(egress(config, client_id, int(qos), log, rest[0], int(rest[1])))


if __name__ == "__main__":
    main(*sys.argv[1:])
