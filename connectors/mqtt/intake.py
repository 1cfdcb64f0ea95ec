"""Messages of a broker's session, handed out to be journaled, and acknowledged after.

What must live here: the connection of one client id, and messages as records.  What must not: what is remembered of
them (``inflight``), when they are stored (``runtime.ingress``).

    connecting ── stored ── CONNECT ── the session, or none ── stored ── SUBSCRIBE ── PUBLISH … ── stored ── PUBACK …

What is handed out is stored before more is asked for: that we connect, before CONNECT; that the session is a new one,
before SUBSCRIBE.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.errors import (
    ConnectionLost,
    ProtocolError,
    Refused,
    SessionTakenOver,
    Unsendable,
    WireError,
)
from streams.connectors.mqtt.events import Event, Pong
from streams.connectors.mqtt.inflight import Batch, Inflight
from streams.connectors.mqtt.packets import Publish, Pubrel, Suback, Subscription, Unsuback
from streams.connectors.mqtt.place import Place
from streams.connectors.mqtt.reasons import WORTH_ANOTHER_TRY, Reason, name_of
from streams.core.edge import Received
from streams.core.record import Headers, Records
from streams.errors import RetryableError, StreamsError

__all__ = ["DUP", "QOS", "RETAIN", "TOPIC", "MqttIntake"]

logger = logging.getLogger("streams")

TOPIC, QOS, RETAIN, DUP = "Mqtt-Topic", "Mqtt-Qos", "Mqtt-Retain", "Mqtt-Dup"
SUBSCRIBE_ID, UNSUBSCRIBE_ID = 1, 2
"""Ids of our own direction: they have nothing to do with those of the broker's messages."""
_RIGHTS = (Reason.NOT_AUTHORIZED, Reason.UNSPECIFIED_ERROR)  # the latter is all that 3.1.1 says


