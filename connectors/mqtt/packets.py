"""The packets of MQTT 3.1.1 and 5 as plain data.

What must live here: their fields.  What must not: bytes (``encoder``, ``decoder``), what may come when (``session``).

One set of classes for both versions: what 3.1.1 doesn't have (properties, reasons) is empty or Reason.SUCCESS there.
They aren't frozen, since that costs a microsecond for each message; treat them as if they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from streams.connectors.mqtt.properties import Properties

__all__ = [
    "MQTT_3_1_1",
    "MQTT_5",
    "Auth",
    "Connack",
    "Connect",
    "Disconnect",
    "Packet",
    "Pingreq",
    "Pingresp",
    "Puback",
    "Pubcomp",
    "Publish",
    "Pubrec",
    "Pubrel",
    "Suback",
    "Subscribe",
    "Subscription",
    "Unsuback",
    "Unsubscribe",
    "Will",
]

MQTT_3_1_1: Final = 4  # the protocol level that CONNECT carries
MQTT_5: Final = 5


@dataclass(slots=True)
class Publish:
    """A message.  packet_id is 0 at QoS 0.  The topic is empty where an alias stands for it."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Puback:
    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Pubrec:
    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Pubrel:
    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Pubcomp:
    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Will:
    """What the broker publishes when we are gone without a word."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Connect:
    """clean_start is called clean session in 3.1.1, where it also ends the session at its close."""

    client_id: str
    clean_start: bool = True
    keep_alive_s: int = 60
    user: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Connack:
    """reason is a code of MQTT 5 in both versions."""

    session_present: bool = False
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Subscription:
    """retain_handling: 0 send retained messages, 1 only if the subscription is new, 2 never.  All but the first two
    fields are MQTT 5's."""

    topic_filter: str
    qos: int = 2
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(slots=True)
class Subscribe:
    packet_id: int
    subscriptions: tuple[Subscription, ...]
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Suback:
    """A reason for each subscription: the QoS granted, or from 0x80 on why not."""

    packet_id: int
    reasons: tuple[int, ...]
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Unsubscribe:
    packet_id: int
    topic_filters: tuple[str, ...]
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Unsuback:
    """No reasons in 3.1.1."""

    packet_id: int
    reasons: tuple[int, ...] = ()
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Pingreq:
    pass


@dataclass(slots=True)
class Pingresp:
    pass


@dataclass(slots=True)
class Disconnect:
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Auth:
    """MQTT 5 only."""

    reason: int = 0
    properties: Properties = field(default_factory=Properties)


Packet: TypeAlias = (
    Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Connect
    | Connack
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)
