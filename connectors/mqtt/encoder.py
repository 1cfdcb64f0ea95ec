"""Packets to bytes, for MQTT 3.1.1 and 5.

What must live here: the layout of each packet as it is written.  What must not: whether it may be sent (``session``).

Raises Unsendable for what can't be said in MQTT, before a byte is out.  Messages and their acknowledgements have
functions of their own, since they are all that there is on a busy connection; acknowledgements are written in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import pack
from typing import Any, Final

from streams.connectors.mqtt.errors import Unsendable
from streams.connectors.mqtt.packets import (
    MQTT_5,
    Auth,
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
    Unsuback,
    Unsubscribe,
    Will,
)
from streams.connectors.mqtt.properties import Properties, write_properties
from streams.connectors.mqtt.reasons import RETURN_CODES, Reason
from streams.connectors.mqtt.wire import binary, checked_topic, string, varint

__all__ = ["PUBACKS", "PUBCOMPS", "PUBRECS", "PUBRELS", "encode", "encode_acks", "encode_publish", "publish_bytes"]

# What encode_acks writes: the packets with their two header bytes, as the upper half of a number.
PUBACKS: Final = 0x4002_0000
PUBRECS: Final = 0x5002_0000
PUBRELS: Final = 0x6202_0000
PUBCOMPS: Final = 0x7002_0000

_TO_RETURN_CODE = {reason: code for code, reason in RETURN_CODES.items()}


def encode_acks(kind: int, packet_ids: Sequence[int]) -> bytes:
    """One acknowledgement with success for each id; the same bytes in both versions."""
    for each in packet_ids:
        if not 0 < each < 0x10000:
            raise _bad_identifier(each)
    return pack(f">{len(packet_ids)}I", *[kind | each for each in packet_ids])


def encode_publish(packet: Publish, version: int) -> bytes:
    raw = packet.topic.encode("utf-8", "surrogatepass")
    if not raw.isascii() or 0 in raw or b"+" in raw or b"#" in raw or not raw or len(raw) > 0xFFFF:
        raw = _other_topic(packet, version)
    return publish_bytes(packet, raw, write_properties(packet.properties, "p") if version == MQTT_5 else b"")


def publish_bytes(packet: Publish, raw: bytes, properties: bytes) -> bytes:
    """A message with its topic and properties as they are on the wire already."""
    qos, packet_id = packet.qos, packet.packet_id
    first = 0x30 | packet.retain | qos << 1 | packet.dup << 3
    head = len(raw).to_bytes(2, "big") + raw
    if qos:
        if not 0 < packet_id < 0x10000 or qos > 2 or qos < 0:
            raise _bad_identifier(packet_id) if qos in (1, 2) else _bad_qos(qos)
        head += packet_id.to_bytes(2, "big")
    elif packet_id or packet.dup:
        raise Unsendable("a message at QoS 0 has no packet identifier and no DUP", Reason.PROTOCOL_ERROR)
    head += properties
    length = len(head) + len(packet.payload)
    if length < 0x80:
        return b"%c%c%b%b" % (first, length, head, packet.payload)
    return b"%c%b%b%b" % (first, varint(length), head, packet.payload)


def encode(packet: Packet, version: int) -> bytes:
    """The bytes of any packet."""
    first, write = _WRITERS[type(packet)]
    body = write(packet, version)
    return body if first is None else bytes((first,)) + varint(len(body)) + body


def _bad_identifier(packet_id: int) -> Unsendable:
    return Unsendable(f"packet identifier {packet_id}; it may be 1 to 65535", Reason.PROTOCOL_ERROR)


def _bad_qos(qos: int) -> Unsendable:
    return Unsendable(f"QoS {qos}; it may be 0, 1 or 2", Reason.QOS_NOT_SUPPORTED)


def _other_topic(packet: Publish, version: int) -> bytes:
    """What isn't plain ASCII: checked in full.  A topic may be empty where an alias stands for it."""
    if not packet.topic and version == MQTT_5 and "topic_alias" in packet.properties:
        return b""
    return string(checked_topic(packet.topic), "topic")[2:]


def _identifier(packet_id: int) -> bytes:
    if not 0 < packet_id < 0x10000:
        raise _bad_identifier(packet_id)
    return packet_id.to_bytes(2, "big")


def _properties(properties: Properties, place: str, version: int) -> bytes:
    return write_properties(properties, place) if version == MQTT_5 else b""


def _ack(place: str) -> Callable[[Any, int], bytes]:
    def write(packet: Puback | Pubrec | Pubrel | Pubcomp, version: int) -> bytes:
        body = _identifier(packet.packet_id)
        if version == MQTT_5 and (packet.reason or packet.properties):
            body += bytes((packet.reason,))
            if packet.properties:
                body += write_properties(packet.properties, place)
        return body

    return write


def _will(will: Will, version: int) -> bytes:
    place = _properties(will.properties, "w", version)
    return place + string(checked_topic(will.topic), "the will's topic") + binary(will.payload, "the will's payload")


