"""The MQTT session by itself, against a broker that says what the test wants: no sockets, and time is a number."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.connectors.mqtt.decoder import Decoder
from streams.connectors.mqtt.encoder import encode
from streams.connectors.mqtt.errors import (
    ConnectionLost,
    MalformedPacket,
    ProtocolError,
    Refused,
    SessionTakenOver,
    Unsendable,
    WireError,
)
from streams.connectors.mqtt.events import NEVER, Closed, Connected, Event, Pong, SessionSettings
from streams.connectors.mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5,
    Connack,
    Connect,
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
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from streams.connectors.mqtt.properties import Properties
from streams.connectors.mqtt.reasons import Reason
from streams.connectors.mqtt.session import Session, State
from tests.connectors.mqtt.strategies import packets

VERSIONS = pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5])


class Wire:
    """A session, and the broker's end of its connection."""

    def __init__(self, version: int = MQTT_5, **settings: Any) -> None:
        self.version = version
        self.now_s = 100.0
        self.session = Session(SessionSettings(client_id="me", version=version, **settings))
        self._heard = Decoder(None, max_packet_bytes=2**28)
        self.session.start(self.now_s)

    def heard(self) -> list[Packet]:
        """What the broker was sent since it last asked."""
        found = self._heard.feed(self.session.output(self.now_s))
        assert self._heard.error is None
        return found

    def say(self, *packets: Packet) -> list[Event]:
        return self.session.receive(b"".join(encode(each, self.version) for each in packets), self.now_s)

    def accept(self, **properties: Any) -> Connected:
        (event,) = self.say(Connack(False, 0, Properties(**properties)))  # type: ignore[typeddict-item]
        assert isinstance(event, Connected)
        self.heard()
        return event


def open_wire(version: int = MQTT_5, properties: dict[str, Any] | None = None, **settings: Any) -> Wire:
    wire = Wire(version, **settings)
    wire.accept(**(properties or {}))
    return wire


def error_in(events: list[Event]) -> Any:
    assert isinstance(events[-1], Closed)
    return events[-1].error


def test_connect_says_all_settings_but_our_limit_above_which_a_broker_would_drop_in_silence() -> None:
    will = Will("gone", b"me", 1, True, Properties(will_delay_interval=3))
    wire = Wire(
        clean_start=False,
        session_expiry_s=NEVER,
        keep_alive_s=30,
        user="u",
        password=b"p",
        will=will,
        receive_maximum=7,
        max_packet_bytes=1000,
        topic_aliases_in=5,
        user_properties=(("a", "b"),),
    )
    said = Properties(
        receive_maximum=7,
        session_expiry_interval=NEVER,
        topic_alias_maximum=5,
        user_property=[("a", "b")],
    )
    assert wire.heard() == [Connect("me", False, 30, "u", b"p", will, said)]


def test_connect_of_3_1_1_says_what_that_version_can() -> None:
    wire = Wire(MQTT_3_1_1, clean_start=False, session_expiry_s=99, receive_maximum=7)
    assert wire.heard() == [Connect("me", False, 60)]


def test_the_password_is_in_no_text() -> None:
    settings = SessionSettings(client_id="me", user="u", password=b"hunter2")
    assert "hunter2" not in repr(settings) + repr(settings.connect())


def test_what_the_broker_allows_is_told_with_defaults() -> None:
    assert open_wire().session.connected == Connected(False, "me", 60, 0, 1000, 2, True, 16 * 2**20, {})
    event = Wire(send_maximum=50, session_expiry_s=9).accept(
        receive_maximum=20,
        server_keep_alive=5,
        maximum_qos=1,
        retain_available=0,
        maximum_packet_size=99,
        assigned_client_identifier="you",
        session_expiry_interval=3,
    )
    assert (event.send_maximum, event.keep_alive_s, event.maximum_qos) == (20, 5, 1)
    assert (event.retain_available, event.max_packet_bytes) == (False, 99)
    assert (event.client_id, event.session_expiry_s) == ("you", 3)


def test_a_session_of_3_1_1_lasts_for_ever_or_not_at_all() -> None:
    assert Wire(MQTT_3_1_1, clean_start=False).accept().session_expiry_s == NEVER
    assert Wire(MQTT_3_1_1, clean_start=True).accept().session_expiry_s == 0


