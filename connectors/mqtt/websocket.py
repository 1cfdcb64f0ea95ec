"""MQTT over WebSocket (MQTT 5, section 6): a transport on top of the one over TCP or TLS.

What must live here: frames to bytes and back, by wsproto, which has no I/O either.  What must not: sockets, MQTT.

A frame may hold any number of packets, or a part of one: what is in it is handed on as it comes, and never collected.
"""

from __future__ import annotations

import asyncio

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from streams.connectors.mqtt.config import MqttConfig
from streams.connectors.mqtt.errors import ConnectionLost, Refused
from streams.connectors.mqtt.reasons import Reason
from streams.connectors.mqtt.transport import OnData, OnLost, Transport, open_stream
from streams.errors import StreamsError

__all__ = ["open_websocket"]


class _WebSocket:
    """Before the server has accepted it, what goes wrong ends ``opened``; afterwards it ends the connection."""

    def __init__(self, config: MqttConfig, on_data: OnData, on_lost: OnLost) -> None:
        self._config, self._on_data, self._on_lost = config, on_data, on_lost
        self._frames = WSConnection(ConnectionType.CLIENT)
        self._stream: Transport | None = None
        self._failed: StreamsError | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        self._stream = await open_stream(self._config, self._received, self._lost)
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        request = Request(host=f"{host}:{self._config.port}", target=self._config.path, subprotocols=["mqtt"])
        try:
            self._stream.write(self._frames.send(request))
            await self.opened
        except BaseException:
            self._stream.abort()
            raise

    def write(self, data: bytes) -> None:
        if self._frames.state is ConnectionState.OPEN:  # else the server has said goodbye: nobody would read it
            self._below().write(self._frames.send(BytesMessage(data)))

    async def drain(self) -> None:
        await self._below().drain()

    def pause_reading(self) -> None:
        self._below().pause_reading()

    def resume_reading(self) -> None:
        self._below().resume_reading()

    def close(self) -> None:
        if self._frames.state is ConnectionState.OPEN:
            self._below().write(self._frames.send(CloseConnection(1000)))
        self._below().close()

    def abort(self) -> None:
        self._below().abort()

    def _below(self) -> Transport:
        assert self._stream is not None
        return self._stream

    def _received(self, data: bytes) -> None:
        try:
            self._frames.receive_data(data)
            for event in self._frames.events():
                if isinstance(event, BytesMessage):
                    self._on_data(bytes(event.data))
                else:
                    self._handle(event)
        except RemoteProtocolError as error:
            self._fail(ConnectionLost(f"{self._config.shown}: what came is no WebSocket: {error}"))

    def _handle(self, event: object) -> None:
        if isinstance(event, Ping):
            self._below().write(self._frames.send(event.response()))
        elif isinstance(event, AcceptConnection):
            if event.subprotocol != "mqtt":
                words = f"{self._config.shown}: that WebSocket speaks no MQTT; look at port and path"
                self._fail(Refused(words, Reason.NOT_AUTHORIZED))
            elif not self.opened.done():
                self.opened.set_result(None)
        elif isinstance(event, RejectConnection):
            status = event.status_code
            words = f"{self._config.shown}: the server takes no WebSocket there (HTTP {status}); look at port and path"
            passing = status >= 500 or status == 429
            self._fail(ConnectionLost(words) if passing else Refused(words, Reason.NOT_AUTHORIZED))
        elif isinstance(event, TextMessage):
            self._fail(ConnectionLost(f"{self._config.shown}: text came over the WebSocket, which MQTT never sends"))
        elif isinstance(event, CloseConnection):  # the server's, or wsproto's own at frames that are none
            words = f"{self._config.shown}: the WebSocket was closed: {event.code} {event.reason or ''}".rstrip()
            self._failed = self._failed or ConnectionLost(words)
            if self._frames.state is ConnectionState.REMOTE_CLOSING:
                self._below().write(self._frames.send(event.response()))
            self._below().close()

    def _fail(self, error: StreamsError) -> None:
        self._failed = self._failed or error
        if not self.opened.done():
            self.opened.set_exception(error)
        self._below().abort()

    def _lost(self, error: StreamsError | None) -> None:
        error = self._failed or error
        if self.opened.done():
            self._on_lost(error)
        else:
            words = f"{self._config.shown}: the server closed the connection instead of opening a WebSocket"
            self.opened.set_exception(error or ConnectionLost(words))


async def open_websocket(config: MqttConfig, on_data: OnData, on_lost: OnLost) -> Transport:
    """Connect over WebSocket.  Raises ConnectionLost or Refused."""
    socket = _WebSocket(config, on_data, on_lost)
    await socket.open()
    return socket
