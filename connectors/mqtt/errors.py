"""What can go wrong between us and an MQTT broker, in terms of the project's tree of errors.

    ServiceUnavailable   ├── ConnectionLost     the broker can't be reached, went away, or said "later"
      (wait, try again)  └── WireError          what the broker sent breaks the protocol
                             ├── MalformedPacket   it can't be read
                             └── ProtocolError     it can be read, but may not be said here
    ServiceRefused       ─── Refused            the broker turns us down: password, client id, rights
    Fenced               ─── SessionTakenOver   another client has our client id now: never reconnect by itself
    DataError            ─── Unsendable         a message that MQTT, or this broker, can't take

Each carries the reason code of MQTT 5 (section 2.4), also where the connection is 3.1.1, which has hardly any.
"""

from __future__ import annotations

from streams.connectors.mqtt.reasons import Reason
from streams.errors import DataError, Fenced, ServiceRefused, ServiceUnavailable

__all__ = [
    "ConnectionLost",
    "MalformedPacket",
    "ProtocolError",
    "Refused",
    "SessionTakenOver",
    "Unsendable",
    "WireError",
]


class ConnectionLost(ServiceUnavailable):
    """The connection is gone, or couldn't be made; another one may succeed.

    before_connect: it was over before CONNECT went out, so that the broker's session is as it was.
    """

    before_connect = False

    def __init__(self, message: str, reason: int = Reason.UNSPECIFIED_ERROR) -> None:
        super().__init__(message)
        self.reason = int(reason)


class WireError(ServiceUnavailable):
    """What came breaks the protocol.  The connection is of no use any more; ``reason`` is what DISCONNECT says."""

    def __init__(self, message: str, reason: int) -> None:
        super().__init__(message)
        self.reason = int(reason)


class MalformedPacket(WireError):
    """A packet can't be read: MQTT 5, section 1.2."""

    def __init__(self, message: str, reason: int = Reason.MALFORMED_PACKET) -> None:
        super().__init__(message, reason)


class ProtocolError(WireError):
    """A packet can be read, but is not allowed where it stands: MQTT 5, section 1.2."""

    def __init__(self, message: str, reason: int = Reason.PROTOCOL_ERROR) -> None:
        super().__init__(message, reason)


class Refused(ServiceRefused):
    """The broker turned us down for a reason that waiting doesn't cure."""

    def __init__(self, message: str, reason: int) -> None:
        super().__init__(message)
        self.reason = int(reason)


class SessionTakenOver(Fenced):
    """Another client connected with our client id.  To connect again would throw that one out: a person or the
    log's fence decides who may."""

    def __init__(self, message: str, reason: int = Reason.SESSION_TAKEN_OVER) -> None:
        super().__init__(message)
        self.reason = int(reason)


class Unsendable(DataError):
    """A message that can't be put into MQTT, or that this broker has said it won't take.  Nothing was sent."""

    def __init__(self, message: str, reason: int = Reason.PACKET_TOO_LARGE) -> None:
        super().__init__(message)
        self.reason = int(reason)