@VERSIONS
@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.NOT_AUTHORIZED, Refused),
        (Reason.BAD_USER_NAME_OR_PASSWORD, Refused),
        (Reason.CLIENT_IDENTIFIER_NOT_VALID, Refused),
        (Reason.SERVER_UNAVAILABLE, ConnectionLost),
    ],
)
def test_a_refusal_says_whether_another_try_is_worth_it(version: int, reason: Reason, kind: type[Any]) -> None:
    wire = Wire(version)
    error = error_in(wire.say(Connack(False, reason)))
    assert type(error) is kind
    assert error.reason == reason
    assert reason.name.replace("_", " ").lower() in str(error)
    assert wire.session.state is State.CLOSED


def test_the_broker_s_own_words_are_in_the_error() -> None:
    error = error_in(Wire().say(Connack(False, Reason.BANNED, Properties(reason_string="until Monday"))))
    assert "until Monday" in str(error)


def test_a_takeover_is_told_apart_from_every_other_end() -> None:
    for reason in Reason:
        error = error_in(open_wire().say(Disconnect(reason)))
        assert isinstance(error, SessionTakenOver) is (reason == Reason.SESSION_TAKEN_OVER)
        assert error.reason == reason
    assert isinstance(error_in(open_wire().session.ended()), ConnectionLost)


def test_an_end_that_settings_cause_is_no_reason_to_try_again() -> None:
    assert isinstance(error_in(open_wire().say(Disconnect(Reason.NOT_AUTHORIZED))), Refused)
    assert isinstance(error_in(open_wire().say(Disconnect(Reason.SERVER_SHUTTING_DOWN))), ConnectionLost)


@VERSIONS
def test_nothing_is_acknowledged_before_the_application_does(version: int) -> None:
    wire = open_wire(version)
    messages: list[Packet] = [
        Publish("a", b"0"),
        Publish("a", b"1", 1, packet_id=1),
        Publish("a", b"2", 2, packet_id=2),
    ]
    assert wire.say(*messages) == messages
    assert wire.heard() == []
    assert wire.session.unacked == 2
    wire.session.puback([1])
    wire.session.pubrec([2])
    assert wire.heard() == [Puback(1), Pubrec(2)]
    assert wire.say(Pubrel(2)) == [Pubrel(2)]
    assert wire.heard() == []
    wire.session.pubcomp([2])
    assert wire.heard() == [Pubcomp(2)]
    assert wire.session.unacked == 0


def test_a_message_may_be_refused_with_a_reason() -> None:
    wire = open_wire()
    wire.say(Publish("a", b"", 1, packet_id=1), Publish("a", b"", 2, packet_id=2))
    wire.session.puback([1], Reason.QUOTA_EXCEEDED)
    wire.session.pubrec([2], Reason.QUOTA_EXCEEDED)
    assert wire.heard() == [Puback(1, Reason.QUOTA_EXCEEDED), Pubrec(2, Reason.QUOTA_EXCEEDED)]
    assert wire.session.unacked == 0


@VERSIONS
def test_a_message_goes_out_and_its_handshake_frees_the_window(version: int) -> None:
    wire = open_wire(version, send_maximum=2)
    once, exactly = Publish("a", b"", 1, packet_id=10), Publish("b", b"", 2, True, packet_id=11)
    wire.session.publish(once)
    wire.session.publish(exactly)
    assert wire.heard() == [once, exactly]
    assert wire.session.window == 0
    wire.session.publish(Publish("c", b"at QoS 0 the window doesn't count"))
    assert wire.say(Puback(10)) == [Puback(10)]
    assert wire.session.window == 1
    assert wire.say(Pubrec(11)) == [Pubrec(11)]
    assert wire.session.window == 1
    wire.session.pubrel([11])
    assert wire.heard()[-1] == Pubrel(11)
    assert wire.say(Pubcomp(11)) == [Pubcomp(11)]
    assert wire.session.window == 2


def test_a_message_that_the_broker_refuses_frees_the_window() -> None:
    wire = open_wire(send_maximum=1)
    for answer in (Puback(1, Reason.QUOTA_EXCEEDED), Pubrec(1, Reason.NOT_AUTHORIZED)):
        wire.session.publish(Publish("a", b"", 1 if isinstance(answer, Puback) else 2, packet_id=1))
        assert wire.say(answer) == [answer]
        assert wire.session.window == 1


def test_the_broker_s_receive_maximum_is_kept() -> None:
    wire = open_wire(properties={"receive_maximum": 1}, send_maximum=100)
    wire.session.publish(Publish("a", b"", 1, packet_id=1))
    with pytest.raises(AssertionError, match="window"):
        wire.session.publish(Publish("a", b"", 1, packet_id=2))


