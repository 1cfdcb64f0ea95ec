"""Whatever a broken connection raises on the loop of workers is an outage, which passes; real sockets."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from streams.connectors.jetstream.client import Connection, publication
from streams.connectors.jetstream.config import parse_url
from streams.errors import LogUnavailable
from tests.stages import rounds

PATIENCE_S = 120
INFO = b'INFO {"server_id":"x","version":"2.15.0","max_payload":1048576,"headers":true}\r\n'

Life = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def reset(writer: asyncio.StreamWriter) -> None:
    """End it so that the other side reads "connection reset", now."""
    if writer.is_closing():
        return
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much of a NATS server as a connection needs: pongs, and an answer to each request."""
    writer.write(INFO)
    while line := await reader.readline():
        if line.startswith(b"PUB"):
            await reader.readexactly(int(line.split()[-1]) + 2)
            if len(words := line.split()) == 4:
                writer.write(b"MSG %b 1 2\r\n{}\r\n" % words[2])
        elif line.startswith(b"PING"):
            writer.write(b"PONG\r\n")


class Place:
    """Where servers listen that live for a connection each: ``lives`` in their order, and ``serve`` from then on."""

    def __init__(self, *lives: Life) -> None:
        self._lives = list(lives)
        self.writers: list[asyncio.StreamWriter] = []
        self.opened = self.living = 0

    async def __aenter__(self) -> Place:
        self._server = await asyncio.start_server(self._live, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        config = parse_url(f"nats://127.0.0.1:{port}?ping_interval_ms=3600000", {})  # no pings but those of flushes
        self.connection = Connection(config.shown, config.client, timeout_s=PATIENCE_S)
        return self

    async def _live(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        life = self._lives[self.opened] if self.opened < len(self._lives) else serve
        self.opened += 1
        self.living += 1
        try:
            await life(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # it was we who broke it
        finally:
            writer.close()
            self.living -= 1

    def cut(self) -> None:
        reset(self.writers[-1])

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()
        for writer in self.writers:
            reset(writer)
        await until(lambda: not self.living)
        self._server.close()


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scene

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for says nothing when it happens
        await asyncio.sleep(0.01)


async def greets_and_resets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    os.write(writer.get_extra_info("socket").fileno(), INFO)  # so that both are there when the client looks
    reset(writer)


async def answers_nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"INFO\r\n")


async def never_ends_its_line(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"x" * 1_000_000)
    await writer.drain()


@pytest.mark.parametrize("life", [answers_nonsense, never_ends_its_line])
def test_a_server_that_breaks_off_each_attempt_is_tried_again_until_it_does_not(life: Life) -> None:
    async def scene() -> None:
        async with Place(serve, *[life] * 3) as place:
            held = place.connection
            await held.open()
            place.cut()
            await until(lambda: held.reconnects == 1)
            assert place.opened == 5
            await held.request("any.thing")

    play(scene())


@pytest.mark.parametrize("nonsense", [b"MSG a 1 many\r\n", b"MSG\r\n", b"what?\r\n", b"INFO {\r\n"])
def test_a_server_that_talks_nonsense_is_left_and_connected_to_again(nonsense: bytes) -> None:
    async def scene() -> None:
        async with Place() as place:
            held = place.connection
            await held.open()
            place.writers[0].write(nonsense)
            await until(lambda: held.reconnects == 1)
            await held.request("any.thing")

    play(scene())


def test_a_handler_that_raises_costs_the_connection_and_leaves_no_half_of_it() -> None:
    async def scene() -> None:
        async with Place() as place:
            held = place.connection
            await held.open()

            def handle(messages: list[Any]) -> None:
                raise RuntimeError("a fault of ours")

            subscription = await held.subscribe("a", handle)
            place.writers[0].write(b"MSG a %d 1\r\nx\r\n" % subscription._sid)
            await until(lambda: held.reconnects == 1)
            await held.request("any.thing")

    play(scene())


def test_a_connection_that_is_lost_is_closed_though_something_was_to_be_written() -> None:
    async def scene() -> None:
        async with Place(serve, *[greets_and_resets] * 1000) as place:
            held = place.connection
            await held.open()
            place.cut()
            await until(lambda: not held.connected)
            await held.write(publication("a", b"x"))
            await held.close()

    play(scene())


def test_a_server_that_takes_nothing_any_more_holds_up_neither_requests_nor_the_end() -> None:
    async def takes_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        for _ in range(2):  # it answers the handshake and the first flush
            while not (await reader.readline()).startswith(b"PING"):
                pass
            writer.write(b"PONG\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(writer.is_closing)

    async def scene() -> None:
        async with Place(takes_nothing) as place:
            held = place.connection
            await held.open()
            held.timeout_s = 0.1
            for _ in range(3000):  # more than the queue of nats-py's has places
                await held.write(publication("a", bytes(10_000)))
                await asyncio.sleep(0)
            for _ in range(3):
                with pytest.raises(LogUnavailable):
                    await held.request("any.thing")

    play(scene())


def test_cuts_at_any_moment_are_errors_that_pass_and_nothing_else() -> None:
    chance = random.Random(7)

    async def cut_somewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.ensure_future(serve(reader, writer))
        for _ in range(chance.randrange(60)):
            await asyncio.sleep(0)
        reset(writer)
        await asyncio.gather(serving, return_exceptions=True)

    async def use(held: Connection, done: asyncio.Event) -> None:
        while not done.is_set():
            try:
                match chance.randrange(3):
                    case 0:
                        await held.write(publication("a", bytes(chance.choice((1, 100_000)))))
                        await asyncio.sleep(0)
                    case 1:
                        await held.flush()
                    case _:
                        await held.request("any.thing")
            except LogUnavailable:
                await asyncio.sleep(0)

    async def scene() -> None:
        count = rounds(60, 3000)
        async with Place(serve, *[cut_somewhere] * count) as place:
            held, done = place.connection, asyncio.Event()
            await held.open()
            held._client.rounds.next = lambda places: (places[0], 0.0)  # type: ignore[method-assign]  # no pauses
            users = [asyncio.create_task(use(held, done)) for _ in range(3)]
            place.cut()
            await until(lambda: (held.connected and place.opened == count + 2) or any(user.done() for user in users))
            done.set()
            for user in users:
                await user
            await held.request("any.thing")

    play(scene())
