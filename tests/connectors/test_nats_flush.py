"""A flush says that the server has everything that was written before: its ping must not overtake any of it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from streams.connectors.jetstream.client import Connection, publication
from streams.connectors.jetstream.config import parse_url

PATIENCE_S = 30


class Server:
    """As much of a NATS server as a flush needs; notes what comes, in order."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.left = asyncio.Event()
        self.pinged = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.0","max_payload":1048576,"headers":true}\r\n')
        while line := await reader.readline():
            self.lines.append(line.split()[0])
            if line.startswith(b"PUB"):
                await reader.readexactly(int(line.split()[-1]) + 2)
            elif line.startswith(b"PING"):
                self.pinged.set()
                await self.answers.wait()
                writer.write(b"PONG\r\n")
        writer.close()
        self.left.set()


def play(scene: Callable[[Server, Connection], Awaitable[None]]) -> None:
    """With a connection that is open and knows of nobody else."""

    async def main() -> None:
        heard = Server()
        server = await asyncio.start_server(heard, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        config = parse_url(f"nats://127.0.0.1:{port}", {})
        connection = Connection(config.shown, config.client, timeout_s=PATIENCE_S)
        await connection.open()
        await scene(heard, connection)
        await connection.close()
        await heard.left.wait()
        server.close()

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await main()

    asyncio.run(bounded())


def test_what_was_written_before_a_flush_reaches_the_server_before_its_ping() -> None:
    async def scene(heard: Server, connection: Connection) -> None:
        assert heard.lines[-2:] == [b"SUB", b"PING"], "its own inbox, when it is opened"
        for _ in range(3):
            await connection.subscribe("orders.*", lambda messages: None)
            await connection.write(publication("orders.1", b"x" * 100))
            await connection.flush()
            assert heard.lines[-3:] == [b"SUB", b"PUB", b"PING"]

    play(scene)


def test_an_answer_to_a_flush_that_was_given_up_costs_no_connection() -> None:
    async def scene(heard: Server, connection: Connection) -> None:
        heard.answers.clear()
        heard.pinged.clear()
        given_up = asyncio.create_task(connection.flush())
        await heard.pinged.wait()
        given_up.cancel()
        await asyncio.wait({given_up})
        heard.answers.set()
        await connection.flush()
        assert connection.reconnects == 0
        assert heard.lines.count(b"CONNECT") == 1

    play(scene)


def test_nobody_complains_of_a_lost_connection_that_nobody_waits_for_any_more() -> None:
    async def scene(heard: Server, connection: Connection) -> None:
        complaints: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(str(said)))
        heard.answers.clear()
        heard.pinged.clear()
        reply, answer = connection.expect()
        flush = asyncio.create_task(connection.flush())
        await heard.pinged.wait()
        await connection._lost()
        flush.cancel()
        await asyncio.wait({flush})
        assert answer.done()
        connection.forget(reply)
        del answer, flush
        gc.collect()
        await asyncio.sleep(0)
        assert not complaints
        heard.answers.set()

    play(scene)


def test_a_reader_that_the_end_of_the_event_loop_cancels_has_lost_no_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(heard: Server, connection: Connection) -> None:
        reading = connection._client._reading_task
        assert reading is not None
        reading.cancel()
        await asyncio.wait({reading})
        assert not caplog.messages

    play(scene)
