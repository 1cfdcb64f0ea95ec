"""Delivering to streams of others, each record once, without a change to the stream.

    fence():    read S.=out.<group>.<slot> ──▶ write it with the next generation ──▶ see what became of the last burst
    deliver():  note the burst there ──▶ send it, expecting the stream to end where we know ──▶ note the new position

What must live here: this order, and what follows from an answer.  What must not: the form of messages
(``foreign_messages``), how a burst is sent and found (``foreign_burst``).

The position can't be in one commit with the records: nothing but records goes to somebody else's stream.  It lies in a
stream of ours beside it, and two comparisons of the server make that exact:

**Fence.**  Every note follows the one that its writer knows (``Nats-Expected-Last-Subject-Sequence``).  A former owner
can note no burst any more, so it sends none.

**Burst.**  A burst that was noted before its sender stood still can still arrive.  It expects the stream's last
sequence (``Nats-Expected-Last-Sequence``, which never comes back), so it is stored right behind that one, or never.
Whoever takes over looks there: the messages bear the numbers that the task gave them (``Nats-Msg-Id``), for good.
While nothing is there the next burst expects the same last sequence: one of the two is refused.

What is found no more, as it was removed before anybody looked (a work queue, an age limit of seconds), is sent again
within the stream's time window for repeated message ids, which tells; later the delivery stops, and ``unsure=`` says
how to go on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from streams.connectors.jetstream.api import Api, ApiError
from streams.connectors.jetstream.client import above_max_payload
from streams.connectors.jetstream.foreign_burst import Burst, Outcome, find, send
from streams.connectors.jetstream.foreign_config import ForeignConfig
from streams.connectors.jetstream.foreign_messages import Form, Wire, form_of
from streams.connectors.jetstream.foreign_objects import replaced
from streams.connectors.jetstream.foreign_streams import ForeignStreams
from streams.connectors.jetstream.names import token
from streams.core.capability import Capabilities, Durability
from streams.core.log import Append
from streams.core.membership import TaskRef
from streams.errors import ConfigurationError, DataError, Fenced, LogUnavailable

__all__ = ["NOTES", "ForeignSink", "forget"]

NOTES = "S-=out"
CAPABILITIES = Capabilities(
    durable=Durability.PROCESS, fences=True, deduplicates="forever", delivered_position=True, detects_recreation=True
)
logger = logging.getLogger("streams")

ATTEMPTS = 50
CROWDED_TURNS = 200
"""After so many bursts that others' messages came before, in a row, it is said that they leave no room."""
BURST_BYTES = 4 * 2**20
BATCH_MESSAGES, CHAIN_MESSAGES = 900, 500
OWN_BYTES = 200
"""What the headers of a burst take, beside the name of the stream."""


class Delivered(msgspec.Struct, array_like=True):
    """What is noted of a delivery task.

    name: what its messages are numbered under.  number: of messages up to ``position``; done: of those that are stored.
    burst: the last one that was sent, while it may not be known what became of it.
    """

    name: str
    generation: int = 0
    position: bytes | None = None
    number: int = 0
    done: int = 0
    burst: Burst | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Delivered).decode


def _note_subject(task: TaskRef) -> str:
    return f"S.=out.{token(task.group)}.{task.slot}"


def _new() -> Delivered:
    return Delivered(secrets.token_urlsafe(9))


async def _noted(api: Api, task: TaskRef) -> tuple[int, Delivered]:
    stored = await api.message(NOTES, last_by_subj=_note_subject(task))
    return (0, _new()) if stored is None else (stored.seq, _decode(stored.payload))


async def forget(api: Api, task: TaskRef) -> None:
    """Leave no position; a running owner is fenced.  Numbers begin under another name: the server would take messages
    with the old ones for repeated.  Raises LogUnavailable where owners keep writing theirs."""
    for _ in range(ATTEMPTS):
        seq, held = await _noted(api, task)
        if not seq:
            return
        left = _encode(Delivered(_new().name, held.generation + 1))
        if await api.publish(_note_subject(task), left, after=seq) is not None:
            return
    raise LogUnavailable(
        f"{api.connection.url}: what delivery {task.name} has delivered is not forgotten: others keep delivering; stop "
        f"the workers first"
    )


