"""Whatever a broken connection raises on the loop of workers is an outage, which passes; real sockets, uvloop."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from streams.connectors.mqtt.config import MqttConfig
from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.packets import Publish
from streams.errors import ServiceUnavailable
from tests.connectors.mqtt.fake import Peer, broker
from tests.connectors.mqtt.test_websocket import Server
from tests.stages import rounds

PATIENCE_S = 120
SCHEMES = pytest.mark.parametrize("scheme", ["mqtt", "ws"])


def reset(peer: Peer) -> None:
    """End it so that the other side reads "connection reset", now."""
    writer = peer._writer
    if not writer.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


async def accept(peer: Peer, scheme: str) -> None:
    await (peer if scheme == "mqtt" else Server(peer)).accept()


async def opened(config: MqttConfig, scheme: str) -> Connection:
    config = replace(config, scheme=scheme)
    return await Connection.open(config, config.session("me", clean_start=True))


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scene

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


@SCHEMES
def test_a_connection_that_was_reset_is_written_to_and_closed_without_another_error(scheme: str) -> None:
    async def serve(peer: Peer) -> None:
        await accept(peer, scheme)
        reset(peer)

    async def scene() -> None:
        async with broker(serve) as config:
            connection = await opened(config, scheme)
            with pytest.raises(ServiceUnavailable):
                await connection.events()
            await asyncio.sleep(0)  # now uvloop has closed the socket, too
            assert connection._transport is not None
            connection._transport.write(b"late")
            connection._transport.pause_reading()
            connection._transport.resume_reading()
            await connection.drain()
            await connection.close()
            connection.abort()

    play(scene())


@SCHEMES
def test_cuts_at_any_moment_are_errors_that_pass_and_nothing_else(scheme: str) -> None:
    chance = random.Random(5)

    async def serve(peer: Peer) -> None:
        turns = chance.randrange(40)
        accepting = asyncio.ensure_future(accept(peer, scheme))
        for _ in range(turns):
            await asyncio.sleep(0)
        reset(peer)
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)

    async def use(connection: Connection) -> None:
        while True:
            connection.publish(Publish("a", bytes(chance.choice((1, 100_000)))))
            match chance.randrange(4):
                case 0:
                    await connection.drain()
                case 1:
                    connection.ping()
                case 2:
                    await asyncio.sleep(0)
                case _:
                    await connection.events()

    async def scene() -> None:
        async with broker(serve) as config:
            for _ in range(rounds(60, 5000)):
                connection: Connection | None = None
                try:
                    connection = await opened(config, scheme)
                    await use(connection)
                except ServiceUnavailable:
                    continue
                finally:
                    if connection is not None:
                        await connection.close()

    play(scene())
