"""Intake and outlet against a broker that does what a test says: what is durable before what is said."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from streams.connectors.mqtt.config import MqttConfig
from streams.connectors.mqtt.edge import MqttEdge
from streams.connectors.mqtt.errors import ConnectionLost, Refused, SessionTakenOver, Unsendable
from streams.connectors.mqtt.intake import MqttIntake
from streams.connectors.mqtt.outlet import MqttOutlet
from streams.connectors.mqtt.packets import (
    Connack,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Will,
)
from streams.connectors.mqtt.properties import Properties
from streams.connectors.mqtt.reasons import Reason
from streams.core.edge import Received
from streams.core.log import TopicSpec
from streams.core.record import Records
from tests.connectors.mqtt.fake import Peer, broker

PATIENCE_S = 60.0


def edge_at(config: MqttConfig, settings: str) -> MqttEdge:
    return MqttEdge(f"{config.shown}?{settings}")


async def intake_at(edge: MqttEdge, state: bytes | None = None) -> MqttIntake:
    return await edge.intake(TopicSpec("in", 1, address="in/#"), "shop", 0, state)


async def outlet_at(edge: MqttEdge, state: bytes | None = None) -> MqttOutlet:
    return await edge.outlet(TopicSpec("out", address="out/{key}"), "shop", 0, state)


class Journal:
    """Stores what an intake hands out."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.state: bytes | None = None

    async def take(self, intake: MqttIntake, *, count: int | None = None, acknowledge: bool = True) -> None:
        """What comes, until there are so many records, or nothing more comes."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                received = await self.store(intake)
                if received is None and (count is None or len(self.values) >= count):
                    return
                if received is not None and (acknowledge or not len(received.records)):
                    await intake.stored()
                elif received is not None:
                    return

    async def store(self, intake: MqttIntake) -> Received | None:
        received = await intake.receive(max_records=100, max_bytes=10_000, wait_s=0.05)
        if received is not None:
            self.values += received.records.values
            self.state = received.state or self.state
        return received


async def welcome(peer: Peer, *, present: bool) -> None:
    await peer.accept(Connack(session_present=present))
    if not present:
        asked = await peer.read()
        assert isinstance(asked, Subscribe)
        await peer.say(Suback(asked.packet_id, tuple(each.qos for each in asked.subscriptions)))


async def heard(peer: Peer) -> Packet:
    """The next packet; pings are answered."""
    while isinstance(packet := await peer.read(), Pingreq):
        await peer.say(Pingresp())
    return packet


@pytest.mark.parametrize("qos", [1, 2])
def test_what_comes_again_after_a_crash_is_acknowledged_and_not_stored_twice(qos: int) -> None:
    sessions = 0
    answer: type[Packet] = Puback if qos == 1 else Pubrec

    async def behave(peer: Peer) -> None:
        nonlocal sessions
        sessions += 1
        await welcome(peer, present=sessions > 1)
        await peer.say(Publish("in/1", b"one", qos, dup=sessions > 1, packet_id=7))
        if sessions == 1:
            with pytest.raises(ConnectionResetError):
                await heard(peer)  # nothing was acknowledged
            return
        assert isinstance(await heard(peer), answer)
        await peer.say(Publish("in/1", b"two", qos, packet_id=8))
        while not isinstance(await heard(peer), Disconnect):
            pass

    async def main() -> None:
        async with broker(behave) as config:
            edge, journal = edge_at(config, f"qos={qos}"), Journal()
            first = await intake_at(edge)
            await journal.take(first, acknowledge=False)
            assert journal.values == [b"one"]
            assert first._connection is not None
            first._connection.abort()  # as a crash would
            second = await intake_at(edge, journal.state)
            await journal.take(second, count=2)
            assert journal.values == [b"one", b"two"]
            await second.close()
            assert edge.sessions_lost == 0

    asyncio.run(main())


def test_whoever_looks_whether_the_broker_lets_us_in_has_an_id_that_it_lets_in() -> None:
    ids: list[str] = []

    async def behave(peer: Peer) -> None:
        ids.append((await peer.accept()).client_id)
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            await edge_at(config, "client_id=plant").open()
            await edge_at(config, "qos=1").open()

    asyncio.run(main())
    assert ids[0].startswith("plant.streams-")
    assert len(ids[1]) <= 23, "as long as any broker takes (3.1.1, section 3.1.3.1)"


@pytest.mark.parametrize(
    ("settings", "limit", "words"),
    [
        ("qos=2", {"maximum_qos": 1}, "takes messages up to QoS 1 only; write qos=1"),
        ("qos=1", {"maximum_qos": 0}, "takes messages up to QoS 0 only; write qos=0"),
        ("qos=0&retain=yes", {"retain_available": 0}, "retains no messages; leave out retain"),
    ],
)
def test_what_a_broker_can_t_do_is_said_at_the_start(settings: str, limit: dict[str, Any], words: str) -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept(Connack(False, 0, limit))  # type: ignore[arg-type]
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            with pytest.raises(Refused, match=words):
                await edge_at(config, settings).open()
            await edge_at(config, "qos=0").open()

    asyncio.run(main())


def test_a_session_that_is_kept_for_a_shorter_time_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept(Connack(False, 0, Properties(session_expiry_interval=60)))
        asked = await peer.read()
        if isinstance(asked, Subscribe):
            await peer.say(Suback(asked.packet_id, (1,)))
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            edge = edge_at(config, "qos=1&session_expiry_s=3600")
            await edge.open()
            for _ in range(2):
                intake = await intake_at(edge)
                await Journal().take(intake)
                await intake.close()

    asyncio.run(main())
    assert caplog.text.count("keeps sessions for 60 s, not for session_expiry_s=3600") == 1


def test_sources_and_targets_have_the_will_and_who_looks_at_the_start_has_none() -> None:
    wills: list[Will | None] = []

    async def behave(peer: Peer) -> None:
        wills.append((await peer.accept()).will)

    async def main() -> None:
        async with broker(behave) as config:
            edge = edge_at(config, "qos=1&will_topic=gone")
            await edge.open()
            with pytest.raises(ConnectionLost):
                await Journal().take(await intake_at(edge), count=1)
            with pytest.raises(ConnectionLost):
                await (await outlet_at(edge)).send(BATCH, keeper([]))

    asyncio.run(main())
    assert wills == [None, Will("gone"), Will("gone")]


def test_that_it_connects_is_stored_before_the_broker_hears_of_it() -> None:
    heard_of_us = False

    async def behave(peer: Peer) -> None:
        nonlocal heard_of_us
        heard_of_us = True
        await welcome(peer, present=False)
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            intake, journal = await intake_at(edge_at(config, "qos=2")), Journal()
            assert await journal.store(intake) is not None
            assert not heard_of_us
            await intake.stored()
            await journal.take(intake)
            assert heard_of_us
            await intake.close()

    asyncio.run(main())


def test_a_lost_session_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def behave(peer: Peer) -> None:
        await welcome(peer, present=False)
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            edge, journal = edge_at(config, "qos=1"), Journal()
            for lost in (0, 1):
                intake = await intake_at(edge, journal.state)
                await journal.take(intake)
                await intake.close()
                assert edge.sessions_lost == lost

    asyncio.run(main())
    assert caplog.text.count("lost the session of shop-0") == 1


def test_a_session_that_may_be_a_new_one_since_a_connect_went_unanswered_is_counted_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        if connections == 2:
            await peer.read()
            return  # a broker that has lost the session makes a new one here, and the answer doesn't arrive
        await peer.accept(Connack(session_present=connections > 1))
        asked = await peer.read()
        assert isinstance(asked, Subscribe)
        await peer.say(Suback(asked.packet_id, (1,)))
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            edge, journal = edge_at(config, "qos=1"), Journal()
            for attempt in range(3):
                intake = await intake_at(edge, journal.state)
                if attempt == 1:
                    with pytest.raises(ConnectionLost):
                        await journal.take(intake)
                else:
                    await journal.take(intake)
                await intake.close()
                assert edge.sessions_lost == (attempt == 2)

    asyncio.run(main())
    assert caplog.text.count("lost the session of shop-0, or may have") == 1


def test_a_refused_subscription_is_an_error_that_names_the_filter() -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept()
        asked = await peer.read()
        assert isinstance(asked, Subscribe)
        await peer.say(Suback(asked.packet_id, (Reason.NOT_AUTHORIZED,)))
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            intake = await intake_at(edge_at(config, "qos=1"))
            with pytest.raises(Refused, match=r"client shop-0 may not subscribe to in/#: not authorized \(0x87\)"):
                await Journal().take(intake)
            await intake.close()

    asyncio.run(main())


@pytest.mark.parametrize("subscribed", [False, True])
def test_a_message_that_is_too_large_for_us_is_said_though_it_comes_with_connack(subscribed: bool) -> None:
    async def behave(peer: Peer) -> None:
        if subscribed:
            await welcome(peer, present=False)
        else:
            await peer.read()
        # A message of 200 MB: the header is enough.
        await peer.say_raw((b"" if subscribed else b"\x20\x03\x01\x00\x00") + b"\x32\x80\x84\xaf\x5f")
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            intake = await intake_at(edge_at(config, "qos=1"))
            with pytest.raises(Unsendable, match=r"PUBLISH of 2000\d+ bytes .* max_packet_bytes=16777216"):
                await Journal().take(intake, count=1)
            await intake.close()

    asyncio.run(main())


def test_who_is_taken_over_says_so_and_connects_no_more(caplog: pytest.LogCaptureFixture) -> None:
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await welcome(peer, present=False)
        await peer.say(Disconnect(Reason.SESSION_TAKEN_OVER))
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            intake = await intake_at(edge_at(config, "qos=1"))
            for _ in range(2):
                with pytest.raises(SessionTakenOver):
                    await Journal().take(intake, count=1)
            await intake.close()
        assert connections == 1

    asyncio.run(main())
    assert "another client has connected as shop-0" in caplog.text


def test_a_broker_that_can_t_be_reached_leaves_no_doubt_about_the_session(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        edge = MqttEdge(f"mqtt://127.0.0.1:{probe.getsockname()[1]}?qos=2")

        async def main() -> None:
            await edge.open()  # it may come later
            journal = Journal()
            intake = await intake_at(edge)
            before = (await intake_at(edge))._before
            with pytest.raises(ConnectionLost):
                await journal.take(intake, count=1)
            assert journal.state == before, "as if nobody had tried"
            states: list[bytes] = []
            outlet = await outlet_at(edge)
            with pytest.raises(ConnectionLost):
                await outlet.send(Records([b"a"], [b"x"], [0]), keeper(states))
            assert (await outlet_at(edge, states[-1])).under_way == 0, "it isn't under way"

        asyncio.run(main())
    assert "it is tried again" in caplog.text


def keeper(states: list[bytes]):  # type: ignore[no-untyped-def]
    async def keep(state: bytes) -> None:
        states.append(state)

    return keep


BATCH = Records([b"a", b"b", b"c"], [b"1", b"2", b"3"], [0, 0, 0])


@pytest.mark.parametrize("kept", range(1, 7))
def test_a_batch_at_qos_2_goes_on_from_whatever_was_durable(kept: int) -> None:
    """The first owner dies when it has kept its state so many times; the second one gets the same batch.  The broker,
    which follows section 4.3.3, hands each message on once, in order."""
    passed_on: list[bytes] = []
    unreleased: set[int] = set()
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.accept(Connack(session_present=connections > 1))
        while True:
            packet = await heard(peer)
            if isinstance(packet, Publish):
                if packet.packet_id not in unreleased:
                    unreleased.add(packet.packet_id)
                    passed_on.append(packet.payload)
                await peer.say(Pubrec(packet.packet_id))
            elif isinstance(packet, Pubrel):
                unreleased.discard(packet.packet_id)
                await peer.say(Pubcomp(packet.packet_id))
            else:
                return

    class Died(Exception):
        pass

    async def main() -> None:
        states: list[bytes] = []

        async def keep(state: bytes) -> None:
            if len(states) == kept:
                raise Died
            states.append(state)

        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            edge = edge_at(config, "qos=2&send_maximum=1")
            first = await outlet_at(edge)
            try:
                await first.send(BATCH, keep)
            except Died:
                assert first._connection is None or first._connection.abort() is None  # type: ignore[func-returns-value]
                second = await outlet_at(edge, states[-1])
                assert second.under_way == 3
                await second.send(BATCH, keeper(states))
                await second.send(Records([b"d"], [b"4"], [0]), keeper(states))
                await second.close()
                assert passed_on == [b"1", b"2", b"3", b"4"]
                assert not unreleased
            else:
                assert kept >= 5, "as often as it keeps its state: before CONNECT, after it, and once for each PUBREC"
                await first.close()
            assert edge.sessions_lost == 0

    asyncio.run(main())


def test_at_qos_1_a_message_is_out_when_it_is_acknowledged_and_nothing_is_kept() -> None:
    came: list[bytes] = []

    async def behave(peer: Peer) -> None:
        await peer.accept()
        while isinstance(packet := await heard(peer), Publish):
            came.append(packet.payload)
            await peer.say(Puback(packet.packet_id))

    async def main() -> None:
        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            outlet, states = await outlet_at(edge_at(config, "qos=1&send_maximum=2")), list[bytes]()
            await outlet.send(BATCH, keeper(states))
            assert came == [b"1", b"2", b"3"]
            assert (states, outlet.state, outlet.under_way) == ([], None, 0)
            await outlet.close()

    asyncio.run(main())


def test_headers_that_mqtt_can_t_carry_are_left_out_and_nothing_is_mangled() -> None:
    came: list[object] = []

    async def behave(peer: Peer) -> None:
        await peer.accept()
        while isinstance(packet := await heard(peer), Publish):
            came.append(packet.properties.get("user_property"))
            await peer.say(Puback(packet.packet_id))

    async def main() -> None:
        headers = (
            ("unit", "°C".encode()),
            ("longest", b"x" * 65_535),
            ("too long", b"x" * 65_536),
            ("binary", b"\xff\xfe"),
            ("nul", b"a\0b"),
            ("a\0b", b"in its name"),
            ("\udcff", b"no text as a name"),
            ("Mqtt-Qos", b"2"),
            ("empty", b""),
        )
        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            outlet = await outlet_at(edge_at(config, "qos=1"))
            await outlet.send(Records([b"a", b"b"], [b"1", b"2"], [0, 0], [headers, (headers[3],)]), keeper([]))
            await outlet.close()

    asyncio.run(main())
    assert came == [[("unit", "°C"), ("longest", "x" * 65_535), ("empty", "")], None]
