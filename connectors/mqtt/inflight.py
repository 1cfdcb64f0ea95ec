"""Which of the broker's messages are journaled and not yet forgotten: exactly once from an MQTT session into a log.

What must live here: the packet identifiers, and the decision whether a message is new.  What must not: I/O, and when to
commit.  Nothing is durable by itself: what must be is in ``Batch.delta``, which the owner commits with the messages.

Theory of operation.  A broker repeats what it doesn't know to be acknowledged, with the same identifier and DUP=1
(MQTT-4.4.0-1).  So message and identifier are committed together and only then acknowledged; what comes again is known.
The owner hands in what comes (``message``, ``release``), takes a batch, commits the messages and the delta, in order,
and when that is durable asks what may be said now (``committed``).  Commits may be pipelined.

    message ─▶ new ───▶ batch ─▶ commit ─▶ PUBACK ─▶ ping … pong ─▶ forgotten                   QoS 1
                                     └───▶ PUBREC ─▶ PUBREL ─▶ batch ─▶ commit ─▶ PUBCOMP       QoS 2
               known ─▶ batch ─▶ after the commits before it, PUBACK or PUBREC

Each rule was found by a model check, and has a sabotage that fails without it (``tests/connectors/mqtt``):

1. Nothing is acknowledged before its commit and those of earlier batches, or a crash loses it.
2. QoS 2: an identifier is forgotten durably before PUBCOMP.  After PUBCOMP it stands for another message, which would
   be dropped.
3. QoS 1: an identifier is forgotten when a ping behind its PUBACK is answered, and by that only those that were
   acknowledged before that ping.  Until then the broker may not have the PUBACK, and repeats.
4. QoS 1: what is known has DUP=1, equal QoS and an equal digest.  Else one that was given out anew is dropped.
5. No session at the broker: everything is forgotten durably before SUBSCRIBE.  Identifiers of another session drop
   messages of this one.
6. That we are ``connecting`` is durable before CONNECT.  After a crash behind CONNECT the session that it made looks
   like the one that we knew.
7. Acknowledgements of an earlier connection are never sent: by then they may be those of other messages.
8. What neither came again nor was forgotten ages, since an identifier comes round after 65,535 messages.

If ``connecting`` was left behind, a session that is present may be the known one or a new one.  What is known is
*suspect* then: at QoS 2 too it counts only with DUP=1.  What is left is a message of a new session that equals, in
identifier and every byte, one of the lost session that was in flight, and whose first delivery was lost in a crash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import Struct

from streams.connectors.mqtt.packets import Publish

__all__ = ["Acks", "Batch", "Inflight"]

AGE = 32_768  # messages; half of the identifiers, and far more than are ever in flight
_DIGEST = 8
_ENTRY = Struct(f">cH{_DIGEST}s")
_GONE = Struct(">cH")
_NUMBER = Struct(">cQ")
_FILTER = Struct(">HB")

# What a delta says, one letter each; a snapshot is a delta that begins with _CLEAR.
_CLEAR, _FORGET, _CONNECTING, _CONNECTED, _SUSPECT, _SUBSCRIBED, _NUMBERED = b"C", b"-", b"K", b"k", b"S", b"T", b"#"
_QOS = {1: b"1", 2: b"2"}


@dataclass(slots=True)
class _Entry:
    qos: int
    digest: bytes
    number: int  # how many came before: its age, and which message of this identifier it is
    suspect: bool = False


@dataclass(slots=True)
class Acks:
    """What may be said now, in this order."""

    pubacks: list[int] = field(default_factory=list)
    pubrecs: list[int] = field(default_factory=list)
    pubcomps: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """delta: to be committed with the messages of this batch; if it is empty there is nothing to commit for it."""

    delta: bytes
    acks: Acks
    connection: int
    acked: list[tuple[int, int]]  # identifier and number, at QoS 1


class Inflight:
    """The set of one session.  A new one is made from what is durable whenever the task starts."""

    def __init__(self, deltas: Iterable[bytes] = (), *, age: int = AGE) -> None:
        self._age = age
        self._known: dict[int, _Entry] = {}  # in the order of their numbers
        self._number = 0
        self._connecting = False
        self._subscriptions: dict[str, int] = {}
        for delta in deltas:
            self._apply(delta)
        self._in_doubt = self._connecting
        self._sent = False
        self._delta: list[bytes] = []
        self._acks = Acks()
        self._acked: list[tuple[int, int]] = []
        self._taken: deque[Batch] = deque()
        self._connection = 0
        self._unpinged: list[tuple[int, int]] = []  # acknowledged, not followed by a ping
        self._pinged: deque[tuple[int, list[tuple[int, int]]]] = deque()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def unpinged(self) -> int:
        """How many acknowledgements at QoS 1 no ping has followed yet: a reason to send one."""
        return len(self._unpinged)

    @property
    def in_doubt(self) -> bool:
        """A CONNECT wasn't answered, as far as is known: it may have made a session that looks like the known one."""
        return self._in_doubt

    # A connection

    def connecting(self) -> None:
        """Before each CONNECT: take a batch, and CONNECT when it is durable."""
        self._in_doubt |= self._sent  # an earlier CONNECT was never answered: it may have made a session
        self._sent = True
        if not self._connecting:
            self._connecting = True
            self._delta.append(_CONNECTING)
        self._connection += 1
        self._acks, self._acked = Acks(), []
        self._unpinged.clear()
        self._pinged.clear()

    def unsent(self) -> None:
        """The attempt ended before CONNECT went out (``before_connect`` of its error): it leaves no doubt."""
        self._sent = False

    def connected(self, session_present: bool) -> None:
        """After CONNACK: take a batch.  If there was no session, nothing more may happen until it is durable."""
        if not session_present:
            self._known.clear()
            self._subscriptions = {}
            self._delta.append(_CLEAR)
        else:
            if self._in_doubt:
                for entry in self._known.values():
                    entry.suspect = True
                self._subscriptions = {}
                self._delta.append(_SUSPECT)
            self._delta.append(_CONNECTED)
        self._connecting = self._in_doubt = self._sent = False

    def missing(self, wanted: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
        """(what to subscribe to, what to unsubscribe from) of a session that is to have these filters with these QoS.

        A subscription that the session has isn't made again: retained messages would come again with it.
        """
        add = {name: qos for name, qos in wanted.items() if self._subscriptions.get(name) != qos}
        return add, [name for name in self._subscriptions if name not in wanted]

    def subscribed(self, subscriptions: Mapping[str, int]) -> None:
        """SUBACK and UNSUBACK have come: the session has these now.  Goes into the next batch."""
        self._subscriptions = dict(subscriptions)
        self._delta.append(self._filters())

    # What comes

    def message(self, packet: Publish) -> bool:
        """Whether it is new, and so to be committed with the next batch.  One at QoS 0 always is."""
        if not packet.qos:
            return True
        packet_id, qos = packet.packet_id, packet.qos
        digest = _digest(packet)
        known = self._known.get(packet_id)
        (self._acks.pubacks if qos == 1 else self._acks.pubrecs).append(packet_id)
        if known is not None and self._is_repeated(packet, known, digest):
            if qos == 1:
                self._acked.append((packet_id, known.number))
            return False
        if known is not None:
            del self._known[packet_id]  # so that the order stays that of the numbers
        self._known[packet_id] = _Entry(qos, digest, self._number)
        self._delta.append(_ENTRY.pack(_QOS[qos], packet_id, digest))
        if qos == 1:
            self._acked.append((packet_id, self._number))
        self._number += 1
        if self._number % max(1, self._age // 32) == 0:
            self._forget_old()
        return True

    def release(self, packet_id: int) -> None:
        """PUBREL: the broker will not repeat the message any more.  PUBCOMP follows with the next batch."""
        known = self._known.get(packet_id)
        if known is not None and known.qos == 2:
            self._forget(packet_id)
        self._acks.pubcomps.append(packet_id)

    def pinged(self, number: int) -> None:
        """A ping went out, behind all acknowledgements that ``committed`` has given."""
        if self._unpinged:
            self._pinged.append((number, self._unpinged))
            self._unpinged = []

    def ponged(self, number: int) -> None:
        """It was answered: the broker has these acknowledgements."""
        while self._pinged and self._pinged[0][0] <= number:
            for packet_id, which in self._pinged.popleft()[1]:
                known = self._known.get(packet_id)
                if known is not None and known.number == which:
                    self._forget(packet_id)

    # What is to be durable

    def take(self) -> Batch | None:
        """What has come together since the last batch; None if nothing has."""
        if not (self._delta or self._acks.pubacks or self._acks.pubrecs or self._acks.pubcomps):
            return None
        batch = Batch(b"".join(self._delta), self._acks, self._connection, self._acked)
        self._delta, self._acks, self._acked = [], Acks(), []
        self._taken.append(batch)
        return batch

    def committed(self, batch: Batch) -> Acks:
        """It is durable, as are all before it.  What may be said now; nothing if it came over another connection."""
        assert self._taken[0] is batch, "batches become durable in the order in which they were taken"
        self._taken.popleft()
        if batch.connection != self._connection:
            return Acks()
        self._unpinged += batch.acked
        return batch.acks

    def snapshot(self) -> bytes:
        """Everything up to the last batch taken, as one delta: all deltas before it are no longer needed."""
        assert not self._delta, "a snapshot stands between batches"
        parts = [_CLEAR]
        suspects, expected = False, -1
        for packet_id, entry in self._known.items():
            if suspects and not entry.suspect:
                parts.append(_SUSPECT)  # all suspects are older than the others
            suspects = entry.suspect
            if entry.number != expected:
                parts.append(_NUMBER.pack(_NUMBERED, entry.number))
            expected = entry.number + 1
            parts.append(_ENTRY.pack(_QOS[entry.qos], packet_id, entry.digest))
        parts += [_SUSPECT if suspects else b"", _NUMBER.pack(_NUMBERED, self._number), self._filters()]
        return b"".join([*parts, _CONNECTING if self._connecting else b""])

    # Within

    def _is_repeated(self, packet: Publish, known: _Entry, digest: bytes) -> bool:
        if known.qos != packet.qos or known.digest != digest:
            return False
        return packet.dup or (packet.qos == 2 and not known.suspect)

    def _forget(self, packet_id: int) -> None:
        del self._known[packet_id]
        self._delta.append(_GONE.pack(_FORGET, packet_id))

    def _forget_old(self) -> None:
        oldest = self._number - self._age
        for packet_id, entry in list(self._known.items()):
            if entry.number >= oldest:
                return
            if entry.qos == 1 or entry.suspect:  # at QoS 2 a PUBREL is still to come
                self._forget(packet_id)

    def _filters(self) -> bytes:
        parts = [_SUBSCRIBED, len(self._subscriptions).to_bytes(2, "big")]
        for name, qos in self._subscriptions.items():
            raw = name.encode()
            parts += [_FILTER.pack(len(raw), qos), raw]
        return b"".join(parts)

    def _apply(self, delta: bytes) -> None:
        at = 0
        while at < len(delta):
            what = delta[at : at + 1]
            if what in (b"1", b"2"):
                _, packet_id, digest = _ENTRY.unpack_from(delta, at)
                self._known.pop(packet_id, None)
                self._known[packet_id] = _Entry(int(what), digest, self._number)
                self._number += 1
                at += _ENTRY.size
                continue
            at += 1
            match what:
                case b"#":  # else everything would be young again with each snapshot
                    self._number = int.from_bytes(delta[at : at + 8], "big")
                    at += 8
                case b"-":
                    self._known.pop(int.from_bytes(delta[at : at + 2], "big"), None)
                    at += 2
                case b"C":
                    self._known.clear()
                    self._subscriptions, self._connecting = {}, False
                case b"K":
                    self._connecting = True
                case b"k":
                    self._connecting = False
                case b"S":
                    self._subscriptions = {}
                    for entry in self._known.values():
                        entry.suspect = True
                case b"T":
                    at = self._read_filters(delta, at)
                case _:
                    raise ValueError(f"a delta of packet identifiers holds {what!r} at byte {at - 1}")

    def _read_filters(self, delta: bytes, at: int) -> int:
        count = int.from_bytes(delta[at : at + 2], "big")
        at += 2
        self._subscriptions = {}
        for _ in range(count):
            length, qos = _FILTER.unpack_from(delta, at)
            at += _FILTER.size
            self._subscriptions[delta[at : at + length].decode()] = qos
            at += length
        return at


def _digest(packet: Publish) -> bytes:
    topic = packet.topic.encode()
    return blake2b(b"%d:%b%b" % (len(topic), topic, packet.payload), digest_size=_DIGEST).digest()