class MqttIntake:
    """An ``Intake``: one client id.  state: what its last owner left.  on_lost: told when the broker has lost the
    session, or may have.  on_connected: told of the connection."""

    lost = 0

    def __init__(
        self,
        place: Place,
        client_id: str,
        wanted: Mapping[str, int],
        state: bytes | None,
        on_lost: Callable[[], None],
        on_connected: Callable[[str, Connection], None],
    ) -> None:
        self._place = place
        self._client_id = client_id
        self._wanted = wanted
        self._on_lost, self._on_connected = on_lost, on_connected
        self._inflight = Inflight([] if state is None else [state])
        self._before = self._inflight.snapshot()
        self._handed: Batch | None = None  # not stored yet
        self._connection: Connection | None = None
        self._error: RetryableError | None = None
        self._announced = self._subscribed = self._ended = False
        self._held: deque[Event] = deque()

    async def receive(self, *, max_records: int, max_bytes: int, wait_s: float) -> Received | None:
        assert self._handed is None, "what was handed out is stored before more is asked for"
        if self._ended:
            return self._taken(max_records, max_bytes)
        if self._error is not None:
            raise self._error
        if not self._announced:
            self._announced = True
            self._inflight.connecting()
            if (received := self._received([])) is not None:
                return received
        try:
            if self._connection is None:
                return await self._connect()
            if not self._subscribed:
                await self._subscribe()
            elif not self._held:
                try:
                    async with asyncio.timeout(wait_s):
                        self._held.extend(await self._connection.events())
                except TimeoutError:
                    return None
        except WireError as error:
            if error.reason == Reason.PACKET_TOO_LARGE:  # it would come again and again
                raise Unsendable(str(error)) from error
            raise
        except SessionTakenOver:
            logger.warning(
                "%s: another client has connected as %s: if it is none of this app's workers, give one of them another "
                "client_id",
                self._place.config.shown,
                self._client_id,
            )
            raise
        return self._taken(max_records, max_bytes)

    async def _connect(self) -> Received | None:
        config = self._place.config
        settings = config.session(self._client_id, clean_start=False, will=self._place.will)
        try:
            self._connection = await Connection.open(config, settings)
        except ConnectionLost as error:
            if not error.before_connect:
                raise
            # Else the session would be in doubt for every time that the broker wasn't reached.
            self._error = error
            return Received(Records(), self._before)
        self._on_connected(self._client_id, self._connection)
        present = self._connection.connected.session_present
        had_one = bool(self._inflight.missing({})[1])
        if had_one and self._place.qos and (self._inflight.in_doubt or not present):
            self._on_lost()
            logger.warning(
                "%s: the broker has lost the session of %s%s: messages that were sent meanwhile are lost, and those "
                "that it sends again may come twice; let it keep sessions for longer, and on disk",
                config.shown,
                self._client_id,
                ", or may have (a CONNECT before wasn't answered)" if present else "",
            )
        self._inflight.connected(present)
        return self._received([])

    async def _subscribe(self) -> None:
        """Returns when the session has the filters that it is to have, so that what is sent from then on comes."""
        connection = self._connection
        assert connection is not None
        add, remove = self._inflight.missing(self._wanted)
        waiting = {kind for kind, names in ((Suback, add), (Unsuback, remove)) if names}
        if remove:
            connection.unsubscribe(UNSUBSCRIBE_ID, remove)
        if add:
            # At a subscription that is there already, retained messages don't come again.
            filters = [Subscription(name, qos, retain_handling=1) for name, qos in add.items()]
            connection.subscribe(SUBSCRIBE_ID, filters)
        try:
            async with asyncio.timeout(self._place.config.answer_timeout_s):
                while waiting:
                    for event in await connection.events():
                        if isinstance(event, Suback):
                            self._look_at_suback(event, add)
                        elif isinstance(event, Unsuback):
                            self._look_at_unsuback(event, remove)
                        else:
                            self._held.append(event)
                            continue
                        waiting.discard(type(event))
        except TimeoutError:
            words = f"{self._place.config.shown}: no answer to SUBSCRIBE"
            raise ConnectionLost(words, Reason.SERVER_UNAVAILABLE) from None
        if add or remove:
            self._inflight.subscribed(self._wanted)
        self._subscribed = True

    def _look_at_suback(self, answer: Suback, asked: Mapping[str, int]) -> None:
        self._check_answer("SUBACK", answer, SUBSCRIBE_ID, len(asked))
        shown = self._place.config.shown
        for (name, qos), reason in zip(asked.items(), answer.reasons, strict=True):
            if reason >= 0x80:
                hint = "; give its user the right to read there" if reason in _RIGHTS else ""
                raise Refused(
                    f"{shown}: client {self._client_id} may not subscribe to {name}: {name_of(reason)}{hint}", reason
                )
            if reason < qos:  # less would be promised than was asked for
                raise Refused(
                    f"{shown}: the broker grants {name} at QoS {reason} only, and not at {qos}; write qos={reason}",
                    Reason.QOS_NOT_SUPPORTED,
                )

    def _look_at_unsuback(self, answer: Unsuback, asked: Sequence[str]) -> None:
        self._check_answer("UNSUBACK", answer, UNSUBSCRIBE_ID, len(asked) if answer.reasons else 0)
        for name, reason in zip(asked, answer.reasons, strict=False):  # none in 3.1.1
            if reason < 0x80:
                continue
            # What matches it would go on to come, and nothing here would know why.
            said = (
                f"{self._place.config.shown}: client {self._client_id} can't unsubscribe from {name}, which this "
                f"source had before: {name_of(reason)}"
            )
            if reason in WORTH_ANOTHER_TRY:
                raise ConnectionLost(said, reason)
            raise Refused(f"{said}; give its user the right to, or end the session at the broker", reason)

    def _check_answer(self, what: str, answer: Suback | Unsuback, packet_id: int, count: int) -> None:
        """Raises ProtocolError for one that answers something else."""
        if (answer.packet_id, len(answer.reasons)) != (packet_id, count):
            raise ProtocolError(
                f"{self._place.config.shown}: {what} for packet identifier {answer.packet_id} with "
                f"{len(answer.reasons)} reasons; {count} were asked for under {packet_id}"
            )

    def _taken(self, max_records: int, max_bytes: int) -> Received | None:
        """What has come, as much as is asked for, in order."""
        messages: list[Publish] = []
        size = 0
        while self._held and len(messages) < max_records and size < max_bytes:
            event = self._held.popleft()
            if isinstance(event, Publish):
                if self._inflight.message(event):
                    messages.append(event)
                    size += len(event.payload)
            elif isinstance(event, Pubrel):
                self._inflight.release(event.packet_id)
            elif isinstance(event, Pong):
                self._inflight.ponged(event.number)
        return self._received(messages)

    def _received(self, messages: Sequence[Publish]) -> Received | None:
        batch = self._inflight.take()
        if batch is None:
            return Received(_records(messages)) if messages else None
        self._handed = batch
        return Received(_records(messages), self._inflight.snapshot() if batch.delta else None)

    async def stored(self) -> None:
        batch, self._handed = self._handed, None
        if batch is None:
            return
        acks = self._inflight.committed(batch)
        if self._connection is None:
            return
        try:
            self._connection.puback(acks.pubacks)
            self._connection.pubrec(acks.pubrecs)
            self._connection.pubcomp(acks.pubcomps)
            if self._inflight.unpinged:  # what is behind an answer to it, the broker has seen
                self._inflight.pinged(self._connection.ping())
        except StreamsError:
            return  # it is closed: ``receive`` says why
        await self._connection.drain()

    async def end(self) -> None:
        """The session stays at the broker; what isn't acknowledged comes again to whoever is next, but for what came at
        QoS 0, which nobody sends again."""
        self._ended = True
        if self._connection is not None:
            with suppress(StreamsError, TimeoutError):  # what ends the connection now takes nothing back
                async with asyncio.timeout(0):
                    self._held.extend(await self._connection.events())

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _records(messages: Sequence[Publish]) -> Records:
    now_ms = time.time_ns() // 1_000_000
    return Records(
        [message.topic.encode() for message in messages],
        [message.payload for message in messages],
        [now_ms] * len(messages),
        [_headers(message) for message in messages],
    )


def _headers(message: Publish) -> Headers:
    found: list[tuple[str, bytes]] = [(TOPIC, message.topic.encode()), (QOS, b"%d" % message.qos)]
    if message.retain:
        found.append((RETAIN, b"1"))
    if message.dup:
        found.append((DUP, b"1"))
    said = message.properties
    if said:
        if "content_type" in said:
            found.append(("Mqtt-Content-Type", said["content_type"].encode()))
        if "response_topic" in said:
            found.append(("Mqtt-Response-Topic", said["response_topic"].encode()))
        if "correlation_data" in said:
            found.append(("Mqtt-Correlation-Data", said["correlation_data"]))
        if said.get("payload_format_indicator"):
            found.append(("Mqtt-Payload-Format", b"1"))
        if "message_expiry_interval" in said:
            found.append(("Mqtt-Message-Expiry", b"%d" % said["message_expiry_interval"]))
        found += [(name, value.encode()) for name, value in said.get("user_property", ())]
    return tuple(found)