class ForeignSink:
    """A ``Sink`` that delivers to one stream."""

    def __init__(
        self, api: Api, streams: ForeignStreams, config: ForeignConfig, topic: str, turn: asyncio.Lock
    ) -> None:
        """turn: is held while a burst is under way, so that tasks of this process don't refuse each other's."""
        self._api = api
        self._streams = streams
        self._config = config
        self._topic = topic
        self._turn = turn

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    async def fence(self, task: TaskRef) -> ForeignSinkWriter:
        stream = await self._streams.stream(self._topic)
        if stream is None:
            raise ConfigurationError(
                f"{self._config.shown}: there is no stream {self._config.stream(self._topic)!r}; create it first"
            )
        form = form_of(self._config, self._topic, stream)
        await self._ensure()
        for _ in range(ATTEMPTS):
            seq, held = await _noted(self._api, task)
            held.generation += 1
            answer = await self._api.publish(_note_subject(task), _encode(held), after=seq)
            if answer is not None:
                writer = ForeignSinkWriter(self._api, self._config, task, form, stream, held, answer, self._turn)
                await writer.resolve()
                return writer
        raise LogUnavailable(f"{self._config.shown}: task {task.name}: others keep claiming it; too many workers?")

    async def _ensure(self) -> None:
        """The stream of notes, which has one message a task."""
        if await self._api.stream(NOTES) is not None:
            return
        config = {
            "name": NOTES,
            "subjects": ["S.=out.>"],
            "storage": "file",
            "num_replicas": self._config.nats.replicas,
            "max_msgs_per_subject": 1,
            "description": "streams: how far apps have delivered to streams of others",
        }
        try:
            await self._api.call(f"STREAM.CREATE.{NOTES}", config)
        except ApiError as error:
            if await self._api.stream(NOTES) is None:  # another worker may have been quicker
                raise self._api.failure(error, f"creating stream {NOTES}") from error


