"""The MQTT codec against two others: mqtt5 (a codec in Rust, version 5 only) and what paho puts on the wire.

Both are used in tests only, and mqtt5 with sound packets only: it panics on some broken ones.  Why neither can be our
client is in ARCHITECTURE.md.
"""

from __future__ import annotations

import io
from typing import Any

import mqtt5
import paho.mqtt.client as paho
from hypothesis import given
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from streams.connectors.mqtt.decoder import Decoder
from streams.connectors.mqtt.encoder import encode, encode_publish
from streams.connectors.mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Will,
)
from streams.connectors.mqtt.properties import Properties
from tests.connectors.mqtt.strategies import packets, publishes

LIMIT = 2**20

# Properties that mqtt5 leaves out when they have the value that their absence means.
DEFAULTS: dict[str, Any] = {
    "payload_format_indicator": 0,
    "request_problem_information": 1,
    "request_response_information": 0,
    "receive_maximum": 65535,
    "topic_alias_maximum": 0,
    "will_delay_interval": 0,
    "maximum_qos": 2,
    "retain_available": 1,
    "wildcard_subscription_available": 1,
    "subscription_identifier_available": 1,
    "shared_subscription_available": 1,
}
# mqtt5 knows reasons by name only: those that it has for a kind of packet.
REASONS: dict[type, Any] = {
    Connack: mqtt5.ConnAckReasonCode,
    Puback: mqtt5.PubAckReasonCode,
    Pubrec: mqtt5.PubRecReasonCode,
    Pubrel: mqtt5.PubRelReasonCode,
    Pubcomp: mqtt5.PubCompReasonCode,
    Suback: mqtt5.SubAckReasonCode,
    Unsuback: mqtt5.UnsubAckReasonCode,
    Disconnect: mqtt5.DisconnectReasonCode,
    Auth: mqtt5.AuthReasonCode,
}


def read_one(wire: bytes, version: int = MQTT_5) -> Packet:
    reader = Decoder(version, max_packet_bytes=LIMIT)
    found = reader.feed(wire)
    assert reader.error is None, reader.error
    assert len(found) == 1
    return found[0]


def known_to_mqtt5(packet: Packet) -> bool:
    if isinstance(packet, Auth) and not packet.reason and not packet.properties:
        return False  # it refuses an AUTH of no bytes, which section 3.15.2.1 allows
    kinds = REASONS.get(type(packet))
    if kinds is None:
        return True
    known = {int(getattr(kinds, name)) for name in dir(kinds) if name.isupper()}
    return known.issuperset(
        packet.reasons if isinstance(packet, (Suback, Unsuback)) else [getattr(packet, "reason", 0)]
    )


def without_defaults(properties: Properties, packet: Packet) -> dict[str, Any]:
    of_connect = isinstance(packet, Connect)
    defaults = DEFAULTS | ({"session_expiry_interval": 0} if of_connect else {})
    return {name: value for name, value in properties.items() if defaults.get(name) != value}


def plain(packet: Packet) -> Any:
    """What both codecs can say of a packet."""
    parts: list[Any] = [type(packet)]
    for name in packet.__slots__:
        value = getattr(packet, name)
        if isinstance(value, Will):
            value = (value.topic, value.payload, value.qos, value.retain, without_defaults(value.properties, packet))
        parts.append(without_defaults(value, packet) if name == "properties" else value)
    return parts


@given(packet=packets(MQTT_5).filter(known_to_mqtt5))
def test_mqtt5_reads_what_we_write_and_we_read_what_it_writes(packet: Packet) -> None:
    wire = encode(packet, MQTT_5)
    theirs, length = mqtt5.read(memoryview(wire))
    assert length == len(wire)
    assert type(theirs).__name__.lower() == type(packet).__name__.lower() + "packet"
    assert plain(read_one(theirs.write())) == plain(packet)


class Recorder(paho.Client):
    """A client of paho's that keeps what it would send."""

    def __init__(self, version: int, client_id: str = "") -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion(version))
        self.sent: list[bytes] = []
        self._sock = io.BytesIO()  # type: ignore[assignment]  # it wants something that is open

    def _packet_queue(self, command: int, packet: bytes | bytearray, mid: int, qos: int, info: Any = None) -> Any:
        self.sent.append(bytes(packet))
        return MQTTErrorCode.MQTT_ERR_SUCCESS


def paho_properties(kind: int, properties: Properties) -> PahoProperties:
    found = PahoProperties(kind)  # type: ignore[no-untyped-call]
    for name, value in properties.items():
        setattr(found, "".join(part.capitalize() for part in name.split("_")), value)
    return found


@given(packet=publishes(MQTT_3_1_1))
def test_a_message_of_3_1_1_is_the_same_bytes_as_paho_s(packet: Publish) -> None:
    client = Recorder(MQTT_3_1_1)
    client._send_publish(packet.packet_id, packet.topic.encode(), packet.payload, packet.qos, packet.retain, packet.dup)
    assert client.sent == [encode_publish(packet, MQTT_3_1_1)]


@given(packet=publishes(MQTT_5))
def test_a_message_of_5_that_paho_writes_is_read_as_it_was(packet: Publish) -> None:
    # A client may not send subscription identifiers, so paho doesn't write them.
    properties = {name: value for name, value in packet.properties.items() if name != "subscription_identifier"}
    packet.properties = properties  # type: ignore[assignment]
    client = Recorder(MQTT_5)
    client._send_publish(
        packet.packet_id,
        packet.topic.encode(),
        packet.payload,
        packet.qos,
        packet.retain,
        packet.dup,
        properties=paho_properties(PacketTypes.PUBLISH, packet.properties),
    )
    assert read_one(client.sent[0]) == packet


def test_connect_subscribe_and_disconnect_are_read_as_paho_meant_them() -> None:
    for version in (MQTT_3_1_1, MQTT_5):
        five = version == MQTT_5
        client = Recorder(version, "sensor-7")
        client.username_pw_set("user", "pass:wörd")
        will = Will("gone/ä", b"\x00\xff", 2, True, Properties(will_delay_interval=5) if five else Properties())
        of_will = paho_properties(PacketTypes.WILLMESSAGE, will.properties) if five else None
        client.will_set(will.topic, will.payload, will.qos, will.retain, of_will)
        wanted = Connect("sensor-7", True, 17, "user", "pass:wörd".encode(), will)
        if five:
            wanted.properties = Properties(session_expiry_interval=99, receive_maximum=7, user_property=[("a", "b")])
            client._connect_properties = paho_properties(PacketTypes.CONNECT, wanted.properties)
        client._send_connect(17)
        options: Any = SubscribeOptions(1, True, True, 2) if five else 1
        client._send_subscribe(0, [(b"a/+/#", options)])
        if five:
            client._send_disconnect(ReasonCode(PacketTypes.DISCONNECT, identifier=4))
        subscription = Subscription("a/+/#", 1, True, True, 2) if five else Subscription("a/+/#", 1)
        expected: list[Packet] = [wanted, Subscribe(1, (subscription,)), *([Disconnect(4)] if five else [])]
        assert [read_one(wire, version) for wire in client.sent] == expected
        if not five:
            assert client.sent == [encode(packet, version) for packet in expected]
