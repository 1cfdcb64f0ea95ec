"""Intake and outlet against brokers that misbehave: nothing is lost, nothing is there twice where that is promised, and
whatever else comes is an error that may be waited out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from streams.connectors.mqtt.edge import MqttEdge
from streams.connectors.mqtt.encoder import encode
from streams.connectors.mqtt.errors import ConnectionLost, ProtocolError, Refused
from streams.connectors.mqtt.intake import MqttIntake
from streams.connectors.mqtt.packets import (
    MQTT_5,
    Connack,
    Connect,
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
    Unsuback,
    Unsubscribe,
)
from streams.connectors.mqtt.reasons import Reason
from streams.core.log import TopicSpec
from streams.core.record import Records
from streams.errors import ServiceUnavailable
from tests.connectors.mqtt.fake import Peer, broker
from tests.connectors.mqtt.test_edge import PATIENCE_S, Journal, edge_at, intake_at, keeper, outlet_at, welcome

COUNT = 150
SEEDS = range(3)


class Broker:
    """Keeps to sections 4.3 and 4.4 towards one client, with numbers as messages both ways, and else does what it is
    told.

    window: how many it has in flight, whatever the client's receive maximum is.  lowest_free: of its packet ids.
    forgets: the connection at which it has no session any more.  Each one ends by chance, often in the midst of a
    packet; what it sends is torn.
    """

    def __init__(self, chance: random.Random, qos: int, *, window: int, lowest_free: bool = False, forgets: int = 0):
        self.taken: list[int] = []  # of what the client sends
        self.connections = 0
        self._chance, self._qos = chance, qos
        self._window, self._lowest_free, self._forgets = window, lowest_free, forgets
        self._next = self._last_id = 0
        self._subscribed = False
        self._flights: dict[int, tuple[int, bool]] = {}  # by packet id: the number, and whether PUBREC has come
        self._unreleased: set[int] = set()  # ids of the client's
        self._left = 0

    async def behave(self, peer: Peer) -> None:
        self.connections += 1
        self._left = self._chance.randint(1, 700)  # bytes until it hangs up
        hello = await peer.read()
        assert isinstance(hello, Connect)
        present = self.connections > 1 and self.connections != self._forgets and not hello.clean_start
        if not present:
            self._subscribed = False
            self._flights.clear()
            self._unreleased.clear()
        alive = await self._say(peer, Connack(session_present=present))
        again: list[Packet] = [
            Pubrel(each) if received else self._message(number, each, dup=True)
            for each, (number, received) in self._flights.items()
        ]
        alive = alive and await self._say(peer, *again)
        while alive:
            alive = await self._say(peer, *self._answers(await peer.read()), *self._more())

    def _more(self) -> list[Packet]:
        found: list[Packet] = []
        while self._subscribed and self._next < COUNT and len(self._flights) < self._window:
            ids = range(1, 65_536) if self._lowest_free else range(self._last_id + 1, self._last_id + 500)
            self._last_id = next(each for each in ids if each not in self._flights)
            self._flights[self._last_id] = self._next, False
            found.append(self._message(self._next, self._last_id, dup=False))
            self._next += 1
        return found

    def _message(self, number: int, packet_id: int, *, dup: bool) -> Publish:
        return Publish(f"in/{number % 7}", b"%d" % number, self._qos, dup=dup, packet_id=packet_id)

    def _answers(self, packet: Packet) -> list[Packet]:
        match packet:
            case Subscribe():
                self._subscribed = True
                return [Suback(packet.packet_id, (self._qos,))]
            case Pingreq():
                return [Pingresp()]
            case Puback() | Pubcomp():
                self._flights.pop(packet.packet_id, None)
            case Pubrec():
                number, _ = self._flights[packet.packet_id]
                self._flights[packet.packet_id] = number, True
                return [Pubrel(packet.packet_id)]
            case Publish():
                if packet.packet_id not in self._unreleased:
                    self.taken.append(int(packet.payload))
                if packet.qos == 1:
                    return [Puback(packet.packet_id)]
                self._unreleased.add(packet.packet_id)
                return [Pubrec(packet.packet_id)]
            case Pubrel():
                self._unreleased.discard(packet.packet_id)
                return [Pubcomp(packet.packet_id)]
        return []

    async def _say(self, peer: Peer, *packets: Packet) -> bool:
        """In pieces of any length, until it hangs up."""
        data = b"".join(encode(each, MQTT_5) for each in packets)
        alive, data = len(data) < self._left, data[: self._left]
        self._left -= len(data)
        while data:
            length = self._chance.choice([1, 2, 3, 50, 1000])
            await peer.say_raw(data[:length])
            data = data[length:]
            await asyncio.sleep(0)
        return alive


async def journaled(edge: MqttEdge, chance: random.Random, done: Callable[[Journal], bool]) -> list[int]:
    """What an intake journals, and others in its place after it dies: by chance, before it acknowledges."""
    journal = Journal()
    intake: MqttIntake | None = None
    while not done(journal):
        intake = intake or await intake_at(edge, journal.state)
        try:
            if await journal.store(intake) is None:
                continue
            if chance.random() < 0.9:
                await intake.stored()
                continue
        except ConnectionLost:
            pass
        if intake._connection is not None:
            intake._connection.abort()
        intake = None
    if intake is not None:
        await intake.close()
    return [int(value or 0) for value in journal.values]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lowest_free", [False, True])
@pytest.mark.parametrize("qos", [1, 2])
def test_each_message_is_journaled_once_whatever_its_packet_ids_and_windows(
    qos: int, lowest_free: bool, seed: int
) -> None:
    """Connections are cut in the midst of packets, the client dies, and five times as many come as were asked for."""
    chance = random.Random(seed)

    async def main() -> None:
        bad = Broker(chance, qos, window=20, lowest_free=lowest_free)
        async with broker(bad.behave) as config, asyncio.timeout(PATIENCE_S):
            edge = edge_at(config, f"qos={qos}&receive_maximum=4")
            found = await journaled(edge, chance, lambda journal: len(journal.values) >= COUNT)
        assert found == list(range(COUNT))
        assert bad.connections > 1

    asyncio.run(main())


@pytest.mark.parametrize("lowest_free", [False, True])
@pytest.mark.parametrize("qos", [1, 2])
def test_of_a_session_that_is_lost_what_was_under_way_is_missing_and_nothing_else(
    qos: int, lowest_free: bool, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(qos)

    async def main() -> None:
        bad = Broker(chance, qos, window=10, lowest_free=lowest_free, forgets=4)
        async with broker(bad.behave) as config, asyncio.timeout(PATIENCE_S):
            edge = edge_at(config, f"qos={qos}")
            found = await journaled(edge, chance, lambda journal: b"%d" % (COUNT - 1) in journal.values)
            assert found == sorted(set(found))
            assert len(found) >= COUNT - 10
            assert edge.sessions_lost

    asyncio.run(main())
    assert "the broker has lost the session of shop-0" in caplog.text


class Died(Exception):
    pass


async def handed_over(edge: MqttEdge, chance: random.Random) -> None:
    """Numbers, in batches, by an outlet and others in its place after it dies, by chance when it keeps its state."""
    state: bytes | None = None
    sent = 0

    async def keep(kept: bytes) -> None:
        nonlocal state
        if chance.random() < 0.05:
            raise Died
        state = kept

    while sent < COUNT:
        outlet = await outlet_at(edge, state)
        try:
            while sent < COUNT:
                count = outlet.under_way or min(chance.randint(1, 30), COUNT - sent)
                values: list[bytes | None] = [b"%d" % number for number in range(sent, sent + count)]
                await outlet.send(Records([b"a"] * count, values, [0] * count), keep)
                sent, state = sent + count, outlet.state
        except (ConnectionLost, Died):
            if outlet._connection is not None:
                outlet._connection.abort()
        else:
            await outlet.close()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("qos", [1, 2])
def test_each_message_goes_out_in_order_and_at_qos_2_once_through_connections_that_end_anywhere(
    qos: int, seed: int
) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        bad = Broker(chance, qos, window=0)
        async with broker(bad.behave) as config, asyncio.timeout(PATIENCE_S):
            await handed_over(edge_at(config, f"qos={qos}&send_maximum=5"), chance)
        taken = bad.taken if qos == 2 else list(dict.fromkeys(bad.taken))
        assert taken == list(range(COUNT))
        assert bad.connections > 1

    asyncio.run(main())


MIDST = encode(Publish("in/1", bytes(100), 1, packet_id=9), MQTT_5)[:50]


@pytest.mark.parametrize(
    ("garbage", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n" * 10, "PUBACK with the flags 1000"),
        (b"\x00" * 100, "no packet of type 0"),
        (b"\xff" * 100, "four bytes"),
        (MIDST, "closed the connection"),
        (b"", "closed the connection"),
    ],
    ids=["http", "zeros", "ones", "mid-packet", "nothing"],
)
@pytest.mark.parametrize("hello", [False, True], ids=["at once", "when connected"])
def test_garbage_and_an_end_in_mid_packet_are_errors_that_pass_and_acknowledge_nothing(
    garbage: bytes, words: str, hello: bool
) -> None:
    said: list[Packet] = []

    async def behave(peer: Peer) -> None:
        await peer.read()
        if hello:
            await peer.say(Connack(session_present=False))
            said.append(await peer.read())
            if isinstance(said[-1], Subscribe):
                await peer.say(Suback(said[-1].packet_id, (1,)))
        await peer.say_raw(garbage)

    async def main() -> None:
        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            edge = edge_at(config, "qos=1")
            intake, outlet, journal = await intake_at(edge), await outlet_at(edge), Journal()
            with pytest.raises(ServiceUnavailable, match=words):
                await journal.take(intake, count=1)
            with pytest.raises(ServiceUnavailable, match=words):
                await outlet.send(Records([b"a"], [b"1"], [0]), keeper([]))
            await intake.close()
            await outlet.close()
            assert journal.values == []

    asyncio.run(main())
    assert [type(each) for each in said] == ([Subscribe, Publish] if hello else [])


@pytest.mark.parametrize(
    ("answers", "words_in", "words_out"),
    [
        (0, "no CONNACK within 1 s", "no CONNACK within 1 s"),
        (1, "no answer to SUBSCRIBE", "silent for 1 s after a ping"),
        (2, "silent for 1 s after a ping", "silent for 1 s after a ping"),
    ],
)
def test_a_broker_that_doesn_t_answer_is_given_up_at_whatever_point(
    answers: int, words_in: str, words_out: str
) -> None:
    async def behave(peer: Peer) -> None:
        for number in range(answers):
            packet = await peer.read()
            if number == 0:
                await peer.say(Connack())
            elif isinstance(packet, Subscribe):
                await peer.say(Suback(packet.packet_id, (1,)))
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            edge = edge_at(config, "qos=1&keep_alive_s=1&answer_timeout_s=1")
            intake, outlet = await intake_at(edge), await outlet_at(edge)

            async def receive() -> None:
                await Journal().take(intake, count=1)

            async def send() -> None:
                await outlet.send(Records([b"a"], [b"1"], [0]), keeper([]))

            found = await asyncio.gather(receive(), send(), return_exceptions=True)
            assert [type(each) for each in found] == [ConnectionLost, ConnectionLost]
            assert words_in in str(found[0])
            assert words_out in str(found[1])
            await intake.close()
            await outlet.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Suback(1, (1, 1)), ProtocolError, "SUBACK for packet identifier 1 with 2 reasons; 1 were asked for under 1"),
        (Suback(7, (1,)), ProtocolError, "SUBACK for packet identifier 7"),
        (Unsuback(1, (0,)), ProtocolError, "UNSUBACK for packet identifier 1"),
        (Suback(1, (0,)), Refused, r"grants in/# at QoS 0 only, and not at 1; write qos=0"),
        (
            Suback(1, (Reason.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED,)),
            Refused,
            r"to in/#: wildcard subscriptions not supported \(0xA2\)$",
        ),
    ],
)
def test_a_suback_that_isn_t_what_was_asked_for_is_an_error_that_says_so(
    answer: Packet, error: type[Exception], words: str
) -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept()
        assert isinstance(await peer.read(), Subscribe)
        await peer.say(answer)
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            intake = await intake_at(edge_at(config, "qos=1"))
            with pytest.raises(error, match=words):
                await Journal().take(intake)
            await intake.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Unsuback(2, (Reason.NOT_AUTHORIZED,)), Refused, "can't unsubscribe from in/#, .*not authorized"),
        (Unsuback(2, (Reason.UNSPECIFIED_ERROR,)), ConnectionLost, "can't unsubscribe from in/#"),
        (Unsuback(2, (0, 0)), ProtocolError, "UNSUBACK for packet identifier 2 with 2 reasons"),
        (Unsuback(2, (Reason.NO_SUBSCRIPTION_EXISTED,)), None, ""),
    ],
)
def test_a_filter_that_the_session_doesn_t_let_go_of_is_an_error(
    answer: Packet, error: type[Exception] | None, words: str
) -> None:
    """What matches it would go on to come."""
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.accept(Connack(session_present=connections > 1))
        if connections == 2:
            assert await peer.read() == Unsubscribe(2, ("in/#",))
            await peer.say(answer)
        asked = await peer.read()
        assert isinstance(asked, Subscribe)
        await peer.say(Suback(asked.packet_id, (1,)))
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            edge, journal = edge_at(config, "qos=1"), Journal()
            first = await intake_at(edge)
            await journal.take(first)
            await first.close()
            other = await edge.intake(TopicSpec("in", 1, address="other/#"), "shop", 0, journal.state)
            if error is None:
                await journal.take(other)
            else:
                with pytest.raises(error, match=words):
                    await journal.take(other)
            await other.close()

    asyncio.run(main())


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_broker_that_stops_reading_is_given_up_in_the_midst_of_a_batch(qos: int) -> None:
    async def main() -> None:
        over = asyncio.Event()

        async def behave(peer: Peer) -> None:
            await peer.accept()
            await over.wait()

        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            outlet = await outlet_at(edge_at(config, f"qos={qos}&keep_alive_s=1&answer_timeout_s=1"))
            many = Records([b"a"] * 200, [bytes(100_000)] * 200, [0] * 200)
            with pytest.raises(ConnectionLost, match="silent"):
                await outlet.send(many, keeper([]))
            await outlet.close()
            over.set()

    asyncio.run(main())


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_of_a_batch_of_large_messages_few_are_put_together_before_the_broker_reads(qos: int) -> None:
    async def main() -> None:
        over = asyncio.Event()

        async def behave(peer: Peer) -> None:
            await peer.accept()
            await over.wait()

        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            outlet = await outlet_at(edge_at(config, f"qos={qos}"))
            many = Records([b"a"] * 200, [bytes(1_000_000)] * 200, [0] * 200)
            sending = asyncio.create_task(outlet.send(many, keeper([])))
            written: list[int] = []
            while len(written) < 20 or not written[-1] or len(set(written[-20:])) > 1:  # until it waits
                await asyncio.sleep(0.01)
                transport = None if outlet._connection is None else outlet._connection._transport
                if transport is not None:
                    written.append(transport._transport.get_write_buffer_size())  # type: ignore[attr-defined]
            assert written[-1] < 4_000_000
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            over.set()
            await outlet.close()

    asyncio.run(main())


def test_messages_beyond_the_receive_maximum_are_borne_and_counted() -> None:
    async def behave(peer: Peer) -> None:
        await welcome(peer, present=False)
        await peer.say(*[Publish("in/1", b"%d" % number, 1, packet_id=number) for number in range(1, 6)])
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config:
            edge = edge_at(config, "qos=1&receive_maximum=2")
            for lives in (1, 2):
                intake, journal = await intake_at(edge), Journal()
                await journal.take(intake, count=5)
                assert len(journal.values) == 5
                await intake.close()
                assert edge.counters()["streams_mqtt_overruns"][1] == lives * 3

    asyncio.run(main())
