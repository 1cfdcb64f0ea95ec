"""However a connection's opening or its end goes wrong, nothing of it lives on; real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from streams.connectors.jetstream import client
from streams.errors import ConfigurationError
from tests.connectors.test_nats_broken_connections import INFO, PATIENCE_S, Life, Place, play, reset, until

PINGS = {"handshake": 1, "opened": 2, "last": 3, "again": 4}
"""What a connection's pings are for.  The last one is that of its end, and one more that of a second end."""

Act = Callable[[asyncio.StreamWriter], object]


def acts(**at: Act) -> Life:
    """A server which at some pings does something else than to answer."""
    instead = {PINGS[name]: act for name, act in at.items()}

    async def life(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        pings = 0
        while line := await reader.readline():
            if line.startswith(b"PING"):
                pings += 1
                instead.get(pings, pong)(writer)

    return life


def pong(writer: asyncio.StreamWriter) -> None:
    writer.write(b"PONG\r\n")


def deny(writer: asyncio.StreamWriter) -> None:
    writer.write(b"-ERR 'Permissions Violation for Publish to \"any.thing\"'\r\nPONG\r\n")


async def over(place: Place, before: set[asyncio.Task[object]]) -> None:
    """Assert that no task is there which was not there ``before``, and no connection either."""
    await until(lambda: not place.living)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("act", [reset, deny])
def test_a_connection_that_breaks_in_its_last_flush_is_closed_without_an_error(act: Act) -> None:
    async def scene() -> None:
        async with Place(acts(last=act)) as place:
            before = asyncio.all_tasks()
            await place.connection.open()
            await place.connection.close()
            assert place.opened == 1
            await over(place, before)

    play(scene())


def test_a_connection_that_cannot_be_used_and_then_breaks_says_why_it_cannot_be_used() -> None:
    async def scene() -> None:
        async with Place(acts(opened=deny, last=reset)) as place:
            before = asyncio.all_tasks()
            with pytest.raises(ConfigurationError, match=r"publish to any\.thing"):
                await place.connection.open()
            await over(place, before)

    play(scene())


def test_a_close_that_is_cancelled_in_its_last_flush_closes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with Place(acts(last=lambda _: closing.cancel(), again=lambda _: None)) as place:
            before = asyncio.all_tasks()
            await place.connection.open()
            with monkeypatch.context() as patience:
                patience.setattr(client, "END_S", PATIENCE_S)
                closing = asyncio.create_task(place.connection.close())
                with pytest.raises(asyncio.CancelledError):
                    await closing
            assert place.connection._client.is_closed
            await over(place, before)

    play(scene())


def test_an_opening_that_is_cancelled_in_its_handshake_connects_no_more() -> None:
    async def scene() -> None:
        async with Place(*[acts(handshake=lambda _: opening.cancel())] * 1000) as place:
            before = asyncio.all_tasks()
            opening = asyncio.create_task(place.connection.open())
            with pytest.raises(asyncio.CancelledError):
                await opening
            await over(place, before)

    play(scene())


@pytest.mark.parametrize("steps", range(12))
def test_an_opening_that_is_cancelled_while_a_silent_server_takes_it_connects_no_more(steps: int) -> None:
    opening: list[asyncio.Task[None]] = []

    async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        opening[0].cancel()
        await reader.read()

    async def scene() -> None:
        async with Place(*[says_nothing] * 1000) as place:
            before = asyncio.all_tasks()
            opening.append(asyncio.create_task(place.connection.open()))
            with pytest.raises(asyncio.CancelledError):
                await opening[0]
            await over(place, before)

    play(scene())