class ForeignSinkWriter:
    """The right to deliver for one task."""

    def __init__(
        self,
        api: Api,
        config: ForeignConfig,
        task: TaskRef,
        form: Form,
        stream: Mapping[str, Any],
        held: Delivered,
        seq: int,
        turn: asyncio.Lock,
    ) -> None:
        self._api = api
        self._config = config
        self._subject = _note_subject(task)
        self._form = form
        self._stream: str = stream["config"]["name"]
        self._held = held
        self._seq = seq
        self._turn = turn
        self._spent = False
        self._after: int | None = None
        self._rival = False
        self._crowded = False
        self._missed = 0  # bursts in a row of which nothing was stored
        self._doubtful = 0
        self._size = 0
        self._adopt(stream)
        self._where = f"{config.shown}: delivery {task.name} to stream {self._stream}"

    def _adopt(self, stream: Mapping[str, Any]) -> None:
        config = stream["config"]
        self._created: str = stream["created"]
        self._window_ms = config.get("duplicate_window", 0) // 1_000_000
        self._whole, self._apart = in_batches(config), config.get("num_replicas", 1) > 1
        self._limit = BATCH_MESSAGES if self._whole else CHAIN_MESSAGES
        self._size = self._size or self._limit

    @property
    def delivered(self) -> bytes | None:
        return self._held.position

    async def close(self) -> None:
        self._spent = True

    # ── what became of the last burst ─────────────────────────────────────────────────────────────────────────────

    async def resolve(self) -> None:
        """Count what is stored of the burst that was noted last, whoever sent it.  Called once fenced, and when a burst
        of ours was refused where one of a former owner's may have been quicker."""
        held, burst = self._held, self._held.burst
        last = await self._end()
        if burst is None or (burst.stream, burst.created) != (self._stream, self._created):
            return
        stored, doubtful = await find(self._api, burst, held.name, last)
        held.done = max(held.done, burst.first + stored)
        self._rival = last == burst.after + stored
        self._after = last
        if doubtful:
            await self._doubt(burst, doubtful)

    async def _doubt(self, burst: Burst, count: int) -> None:
        self._rival = False
        age_ms = time.time_ns() // 1_000_000 - burst.sent_ms
        if 0 <= age_ms < self._window_ms // 2:
            self._doubtful = count
        elif self._config.unsure == "skip":
            self._held.done += count
        elif self._config.unsure != "resend":
            raise DataError(
                f"{self._where}: up to {count} messages behind {burst.after} may have been stored and removed since, "
                f"and it is too late for the server to tell; look whether they arrived, and go on with "
                f"unsure=resend or unsure=skip in the topic's URL"
            )

    async def _end(self) -> int:
        stream = await self._api.stream(self._stream)
        if stream is None:
            raise LogUnavailable(f"{self._where}: the stream is gone; nothing is lost, it waits for it")
        self._adopt(stream)
        return int(stream["state"]["last_seq"])

    # ── delivering ────────────────────────────────────────────────────────────────────────────────────────────────

    async def deliver(self, appends: Sequence[Append], delivered: bytes) -> None:
        if self._spent:
            raise Fenced(f"{self._where}: the writer is closed; fence the task anew")
        self._spent = True  # until it is known to have been stored: after any error nothing more may follow
        held = self._held
        messages = self._form.messages(appends, held.name, held.number)
        self._check_sizes(messages)
        gone: list[str] = []
        async with self._turn:
            if self._config.kind == "object":
                gone = await replaced(self._api, self._stream, messages)
            await self._store(messages)
        held.position, held.number = delivered, held.number + len(messages)
        held.done = max(held.done, held.number)
        if not self._rival:
            held.burst = None
        await self._note()
        for subject in gone:  # only now: what is removed shows no more that it was stored
            await self._api.purge(self._stream, subject)
        self._spent = False

    def _check_sizes(self, messages: Sequence[Wire]) -> None:
        """Raise DataError for what the server would hang up on, before it is noted as sent."""
        most = self._api.connection.max_payload
        for subject, lines, payload in messages:
            size = len(lines) + len(payload) + OWN_BYTES + len(self._stream)
            if size > most:
                raise DataError(f"{self._where}: {above_max_payload(subject, size, most)}")

    async def _store(self, messages: Sequence[Wire]) -> None:
        held = self._held
        while held.done - held.number < len(messages):
            if self._after is None:
                self._after = await self._end()
            part = _portion(messages, held.done - held.number, 1 if self._doubtful else self._size)
            whole = self._whole and not self._doubtful and not self._crowded
            now_ms = time.time_ns() // 1_000_000
            held.burst = Burst(self._stream, self._created, self._after, len(part), held.done, whole, now_ms)
            await self._note()
            apart = self._apart or bool(self._doubtful)
            outcome = await send(self._api.connection, held.burst, held.name, part, self._where, apart=apart)
            held.done += outcome.stored
            if outcome.refused is None and not outcome.repeated:
                self._after += outcome.stored
            else:
                # An end before the one that was known is another stream's.
                known = outcome.last is not None and outcome.last >= held.burst.after
                self._after = outcome.last if known else None
            await self._judge(outcome)

    async def _judge(self, outcome: Outcome) -> None:
        held = self._held
        assert held.burst is not None
        if outcome.refused is None:
            self._doubtful = self._doubtful - 1 if outcome.repeated and self._doubtful else 0
            self._rival, self._crowded, self._missed = False, False, 0
            self._size = min(self._limit, self._size * 2)
            return
        self._rival = self._rival and not outcome.stored
        self._missed = 0 if outcome.stored else self._missed + 1
        if (outcome.contended or outcome.seen) and self._rival:
            await self.resolve()
            return
        if outcome.seen:
            self._doubtful = held.burst.count  # a power failure took our note, and left the messages
            return
        if outcome.contended:
            self._crowded = True  # a batch stored as a whole might never find a moment between others' messages
            if self._missed == CROWDED_TURNS:
                logger.warning(
                    "%s: others write to it without a pause, and a burst needs a moment of one round trip; nothing is "
                    "lost, it goes on trying (docs/nats.md, streams of others)",
                    self._where,
                )
            return
        if outcome.full and self._size > 1:
            self._size = max(1, self._size // 2)  # there may be room for fewer
            return
        if not self._rival:
            held.burst = None
        await self._note()
        if outcome.too_large:
            raise DataError(f"{self._where}: {outcome.refused}; the stream takes no message of that size")
        raise LogUnavailable(f"{self._where}: {outcome.refused}; nothing is lost, it waits until there is room")

    async def _note(self) -> None:
        seq = await self._api.publish(self._subject, _encode(self._held), after=self._seq)
        if seq is None:
            raise Fenced(f"{self._where}: another owner has taken over; nothing was sent")
        self._seq = seq


def in_batches(config: Mapping[str, Any]) -> bool:
    """Whether a burst is an atomic batch.

    With one replica each message can expect the id of the one before it, which is quicker, and gets through where
    others write at the same time.  With more, a stream that refuses for that reason stands still for good (nats-server
    2.15), so that a burst is a batch, where the stream allows it, and else goes message by message.
    """
    return bool(config.get("allow_atomic")) and config.get("num_replicas", 1) > 1


def _portion(messages: Sequence[Wire], start: int, count: int) -> Sequence[Wire]:
    size = 0
    for end in range(start, min(start + count, len(messages))):
        size += len(messages[end][1]) + len(messages[end][2])
        if size > BURST_BYTES and end > start:
            return messages[start:end]
    return messages[start : start + count]
