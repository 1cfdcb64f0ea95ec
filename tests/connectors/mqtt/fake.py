"""A broker that does what a test says, for what a real one can't be made to do: one coroutine for each connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from streams.connectors.mqtt.config import MqttConfig, parse_url
from streams.connectors.mqtt.decoder import Decoder
from streams.connectors.mqtt.encoder import encode
from streams.connectors.mqtt.packets import Connack, Connect, Packet


class Peer:
    """The broker's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._decoder = Decoder(None, max_packet_bytes=2**28)
        self._read: list[Packet] = []

    async def read(self) -> Packet:
        """The next packet of the client's.  Raises ConnectionResetError at its end."""
        while not self._read:
            data = await self._reader.read(65536)
            if not data:
                raise ConnectionResetError
            self._read = self._decoder.feed(data)
            assert self._decoder.error is None, self._decoder.error
        return self._read.pop(0)

    async def ended(self) -> None:
        """Wait until the client has gone; what it still says is dropped."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionResetError:
            pass

    async def accept(self, answer: Connack | None = None) -> Connect:
        hello = await self.read()
        assert isinstance(hello, Connect)
        await self.say(answer or Connack())
        return hello

    async def say(self, *packets: Packet) -> None:
        version = self._decoder.version
        assert version is not None
        await self.say_raw(b"".join(encode(each, version) for each in packets))

    async def say_raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


@asynccontextmanager
async def broker(behave: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[MqttConfig]:
    """Listens while it is entered.  A connection is closed when its ``behave`` returns; its assertions count."""
    failures: list[BaseException] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await behave(Peer(reader, writer))
        except (ConnectionResetError, BrokenPipeError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        except BaseException as error:  # noqa: BLE001  # raised where the test sees it
            failures.append(error)
        finally:
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()  # to a client that doesn't read, or is gone
            else:
                writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield parse_url(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=10)  # whoever behaves until the client goes has time to see it
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    if failures:
        raise failures[0]
