"""What several tests on a real MQTT broker do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from streams.connectors.mqtt.config import MqttConfig, parse_url
from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.events import Event, Pong
from streams.connectors.mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel, Suback, Subscription

PATIENCE_S = 120.0
ANSWER_S = 100.0
"""The broker of the tests writes all that it holds at each acknowledgement: on a busy disk a ping behind 800 of them
took 14 s."""
T = TypeVar("T", bound=Event)


def config_of(url: str, version: int, **changes: Any) -> MqttConfig:
    return replace(parse_url(url), version=version, **{"answer_timeout_s": ANSWER_S, **changes})


async def opened(config: MqttConfig, client_id: str, *, clean_start: bool = True, **options: Any) -> Connection:
    return await Connection.open(config, config.session(client_id, clean_start=clean_start), **options)


async def until(connection: Connection, done: Callable[[list[Event]], bool]) -> list[Event]:
    """All events, until ``done`` says so of those so far."""
    seen: list[Event] = []
    async with asyncio.timeout(PATIENCE_S):
        while not done(seen):
            seen += await connection.events()
    return seen


async def one(connection: Connection, kind: type[T]) -> T:
    """The first event of a kind; those before it are dropped."""
    seen = await until(connection, lambda events: any(isinstance(event, kind) for event in events))
    return next(event for event in seen if isinstance(event, kind))


async def subscribed(connection: Connection, *subscriptions: Subscription) -> None:
    connection.subscribe(60_000, subscriptions)
    answer = await one(connection, Suback)
    assert all(reason < 0x80 for reason in answer.reasons), answer


async def send(connection: Connection, messages: list[Publish]) -> None:
    """Publish them and see their handshakes to the end."""
    waiting = {message.packet_id for message in messages if message.qos}
    left = list(reversed(messages))
    async with asyncio.timeout(PATIENCE_S):
        while left or waiting:
            while left and (not left[-1].qos or connection.window):
                connection.publish(left.pop())
            await connection.drain()
            if not waiting:
                continue
            for event in await connection.events():
                if isinstance(event, Pubrec):
                    assert event.reason < 0x80
                    connection.pubrel([event.packet_id])
                elif isinstance(event, (Puback, Pubcomp)):
                    waiting.discard(event.packet_id)


async def take(connection: Connection, count: int) -> list[Publish]:
    """So many messages, acknowledged as they come; the broker has seen the acknowledgements."""
    found: list[Publish] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count or connection.unacked:
            for event in await connection.events():
                if isinstance(event, Publish):
                    found.append(event)
                    if event.qos == 1:
                        connection.puback([event.packet_id])
                    elif event.qos == 2:
                        connection.pubrec([event.packet_id])
                elif isinstance(event, Pubrel):
                    connection.pubcomp([event.packet_id])
    # A broker that is stopped before it has read them sends the messages again.
    number = connection.ping()
    await until(connection, lambda events: any(isinstance(each, Pong) and each.number >= number for each in events))
    return found
