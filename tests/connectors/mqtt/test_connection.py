"""The MQTT connection against a broker that misbehaves, over real sockets of the loopback."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import replace

import pytest

from streams.connectors.mqtt.config import MqttConfig, parse_url
from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.encoder import encode, encode_publish
from streams.connectors.mqtt.errors import ConnectionLost, MalformedPacket, ProtocolError, Refused, SessionTakenOver
from streams.connectors.mqtt.events import Event, Pong, SessionSettings
from streams.connectors.mqtt.packets import (
    MQTT_5,
    Connack,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Subscribe,
    Subscription,
)
from streams.connectors.mqtt.properties import Properties
from streams.connectors.mqtt.reasons import Reason
from tests.connectors.mqtt.fake import Peer, broker

PATIENCE_S = 60.0


def settings_of(config: MqttConfig) -> SessionSettings:
    return config.session("me", clean_start=False)


async def opened(config: MqttConfig) -> Connection:
    return await Connection.open(config, settings_of(config))


async def to_the_end(connection: Connection) -> list[Event]:
    """What comes before the connection ends, and then its error is raised."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await connection.events()


def test_a_takeover_is_raised_and_no_connection_is_made_again() -> None:
    connections = itertools.count()

    async def behave(peer: Peer) -> None:
        if next(connections) == 0:
            await peer.accept()
        else:
            await peer.accept(Connack(False, Reason.SERVER_BUSY))
        await peer.say(Disconnect(Reason.SESSION_TAKEN_OVER))
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            connection = await opened(config)
            with pytest.raises(SessionTakenOver, match=r"127\.0\.0\.1.*client me"):
                await to_the_end(connection)
            with pytest.raises(SessionTakenOver):
                await connection.events()
            await connection.close()
        assert next(connections) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Reason.SERVER_BUSY, ConnectionLost),
        (Reason.SERVER_UNAVAILABLE, ConnectionLost),
        (Reason.NOT_AUTHORIZED, Refused),
        (Reason.BANNED, Refused),
    ],
)
def test_what_may_pass_is_another_error_than_what_may_not(answer: int, error: type[Exception]) -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept(Connack(False, answer))

    async def main() -> None:
        async with broker(behave) as config:
            with pytest.raises(error, match="refuses the connection"):
                await opened(config)

    asyncio.run(main())


def test_a_broker_that_never_answers_is_given_up() -> None:
    async def behave(peer: Peer) -> None:
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            with pytest.raises(ConnectionLost, match="no CONNACK") as caught:
                await opened(replace(config, answer_timeout_s=1))
            assert not caught.value.before_connect

    asyncio.run(main())


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 100, b"\xff" * 100, b"\x20\x02\x00", b""]
)
def test_a_peer_that_speaks_no_mqtt_is_an_error_of_ours(garbage: bytes) -> None:
    async def behave(peer: Peer) -> None:
        await peer.read()
        await peer.say_raw(garbage)

    async def main() -> None:
        async with broker(behave) as config:
            with pytest.raises((MalformedPacket, ProtocolError, ConnectionLost)):
                await opened(config)

    asyncio.run(main())


def test_a_broker_that_sends_garbage_is_told_so_after_what_was_right_is_given_out() -> None:
    said: list[object] = []

    async def behave(peer: Peer) -> None:
        await peer.accept()
        await peer.say_raw(encode(Publish("a", b"right"), MQTT_5) + b"\x07\x07")
        said.append(await peer.read())

    async def main() -> None:
        async with broker(behave) as config:
            connection = await opened(config)
            assert await connection.events() == [Publish("a", b"right")]
            with pytest.raises(MalformedPacket):
                await connection.events()
            await connection.close()

    asyncio.run(main())
    assert said == [Disconnect(Reason.MALFORMED_PACKET)]


