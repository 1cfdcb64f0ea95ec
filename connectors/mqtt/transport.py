"""Bytes to and from a broker over TCP and TLS; what every transport has in common.

What must live here: sockets, and what their errors mean.  What must not: MQTT.

A transport calls ``on_data`` for what comes and ``on_lost`` once, when the connection is gone, with an error or None.
``write`` never blocks; whoever writes much awaits ``drain``, which returns when the other side keeps up.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, TypeAlias, cast

from streams.connectors.mqtt.config import MqttConfig
from streams.connectors.mqtt.errors import ConnectionLost, Refused
from streams.connectors.mqtt.reasons import Reason
from streams.errors import StreamsError

__all__ = ["OnData", "OnLost", "Transport", "meaning_of", "open_stream"]

OnData: TypeAlias = Callable[[bytes], None]
OnLost: TypeAlias = Callable[[StreamsError | None], None]


class Transport(Protocol):
    def write(self, data: bytes) -> None:
        """Behind the end of the connection it does nothing: ``on_lost`` has been called, or follows."""
        ...

    async def drain(self) -> None:
        """Returns at the end of the connection too, and when it is closed here."""
        ...

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None:
        """After what is written; ``on_lost`` follows."""
        ...

    def abort(self) -> None:
        """At once; ``on_lost`` follows."""
        ...


def meaning_of(error: BaseException, shown: str, *, answered: bool = False) -> StreamsError:
    """What an error of a socket says about trying again.  answered: the other side has said something before."""
    if answered:  # by then certificates are accepted: what breaks TLS passes with another connection
        return ConnectionLost(f"{shown}: the connection to the broker broke: {error}", Reason.SERVER_UNAVAILABLE)
    if isinstance(error, ssl.SSLCertVerificationError):
        words = (
            f"{shown}: the broker's certificate isn't accepted: {error.verify_message}; look at ca_file and the host"
        )
        return Refused(words, Reason.NOT_AUTHORIZED)
    if isinstance(error, ssl.SSLError):
        words = f"{shown}: no encrypted connection: {error}; is that the port for TLS, and is a cert_file asked for?"
        return Refused(words, Reason.NOT_AUTHORIZED)
    if isinstance(error, TimeoutError):
        return ConnectionLost(f"{shown}: the broker can't be reached: no answer in time", Reason.SERVER_UNAVAILABLE)
    return ConnectionLost(f"{shown}: the broker can't be reached: {error}", Reason.SERVER_UNAVAILABLE)


class _Stream(asyncio.Protocol):
    def __init__(self, on_data: OnData, on_lost: OnLost, shown: str) -> None:
        self._on_data, self._on_lost, self._shown = on_data, on_lost, shown
        self._transport: asyncio.Transport | None = None
        self._answered = False  # that our certificate isn't wanted may be said behind the handshake (TLS 1.3)
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # of uvloop, no subclass of it

    def data_received(self, data: bytes) -> None:
        self._answered = True
        self._on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._room.set()
        self._on_lost(None if exc is None else meaning_of(exc, self._shown, answered=self._answered))

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():  # else uvloop raises RuntimeError, whoever writes and for whatever reason
            self._transport.write(data)

    async def drain(self) -> None:
        await self._room.wait()

    def pause_reading(self) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        assert self._transport is not None
        self._room.set()  # the rest of what is written may never be read: whoever drains would wait for good
        self._transport.close()

    def abort(self) -> None:
        assert self._transport is not None
        self._room.set()
        self._transport.abort()


async def open_stream(config: MqttConfig, on_data: OnData, on_lost: OnLost) -> Transport:
    """Connect over TCP or TLS.  Raises ConnectionLost or Refused."""
    tls = config.tls()
    loop = asyncio.get_running_loop()
    try:
        _, stream = await loop.create_connection(
            lambda: _Stream(on_data, on_lost, config.shown),
            config.host,
            config.port,
            ssl=tls,
            server_hostname=config.host if tls else None,
        )
    except OSError as error:  # ssl.SSLError and TimeoutError are among them
        raise meaning_of(error, config.shown) from error
    return stream