def _connect(packet: Connect, version: int) -> bytes:
    flags, will = packet.clean_start << 1, packet.will
    if will is not None:
        if will.qos not in (0, 1, 2):
            raise _bad_qos(will.qos)
        flags |= 0x04 | will.qos << 3 | will.retain << 5
    if packet.password is not None:
        if packet.user is None and version != MQTT_5:
            raise Unsendable("MQTT 3.1.1 has no password without a user", Reason.PROTOCOL_ERROR)
        flags |= 0x40
    if packet.user is not None:
        flags |= 0x80
    if not 0 <= packet.keep_alive_s <= 0xFFFF:
        raise Unsendable(f"a keep alive of {packet.keep_alive_s} s; it may be 0 to 65535", Reason.PROTOCOL_ERROR)
    return b"".join(
        (
            b"\0\x04MQTT",
            bytes((version, flags)),
            packet.keep_alive_s.to_bytes(2, "big"),
            _properties(packet.properties, "c", version),
            string(packet.client_id, "client id"),
            b"" if will is None else _will(will, version),
            b"" if packet.user is None else string(packet.user, "user"),
            b"" if packet.password is None else binary(packet.password, "password"),
        )
    )


def _connack(packet: Connack, version: int) -> bytes:
    reason = packet.reason
    if version != MQTT_5:
        reason = _TO_RETURN_CODE.get(Reason(reason), 3)
    return bytes((packet.session_present, reason)) + _properties(packet.properties, "C", version)


def _subscribe(packet: Subscribe, version: int) -> bytes:
    if not packet.subscriptions:
        raise Unsendable("a SUBSCRIBE without a topic filter", Reason.PROTOCOL_ERROR)
    parts = [_identifier(packet.packet_id), _properties(packet.properties, "s", version)]
    for each in packet.subscriptions:
        if each.qos not in (0, 1, 2) or each.retain_handling not in (0, 1, 2):
            raise Unsendable(f"{each}: QoS and retain handling may be 0, 1 or 2", Reason.PROTOCOL_ERROR)
        options = each.qos
        if version == MQTT_5:
            options |= each.no_local << 2 | each.retain_as_published << 3 | each.retain_handling << 4
        parts += (string(_checked_filter(each.topic_filter), "topic filter"), bytes((options,)))
    return b"".join(parts)


def _checked_filter(topic_filter: str) -> str:
    """Section 4.7.1: a wildcard is a whole level, and # the last one."""
    levels = topic_filter.split("/")
    if not topic_filter or any(len(each) > 1 and ("+" in each or "#" in each) for each in levels) or "#" in levels[:-1]:
        raise Unsendable(f"topic filter {topic_filter!r} is none: + or # is a whole level, # the last", 0x8F)
    return topic_filter


def _unsubscribe(packet: Unsubscribe, version: int) -> bytes:
    if not packet.topic_filters:
        raise Unsendable("an UNSUBSCRIBE without a topic filter", Reason.PROTOCOL_ERROR)
    head = _identifier(packet.packet_id) + _properties(packet.properties, "u", version)
    return head + b"".join(string(_checked_filter(each), "topic filter") for each in packet.topic_filters)


def _suback(packet: Suback, version: int) -> bytes:
    return _identifier(packet.packet_id) + _properties(packet.properties, "S", version) + bytes(packet.reasons)


def _unsuback(packet: Unsuback, version: int) -> bytes:
    head = _identifier(packet.packet_id)
    return head + _properties(packet.properties, "U", version) + bytes(packet.reasons) if version == MQTT_5 else head


def _ending(place: str) -> Callable[[Any, int], bytes]:
    def write(packet: Disconnect | Auth, version: int) -> bytes:
        if version != MQTT_5:
            if place == "A":
                raise Unsendable("MQTT 3.1.1 has no AUTH", Reason.PROTOCOL_ERROR)
            return b""
        if not packet.properties and (place == "d" or not packet.reason):
            return bytes((packet.reason,)) if packet.reason else b""
        return bytes((packet.reason,)) + write_properties(packet.properties, place)

    return write


def _nothing(packet: Packet, version: int) -> bytes:
    return b""


_WRITERS: dict[type, tuple[int | None, Callable[[Any, int], bytes]]] = {
    Connect: (0x10, _connect),
    Connack: (0x20, _connack),
    Publish: (None, encode_publish),
    Puback: (0x40, _ack("a")),
    Pubrec: (0x50, _ack("r")),
    Pubrel: (0x62, _ack("R")),
    Pubcomp: (0x70, _ack("P")),
    Subscribe: (0x82, _subscribe),
    Suback: (0x90, _suback),
    Unsubscribe: (0xA2, _unsubscribe),
    Unsuback: (0xB0, _unsuback),
    Pingreq: (0xC0, _nothing),
    Pingresp: (0xD0, _nothing),
    Disconnect: (0xE0, _ending("d")),
    Auth: (0xF0, _ending("A")),
}
