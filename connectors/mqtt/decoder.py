"""Bytes to packets, for MQTT 3.1.1 and 5, as they arrive.

What must live here: the layout of each packet as it is read, and putting together what came in pieces.  What must not:
whether a packet may come now (``session``).

``Decoder.feed`` takes whatever a socket gave and returns all packets that are whole by then.  It never raises for what
it reads: what is wrong is in ``error``, behind the packets that were still right, and nothing is read any more.  Memory
is bounded: a packet longer than ``max_packet_bytes`` is refused at its header, and a length in a packet is checked
against what is there before anything is made from it.  The time is linear in the bytes fed, in whatever pieces.

It reads packets of both sides, so that a broker in a test needs no other.  Reason codes that the specification doesn't
know are passed on as numbers: refusing them would end sessions that work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from streams.connectors.mqtt.errors import MalformedPacket, ProtocolError, WireError
from streams.connectors.mqtt.packets import (
    MQTT_3_1_1,
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
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from streams.connectors.mqtt.properties import Properties, read_properties
from streams.connectors.mqtt.reasons import RETURN_CODES, Reason
from streams.connectors.mqtt.wire import Body

__all__ = ["Decoder"]

_TOPICS_KEPT: Final = 4096
_ACKS: Final[dict[int, type[Puback] | type[Pubrec] | type[Pubrel] | type[Pubcomp]]] = {
    0x40: Puback,
    0x50: Pubrec,
    0x62: Pubrel,
    0x70: Pubcomp,
}


class Decoder:
    """Reads one direction of one connection.  version None: learned from a CONNECT, as a broker does."""

    def __init__(self, version: int | None, *, max_packet_bytes: int) -> None:
        self.version = version
        self.error: WireError | None = None
        self._max = max_packet_bytes
        self._pieces: list[bytes] = []  # of a packet that isn't whole
        self._have = 0
        self._need = 0
        self._topics: dict[bytes, str] = {}  # topics come again and again: decoded and checked once

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that ``data`` completes, in order.  Look at ``error`` afterwards."""
        if self.error is not None:
            return []
        if self._pieces:
            self._pieces.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []  # a large packet is put together once, not at each piece of it
            data = b"".join(self._pieces)
            self._pieces = []
        packets: list[Packet] = []
        try:
            self._read(data, packets.append)
        except WireError as error:
            self.error = error
            self._pieces = []
        return packets

    def _keep(self, rest: bytes, need: int) -> None:
        self._pieces, self._have, self._need = [rest], len(rest), need

    def _read(self, data: bytes, found: Callable[[Packet], None]) -> None:
        pos, end, is_5, acks = 0, len(data), self.version == MQTT_5, _ACKS
        if self.version is None and data[:1] not in (b"", b"\x10"):
            raise ProtocolError(f"{_name(data[0])} before CONNECT")
        while pos < end:
            first = data[pos]
            if pos + 1 >= end:
                return self._keep(data[pos:], 2)
            length, start = data[pos + 1], pos + 2
            if length == 2 and first in acks:
                if start + 2 > end:
                    return self._keep(data[pos:], 4)
                packet_id = data[start] << 8 | data[start + 1]
                if not packet_id:
                    raise MalformedPacket(f"{acks[first].__name__.upper()} with packet identifier 0")
                found(acks[first](packet_id, 0, {}))
                pos = start + 2
                continue
            if length > 0x7F:
                length &= 0x7F
                shift = 7
                while True:
                    if start >= end:
                        return self._keep(data[pos:], start - pos + 1)
                    byte = data[start]
                    start += 1
                    length |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        if not byte and is_5:
                            raise MalformedPacket("a packet's length is written in more bytes than it needs")
                        break
                    shift += 7
                    if shift > 21:
                        raise MalformedPacket("a packet's length is written in more than four bytes")
            stop = start + length
            if stop - pos > self._max:
                raise ProtocolError(
                    f"{_name(first)} of {stop - pos} bytes is longer than max_packet_bytes={self._max}; allow more, or "
                    f"have the sender send less",
                    Reason.PACKET_TOO_LARGE,
                )
            if stop > end:
                if not first & 0xF0:
                    raise MalformedPacket("there is no packet of type 0")
                return self._keep(data[pos:], stop - pos)
            if first & 0xF0 == 0x30:
                found(self._publish(data, first, start, stop, is_5))
            else:
                found(self._other(first, data[start:stop]))
                is_5 = self.version == MQTT_5
            pos = stop

    def _publish(self, data: bytes, first: int, start: int, stop: int, is_5: bool) -> Publish:
        if start + 2 > stop:
            raise MalformedPacket(f"PUBLISH of {stop - start} bytes has no room for a topic")
        pos = start + 2
        after = pos + (data[start] << 8 | data[start + 1])
        if after > stop:
            raise MalformedPacket(f"PUBLISH of {stop - start} bytes holds a topic of {after - pos}")
        raw = data[pos:after]
        topic = self._topics.get(raw)
        if topic is None:
            topic = self._new_topic(raw)
        packet_id, qos = 0, first >> 1 & 3
        if qos:
            if qos == 3:
                raise MalformedPacket("PUBLISH with QoS 3")
            if after + 2 > stop:
                raise MalformedPacket("PUBLISH ends before its packet identifier")
            packet_id = data[after] << 8 | data[after + 1]
            if not packet_id:
                raise MalformedPacket("PUBLISH with packet identifier 0")
            after += 2
        elif first & 8:
            raise MalformedPacket("PUBLISH with DUP at QoS 0")
        properties: Properties = {}
        if is_5:
            if after >= stop:
                raise MalformedPacket("PUBLISH ends before its properties")
            if data[after]:
                body = Body(data, "PUBLISH", strict=True)
                body.pos, body.end = after, stop
                properties = read_properties(body, "p")
                after = body.pos
            else:
                after += 1
        if not topic and "topic_alias" not in properties:
            raise ProtocolError("PUBLISH without a topic")
        return Publish(topic, data[after:stop], qos, first & 1 == 1, first & 8 == 8, packet_id, properties)

    def _new_topic(self, raw: bytes) -> str:
        try:
            topic = raw.decode()
        except UnicodeDecodeError as error:
            raise MalformedPacket(f"PUBLISH with a topic that isn't UTF-8 ({error.reason})") from None
        if "\0" in topic:
            raise MalformedPacket("PUBLISH with a topic that holds U+0000")
        if "+" in topic or "#" in topic:
            raise MalformedPacket(f"PUBLISH to {topic[:100]!r}, which has a wildcard", Reason.TOPIC_NAME_INVALID)
        if len(raw) <= 256:
            if len(self._topics) >= _TOPICS_KEPT:
                self._topics.clear()
            self._topics[raw] = topic
        return topic

    def _other(self, first: int, data: bytes) -> Packet:
        name, flags, read = _READERS.get(first >> 4, ("", 0, _no_packet))
        if not name:
            raise MalformedPacket("there is no packet of type 0")
        if first & 0x0F != flags:
            raise MalformedPacket(f"{name} with the flags {first & 0x0F:04b} in its header")
        if name == "CONNECT" and self.version is None:
            self.version = _version_of(data)
        if name == "AUTH" and self.version != MQTT_5:
            raise MalformedPacket("MQTT 3.1.1 has no AUTH")
        assert self.version is not None
        body = Body(data, name, strict=self.version == MQTT_5)
        packet: Packet = read(body, self.version)
        body.done()
        return packet