def test_an_id_in_flight_is_not_used_twice() -> None:
    wire = open_wire()
    wire.session.publish(Publish("a", b"", 1, packet_id=1))
    with pytest.raises(AssertionError, match="in flight"):
        wire.session.publish(Publish("b", b"", 1, packet_id=1))
    with pytest.raises(AssertionError, match="in flight"):
        wire.session.subscribe(1, [Subscription("a")])


@VERSIONS
def test_a_handshake_goes_on_after_a_restart(version: int) -> None:
    wire = Wire(version, clean_start=False)
    (event,) = wire.say(Connack(True))
    assert isinstance(event, Connected)
    assert event.session_present
    wire.heard()
    again = Publish("a", b"x", 2, False, True, 5)
    wire.session.publish(again)
    wire.session.pubrel([6])
    assert wire.heard() == [again, Pubrel(6)]
    assert wire.say(Pubrec(5), Pubcomp(6)) == [Pubrec(5), Pubcomp(6)]
    # An answer to what only an earlier process knew is passed on: the outbox knows what it means.
    assert wire.say(Puback(77), Pubcomp(78)) == [Puback(77), Pubcomp(78)]


def test_an_answer_of_the_wrong_kind_breaks_off() -> None:
    for qos, answer in ((1, Pubrec(1)), (1, Pubcomp(1)), (2, Puback(1))):
        wire = open_wire()
        wire.session.publish(Publish("a", b"", qos, packet_id=1))
        wire.heard()
        assert isinstance(error_in(wire.say(answer)), ProtocolError)
        assert wire.heard() == [Disconnect(Reason.PROTOCOL_ERROR)]


def test_a_broker_that_overruns_the_receive_maximum_is_borne_and_counted() -> None:
    wire = open_wire(receive_maximum=2)
    messages: list[Packet] = [Publish("a", b"", 1, packet_id=each) for each in range(1, 6)]
    assert wire.say(*messages) == messages
    assert (wire.session.unacked, wire.session.overruns) == (5, 3)


def test_what_the_broker_doesn_t_take_is_refused_before_it_is_sent() -> None:
    wire = open_wire(properties={"maximum_qos": 1, "retain_available": 0, "maximum_packet_size": 50})
    for message, reason in (
        (Publish("a", b"", 2, packet_id=1), Reason.QOS_NOT_SUPPORTED),
        (Publish("a", b"", retain=True), Reason.RETAIN_NOT_SUPPORTED),
        (Publish("a", bytes(50)), Reason.PACKET_TOO_LARGE),
    ):
        with pytest.raises(Unsendable) as caught:
            wire.session.publish(message)
        assert caught.value.reason == reason
    assert wire.session.window == 1000
    assert wire.heard() == []


@VERSIONS
def test_a_message_of_100_mb_is_refused_by_our_own_limit_with_the_setting_named(version: int) -> None:
    wire = open_wire(version)
    with pytest.raises(Unsendable, match="max_packet_bytes is 16777216"):
        wire.session.publish(Publish("a", bytes(100_000_000), 1, packet_id=1))
    assert wire.heard() == []
    assert wire.session.window == 1000


def test_properties_are_not_dropped_in_silence_where_3_1_1_has_none() -> None:
    with pytest.raises(Unsendable, match="MQTT 5"):
        open_wire(MQTT_3_1_1).session.publish(Publish("a", b"", properties={"content_type": "x"}))


@VERSIONS
def test_subscriptions_are_asked_for_and_answered(version: int) -> None:
    wire = open_wire(version)
    wire.session.subscribe(1, [Subscription("a/+", 1), Subscription("$share/g/b/#", 2)])
    wire.session.unsubscribe(2, ["c"])
    assert wire.heard() == [
        Subscribe(1, (Subscription("a/+", 1), Subscription("$share/g/b/#", 2))),
        Unsubscribe(2, ("c",)),
    ]
    gone = Unsuback(2, (0,) if version == MQTT_5 else ())
    assert wire.say(Suback(1, (1, 0x80)), gone) == [Suback(1, (1, 0x80)), gone]


