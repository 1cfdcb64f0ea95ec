"""One connection of an MQTT client, as a machine without I/O, clock or chance.

What must live here: what the protocol allows on one connection, and what the broker's bytes mean.  What must not:
sockets, time (it is given), durable state, and every decision about acknowledging.

Theory of operation.  The owner hands in what came (``receive``, ``ended``) and the time (``tick`` at ``deadline``), and
carries away events and ``output``.  Nothing is acknowledged here: ``puback``, ``pubrec`` and ``pubcomp`` are calls of
the application, which knows what is durable.  Packet identifiers of our own messages are the application's too, since
they have to outlive the process: ``publish`` takes one, with ``dup`` on a resumed session, and ``pubrel`` goes on with
a handshake that an earlier process began.

                 start            CONNACK, accepted                disconnect
        IDLE ───────────▶ CONNECTING ───────────▶ CONNECTED ───────────────────▶ CLOSED
                               │  refused, broken, too late   │  broken, DISCONNECT, ended, silent   ▲
                               └──────────────────────────────┴──────────────────────────────────────┘

| event | when |
| --- | --- |
| Connected | once, with whether the broker still has the session, and with what it allows |
| Publish | a message; its topic is always there, an alias is resolved |
| Puback, Pubrec, Pubcomp | answers about our messages; unknown ids too, since an outbox that is resumed knows more |
| Pubrel | the broker lets go of a message at QoS 2: remove its id durably, then ``pubcomp`` |
| Suback, Unsuback | answers |
| Pong | with the number that ``ping`` gave: everything sent before that ping has reached the broker |
| Closed | once, the last one, with an error that says what to do; none if it was we who ended it |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from streams.connectors.mqtt.aliases import AliasesIn, AliasesOut
from streams.connectors.mqtt.decoder import Decoder
from streams.connectors.mqtt.encoder import PUBACKS, PUBCOMPS, PUBRECS, PUBRELS, encode, encode_acks, encode_publish
from streams.connectors.mqtt.errors import ConnectionLost, ProtocolError, Unsendable, WireError
from streams.connectors.mqtt.events import NEVER, Closed, Connected, Event, Pong, SessionSettings, ended, refusal
from streams.connectors.mqtt.packets import (
    MQTT_5,
    Connack,
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
)
from streams.connectors.mqtt.properties import Properties
from streams.connectors.mqtt.reasons import Reason
from streams.errors import StreamsError

__all__ = ["Session", "State"]

_PING_AT: Final = 0.75  # of the keep alive time, so that a busy loop is late and yet in time


class State(Enum):
    IDLE = auto()
    CONNECTING = auto()
    CONNECTED = auto()
    CLOSED = auto()


class Session:
    """One connection.  A new one is made for the next connection; what outlives it is the application's."""

    def __init__(self, settings: SessionSettings) -> None:
        self.settings = settings
        self.state = State.IDLE
        self.connected: Connected | None = None
        self.unacked = 0  # messages of the broker's at QoS 1 and 2 that we haven't acknowledged to the end
        self.overruns = 0  # those that came although the receive maximum was reached: tolerated, and told
        self._error: StreamsError | None = None  # that ended it
        self._five = settings.version == MQTT_5
        self._decoder = Decoder(settings.version, max_packet_bytes=settings.max_packet_bytes)
        self._out: list[bytes] = []
        self._in_flight: dict[int, int] = {}  # id to QoS of our messages whose handshake isn't over
        self._send_maximum = 0
        self._most_bytes = 0
        self._aliases_in = AliasesIn(settings.topic_aliases_in)
        self._aliases_out: AliasesOut | None = None
        self._pings: deque[float] = deque()  # when each that isn't answered went out; inf until it is carried away
        self._pinged = 0
        self._keep_alive_s = 0.0
        self._sent_s = self._received_s = 0.0
        self._started_s = 0.0

    # What the owner hands in

    def start(self, now_s: float) -> None:
        """Say CONNECT.  Raises Unsendable for settings that MQTT can't carry."""
        assert self.state is State.IDLE
        self._put(encode(self.settings.connect(), self.settings.version))
        self.state = State.CONNECTING
        self._started_s = self._received_s = self._sent_s = now_s

    def receive(self, data: bytes, now_s: float) -> list[Event]:
        """What the broker's bytes mean, in order."""
        if self.state is State.CLOSED:
            return []
        self._received_s = now_s
        events: list[Event] = []
        try:
            for packet in self._decoder.feed(data):
                kind = type(packet)
                if kind is Publish and self.state is State.CONNECTED:
                    self._message(packet, events)  # type: ignore[arg-type]
                elif kind in _ANSWERS and self.state is State.CONNECTED:
                    self._answer(packet, events)  # type: ignore[arg-type]
                elif self._other(packet, events):
                    return events
            if self._decoder.error is not None:
                raise self._decoder.error
        except WireError as error:
            self._break_off(error, events)
        return events

    def ended(self) -> list[Event]:
        """The broker closed the connection.  In 3.1.1 a session is taken over like that: it can't be told apart."""
        early = " without an answer to CONNECT" if self.state is State.CONNECTING else ""
        return self._close(ConnectionLost(f"the broker closed the connection{early}", Reason.SERVER_UNAVAILABLE))

    def failed(self, error: StreamsError) -> list[Event]:
        """The transport is gone, with an error."""
        return self._close(error)

    def hold(self, now_s: float) -> None:
        """Nothing is read for now, so it isn't the broker's fault that nothing comes."""
        self._received_s = now_s

    def tick(self, now_s: float) -> list[Event]:
        """Call it at ``deadline``, or when you like: pings when it is time, and gives up on a broker that is silent."""
        events: list[Event] = []
        wait_s = self.settings.answer_timeout_s
        if self.state is State.CONNECTING and now_s >= self._started_s + wait_s:
            self._break_off(ConnectionLost(f"no CONNACK within {wait_s:g} s", Reason.SERVER_UNAVAILABLE), events)
        elif self.state is State.CONNECTED and self._pings and now_s >= max(self._pings[0], self._received_s) + wait_s:
            self._break_off(
                ConnectionLost(f"the broker was silent for {wait_s:g} s after a ping", Reason.KEEP_ALIVE_TIMEOUT),
                events,
            )
        elif self.state is State.CONNECTED and now_s >= self._ping_due():
            self.ping()
        return events

    @property
    def deadline(self) -> float:
        """When ``tick`` has something to do, if nothing else happens until then; infinite if never."""
        if self.state is State.CONNECTING:
            return self._started_s + self.settings.answer_timeout_s
        if self.state is not State.CONNECTED:
            return float("inf")
        if self._pings:
            silent_s = max(self._pings[0], self._received_s) + self.settings.answer_timeout_s
            return min(silent_s, self._ping_due())
        return self._ping_due()

    def output(self, now_s: float) -> bytes:
        """What is to be written, once; empty if there is nothing."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        self._sent_s = now_s
        for at in range(len(self._pings) - 1, -1, -1):
            if self._pings[at] != float("inf"):
                break
            self._pings[at] = now_s
        return data

    # What the application asks for

    @property
    def window(self) -> int:
        """How many messages at QoS 1 and 2 may be published now."""
        return self._send_maximum - len(self._in_flight)

    def publish(self, packet: Publish) -> None:
        """Send a message.  At QoS 1 and 2 with an id that isn't in flight, and only if ``window`` has room.

        Raises Unsendable for what MQTT or this broker can't take; then nothing was sent.
        """
        broker = self._must_be_connected()
        if packet.qos:
            assert self.window > 0, "publish at QoS 1 and 2 waits for room in the window"
            assert packet.packet_id not in self._in_flight, f"packet identifier {packet.packet_id} is in flight"
            if packet.qos > broker.maximum_qos:
                raise Unsendable(
                    f"{packet.topic}: the broker takes QoS {broker.maximum_qos} at most; publish with that",
                    Reason.QOS_NOT_SUPPORTED,
                )
        if packet.retain and not broker.retain_available:
            raise Unsendable(f"{packet.topic}: the broker retains no messages", Reason.RETAIN_NOT_SUPPORTED)
        if packet.properties:
            if not self._five:
                raise Unsendable(f"{packet.topic}: properties need MQTT 5, and this connection is 3.1.1")
            assert "topic_alias" not in packet.properties, "topic aliases are given out by the session"
        if self._aliases_out is None:
            wire = encode_publish(packet, self.settings.version)
        else:
            wire = self._aliases_out.encode(packet, self._most_bytes)
        if len(wire) > self._most_bytes:
            whose = "max_packet_bytes" if self._most_bytes == self.settings.max_packet_bytes else "the broker's limit"
            raise Unsendable(f"{packet.topic}: a message of {len(wire)} bytes; {whose} is {self._most_bytes}")
        if packet.qos:
            self._in_flight[packet.packet_id] = packet.qos
        self._out.append(wire)

    def puback(self, packet_ids: Sequence[int], reason: int = 0) -> None:
        """Messages at QoS 1 are durable here, or (5 only) refused with ``reason``."""
        self._acknowledge(PUBACKS, Puback, packet_ids, reason)
        self.unacked -= len(packet_ids)

    def pubrec(self, packet_ids: Sequence[int], reason: int = 0) -> None:
        """Messages at QoS 2 are durable here, with their ids, or (5 only) refused with ``reason``."""
        self._acknowledge(PUBRECS, Pubrec, packet_ids, reason)
        if reason >= 0x80:
            self.unacked -= len(packet_ids)

    def pubcomp(self, packet_ids: Sequence[int], reason: int = 0) -> None:
        """The ids of messages at QoS 2 are durably forgotten.  reason: PACKET_IDENTIFIER_NOT_FOUND, or none."""
        self._acknowledge(PUBCOMPS, Pubcomp, packet_ids, reason)
        self.unacked -= len(packet_ids)

    def pubrel(self, packet_ids: Sequence[int], reason: int = 0) -> None:
        """That the broker has our messages at QoS 2 is durable here; it may let go of the ids."""
        self._acknowledge(PUBRELS, Pubrel, packet_ids, reason)

    def subscribe(
        self, packet_id: int, subscriptions: Sequence[Subscription], properties: Properties | None = None
    ) -> None:
        """Answered by Suback.  The id must not be one of a message in flight.  Raises Unsendable."""
        self._must_be_connected()
        assert packet_id not in self._in_flight, f"packet identifier {packet_id} is in flight"
        self._put(encode(Subscribe(packet_id, tuple(subscriptions), properties or {}), self.settings.version))

    def unsubscribe(self, packet_id: int, topic_filters: Sequence[str]) -> None:
        """Answered by Unsuback.  Raises Unsendable."""
        self._must_be_connected()
        assert packet_id not in self._in_flight, f"packet identifier {packet_id} is in flight"
        self._put(encode(Unsubscribe(packet_id, tuple(topic_filters)), self.settings.version))

    def ping(self) -> int:
        """Answered by Pong with this number.  Several may be under way; a broker answers them in order."""
        self._must_be_connected()
        self._put(encode(Pingreq(), self.settings.version))
        self._pings.append(float("inf"))
        self._pinged += 1
        return self._pinged

    def disconnect(self, reason: int = 0, session_expiry_s: int | None = None) -> list[Event]:
        """End it.  In MQTT 5 reason 4 has the will published all the same, and the session's expiry can be changed."""
        if self.state in (State.CLOSED, State.IDLE):
            return self._close(None)
        if self.state is State.CONNECTED:
            properties: Properties = {}
            if session_expiry_s is not None and self._five:
                properties["session_expiry_interval"] = session_expiry_s
            self._put(encode(Disconnect(reason, properties), self.settings.version))
        return self._close(None)

    # Within

    def _put(self, wire: bytes) -> None:
        self._out.append(wire)

    def _must_be_connected(self) -> Connected:
        if self.connected is None or self.state is not State.CONNECTED:
            # Else whoever sends before it reads takes a refusal, or a message that is too large, for what passes.
            raise self._error or ConnectionLost("the connection to the broker is closed")
        return self.connected

    def _ping_due(self) -> float:
        if not self._keep_alive_s or (self._pings and self._pings[-1] == float("inf")):
            return float("inf")
        # Not only what we sent counts: who sends all the time would never notice that nobody is there.
        last_s = self._sent_s if self._pings else min(self._sent_s, self._received_s)
        return last_s + _PING_AT * self._keep_alive_s

    def _acknowledge(
        self, batch: int, kind: type[Puback | Pubrec | Pubrel | Pubcomp], packet_ids: Sequence[int], reason: int
    ) -> None:
        self._must_be_connected()
        if not reason or not self._five:
            self._out.append(encode_acks(batch, packet_ids))
        else:
            self._out += [encode(kind(each, reason), MQTT_5) for each in packet_ids]

    def _message(self, packet: Publish, events: list[Event]) -> None:
        if packet.qos:
            self.unacked += 1
            if self.unacked > self.settings.receive_maximum:
                self.overruns += 1
        if packet.properties and "topic_alias" in packet.properties:
            self._aliases_in.resolve(packet)
        events.append(packet)

    def _answer(self, packet: Puback | Pubrec | Pubrel | Pubcomp | Suback | Unsuback, events: list[Event]) -> None:
        kind = type(packet)
        if kind in (Puback, Pubrec, Pubcomp):
            qos = self._in_flight.get(packet.packet_id)
            if qos is not None:
                if (qos == 1) is not (kind is Puback):
                    raise ProtocolError(
                        f"{kind.__name__.upper()} for packet identifier {packet.packet_id}, a message at QoS {qos}"
                    )
                if kind is not Pubrec or packet.reason >= 0x80:  # type: ignore[union-attr]
                    del self._in_flight[packet.packet_id]
        events.append(packet)

    def _other(self, packet: Packet, events: list[Event]) -> bool:
        """Whether the connection is over with it."""
        if isinstance(packet, Connack) and self.state is State.CONNECTING:
            return self._accepted(packet, events)
        if isinstance(packet, Pingresp) and self.state is State.CONNECTED:
            if self._pings and self._pings[0] != float("inf"):  # else it answers no ping of ours: harmless
                self._pings.popleft()
                events.append(Pong(self._pinged - len(self._pings)))
            return False
        if isinstance(packet, Disconnect) and self._five and self.state is State.CONNECTED:
            events += self._close(ended(packet))
            return True
        raise ProtocolError(f"a broker may not send {type(packet).__name__.upper()} here ({self.state.name.lower()})")

    def _accepted(self, packet: Connack, events: list[Event]) -> bool:
        said = packet.properties
        if packet.reason:
            events += self._close(refusal(packet))
            return True
        if packet.session_present and self.settings.clean_start:
            raise ProtocolError("CONNACK: a session is present, though a clean start was asked for")
        self._keep_alive_s = said.get("server_keep_alive", self.settings.keep_alive_s)
        self._send_maximum = min(self.settings.send_maximum, said.get("receive_maximum", 65535))
        ours = self.settings.max_packet_bytes
        self._most_bytes = min(ours, said.get("maximum_packet_size", ours))
        aliases = min(self.settings.topic_aliases_out, said.get("topic_alias_maximum", 0))
        self._aliases_out = AliasesOut(aliases) if aliases else None
        default_expiry = self.settings.session_expiry_s if self._five else 0 if self.settings.clean_start else NEVER
        self.connected = Connected(
            session_present=packet.session_present,
            client_id=said.get("assigned_client_identifier", self.settings.client_id),
            keep_alive_s=int(self._keep_alive_s),
            session_expiry_s=said.get("session_expiry_interval", default_expiry),
            send_maximum=self._send_maximum,
            maximum_qos=said.get("maximum_qos", 2),
            retain_available=bool(said.get("retain_available", 1)),
            max_packet_bytes=self._most_bytes,
            properties=said,
        )
        self.state = State.CONNECTED
        events.append(self.connected)
        return False

    def _break_off(self, error: WireError | ConnectionLost, events: list[Event]) -> None:
        """It is we who end it, for a reason: MQTT 5 lets us say which."""
        if self._five and self.state is State.CONNECTED:
            self._put(encode(Disconnect(error.reason), MQTT_5))
        events += self._close(error)

    def _close(self, error: StreamsError | None) -> list[Event]:
        if self.state is State.CLOSED:
            return []
        self.state, self._error = State.CLOSED, error
        return [Closed(error)]


_ANSWERS: Final = frozenset({Puback, Pubrec, Pubrel, Pubcomp, Suback, Unsuback})
