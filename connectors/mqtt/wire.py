"""The elements that MQTT packets are made of: variable byte integers, UTF-8 strings, binary data.

What must live here: reading them out of a packet's body with all bounds checked, and writing them.  What must not: what
stands in which packet.

Reading raises MalformedPacket, whatever the bytes are; writing raises Unsendable.  MQTT 5, section 1.5.
"""

from __future__ import annotations

from streams.connectors.mqtt.errors import MalformedPacket, Unsendable
from streams.connectors.mqtt.reasons import Reason

__all__ = ["LONGEST", "Body", "binary", "checked_topic", "string", "varint"]

LONGEST = 268_435_455  # of a variable byte integer, and so of a packet without its header


class Body:
    """A packet without its fixed header, read from left to right."""

    __slots__ = ("data", "end", "pos", "strict", "what")

    def __init__(self, data: bytes, what: str, *, strict: bool) -> None:
        self.data, self.pos, self.end, self.what, self.strict = data, 0, len(data), what, strict

    def left(self) -> int:
        return self.end - self.pos

    def wrong(self, why: str) -> MalformedPacket:
        return MalformedPacket(f"{self.what} of {len(self.data)} bytes, at byte {self.pos}: {why}")

    def take(self, count: int) -> bytes:
        start, stop = self.pos, self.pos + count
        if stop > self.end:
            raise self.wrong(f"{count} bytes are needed, {self.end - start} are left")
        self.pos = stop
        return self.data[start:stop]

    def byte(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def identifier(self) -> int:
        """A packet identifier, which is never 0 (section 2.2.1)."""
        found = self.u16()
        if not found:
            raise self.wrong("packet identifier 0")
        return found

    def varint(self) -> int:
        pos = self.pos
        if pos < self.end and (first := self.data[pos]) < 0x80:
            self.pos = pos + 1
            return first
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if not byte and shift and self.strict:
                    raise self.wrong("a length in more bytes than it needs")
                return value
        raise self.wrong("a length in more than four bytes")

    def binary(self) -> bytes:
        data, start = self.data, self.pos + 2
        if start > self.end:
            raise self.wrong("a length is needed, it ends")
        stop = start + (data[start - 2] << 8 | data[start - 1])
        if stop > self.end:
            raise self.wrong(f"{stop - start} bytes are needed, {self.end - start} are left")
        self.pos = stop
        return data[start:stop]

    def string(self) -> str:
        raw = self.binary()
        try:
            text = str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong(f"text that isn't UTF-8 ({error.reason})") from None
        if "\0" in text:
            raise self.wrong("text with U+0000")
        return text

    def done(self) -> None:
        if self.pos != self.end:
            raise self.wrong(f"{self.end - self.pos} bytes too many")


def varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    if value > LONGEST:
        raise Unsendable(f"{value} bytes are more than the {LONGEST} that MQTT can carry; make the message smaller")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def binary(data: bytes, what: str) -> bytes:
    if len(data) > 0xFFFF:
        raise Unsendable(f"{what}: {len(data)} bytes, MQTT takes at most 65535 there")
    return len(data).to_bytes(2, "big") + data


def string(text: str, what: str) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise Unsendable(f"{what}: {text!r} isn't valid Unicode: {error.reason}", Reason.MALFORMED_PACKET) from None
    if "\0" in text:
        raise Unsendable(f"{what}: {text!r} holds U+0000, which MQTT forbids", Reason.MALFORMED_PACKET)
    return binary(raw, what)


def checked_topic(topic: str) -> str:
    """``topic`` if messages may be published to it.  Raises Unsendable."""
    if not topic or "+" in topic or "#" in topic:
        problem = "is empty" if not topic else "has a wildcard"
        raise Unsendable(f"topic {topic!r} {problem}: nothing can be published there", Reason.TOPIC_NAME_INVALID)
    return topic