def test_the_broker_s_aliases_are_resolved_and_taken_off() -> None:
    wire = open_wire(topic_aliases_in=2)
    first = Publish("long/topic", b"1", properties={"topic_alias": 2, "content_type": "x"})
    assert wire.say(first, Publish("", b"2", properties={"topic_alias": 2})) == [
        Publish("long/topic", b"1", properties={"content_type": "x"}),
        Publish("long/topic", b"2"),
    ]
    wire.say(Publish("other", b"", properties={"topic_alias": 2}))
    assert wire.say(Publish("", b"", properties={"topic_alias": 2})) == [Publish("other", b"")]


@pytest.mark.parametrize(("alias", "reason"), [(0, 0x94), (3, 0x94), (1, 0x82)])
def test_an_alias_that_can_t_be_breaks_off(alias: int, reason: int) -> None:
    wire = open_wire(topic_aliases_in=2)
    error = error_in(wire.say(Publish("", b"", properties={"topic_alias": alias})))
    assert isinstance(error, ProtocolError)
    assert error.reason == reason
    assert wire.heard() == [Disconnect(reason)]


def test_our_aliases_are_understood_whatever_the_order_of_topics() -> None:
    wire = open_wire(properties={"topic_alias_maximum": 2}, topic_aliases_out=10)
    other_end = open_wire(topic_aliases_in=2)
    topics = ["a", "b", "a", "c", "b", "a", "a", "c", "c"]
    for topic in topics:
        wire.session.publish(Publish(topic, b"", properties={"content_type": "x"}))
    sent = wire.heard()
    assert sum(packet.topic == "" for packet in sent if isinstance(packet, Publish)) >= 3
    assert other_end.say(*sent) == [Publish(topic, b"", properties={"content_type": "x"}) for topic in topics]


def test_no_alias_is_used_if_the_broker_takes_none_and_none_is_lost_by_a_message_too_large() -> None:
    wire = open_wire(topic_aliases_out=10)
    wire.session.publish(Publish("a", b""))
    assert wire.heard() == [Publish("a", b"")]
    wire = open_wire(properties={"topic_alias_maximum": 2, "maximum_packet_size": 20}, topic_aliases_out=2)
    for size in (30, 0, 14, 0):
        try:
            wire.session.publish(Publish("a", bytes(size)))
        except Unsendable:
            assert size == 30
    sent = wire.heard()
    assert [each.topic for each in sent if isinstance(each, Publish)] == ["a", "a", ""]
    assert all(len(encode(each, MQTT_5)) <= 20 for each in sent)


def test_pings_go_out_when_nothing_was_sent_for_the_keep_alive_time() -> None:
    wire = open_wire(keep_alive_s=40)
    assert wire.session.deadline == 130
    wire.now_s = 129.0
    assert wire.session.tick(wire.now_s) == []
    assert wire.heard() == []
    wire.now_s = 130.0
    assert wire.session.tick(wire.now_s) == []
    assert wire.heard() == [Pingreq()]
    assert wire.say(Pingresp()) == [Pong(1)]
    assert wire.session.deadline == 160


def test_who_sends_all_the_time_pings_too_since_nobody_may_listen() -> None:
    wire = open_wire(keep_alive_s=40)
    pinged_s = []
    while not (events := wire.session.tick(wire.now_s)):
        if Pingreq() in wire.heard():
            pinged_s.append(wire.now_s)
        wire.session.publish(Publish("a", b""))
        wire.heard()
        wire.now_s += 1
    assert pinged_s == [130]
    assert wire.now_s == 140
    assert error_in(events).reason == Reason.KEEP_ALIVE_TIMEOUT


def test_a_broker_that_is_silent_after_a_ping_is_given_up() -> None:
    wire = open_wire(keep_alive_s=40, answer_timeout_s=5)
    wire.now_s = 130.0
    wire.session.tick(wire.now_s)
    wire.heard()
    assert wire.session.deadline == 135
    wire.now_s = 134.0
    wire.say(Publish("a", b"is alive, if slow"))
    assert wire.session.deadline == 139
    wire.now_s = 139.0
    error = error_in(wire.session.tick(wire.now_s))
    assert isinstance(error, ConnectionLost)
    assert error.reason == Reason.KEEP_ALIVE_TIMEOUT
    assert wire.heard() == [Disconnect(Reason.KEEP_ALIVE_TIMEOUT)]


