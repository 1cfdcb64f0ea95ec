"""What a session needs to know at its start, and what it says of what happened: plain data.

What must live here: settings, events, and what the broker's words for an end mean to us.  What must not: the protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from streams.connectors.mqtt.errors import ConnectionLost, Refused, SessionTakenOver
from streams.connectors.mqtt.packets import (
    MQTT_5,
    Connack,
    Connect,
    Disconnect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Unsuback,
    Will,
)
from streams.connectors.mqtt.properties import Properties
from streams.connectors.mqtt.reasons import WORTH_ANOTHER_TRY, Reason, name_of
from streams.errors import StreamsError

__all__ = ["NEVER", "Closed", "Connected", "Event", "Pong", "SessionSettings", "ended", "refusal"]

NEVER: Final = 0xFFFF_FFFF  # as a session's expiry


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What CONNECT says, and our side's limits.

    session_expiry_s: for how long the broker keeps the session when we are gone; 0xFFFFFFFF for ever.  3.1.1 knows only
    no session (clean_start) and for ever.
    receive_maximum: messages at QoS 1 and 2 that the broker may send before we acknowledge (3.1.1 can't say it).
    send_maximum: as many as we may have in flight; the broker's own limit counts where it says a lower one (5 only).
    max_packet_bytes: longer packets end the connection, and aren't sent.  The broker isn't told: it would drop what is
    longer, at any QoS, and say nothing (MQTT 5, section 3.1.2.11.4).
    topic_aliases_in, topic_aliases_out: how many of each may be used.
    answer_timeout_s: how long CONNACK, and after a ping anything at all, is waited for.
    """

    client_id: str
    version: int = MQTT_5
    clean_start: bool = True
    session_expiry_s: int = 0
    keep_alive_s: int = 60
    user: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None
    receive_maximum: int = 1000
    send_maximum: int = 1000
    max_packet_bytes: int = 16 * 2**20
    topic_aliases_in: int = 0
    topic_aliases_out: int = 0
    answer_timeout_s: float = 10.0
    user_properties: tuple[tuple[str, str], ...] = ()

    def connect(self) -> Connect:
        properties: Properties = {}
        if self.version == MQTT_5:
            properties = {"receive_maximum": self.receive_maximum}
            if self.session_expiry_s:
                properties["session_expiry_interval"] = self.session_expiry_s
            if self.topic_aliases_in:
                properties["topic_alias_maximum"] = self.topic_aliases_in
            if self.user_properties:
                properties["user_property"] = list(self.user_properties)
        return Connect(
            self.client_id, self.clean_start, self.keep_alive_s, self.user, self.password, self.will, properties
        )


@dataclass(slots=True)
class Connected:
    """What the broker said in CONNACK, with defaults where it said nothing."""

    session_present: bool
    client_id: str
    keep_alive_s: int
    session_expiry_s: int
    send_maximum: int
    maximum_qos: int
    retain_available: bool
    max_packet_bytes: int
    properties: Properties


@dataclass(slots=True)
class Pong:
    number: int


@dataclass(slots=True)
class Closed:
    """error: ConnectionLost, Refused, SessionTakenOver or a WireError; None after ``disconnect``."""

    error: StreamsError | None


Event: TypeAlias = Connected | Publish | Puback | Pubrec | Pubrel | Pubcomp | Suback | Unsuback | Pong | Closed


def refusal(packet: Connack) -> StreamsError:
    """What a CONNACK that isn't a success means to us."""
    text = packet.properties.get("reason_string", "")
    words = f"the broker refuses the connection: {name_of(packet.reason)}" + (f": {text}" if text else "")
    if packet.reason in WORTH_ANOTHER_TRY:
        return ConnectionLost(words, packet.reason)
    elsewhere = packet.properties.get("server_reference", "")
    hint = f"it names {elsewhere}" if elsewhere else "look at user, password, client id and the broker's own settings"
    return Refused(f"{words}; {hint}", packet.reason)


# What the broker may end a connection for although nothing needs a change here.
_PASSING: Final = WORTH_ANOTHER_TRY | {Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR}


def ended(packet: Disconnect) -> StreamsError:
    """What a DISCONNECT of the broker's means to us."""
    text = packet.properties.get("reason_string", "")
    elsewhere = packet.properties.get("server_reference", "")
    words = f"the broker ended the connection: {name_of(packet.reason)}" + (f": {text}" if text else "")
    if packet.reason == Reason.SESSION_TAKEN_OVER:
        return SessionTakenOver(words + "; another client has connected with this client id")
    if packet.reason < 0x80 or packet.reason in _PASSING:
        return ConnectionLost(words, packet.reason)
    return Refused(words + (f"; it names {elsewhere}" if elsewhere else ""), packet.reason)
