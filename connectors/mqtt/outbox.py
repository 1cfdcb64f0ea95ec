"""Which of our messages are under way to a broker: exactly once from a log to an MQTT session at QoS 2.

What must live here: packet identifiers, and how far each handshake is.  What must not: I/O, payloads (they stay where
they are on the log, found by their sequence), and when to commit.

Theory of operation.  There is no position at a broker, so the handshake itself is kept.  The owner reads messages in
order, gives each its identifier (``assign``), takes a batch, commits its delta, and publishes when that is durable;
``committed`` says what may go out.  A crash leaves what is durable: in the same session each handshake goes on where it
stood, with the same identifier.

    assign ─▶ batch ─▶ commit ─▶ PUBLISH ─▶ PUBREC ─▶ batch ─▶ commit ─▶ PUBREL ─▶ PUBCOMP ─▶ done       QoS 2
                                    └─────▶ PUBACK ─▶ done                                              QoS 1

1. An identifier is durable before its first PUBLISH: else the message goes out again under another one.
2. PUBREC is durable before PUBREL: after PUBREL the broker takes the same identifier for a new message.
3. With PUBREC the message is the broker's: what was received is never published again in that session, only released.
4. An identifier is given out anew when its handshake is over, and the delta that says so isn't behind the one that
   gives it out.
5. Resumed messages go out before new ones, in their order.

A session that the broker has lost ends the promise: what was under way is published again, and counted (``doubtful``).
After a crash behind CONNECT a session that is present may be the one that we knew, or one that this CONNECT made.  It
is taken for the known one, since to publish again what was received would repeat it after a mere crash; but what was
received is counted as doubtful then too: if the session was lost at that very time, so is the message.  That is why
``connecting`` is durable before CONNECT.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from struct import Struct

__all__ = ["Outbox", "OutboxBatch", "Say"]

_ASSIGN = Struct(">cQH")
_PASS = Struct(">cQ")
_OF_ID = Struct(">cH")
_RECEIVED, _DONE, _PASSED, _LOST, _CONNECTING, _CONNECTED = b"R", b"D", b"P", b"L", b"K", b"k"
_QOS = {1: b"1", 2: b"2"}


@dataclass(slots=True)
class _Handshake:
    sequence: int
    packet_id: int
    qos: int
    durable: bool = False  # its identifier is
    received: bool = False  # PUBREC has come
    released: bool = False  # and that is durable, so that PUBREL may go out
    sent: bool = False  # perhaps: PUBLISH went out over some connection


@dataclass(slots=True)
class Say:
    """What may go out now, in this order.  publish: (sequence, packet identifier, DUP)."""

    pubrel: list[int] = field(default_factory=list)
    publish: list[tuple[int, int, bool]] = field(default_factory=list)


@dataclass(slots=True)
class OutboxBatch:
    """To be committed; never empty."""

    delta: bytes
    assigned: list[_Handshake]
    received: list[_Handshake]


class Outbox:
    """Of one client id.  A new one is made from what is durable whenever the task starts."""

    def __init__(self, deltas: Iterable[bytes] = ()) -> None:
        self.doubtful = 0  # messages that went out again since a session was lost, or may have been
        self._under_way: dict[int, _Handshake] = {}  # by packet identifier, in the order of their sequence
        self._next = 0
        self._last_id = 0
        self._connecting = False
        for delta in deltas:
            self._apply(delta)
        for each in self._under_way.values():
            each.durable = each.sent = True
            each.released = each.received
        self._delta: list[bytes] = []
        self._assigned: list[_Handshake] = []
        self._received: list[_Handshake] = []
        self._taken: deque[OutboxBatch] = deque()
        self._connected = False
        self._in_doubt = self._connecting
        self._sent = False

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def next_sequence(self) -> int:
        """One past the last message that was assigned or passed: from here on the log is read."""
        return self._next

    @property
    def position(self) -> int:
        """Everything before it is done: the log may be trimmed, and after a restart is read from here on."""
        return min((each.sequence for each in self._under_way.values()), default=self._next)

    def under_way(self) -> list[int]:
        """The sequences of the messages whose handshake isn't over: their payloads are needed when it is resumed."""
        return [each.sequence for each in self._under_way.values()]

    # A connection

    def disconnected(self) -> None:
        """The connection is gone; nothing may be said until the next one."""
        self._connected = False

    def connecting(self) -> None:
        """Before each CONNECT: take a batch, and CONNECT when it is durable."""
        self._in_doubt |= self._sent
        self._sent = True
        if not self._connecting:
            self._connecting = True
            self._delta.append(_CONNECTING)

    def unsent(self) -> None:
        """The attempt ended before CONNECT went out (``before_connect`` of its error): it leaves no doubt."""
        self._sent = False

    def connected(self, session_present: bool) -> Say:
        """After CONNACK: what has to go out first.  As far as the window allows, and before everything else."""
        self._connected = True
        if not session_present:
            for each in self._under_way.values():
                self.doubtful += each.sent
                each.sent = each.received = each.released = False
            self._received = []
            self._delta.append(_LOST)
        elif self._in_doubt:
            self.doubtful += sum(each.received for each in self._under_way.values())
        self._connecting = self._in_doubt = self._sent = False
        self._delta.append(_CONNECTED)
        say = Say()
        for each in self._under_way.values():
            if each.released:
                say.pubrel.append(each.packet_id)
            elif each.durable and not each.received:
                say.publish.append((each.sequence, each.packet_id, each.sent))
                each.sent = True
        return say

    # Messages

    def assign(self, sequence: int, qos: int) -> int:
        """The packet identifier of the next message, to be published when its batch is durable."""
        assert sequence >= self._next, "messages are assigned in order"
        assert len(self._under_way) < 0xFFFF
        packet_id = self._last_id % 0xFFFF + 1
        while packet_id in self._under_way:
            packet_id = packet_id % 0xFFFF + 1
        self._last_id = packet_id
        handshake = _Handshake(sequence, packet_id, qos)
        self._under_way[packet_id] = handshake
        self._next = sequence + 1
        self._assigned.append(handshake)
        self._delta.append(_ASSIGN.pack(_QOS[qos], sequence, packet_id))
        return packet_id

    def passed(self, sequence: int) -> None:
        """A message that needs no handshake is done: at QoS 0, or given up."""
        assert sequence >= self._next, "messages are passed in order"
        self._next = sequence + 1
        self._delta.append(_PASS.pack(_PASSED, sequence))

    def puback(self, packet_id: int) -> int | None:
        """The sequence of a message at QoS 1 that is done, also if it was refused; None if there is no such one."""
        return self._finish(packet_id, 1)

    def pubrec(self, packet_id: int, reason: int = 0) -> int | None:
        """The sequence of a message that the broker refuses and that is done by that; else None."""
        found = self._under_way.get(packet_id)
        if found is None or found.qos != 2 or found.received:
            return None
        if reason >= 0x80:
            return self._finish(packet_id, 2)
        found.received = True
        self._received.append(found)
        self._delta.append(_OF_ID.pack(_RECEIVED, packet_id))
        return None

    def pubcomp(self, packet_id: int) -> int | None:
        """The sequence of a message at QoS 2 that is done."""
        return self._finish(packet_id, 2)

    # What is to be durable

    def take(self) -> OutboxBatch | None:
        if not self._delta:
            return None
        batch = OutboxBatch(b"".join(self._delta), self._assigned, self._received)
        self._delta, self._assigned, self._received = [], [], []
        self._taken.append(batch)
        return batch

    def committed(self, batch: OutboxBatch) -> Say:
        """It is durable, as are all before it.  What may go out now; without a connection ``connected`` says it."""
        assert self._taken[0] is batch, "batches become durable in the order in which they were taken"
        self._taken.popleft()
        say = Say()
        for each in batch.received:
            if each.received and not each.released:
                each.released = True
                if self._connected:
                    say.pubrel.append(each.packet_id)
        for each in batch.assigned:
            each.durable = True
            if self._connected:
                each.sent = True
                say.publish.append((each.sequence, each.packet_id, False))
        return say

    def snapshot(self) -> bytes:
        """Everything up to the last batch taken, as one delta: all deltas before it are no longer needed."""
        assert not self._delta, "a snapshot stands between batches"
        parts = []
        for each in self._under_way.values():
            parts.append(_ASSIGN.pack(_QOS[each.qos], each.sequence, each.packet_id))
            if each.received:
                parts.append(_OF_ID.pack(_RECEIVED, each.packet_id))
        if self._next:
            parts.append(_PASS.pack(_PASSED, self._next - 1))
        return b"".join([*parts, _CONNECTING if self._connecting else b""])

    # Within

    def _finish(self, packet_id: int, qos: int) -> int | None:
        found = self._under_way.get(packet_id)
        if found is None or found.qos != qos:
            return None
        del self._under_way[packet_id]
        self._delta.append(_OF_ID.pack(_DONE, packet_id))
        return found.sequence

    def _apply(self, delta: bytes) -> None:
        at = 0
        while at < len(delta):
            what = delta[at : at + 1]
            if what in (b"1", b"2"):
                _, sequence, packet_id = _ASSIGN.unpack_from(delta, at)
                self._under_way[packet_id] = _Handshake(sequence, packet_id, int(what))
                self._next, self._last_id = sequence + 1, packet_id
                at += _ASSIGN.size
            elif what == _PASSED:
                self._next = _PASS.unpack_from(delta, at)[1] + 1
                at += _PASS.size
            elif what in (_CONNECTING, _CONNECTED):
                self._connecting = what == _CONNECTING
                at += 1
            elif what == _LOST:
                for each in self._under_way.values():
                    each.received = False
                at += 1
            elif what in (_RECEIVED, _DONE):
                packet_id = _OF_ID.unpack_from(delta, at)[1]
                if what == _DONE:
                    del self._under_way[packet_id]
                else:
                    self._under_way[packet_id].received = True
                at += _OF_ID.size
            else:
                raise ValueError(f"a delta of an outbox holds {what!r} at byte {at}")