def _name(first: int) -> str:
    return "PUBLISH" if first >> 4 == 3 else _READERS.get(first >> 4, ("a packet", 0, _no_packet))[0]


def _version_of(data: bytes) -> int:
    """Of a CONNECT's body; section 3.1.2.  Raises MalformedPacket with the reason that CONNACK carries."""
    if data[:6] != b"\0\x04MQTT" or data[6:7] not in (b"\x04", b"\x05"):
        raise MalformedPacket("CONNECT of another protocol or version", Reason.UNSUPPORTED_PROTOCOL_VERSION)
    return data[6]


def _properties(body: Body, place: str, version: int) -> Properties:
    return read_properties(body, place) if version == MQTT_5 else {}


def _ack(make: Callable[[int, int, Properties], Packet], place: str) -> Callable[[Body, int], Packet]:
    def read(body: Body, version: int) -> Packet:
        packet_id, reason, properties = body.identifier(), 0, Properties()
        if version == MQTT_5 and body.left():
            reason = body.byte()
            if body.left():
                properties = read_properties(body, place)
        return make(packet_id, reason, properties)

    return read


def _connect(body: Body, version: int) -> Connect:
    if _version_of(body.take(7)) != version:
        raise body.wrong("another version than this connection has")
    flags, keep_alive_s = body.byte(), body.u16()
    if flags & 1:
        raise body.wrong("its reserved flag is set")
    qos, has_will = flags >> 3 & 3, bool(flags & 4)
    if qos == 3 or (not has_will and flags & 0x38):
        raise body.wrong(f"flags {flags:08b} are no will's")
    if version == MQTT_3_1_1 and flags & 0xC0 == 0x40:
        raise body.wrong("a password without a user")
    properties = _properties(body, "c", version)
    client_id = body.string()
    will = None
    if has_will:
        of_will = _properties(body, "w", version)
        topic = body.string()
        if not topic or "+" in topic or "#" in topic:
            raise body.wrong("a will's topic that is empty or has a wildcard")
        will = Will(topic, body.binary(), qos, bool(flags & 0x20), of_will)
    user = body.string() if flags & 0x80 else None
    password = body.binary() if flags & 0x40 else None
    return Connect(client_id, bool(flags & 2), keep_alive_s, user, password, will, properties)