def test_while_reading_is_held_the_broker_hears_pings_and_its_silence_is_no_fault_of_its() -> None:
    wire = open_wire(keep_alive_s=40, answer_timeout_s=5)
    pinged_s = []
    while wire.now_s < 200:
        wire.session.hold(wire.now_s)
        assert wire.session.tick(wire.now_s) == []
        if Pingreq() in wire.heard():
            pinged_s.append(wire.now_s)
        wire.now_s = min(wire.session.deadline, wire.now_s + 1)
    assert pinged_s == [130, 160, 190]
    assert wire.say(Pingresp(), Pingresp()) == [Pong(1), Pong(2)]


def test_a_broker_that_never_answers_connect_is_given_up() -> None:
    wire = Wire(answer_timeout_s=5)
    assert wire.session.deadline == 105
    assert error_in(wire.session.tick(105.0)).reason == Reason.SERVER_UNAVAILABLE


def test_no_keep_alive_no_pings() -> None:
    assert open_wire(keep_alive_s=0).session.deadline == float("inf")


def test_pongs_carry_the_number_of_their_ping() -> None:
    wire = open_wire()
    assert [wire.session.ping(), wire.session.ping()] == [1, 2]
    assert wire.say(Pingresp()) == [], "what isn't sent can't be answered"
    wire.heard()
    assert wire.say(Pingresp(), Puback(9), Pingresp()) == [Pong(1), Puback(9), Pong(2)]
    assert wire.say(Pingresp()) == []
    assert wire.session.ping() == 3


def test_a_ping_follows_the_acknowledgements_before_it() -> None:
    wire = open_wire()
    wire.say(Publish("a", b"", 1, packet_id=1), Publish("a", b"", 1, packet_id=2))
    wire.session.puback([1, 2])
    wire.session.ping()
    assert wire.heard() == [Puback(1), Puback(2), Pingreq()]


def test_we_say_why_we_go() -> None:
    wire = open_wire()
    assert wire.session.disconnect(Reason.DISCONNECT_WITH_WILL, session_expiry_s=0) == [Closed(None)]
    assert wire.heard() == [Disconnect(4, Properties(session_expiry_interval=0))]
    assert wire.session.ended() == []
    assert wire.session.receive(b"\x00\x00", wire.now_s) == []
    with pytest.raises(ConnectionLost):
        wire.session.publish(Publish("a", b""))


def test_what_came_before_garbage_is_given_out_first() -> None:
    wire = open_wire()
    data = encode(Publish("a", b"1"), MQTT_5) + b"\x00\x00"
    message, end = wire.session.receive(data, wire.now_s)
    assert message == Publish("a", b"1")
    assert isinstance(error_in([end]), MalformedPacket)
    assert wire.heard() == [Disconnect(Reason.MALFORMED_PACKET)]


@pytest.mark.parametrize(
    "packet", [Connect("x"), Subscribe(1, (Subscription("a"),)), Unsubscribe(1, ("a",)), Pingreq(), Connack()], ids=str
)
def test_what_only_a_client_may_say_breaks_off(packet: Packet) -> None:
    assert isinstance(error_in(open_wire().say(packet)), ProtocolError)


@VERSIONS
def test_nothing_may_come_before_connack(version: int) -> None:
    assert isinstance(error_in(Wire(version).say(Publish("a", b""))), ProtocolError)
    assert isinstance(error_in(Wire(version).say(Puback(1))), ProtocolError)


def test_a_session_that_is_present_after_a_clean_start_is_no_session_of_ours() -> None:
    assert isinstance(error_in(Wire(clean_start=True).say(Connack(True))), ProtocolError)


def test_disconnect_of_3_1_1_is_never_the_broker_s() -> None:
    assert isinstance(error_in(open_wire(MQTT_3_1_1).say(Disconnect())), ProtocolError)


@VERSIONS
@given(data=st.data())
def test_whatever_a_broker_says_the_end_is_told_once_and_with_an_error_of_ours(
    version: int, data: st.DataObject
) -> None:
    wire = open_wire(version, topic_aliases_in=10)
    wire.session.publish(Publish("a", b"", 1, packet_id=1))
    wire.session.publish(Publish("a", b"", 2, packet_id=2))
    events: list[Event] = []
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            said = encode(data.draw(packets(version)), version)
        else:
            said = data.draw(st.binary(max_size=30))
        events += wire.session.receive(said, wire.now_s)
        events += wire.session.tick(wire.now_s)
    events += wire.session.ended()
    ends = [event for event in events if isinstance(event, Closed)]
    assert ends == events[-1:]
    assert isinstance(ends[0].error, (ConnectionLost, Refused, SessionTakenOver, WireError))
