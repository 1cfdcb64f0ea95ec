"""MQTT over WebSocket against a server that misbehaves, over real sockets of the loopback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from streams.connectors.mqtt.config import MqttConfig, parse_url
from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.decoder import Decoder
from streams.connectors.mqtt.encoder import encode, encode_publish
from streams.connectors.mqtt.errors import ConnectionLost, Refused
from streams.connectors.mqtt.packets import MQTT_5, Connack, Connect, Packet, Puback, Publish
from streams.errors import ConfigurationError
from tests.connectors.mqtt.fake import Peer, broker

PATIENCE_S = 60.0


class Server:
    """The server's end of a WebSocket."""

    def __init__(self, peer: Peer) -> None:
        self.peer, self.frames = peer, WSConnection(ConnectionType.SERVER)
        self.decoder = Decoder(None, max_packet_bytes=2**20)
        self.pongs = 0

    async def packets(self) -> list[Packet]:
        """What the next data holds; the answer to the handshake is given here too."""
        data = await self.peer._reader.read(65536)
        self.frames.receive_data(data or None)
        found: list[Packet] = []
        for event in self.frames.events():
            if isinstance(event, Request):
                assert event.subprotocols == ["mqtt"]
                await self.peer.say_raw(self.frames.send(AcceptConnection(subprotocol="mqtt")))
            elif isinstance(event, BytesMessage):
                found += self.decoder.feed(bytes(event.data))
            elif isinstance(event, Pong):
                self.pongs += 1
            elif isinstance(event, CloseConnection):
                raise ConnectionResetError
        return found

    async def packet(self) -> Packet:
        while not (found := await self.packets()):
            pass
        return found[0]

    async def accept(self) -> None:
        assert isinstance(await self.packet(), Connect)
        await self.say(encode(Connack(), MQTT_5))

    async def say(self, data: bytes) -> None:
        await self.peer.say_raw(self.frames.send(BytesMessage(data)))


async def opened(config: MqttConfig) -> Connection:
    config = replace(config, scheme="ws")
    return await Connection.open(config, config.session("me", clean_start=True))


def end_of(behave: Callable[[Server], Awaitable[None]]) -> Exception:
    """How a connection ends to a server that does this once it has accepted."""

    async def serve(peer: Peer) -> None:
        server = Server(peer)
        await server.accept()
        await behave(server)

    async def main() -> Exception:
        async with broker(serve) as config:
            connection = await opened(config)
            with pytest.raises(ConnectionLost, match=r"mqtt://") as caught:
                await asyncio.wait_for(connection.events(), PATIENCE_S)
            await connection.close()
        return caught.value

    return asyncio.run(main())


def test_packets_may_be_cut_into_frames_anywhere() -> None:
    messages = [Publish("a", bytes(number)) for number in range(50)]
    wire = b"".join(encode_publish(each, MQTT_5) for each in messages)

    async def serve(peer: Peer) -> None:
        server = Server(peer)
        await server.accept()
        for at in range(0, len(wire), 13):
            await server.say(wire[at : at + 13])
        await server.peer.say_raw(server.frames.send(Ping(b"there?")))
        assert await server.packet() == Puback(5)
        assert server.pongs == 1

    async def main() -> None:
        found: list[object] = []
        async with broker(serve) as config:
            connection = await opened(config)
            async with asyncio.timeout(PATIENCE_S):
                while len(found) < len(messages):
                    found += await connection.events()
            connection.puback([5])
            with pytest.raises(ConnectionLost):
                await connection.events()
            await connection.close()
        assert found == messages

    asyncio.run(main())


def test_text_is_no_mqtt() -> None:
    async def behave(server: Server) -> None:
        await server.peer.say_raw(server.frames.send(TextMessage("hello")))
        await server.peer.ended()

    error = end_of(behave)
    assert isinstance(error, ConnectionLost)
    assert "text" in str(error)


def test_frames_that_are_none_are_an_error_of_ours() -> None:
    async def behave(server: Server) -> None:
        await server.peer.say_raw(b"\xff" * 50)
        await server.peer.ended()

    error = end_of(behave)
    assert isinstance(error, ConnectionLost)
    assert "1002" in str(error)


def test_a_server_that_closes_is_a_connection_that_ends() -> None:
    async def behave(server: Server) -> None:
        await server.peer.say_raw(server.frames.send(CloseConnection(1001)))
        await server.peer.ended()

    error = end_of(behave)
    assert isinstance(error, ConnectionLost)
    assert "1001" in str(error)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Refused),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", ConnectionLost),
        (b"\x20\x02\x00\x00", ConnectionLost),
        (b"", ConnectionLost),
    ],
)
def test_a_server_that_opens_no_websocket(answer: bytes, kind: type[Exception]) -> None:
    async def serve(peer: Peer) -> None:
        await peer._reader.readuntil(b"\r\n\r\n")
        await peer.say_raw(answer)

    async def main() -> None:
        async with broker(serve) as config:
            with pytest.raises(kind, match=r"127\.0\.0\.1"):
                await opened(config)

    asyncio.run(main())


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "streams.connectors.mqtt.websocket", raising=False)
    monkeypatch.setitem(sys.modules, "wsproto", None)
    with pytest.raises(ConfigurationError, match=r"streams-log\[mqtt\]"):
        asyncio.run(opened(parse_url("ws://127.0.0.1:1")))