def test_a_broker_that_closes_in_mid_packet_loses_what_was_whole_to_nobody() -> None:
    wire = encode_publish(Publish("a", bytes(100), 1, packet_id=1), MQTT_5)

    async def behave(peer: Peer) -> None:
        await peer.accept()
        await peer.say_raw(wire + wire[:50])

    async def main() -> None:
        async with broker(behave) as config:
            connection = await opened(config)
            assert await connection.events() == [Publish("a", bytes(100), 1, packet_id=1)]
            with pytest.raises(ConnectionLost, match="closed the connection"):
                await connection.events()
            await connection.close()

    asyncio.run(main())


def test_packets_torn_anywhere_arrive_whole() -> None:
    messages = [Publish(f"topic/{number}", bytes(number * 37 % 500)) for number in range(200)]
    wire = b"".join(encode_publish(each, MQTT_5) for each in messages)
    chance = random.Random(5)

    async def behave(peer: Peer) -> None:
        await peer.accept()
        at = 0
        while at < len(wire):
            length = chance.choice([1, 2, 3, 7, 100, 5000])
            await peer.say_raw(wire[at : at + length])
            await asyncio.sleep(0)
            at += length
        await peer.ended()

    async def main() -> None:
        found: list[Event] = []
        async with broker(behave) as config:
            connection = await opened(config)
            async with asyncio.timeout(PATIENCE_S):
                while len(found) < len(messages):
                    found += await connection.events()
            await connection.close()
        assert found == messages

    asyncio.run(main())


def test_the_keep_alive_time_of_the_broker_is_kept() -> None:
    pings: list[float] = []

    async def behave(peer: Peer) -> None:
        await peer.accept(Connack(False, 0, Properties(server_keep_alive=1)))
        while True:
            assert await peer.read() == Pingreq()
            pings.append(asyncio.get_running_loop().time())
            await peer.say(Pingresp())

    async def main() -> None:
        async with broker(behave) as config:
            connection = await opened(replace(config, keep_alive_s=1000))
            for number in (1, 2):
                async with asyncio.timeout(PATIENCE_S):
                    assert await connection.events() == [Pong(number)]
            connection.abort()

    asyncio.run(main())
    assert len(pings) == 2


def test_a_broker_that_answers_no_ping_is_given_up() -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept()
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            connection = await opened(replace(config, answer_timeout_s=1))
            connection.ping()
            with pytest.raises(ConnectionLost, match="silent"):
                await to_the_end(connection)
            await connection.close()

    asyncio.run(main())


def test_while_nobody_takes_events_reading_pauses_and_nothing_is_held_against_the_broker() -> None:
    message = Publish("a", bytes(10_000))
    wire = encode_publish(message, MQTT_5)
    total = 3000
    sent = 0

    async def main() -> None:
        full = asyncio.Event()

        async def behave(peer: Peer) -> None:
            nonlocal sent
            await peer.accept()
            for _ in range(total):
                try:
                    async with asyncio.timeout(0.3):
                        await peer.say_raw(wire)
                except TimeoutError:
                    full.set()
                    await peer._writer.drain()
                sent += 1
            await peer.ended()

        async with broker(behave) as config:
            quick = replace(config, answer_timeout_s=1)
            connection = await Connection.open(quick, settings_of(quick), ahead_bytes=100_000)
            connection.ping()  # to which no answer can come while reading pauses: that is our own doing
            async with asyncio.timeout(PATIENCE_S):
                await full.wait()
            assert sent < total
            taken = 0
            async with asyncio.timeout(PATIENCE_S):
                while taken < total:
                    batch = await connection.events()
                    assert all(event == message for event in batch)
                    taken += len(batch)
            connection.abort()

    asyncio.run(main())


def test_whoever_writes_much_waits_for_a_broker_that_reads_slowly() -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def behave(peer: Peer) -> None:
            await peer.accept()
            await go_on.wait()
            await peer.ended()

        async with broker(behave) as config:
            connection = await opened(config)
            for _ in range(20):
                connection.publish(Publish("a", bytes(1_000_000)))
            waiting = asyncio.create_task(connection.drain())  # in the same turn, before the loop has written anything
            await asyncio.sleep(0)
            assert not waiting.done()
            go_on.set()
            async with asyncio.timeout(PATIENCE_S):
                await waiting
            await connection.close()

    asyncio.run(main())