def _connack(body: Body, version: int) -> Connack:
    flags, reason = body.byte(), body.byte()
    if flags > 1:
        raise body.wrong(f"flags {flags:08b} are reserved")
    if version != MQTT_5:
        if reason not in RETURN_CODES:
            raise body.wrong(f"return code {reason} is reserved")
        reason = RETURN_CODES[reason]
    if flags and reason:
        raise ProtocolError("CONNACK: refused, and yet a session is present")
    return Connack(bool(flags), int(reason), _properties(body, "C", version))


def _subscribe(body: Body, version: int) -> Subscribe:
    packet_id, properties = body.identifier(), _properties(body, "s", version)
    found = []
    while body.left():
        topic_filter, options = body.string(), body.byte()
        if options & (0xC0 if version == MQTT_5 else 0xFC) or options & 3 == 3 or options & 0x30 == 0x30:
            raise body.wrong(f"subscription options {options:08b}")
        if not topic_filter:
            raise body.wrong("an empty topic filter")
        found.append(Subscription(topic_filter, options & 3, bool(options & 4), bool(options & 8), options >> 4))
    if not found:
        raise ProtocolError("SUBSCRIBE without a topic filter")
    return Subscribe(packet_id, tuple(found), properties)


def _suback(body: Body, version: int) -> Suback:
    packet_id, properties = body.identifier(), _properties(body, "S", version)
    reasons = tuple(body.take(body.left()))
    if version != MQTT_5 and not {0, 1, 2, 0x80}.issuperset(reasons):
        raise body.wrong(f"return codes {reasons} hold a reserved one")
    if not reasons:
        raise body.wrong("no reason")
    return Suback(packet_id, reasons, properties)


def _unsubscribe(body: Body, version: int) -> Unsubscribe:
    packet_id, properties = body.identifier(), _properties(body, "u", version)
    found = []
    while body.left():
        found.append(body.string())
        if not found[-1]:
            raise body.wrong("an empty topic filter")
    if not found:
        raise ProtocolError("UNSUBSCRIBE without a topic filter")
    return Unsubscribe(packet_id, tuple(found), properties)


def _unsuback(body: Body, version: int) -> Unsuback:
    packet_id = body.identifier()
    if version != MQTT_5:
        return Unsuback(packet_id, (), {})
    properties = read_properties(body, "U")
    reasons = tuple(body.take(body.left()))
    if not reasons:
        raise body.wrong("no reason")
    return Unsuback(packet_id, reasons, properties)


def _ending(make: Callable[[int, Properties], Packet], place: str) -> Callable[[Body, int], Packet]:
    def read(body: Body, version: int) -> Packet:
        reason, properties = 0, Properties()
        if version == MQTT_5 and body.left():
            reason = body.byte()
            if body.left() or place == "A":  # only DISCONNECT may end there: sections 3.14.2.2 and 3.15.2.1
                properties = read_properties(body, place)
        return make(reason, properties)

    return read


def _no_packet(body: Body, version: int) -> Packet:
    raise body.wrong("no such packet")


_READERS: dict[int, tuple[str, int, Callable[[Body, int], Any]]] = {
    1: ("CONNECT", 0, _connect),
    2: ("CONNACK", 0, _connack),
    4: ("PUBACK", 0, _ack(Puback, "a")),
    5: ("PUBREC", 0, _ack(Pubrec, "r")),
    6: ("PUBREL", 2, _ack(Pubrel, "R")),
    7: ("PUBCOMP", 0, _ack(Pubcomp, "P")),
    8: ("SUBSCRIBE", 2, _subscribe),
    9: ("SUBACK", 0, _suback),
    10: ("UNSUBSCRIBE", 2, _unsubscribe),
    11: ("UNSUBACK", 0, _unsuback),
    12: ("PINGREQ", 0, lambda body, version: Pingreq()),
    13: ("PINGRESP", 0, lambda body, version: Pingresp()),
    14: ("DISCONNECT", 0, _ending(Disconnect, "d")),
    15: ("AUTH", 0, _ending(Auth, "A")),
}
