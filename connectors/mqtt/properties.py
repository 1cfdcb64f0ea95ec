"""Properties of MQTT 5 packets: their numbers, types, and where each may stand (section 2.2.2.2).

What must live here: the table, and reading and writing by it.  What must not: what a property means to a session.

``Properties`` is a plain dict with a type for each name; a property that isn't there is no key.  Two may come more than
once and are lists: user_property (name and value, order kept) and, in a PUBLISH, subscription_identifier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

from streams.connectors.mqtt.errors import ProtocolError, Unsendable
from streams.connectors.mqtt.reasons import Reason
from streams.connectors.mqtt.wire import Body, binary, string, varint

__all__ = ["Properties", "read_properties", "write_properties"]


class Properties(TypedDict, total=False):
    payload_format_indicator: int
    message_expiry_interval: int
    content_type: str
    response_topic: str
    correlation_data: bytes
    subscription_identifier: list[int]
    session_expiry_interval: int
    assigned_client_identifier: str
    server_keep_alive: int
    authentication_method: str
    authentication_data: bytes
    request_problem_information: int
    will_delay_interval: int
    request_response_information: int
    response_information: str
    server_reference: str
    reason_string: str
    receive_maximum: int
    topic_alias_maximum: int
    topic_alias: int
    maximum_qos: int
    retain_available: int
    user_property: list[tuple[str, str]]
    maximum_packet_size: int
    wildcard_subscription_available: int
    subscription_identifier_available: int
    shared_subscription_available: int


class _Form(NamedTuple):
    read: Callable[[Body], Any]
    write: Callable[[Any, str], bytes]


def _number(size: int, least: int = 0, most: int | None = None) -> _Form:
    highest = 256**size - 1 if most is None else most

    def read(body: Body) -> int:
        found = int.from_bytes(body.take(size), "big")
        if not least <= found <= highest:
            raise ProtocolError(f"{body.what}: a property that may be {least} to {highest} is {found}")
        return found

    def write(value: int, what: str) -> bytes:
        if not least <= value <= highest:
            raise Unsendable(f"{what} is {value}; it may be {least} to {highest}", Reason.PROTOCOL_ERROR)
        return value.to_bytes(size, "big")

    return _Form(read, write)


def _read_pair(body: Body) -> tuple[str, str]:
    return body.string(), body.string()


def _write_pair(pair: tuple[str, str], what: str) -> bytes:
    return string(pair[0], what) + string(pair[1], what)


def _read_subscription(body: Body) -> int:
    found = body.varint()
    if not found:
        raise ProtocolError(f"{body.what}: subscription identifier 0")
    return found


def _write_subscription(value: int, what: str) -> bytes:
    if value < 1:
        raise Unsendable(f"{what} is {value}; it starts at 1", Reason.PROTOCOL_ERROR)
    return varint(value)


_FLAG, _BYTE2, _BYTE4, _SOME2, _SOME4 = _number(1, 0, 1), _number(2), _number(4), _number(2, 1), _number(4, 1)
_TEXT, _BYTES = _Form(Body.string, string), _Form(Body.binary, binary)
_PAIR, _SUBSCRIPTION = _Form(_read_pair, _write_pair), _Form(_read_subscription, _write_subscription)

# Which packets a property may stand in: one letter each, w is the will in a CONNECT.
#   c CONNECT  C CONNACK  p PUBLISH  a PUBACK  r PUBREC  R PUBREL  P PUBCOMP  s SUBSCRIBE  S SUBACK
#   u UNSUBSCRIBE  U UNSUBACK  d DISCONNECT  A AUTH
_ROWS: list[tuple[int, str, _Form, str]] = [
    (1, "payload_format_indicator", _FLAG, "pw"),
    (2, "message_expiry_interval", _BYTE4, "pw"),
    (3, "content_type", _TEXT, "pw"),
    (8, "response_topic", _TEXT, "pw"),
    (9, "correlation_data", _BYTES, "pw"),
    (11, "subscription_identifier", _SUBSCRIPTION, "ps"),
    (17, "session_expiry_interval", _BYTE4, "cCd"),
    (18, "assigned_client_identifier", _TEXT, "C"),
    (19, "server_keep_alive", _BYTE2, "C"),
    (21, "authentication_method", _TEXT, "cCA"),
    (22, "authentication_data", _BYTES, "cCA"),
    (23, "request_problem_information", _FLAG, "c"),
    (24, "will_delay_interval", _BYTE4, "w"),
    (25, "request_response_information", _FLAG, "c"),
    (26, "response_information", _TEXT, "C"),
    (28, "server_reference", _TEXT, "Cd"),
    (31, "reason_string", _TEXT, "CarRPSUdA"),
    (33, "receive_maximum", _SOME2, "cC"),
    (34, "topic_alias_maximum", _BYTE2, "cC"),
    (35, "topic_alias", _BYTE2, "p"),  # 0 has an error of its own, which the session gives
    (36, "maximum_qos", _FLAG, "C"),
    (37, "retain_available", _FLAG, "C"),
    (38, "user_property", _PAIR, "cCpwarRPsSuUdA"),
    (39, "maximum_packet_size", _SOME4, "cC"),
    (40, "wildcard_subscription_available", _FLAG, "C"),
    (41, "subscription_identifier_available", _FLAG, "C"),
    (42, "shared_subscription_available", _FLAG, "C"),
]
_BY_NUMBER = {number: (name, form.read, places) for number, name, form, places in _ROWS}
_BY_NAME = {name: (varint(number), form.write, places) for number, name, form, places in _ROWS}


def read_properties(body: Body, place: str) -> Properties:
    """The properties that stand next in ``body``, a packet of the kind ``place`` (a letter of the table).

    Raises MalformedPacket, and ProtocolError for one that comes twice or is out of place.
    """
    length = body.varint()
    if not length:
        return {}
    if length > body.left():
        raise body.wrong(f"{length} bytes of properties, {body.left()} are left")
    stop, whole = body.pos + length, body.end
    body.end = stop  # a property that runs over the end of the properties is malformed, not the payload's beginning
    found: dict[str, Any] = {}
    while body.pos < stop:
        number = body.varint()
        name, read, places = _BY_NUMBER.get(number, ("", None, ""))
        if read is None:
            raise body.wrong(f"there is no property {number}")
        if place not in places:
            raise ProtocolError(f"{body.what}: {name} has no place there")
        value = read(body)
        if name == "user_property" or (name == "subscription_identifier" and place == "p"):
            found.setdefault(name, []).append(value)
        elif name in found:
            raise ProtocolError(f"{body.what}: {name} comes twice")
        else:
            found[name] = [value] if name == "subscription_identifier" else value
    body.end = whole
    if "response_topic" in found and ("#" in found["response_topic"] or "+" in found["response_topic"]):
        raise ProtocolError(f"{body.what}: a response topic with a wildcard", Reason.TOPIC_NAME_INVALID)
    if "authentication_data" in found and "authentication_method" not in found:
        raise ProtocolError(f"{body.what}: authentication data without a method")
    return found  # type: ignore[return-value]


def write_properties(properties: Properties, place: str) -> bytes:
    """With their length before them.  Raises Unsendable for what is out of place, out of range or unknown."""
    if not properties:
        return b"\0"
    parts: list[bytes] = []
    for name, value in properties.items():
        prefix, write, places = _BY_NAME.get(name, (b"", None, ""))
        if write is None or place not in places:
            raise Unsendable(f"property {name!r} has no place in this packet", Reason.PROTOCOL_ERROR)
        several = name in ("user_property", "subscription_identifier")
        values: Any = value if several else (value,)
        if name == "subscription_identifier" and place == "s" and len(values) > 1:
            raise Unsendable("a SUBSCRIBE has one subscription_identifier", Reason.PROTOCOL_ERROR)
        for each in values:
            parts += (prefix, write(each, name))
    whole = b"".join(parts)
    return varint(len(whole)) + whole
