"""The MQTT client against Mosquitto: both versions, every QoS both ways, every transport, and a broker that dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.errors import ConnectionLost, ProtocolError, Refused, SessionTakenOver
from streams.connectors.mqtt.events import Pong
from streams.connectors.mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5,
    Puback,
    Publish,
    Pubrec,
    Pubrel,
    Subscription,
    Unsuback,
    Will,
)
from streams.connectors.mqtt.properties import Properties
from streams.connectors.mqtt.reasons import Reason
from tests.brokers.kafka.certificates import Authority
from tests.brokers.mqtt.server import Mosquitto
from tests.integration.mqtt.helpers import PATIENCE_S, config_of, one, opened, send, subscribed, take, until

VERSIONS = pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5], ids=["3.1.1", "5"])
QOS = pytest.mark.parametrize("qos", [0, 1, 2])
Unique = Callable[[str], str]


def numbered(topic: str, qos: int, count: int, first: int = 1) -> list[Publish]:
    return [
        Publish(topic, b"%d" % number, qos, packet_id=number if qos else 0) for number in range(first, first + count)
    ]


async def back_and_forth(config_from: Mosquitto | str, version: int, qos: int, topic: str, count: int) -> None:
    url = config_from if isinstance(config_from, str) else config_from.url
    config = config_of(url, version)
    receiver = await opened(config, topic + "-in")
    sender = await opened(config, topic + "-out")
    await subscribed(receiver, Subscription(topic, qos))
    taking = asyncio.create_task(take(receiver, count))
    await send(sender, numbered(topic, qos, count))
    found = await taking
    assert [int(message.payload) for message in found] == list(range(1, count + 1))
    assert {(message.topic, message.qos, message.dup, message.retain) for message in found} == {
        (topic, qos, False, False)
    }
    assert sender.window == sender.connected.send_maximum
    await sender.close()
    await receiver.close()


@VERSIONS
@QOS
def test_messages_arrive_once_and_in_order(mosquitto: Mosquitto, unique: Unique, version: int, qos: int) -> None:
    asyncio.run(back_and_forth(mosquitto, version, qos, unique("order"), 3000))


@VERSIONS
@pytest.mark.parametrize("scheme", ["mqtt", "ws", "mqtts", "wss"])
def test_every_transport_carries_them_on_the_loop_of_workers_too(
    mosquitto: Mosquitto, secured: Mosquitto, authority: Authority, unique: Unique, version: int, scheme: str
) -> None:
    url = mosquitto.url if scheme == "mqtt" else f"ws://127.0.0.1:{mosquitto.websocket_port}/mqtt"
    if scheme == "mqtts":
        certificate, key = authority.sign("me")
        files = f"ca_file={authority.certificate}&cert_file={certificate}&key_file={key}"
        url = f"mqtts://shop:s3cret@127.0.0.1:{secured.tls_port}?{files}"
    elif scheme == "wss":
        url = f"wss://shop:s3cret@localhost:{secured.secure_websocket_port}?ca_file={authority.certificate}"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(back_and_forth(url, version, 2, unique("transport"), 1000))


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_large_and_empty_payloads_pass(mosquitto: Mosquitto, unique: Unique, scheme: str) -> None:
    async def main() -> None:
        topic = unique("large")
        port = mosquitto.websocket_port if scheme == "ws" else mosquitto.port
        config = config_of(f"{scheme}://127.0.0.1:{port}", MQTT_5)
        connection = await opened(config, topic)
        await subscribed(connection, Subscription(topic, 1))
        # Mosquitto sends some 40 kB a second of a large message over WebSocket (its issue 411).
        payloads = [b"", bytes(20_000 if scheme == "ws" else 5_000_000), b"x"]
        for number, payload in enumerate(payloads, 1):
            connection.publish(Publish(topic, payload, 1, packet_id=number))
            await connection.drain()
        events = await until(connection, lambda seen: sum(isinstance(event, Publish) for event in seen) == 3)
        assert [event.payload for event in events if isinstance(event, Publish)] == payloads
        await connection.close()

    asyncio.run(main())


@VERSIONS
def test_a_wrong_password_is_refused(secured: Mosquitto, version: int) -> None:
    async def main() -> None:
        for user in ("", "shop:wrong@"):
            config = config_of(f"mqtt://{user}127.0.0.1:{secured.port}", version)
            with pytest.raises(Refused) as caught:
                await opened(config, "me")
            assert caught.value.reason in (Reason.NOT_AUTHORIZED, Reason.BAD_USER_NAME_OR_PASSWORD)
            assert "password" in str(caught.value)
            assert "wrong" not in str(caught.value)

    asyncio.run(main())


def test_a_certificate_that_isn_t_trusted_is_refused_here_and_there(secured: Mosquitto, authority: Authority) -> None:
    async def main() -> None:
        for settings in ("", f"?ca_file={authority.certificate}"):
            # Without the authority we don't trust the broker; without a certificate of ours it doesn't trust us.
            config = config_of(f"mqtts://shop:s3cret@127.0.0.1:{secured.tls_port}{settings}", MQTT_5)
            with pytest.raises((Refused, ConnectionLost)) as caught:
                await opened(config, "me")
            if not settings:
                assert isinstance(caught.value, Refused)
                assert "ca_file" in str(caught.value)
        with pytest.raises(Refused, match="ca_file"):
            await opened(config_of(f"wss://shop:s3cret@127.0.0.1:{secured.secure_websocket_port}", MQTT_5), "me")
        plain = config_of(f"mqtts://127.0.0.1:{secured.port}", MQTT_5, answer_timeout_s=5)
        with pytest.raises((Refused, ConnectionLost)):
            await opened(plain, "me")

    asyncio.run(main())


def test_a_tls_stream_that_breaks_later_on_is_a_connection_that_is_lost(
    secured: Mosquitto, authority: Authority
) -> None:
    async def main() -> None:
        damage, over = asyncio.Event(), asyncio.Event()

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            from_broker, to_broker = await asyncio.open_connection("127.0.0.1", secured.secure_websocket_port)

            async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                while data := await source.read(65_536):
                    target.write(data)

            carrying = [asyncio.create_task(carry(reader, to_broker)), asyncio.create_task(carry(from_broker, writer))]
            await damage.wait()
            writer.write(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that no key fits
            await asyncio.wait(carrying, return_when=asyncio.FIRST_COMPLETED)
            for end in (writer, to_broker):
                end.transport.abort()
            await asyncio.gather(*carrying, return_exceptions=True)
            over.set()

        async with await asyncio.start_server(between, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            url = f"wss://shop:s3cret@localhost:{port}?ca_file={authority.certificate}"
            connection = await opened(config_of(url, MQTT_5), "me")
            damage.set()
            with pytest.raises(ConnectionLost, match="the connection to the broker broke"):
                await until(connection, lambda seen: False)
            await connection.close()
            await over.wait()

    asyncio.run(main())


def test_who_is_taken_over_is_out_and_the_other_has_the_session(mosquitto: Mosquitto, unique: Unique) -> None:
    async def main() -> None:
        config, name = config_of(mosquitto.url, MQTT_5), unique("taken")
        first = await opened(config, name, clean_start=False)
        second = await opened(config, name, clean_start=False)
        assert second.connected.session_present
        with pytest.raises((SessionTakenOver, ConnectionLost), match=name) as caught:
            await until(first, lambda seen: False)
        # Mosquitto says why from 2.0.15 on (its issue 2607).
        assert isinstance(caught.value, SessionTakenOver) or "closed the connection" in str(caught.value)
        number = second.ping()
        assert await one(second, Pong) == Pong(number)
        with pytest.raises((SessionTakenOver, ConnectionLost)):
            first.publish(Publish("a", b""))
        await second.close()

    asyncio.run(main())


def test_in_3_1_1_a_takeover_is_a_connection_that_ends(mosquitto: Mosquitto, unique: Unique) -> None:
    async def main() -> None:
        config, name = config_of(mosquitto.url, MQTT_3_1_1), unique("taken")
        first = await opened(config, name, clean_start=False)
        second = await opened(config, name, clean_start=False)
        with pytest.raises(ConnectionLost):
            await until(first, lambda seen: False)
        await second.close()

    asyncio.run(main())


async def unacknowledged(connection: Connection, count: int) -> list[Publish]:
    events = await until(connection, lambda seen: sum(isinstance(event, Publish) for event in seen) == count)
    return [event for event in events if isinstance(event, Publish)]


@VERSIONS
@pytest.mark.parametrize("qos", [1, 2])
def test_what_isn_t_acknowledged_comes_again_with_its_id_and_dup(
    mosquitto: Mosquitto, unique: Unique, version: int, qos: int
) -> None:
    async def main() -> None:
        config, topic = config_of(mosquitto.url, version), unique("again")
        receiver = await opened(config, topic, clean_start=False)
        assert not receiver.connected.session_present
        await subscribed(receiver, Subscription(topic, qos))
        sender = await opened(config, topic + "-out")
        await send(sender, numbered(topic, qos, 10))
        first = await unacknowledged(receiver, 10)
        receiver.abort()
        again = await opened(config, topic, clean_start=False)
        assert again.connected.session_present
        second = await take(again, 10)
        assert [(each.packet_id, each.payload) for each in second] == [(each.packet_id, each.payload) for each in first]
        assert {each.dup for each in second} == {True}
        assert again.unacked == 0
        await again.close()
        await sender.close()

    asyncio.run(main())


@VERSIONS
def test_a_handshake_at_qos_2_goes_on_where_it_was_on_both_sides_of_pubrec(
    mosquitto: Mosquitto, unique: Unique, version: int
) -> None:
    async def main() -> None:
        config, topic = config_of(mosquitto.url, version), unique("outbox")
        receiver = await opened(config, topic + "-in")
        await subscribed(receiver, Subscription(topic, 2))
        sender = await opened(config, topic, clean_start=False)
        early, late = Publish(topic, b"early", 2, packet_id=7), Publish(topic, b"late", 2, packet_id=8)
        sender.publish(early)
        assert (await one(sender, Pubrec)).packet_id == 7
        sender.abort()  # PUBREC has come for the one; the other is sent again with its id, as if it had been sent
        sender = await opened(config, topic, clean_start=False)
        assert sender.connected.session_present
        sender.pubrel([7])
        await send(sender, [late])
        sender.abort()
        sender = await opened(config, topic, clean_start=False)
        await send(sender, [Publish(topic, b"last", 2, packet_id=9)])
        assert [each.payload for each in await take(receiver, 3)] == [b"early", b"late", b"last"]
        await sender.close()
        await receiver.close()

    asyncio.run(main())


@VERSIONS
def test_sessions_and_messages_outlive_a_broker_that_is_killed(
    own_mosquitto: Mosquitto, unique: Unique, version: int
) -> None:
    async def main() -> None:
        config, topic = config_of(own_mosquitto.url, version), unique("killed")
        receiver = await opened(config, topic, clean_start=False)
        await subscribed(receiver, Subscription(topic, 2))
        await receiver.close()
        sender = await opened(config, topic + "-out", clean_start=False)
        await send(sender, numbered(topic, 2, 50))
        # What is acknowledged is on disk with the next autosave, which a later change starts.
        await send(sender, [Publish(topic + "/other", b"", 1, packet_id=100)])
        own_mosquitto.stop()
        with pytest.raises(ConnectionLost):
            await until(sender, lambda seen: False)
        with pytest.raises(ConnectionLost, match="can't be reached"):
            await opened(config, topic, clean_start=False)
        own_mosquitto.start()
        receiver = await opened(config, topic, clean_start=False)
        assert receiver.connected.session_present
        found = await take(receiver, 50)
        assert [int(message.payload) for message in found] == list(range(1, 51))
        own_mosquitto.kill()
        with pytest.raises(ConnectionLost):
            await until(receiver, lambda seen: False)

    asyncio.run(main())


def test_a_broker_that_hangs_is_noticed(own_mosquitto: Mosquitto) -> None:
    async def main() -> None:
        config = config_of(own_mosquitto.url, MQTT_5, keep_alive_s=1, answer_timeout_s=3)
        connection = await opened(config, "me")
        own_mosquitto.pause()
        try:
            with pytest.raises(ConnectionLost, match="silent"):
                await until(connection, lambda seen: False)
            with pytest.raises(ConnectionLost, match=r"CONNACK|reached"):
                await opened(config, "other")
        finally:
            own_mosquitto.resume()

    asyncio.run(main())


@VERSIONS
def test_pings_keep_an_idle_connection_alive(mosquitto: Mosquitto, unique: Unique, version: int) -> None:
    async def main() -> None:
        connection = await opened(config_of(mosquitto.url, version, keep_alive_s=2), unique("idle"))
        pongs = await until(connection, lambda seen: len(seen) >= 3)  # after one and a half, a broker may hang up
        assert pongs == [Pong(1), Pong(2), Pong(3)]
        await connection.close()

    asyncio.run(main())


def test_a_pong_says_that_the_acknowledgements_before_it_have_arrived(mosquitto: Mosquitto, unique: Unique) -> None:
    async def main() -> None:
        config, topic = config_of(mosquitto.url, MQTT_5), unique("generation")
        receiver = await opened(config, topic, clean_start=False)
        await subscribed(receiver, Subscription(topic, 1))
        sender = await opened(config, topic + "-out")
        await send(sender, numbered(topic, 1, 20))
        first = await unacknowledged(receiver, 20)
        receiver.puback([each.packet_id for each in first])
        number = receiver.ping()
        assert await one(receiver, Pong) == Pong(number)
        receiver.abort()
        receiver = await opened(config, topic, clean_start=False)
        await send(sender, [Publish(topic, b"next", 1, packet_id=1)])
        (message,) = await take(receiver, 1)
        assert (message.payload, message.dup) == (b"next", False)
        await receiver.close()
        await sender.close()

    asyncio.run(main())


def test_a_window_of_messages_that_nobody_takes_pauses_reading_and_loses_nothing(
    mosquitto: Mosquitto, unique: Unique
) -> None:
    async def main() -> None:
        config, topic = config_of(mosquitto.url, MQTT_5), unique("pressure")
        receiver = await opened(config, topic, ahead_bytes=50_000)
        await subscribed(receiver, Subscription(topic, 1))
        sender = await opened(config, topic + "-out")
        messages = [Publish(topic, b"%6d" % number + bytes(1000), 1, packet_id=number) for number in range(1, 801)]
        await send(sender, messages)  # reading has paused long before all of these have come
        ahead = receiver._bytes
        assert 50_000 < ahead < 50_000 + 600_000
        found = await take(receiver, 800)
        assert [each.payload for each in found] == [each.payload for each in messages]
        await receiver.close()
        await sender.close()

    asyncio.run(main())


def test_properties_expiry_and_retained_messages_of_5_pass_through(mosquitto: Mosquitto, unique: Unique) -> None:
    async def main() -> None:
        config, topic = config_of(mosquitto.url, MQTT_5), unique("properties")
        sender = await opened(config, topic + "-out")
        said = Properties(
            content_type="text/plain",
            user_property=[("a", "1"), ("a", "2"), ("ä", "")],
            correlation_data=b"\x00\xff",
            response_topic="answers",
            payload_format_indicator=1,
            message_expiry_interval=1000,
        )
        await send(sender, [Publish(topic, "wörd".encode(), 1, True, packet_id=1, properties=said)])
        receiver = await opened(config, topic)
        await subscribed(receiver, Subscription(topic, 2, retain_as_published=True))
        (message,) = await take(receiver, 1)
        left_s = message.properties.pop("message_expiry_interval")
        assert 900 <= left_s <= 1000
        said.pop("message_expiry_interval")
        assert (message.topic, message.payload, message.qos, message.retain) == (topic, "wörd".encode(), 1, True)
        assert message.properties == said
        receiver.unsubscribe(9, [topic, topic + "/none"])
        assert (await one(receiver, Unsuback)).reasons == (0, Reason.NO_SUBSCRIPTION_EXISTED)
        await send(sender, [Publish(topic, b"", 1, True, packet_id=2)])  # empty: forget it
        await receiver.close()
        await sender.close()

    asyncio.run(main())


def test_our_topic_aliases_are_understood(mosquitto: Mosquitto, unique: Unique) -> None:
    async def main() -> None:
        name = unique("aliases")
        topics = [f"{name}/a/long/topic/{number}" for number in range(25)] * 4
        config = config_of(mosquitto.url, MQTT_5)
        receiver, sender = await opened(config, name), await opened(config, name + "-out")
        assert sender.connected.properties.get("topic_alias_maximum", 0) > 0
        await subscribed(receiver, Subscription(name + "/#", 1))
        await send(sender, [Publish(topic, b"", 1, packet_id=number) for number, topic in enumerate(topics, 1)])
        assert [message.topic for message in await take(receiver, len(topics))] == topics
        await receiver.close()
        await sender.close()

    asyncio.run(main())


@VERSIONS
def test_a_will_is_published_when_we_are_gone_without_a_word_only(
    mosquitto: Mosquitto, unique: Unique, version: int
) -> None:
    async def main() -> None:
        config, topic = config_of(mosquitto.url, version), unique("will")
        watcher = await opened(config, topic)
        await subscribed(watcher, Subscription(topic + "/#", 1))

        def mortal(name: str) -> Will:
            return Will(f"{topic}/{name}", b"gone", 1)

        for name, leave in (("polite", "close"), ("crashed", "abort")):
            settings = config.session(f"{topic}-{name}", clean_start=True, will=mortal(name))
            connection = await Connection.open(config, settings)
            if leave == "close":
                await connection.close()
            else:
                connection.abort()
        (message,) = await take(watcher, 1)
        assert (message.topic, message.payload) == (f"{topic}/crashed", b"gone")
        await watcher.close()

    asyncio.run(main())


@VERSIONS
def test_a_message_above_our_limit_ends_the_connection(mosquitto: Mosquitto, unique: Unique, version: int) -> None:
    """In MQTT 5 too, where the broker would drop it in silence if it knew the limit."""

    async def main() -> None:
        topic = unique("limit")
        receiver = await opened(config_of(mosquitto.url, version, max_packet_bytes=10_000), topic)
        await subscribed(receiver, Subscription(topic, 1))
        sender = await opened(config_of(mosquitto.url, version), topic + "-out")
        await send(sender, [Publish(topic, bytes(20_000), 1, packet_id=1)])
        with pytest.raises(ProtocolError, match=r"PUBLISH of 200\d\d bytes is longer than max_packet_bytes=10000"):
            await until(receiver, lambda seen: False)
        await receiver.close()
        await sender.close()

    asyncio.run(main())


def test_a_shared_subscription_divides_messages(mosquitto: Mosquitto, unique: Unique) -> None:
    async def main() -> None:
        config, topic = config_of(mosquitto.url, MQTT_5), unique("shared")
        members = [await opened(config, f"{topic}-{number}") for number in range(2)]
        for member in members:
            await subscribed(member, Subscription(f"$share/group/{topic}", 1))
        sender = await opened(config, topic + "-out")
        await send(sender, numbered(topic, 1, 100))
        seen: list[bytes] = []
        parts = [0, 0]
        everything = asyncio.Event()

        async def collect(number: int) -> None:
            while True:
                for event in await members[number].events():
                    if isinstance(event, Publish):
                        members[number].puback([event.packet_id])
                        seen.append(event.payload)
                        parts[number] += 1
                if len(seen) >= 100:
                    everything.set()

        tasks = [asyncio.create_task(collect(number)) for number in range(2)]
        async with asyncio.timeout(PATIENCE_S):
            await everything.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(int(each) for each in seen) == list(range(1, 101))
        assert all(parts)
        for connection in (*members, sender):
            await connection.close()

    asyncio.run(main())


def test_other_answers_than_success_reach_the_application(mosquitto: Mosquitto, unique: Unique) -> None:
    async def main() -> None:
        connection = await opened(config_of(mosquitto.url, MQTT_5), unique("nobody"))
        connection.publish(Publish(unique("nobody/listens"), b"", 1, packet_id=3))
        assert await one(connection, Puback) == Puback(3, Reason.NO_MATCHING_SUBSCRIBERS)
        connection.pubrel([4])
        (event,) = await until(connection, bool)
        assert not isinstance(event, Pubrel)
        assert getattr(event, "packet_id", None) == 4
        await connection.close()

    asyncio.run(main())
