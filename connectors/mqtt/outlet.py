"""Records published to a broker, at QoS 2 exactly once: the handshake goes on where a former owner left it.

What must live here: the connection of one client id, and records as messages.  What must not: how far each handshake is
(``outbox``), which records are next (``runtime.egress``).

At QoS 2 it is durable before the first PUBLISH which packet id each message of the batch has, and before its PUBREL
that the broker has it.  So after a crash it is known of every message which packet comes next.

    keep(ids) ── CONNECT ── PUBLISH … ── PUBREC … ── keep(received) ── PUBREL … ── PUBCOMP …

It connects when there is something to send, since only then it can say durably that it is about to.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.errors import ConnectionLost, Refused, SessionTakenOver, Unsendable
from streams.connectors.mqtt.events import Event, Pong
from streams.connectors.mqtt.outbox import Outbox, OutboxBatch, Say
from streams.connectors.mqtt.packets import MQTT_5, Puback, Pubcomp, Publish, Pubrec
from streams.connectors.mqtt.place import Place, fill
from streams.connectors.mqtt.properties import Properties
from streams.connectors.mqtt.reasons import WORTH_ANOTHER_TRY, name_of
from streams.core.edge import Keep
from streams.core.record import Headers, Records

__all__ = ["MqttOutlet"]

logger = logging.getLogger("streams")

BATCH = 1000
AT_ONCE_BYTES = 2**20
"""Of payloads, before the broker has to keep up."""
PACKET_IDS = 65_535
LONGEST_STRING = 65_535


class _State(msgspec.Struct, array_like=True):
    """Fields are only ever added at the end.

    handshakes: of the outbox.  first, count: which sequences the records of the batch have that is under way.
    """

    version: int = 1
    handshakes: bytes = b""
    first: int = 0
    count: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode


class MqttOutlet:
    """An ``Outlet``: one client id.  on_lost: told when the broker has lost the session with messages under way, or may
    have.  on_connected: told of each connection that has a session."""

    batch = BATCH

    def __init__(
        self,
        place: Place,
        client_id: str,
        template: str,
        state: bytes | None,
        on_lost: Callable[[], None],
        on_connected: Callable[[str, Connection], None],
    ) -> None:
        self._place = place
        self._client_id = client_id
        self._template = template
        self._on_lost, self._on_connected = on_lost, on_connected
        self._connection: Connection | None = None
        kept = _decode(state) if state is not None and place.qos == 2 else _State()
        self._outbox = Outbox([kept.handshakes] if kept.handshakes else [])
        self._first, self.under_way = kept.first, kept.count
        self._last_id = 0  # at QoS 1, where nobody remembers it
        self._before = state
        self._at_once_bytes = 0
        self.sent = 0

    @property
    def keeps_first(self) -> bool:
        return not self._place.qos

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def state(self) -> bytes | None:
        if self._place.qos < 2 or not self._outbox.next_sequence:
            return None
        if (batch := self._outbox.take()) is not None:
            self._outbox.committed(batch)
        return self._encoded(0)

    def _encoded(self, count: int) -> bytes:
        return _encode(_State(1, self._outbox.snapshot(), self._first, count))

    async def send(self, records: Records, keep: Keep) -> None:
        """Raises ConnectionLost, SessionTakenOver, Refused (the broker won't have a message), Unsendable."""
        self.sent = 0
        messages = self._messages(records)
        try:
            if self._place.qos == 2:
                await self._hand_over(messages, keep)
            else:
                if self._connection is None:
                    self._connection = await self._connect(clean_start=True)
                if self._place.qos:
                    await self._publish(self._connection, messages)
                else:
                    await keep(b"")
                    await self._shout(self._connection, messages)
        except SessionTakenOver:
            logger.warning(
                "%s: another client has connected as %s: if it is none of this app's workers, give one of them another "
                "client_id",
                self._place.config.shown,
                self._client_id,
            )
            raise

    async def _connect(self, *, clean_start: bool) -> Connection:
        config = self._place.config
        settings = config.session(self._client_id, clean_start=clean_start, will=self._place.will)
        return await Connection.open(config, settings)

    def _messages(self, records: Records) -> list[Publish]:
        five = self._place.config.version == MQTT_5
        headers: Sequence[Headers | None] = records.headers if records.headers is not None else [None] * len(records)
        return [
            Publish(
                fill(self._template, key),
                value or b"",
                self._place.qos,
                self._place.retain,
                properties=_properties(held) if five and held else {},
            )
            for key, value, held in zip(records.keys, records.values, headers, strict=True)
        ]

    def _is_much(self, connection: Connection, message: Publish) -> bool:
        """Publish it.  Whether the connection is to be drained now: else a batch of large ones is there twice."""
        connection.publish(message)
        self._at_once_bytes += len(message.payload)
        if self._at_once_bytes < AT_ONCE_BYTES:
            return False
        self._at_once_bytes = 0
        return True

    # QoS 0 and 1

    async def _shout(self, connection: Connection, messages: Sequence[Publish]) -> None:
        for message in messages:
            much = self._is_much(connection, message)
            self.sent += 1
            if much:
                await connection.drain()
        await connection.drain()
        number = connection.ping()
        while not any(isinstance(event, Pong) and event.number >= number for event in await connection.events()):
            pass

    async def _publish(self, connection: Connection, messages: Sequence[Publish]) -> None:
        """Publish all of them, and wait until each is answered."""
        left, waiting, out = deque(enumerate(messages)), dict[int, int](), 0
        unsendable: Unsendable | None = None
        while left or waiting:
            while left and connection.window > 0:
                number, message = left.popleft()
                message.packet_id = self._last_id = self._last_id % PACKET_IDS + 1
                try:
                    much = self._is_much(connection, message)
                except Unsendable as error:  # what is before it is waited for: else it goes out again with each start
                    unsendable = error
                    left.clear()
                    break
                waiting[message.packet_id], out = number, number + 1
                if much:
                    await connection.drain()
            await connection.drain()
            for event in await connection.events() if waiting else ():
                if isinstance(event, Puback) and event.packet_id in waiting:
                    self._look_at(event, messages[waiting[event.packet_id]].topic)
                    del waiting[event.packet_id]
                    self.sent = next(iter(waiting.values()), out)
        if unsendable is not None:
            raise unsendable

    def _look_at(self, answer: Puback | Pubrec, topic: str) -> None:
        if answer.reason < 0x80:
            return
        shown = self._place.config.shown
        said = f"{shown}: the broker doesn't take a message on {topic}: {name_of(answer.reason)}"
        if answer.reason in WORTH_ANOTHER_TRY:
            raise ConnectionLost(said, answer.reason)
        raise Refused(f"{said}; give the user of client {self._client_id} the right to publish there", answer.reason)

    # QoS 2

    async def _hand_over(self, messages: Sequence[Publish], keep: Keep) -> None:
        """All of them, to the end of their handshakes; or the rest of those that a former owner has begun with."""
        outbox, count = self._outbox, len(messages)
        if self.under_way:
            assert count == self.under_way, "a batch that is under way comes again as it was"
        else:
            self._first = outbox.next_sequence
            for sequence in range(self._first, self._first + count):
                outbox.assign(sequence, 2)
        say = Say()
        if self._connection is None:
            say = await self._resume(count, keep)
        elif (batch := outbox.take()) is not None:
            say = await self._kept(batch, count, keep)
        self.under_way = 0
        connection = self._connection
        assert connection is not None
        left: deque[tuple[int, int, bool]] = deque(say.publish)
        connection.pubrel(say.pubrel)
        topics: dict[int, str] = {}
        while len(outbox):
            while left and connection.window > 0:
                sequence, packet_id, dup = left.popleft()
                message = messages[sequence - self._first]
                message.packet_id, message.dup = packet_id, dup
                topics[packet_id] = message.topic
                if self._is_much(connection, message):
                    await connection.drain()
            await connection.drain()
            if self._hear(await connection.events(), topics) and (batch := outbox.take()) is not None:
                connection.pubrel((await self._kept(batch, count, keep)).pubrel)

    async def _resume(self, count: int, keep: Keep) -> Say:
        """Connect, with the session that there is.  Durable before: that we are about to; after: what we found."""
        outbox, shown = self._outbox, self._place.config.shown
        outbox.connecting()
        if (batch := outbox.take()) is not None:
            await self._kept(batch, count, keep)
        try:
            self._connection = await self._connect(clean_start=False)
        except ConnectionLost as error:
            if error.before_connect:  # else the session would be in doubt for each time that nobody was reached
                await keep(_encode(_State()) if self._before is None else self._before)
            raise
        self._on_connected(self._client_id, self._connection)
        under_way, doubtful = self.under_way, outbox.doubtful
        say = outbox.connected(self._connection.connected.session_present)
        if outbox.doubtful > doubtful or (under_way and not self._connection.connected.session_present):
            self._on_lost()
            logger.warning(
                "%s: the broker has lost the session of %s, or may have: of %d messages that were under way some may "
                "come twice, or not at all; let it keep sessions for longer, and on disk",
                shown,
                self._client_id,
                under_way,
            )
        batch = outbox.take()
        assert batch is not None
        more = await self._kept(batch, count, keep)
        return Say(say.pubrel + more.pubrel, say.publish + more.publish)

    async def _kept(self, batch: OutboxBatch, count: int, keep: Keep) -> Say:
        await keep(self._encoded(count))
        return self._outbox.committed(batch)

    def _hear(self, events: Sequence[Event], topics: dict[int, str]) -> bool:
        """Whether something of it has to be durable."""
        received = False
        for event in events:
            if isinstance(event, Pubrec):
                self._look_at(event, topics.get(event.packet_id, "a topic"))
                self._outbox.pubrec(event.packet_id, event.reason)
                received = True
            elif isinstance(event, Pubcomp):
                self._outbox.pubcomp(event.packet_id)
        return received

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _properties(headers: Headers) -> Properties:
    """Headers as user properties; those that the broker's messages bring are left out, and those that can't be one."""
    found: list[tuple[str, str]] = []
    for name, value in headers:
        if not name.startswith("Mqtt-") and _is_text(value) and _is_text(name.encode(errors="surrogatepass")):
            found.append((name, value.decode()))
    return {"user_property": found} if found else {}


def _is_text(raw: bytes) -> bool:
    """Whether MQTT can carry it as a string (section 1.5.4)."""
    if len(raw) > LONGEST_STRING or b"\0" in raw:
        return False
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