def test_what_is_sent_in_one_turn_is_written_at_once() -> None:
    heard: list[object] = []

    async def behave(peer: Peer) -> None:
        await peer.accept()
        data = await peer._reader.read(65536)
        heard.extend(peer._decoder.feed(data))

    async def main() -> None:
        async with broker(behave) as config:
            connection = await opened(config)
            connection.puback([1, 2])
            connection.publish(Publish("a", b""))
            connection.puback([3])
            with pytest.raises(ConnectionLost):
                await to_the_end(connection)
            await connection.close()

    asyncio.run(main())
    assert heard == [Puback(1), Puback(2), Publish("a", b""), Puback(3)]


def test_close_says_goodbye_and_a_broker_that_doesn_t_read_keeps_nobody_from_ending() -> None:
    said: list[object] = []

    async def main() -> None:
        over = asyncio.Event()

        async def behave(peer: Peer) -> None:
            await peer.accept()
            if said:
                await over.wait()
            said.append(await peer.read())
            await peer.ended()

        async with broker(behave) as config:
            connection = await opened(config)
            await connection.close()
            await connection.close()
            with pytest.raises(ConnectionLost, match="closed here"):
                await connection.events()
            deaf = await opened(replace(config, answer_timeout_s=1))
            for _ in range(20):
                deaf.publish(Publish("a", bytes(1_000_000)))
            async with asyncio.timeout(PATIENCE_S):
                await deaf.close()
            over.set()

    asyncio.run(main())
    assert said[0] == Disconnect()


def test_nobody_listens() -> None:
    async def main() -> None:
        async with broker(lambda peer: peer.ended()) as config:
            pass
        with pytest.raises(ConnectionLost, match="can't be reached") as caught:
            await opened(config)
        assert caught.value.before_connect
        with pytest.raises(ConnectionLost, match="can't be reached"):
            await opened(replace(config, scheme="ws"))

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_connects_leaves_nothing_behind() -> None:
    async def main() -> None:
        asked, gone = asyncio.Event(), asyncio.Event()

        async def behave(peer: Peer) -> None:
            await peer.read()
            asked.set()
            await peer.ended()
            gone.set()

        async with broker(behave) as config:
            connecting = asyncio.create_task(opened(config))
            async with asyncio.timeout(PATIENCE_S):
                await asked.wait()
                connecting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await connecting
                await gone.wait()

    asyncio.run(main())


def test_an_http_server_that_knows_no_websocket_is_refused() -> None:
    async def behave(peer: Peer) -> None:
        await peer._reader.readuntil(b"\r\n\r\n")
        await peer.say_raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            with pytest.raises(Refused, match="HTTP 404"):
                await opened(replace(config, scheme="ws"))

    asyncio.run(main())


def test_subscribe_takes_all_filters_at_once() -> None:
    heard: list[object] = []

    async def behave(peer: Peer) -> None:
        await peer.accept()
        heard.append(await peer.read())

    async def main() -> None:
        async with broker(behave) as config:
            connection = await opened(config)
            connection.subscribe(5, [Subscription("a/#", 1), Subscription("b", 2, retain_handling=1)])
            with pytest.raises(ConnectionLost):
                await to_the_end(connection)
            await connection.close()

    asyncio.run(main())
    (packet,) = heard
    assert isinstance(packet, Subscribe)
    assert [each.topic_filter for each in packet.subscriptions] == ["a/#", "b"]


def test_a_config_has_no_secret_in_its_text() -> None:
    config = parse_url("mqtts://me:hunter2@broker")
    assert "hunter2" not in repr(config) + repr(settings_of(config)) + config.shown
