"""Commits of a task: each one an atomic batch on the app's stream, which the task's last message guards.

    fence():   read S.<group>.pos.<slot> ──▶ write it with the next generation ──▶ again, if somebody was quicker
    commit():  blocks, outputs, and pos.<slot> as the last message, which expects to follow the one that we know

What must live here: this order, and what an answer means.  What must not: the form of messages.

The message on the task's subject holds generation and checkpoint.  That it must follow the one that we know is fence,
order and protection against repetition in one (``Nats-Expected-Last-Subject-Sequence``; 10071: nothing was stored).

A batch holds a thousand messages.  A commit with more outputs has them in blocks on S.<group>.spill.<slot>; its last
message says so.  They are unpacked right after it, batch by batch, each of which says how many are done; the next owner
goes on with that, should this one die over it, before it does anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from streams.connectors.jetstream.api import EXPECTED, Api, ErrorCode, refused_with
from streams.connectors.jetstream.chains import Link, last_link
from streams.connectors.jetstream.client import PERHAPS_FULL
from streams.connectors.jetstream.messages import (
    BLOCK_PLACES,
    HEAD_BYTES,
    Lines,
    atomic_batch,
    blocks_of,
    records_of_block,
    rows_of,
)
from streams.connectors.jetstream.names import app_stream, log_subject, out_subject, pos_subject, spill_subject
from streams.connectors.jetstream.topics import Topics
from streams.core.log import Commit
from streams.core.membership import TaskRef
from streams.core.record import Position, Positions, Records, TopicPartition
from streams.errors import CommitUnknown, ConfigurationError, DataError, Fenced, LogCorrupt, LogUnavailable

__all__ = ["ATTEMPTS", "Held", "JetStreamTaskWriter", "Totals", "fence", "last_held"]

ATTEMPTS = 50
BATCH_MESSAGES = 1000
"""What a server takes in an atomic batch, unless it is told otherwise."""
UNPACK_RECORDS = 900
Message = tuple[str, Lines | bytes, bytes]
"""Subject, headers (or lines of them), payload."""
Check = Callable[[Commit], None]
Totals = dict[TopicPartition, int]


class Held(msgspec.Struct, array_like=True):
    """What the last message on a task's subject says.

    spill: outputs that are yet to be unpacked: sequences of the first and last block, and how many records are done.
    """

    generation: int
    checkpoint: bytes | None
    spill: tuple[int, int, int] | None = None


class Spilled(msgspec.Struct, array_like=True, gc=False):
    """A block of outputs for one partition of a user's topic."""

    topic: str
    partition: int
    block: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Held).decode
_decode_spilled = msgspec.msgpack.Decoder(Spilled).decode
_answer = msgspec.json.Decoder().decode


async def last_held(api: Api, task: TaskRef) -> tuple[int, Held]:
    """Sequence and content of a task's last message; (0, nothing) before the first."""
    stored = await api.message(app_stream(task.group), last_by_subj=pos_subject(task.group, task.slot))
    if stored is None:
        return 0, Held(0, None)
    return stored.seq, _decode(stored.payload)


async def fence(
    api: Api, topics: Topics, task: TaskRef, check: Check, totals: Totals, written: set[TaskRef]
) -> JetStreamTaskWriter:
    """Take the task over.  ``totals``: is told how long compacted partitions have grown.  ``written``: gets the task
    each time that its checkpoint is written."""
    stream = await topics.ensure_app(task.group, anew=True)
    for _ in range(ATTEMPTS):
        seq, held = await last_held(api, task)
        if seq == 0 and await topics.was_claimed(task):
            seq, held = await last_held(api, task)  # of another worker, meanwhile
            if seq == 0:
                raise LogCorrupt(
                    f"{api.connection.url}: the checkpoint of task {task.name} is gone from stream {stream}: was that "
                    f"purged?  bring it back (nats stream restore), or start app {task.group} over with `streams reset`"
                )
        mine = Held(held.generation + 1, held.checkpoint, _absolute(held.spill, seq))
        answer = await api.publish(pos_subject(task.group, task.slot), _encode(mine), after=seq)
        if answer is not None:
            await topics.mark_claimed(task)
            written.add(task)
            writer = JetStreamTaskWriter(api, topics, task, stream, mine, answer, check, totals, written)
            await writer.unpack()
            return writer
    raise LogUnavailable(
        f"{api.connection.url}: task {task.name}: others keep claiming it; are there too many workers?"
    )


class JetStreamTaskWriter:
    """A ``TaskWriter`` that knows its last message's sequence."""

    def __init__(
        self,
        api: Api,
        topics: Topics,
        task: TaskRef,
        stream: str,
        held: Held,
        seq: int,
        check: Check,
        totals: Totals,
        written: set[TaskRef],
    ) -> None:
        self.checkpoint = held.checkpoint
        self._api = api
        self._topics = topics
        self._task = task
        self._stream = stream
        self._held = held
        self._seq = seq
        self._check = check
        self._totals = totals
        self._written = written
        self._links: dict[TopicPartition, Link] = {}
        self._spent = False
        self._pos = pos_subject(task.group, task.slot)
        self._where = f"{api.connection.url}: commit of task {task.name}"

    async def commit(self, commit: Commit) -> Positions:
        if self._spent:
            raise Fenced(f"{self._where}: the writer is closed; fence the task anew")
        self._check(commit)
        self._spent = True  # until it is known to have been stored: after any error nothing more may follow
        internal, outputs = await self._appends(commit)
        messages, ends = await self._blocks(internal)
        spilled: list[int] = []
        if len(messages) + sum(map(len, outputs.values())) < BATCH_MESSAGES:
            for at, records in outputs.items():
                subject = out_subject(self._task.group, *at)
                messages.extend((subject, *row) for row in rows_of(records))
        else:
            subject = spill_subject(self._task.group, self._task.slot)
            for at, records in outputs.items():
                for _, block in blocks_of(records, self._api.connection.max_payload):
                    spilled.append(len(messages))
                    messages.append((subject, [], _encode(Spilled(at.topic, at.partition, block))))
        if len(messages) >= BATCH_MESSAGES:
            raise DataError(
                f"{self._where}: {len(messages)} messages are more than one atomic batch holds ({BATCH_MESSAGES}); use "
                f"fewer partitions, or let one record expand to less"
            )
        held = Held(self._held.generation, commit.checkpoint)
        if spilled:
            # Relative to this message, whose own sequence the server gives out.
            held.spill = (spilled[0] - len(messages), spilled[-1] - len(messages), 0)
        place = _encode(held)
        most = self._api.connection.max_payload
        if len(place) > most - HEAD_BYTES:
            raise ConfigurationError(
                f"{self._where}: its checkpoint has {len(place)} bytes, and the server takes messages of {most} "
                f"(max_payload); raise max_payload in the server's configuration"
            )
        messages.append((self._pos, [(EXPECTED, b"%d" % self._seq)], place))
        self._seq = await self._send(messages)
        self._held = held
        first = self._seq - len(messages) + 1
        for at, index in ends.items():
            self._links[at].seq = first + index
            self._totals[at] = self._links[at].total
        try:
            await self.unpack()
        except LogUnavailable as error:
            raise CommitUnknown(f"{self._where}: it was stored, but not all of its outputs are sent yet") from error
        self._spent = False
        return {at: Position.at((first + index + 1) * BLOCK_PLACES) for at, index in ends.items()}

    async def forget(self) -> bool:
        """Leave no checkpoint; the writer is of no further use.  False where another owner was quicker: it is there
        still."""
        self._spent = True
        self._written.add(self._task)
        left = _encode(Held(self._held.generation, None))
        return await self._api.publish(self._pos, left, after=self._seq) is not None

    async def close(self) -> None:
        self._spent = True

    async def _appends(self, commit: Commit) -> tuple[dict[TopicPartition, Records], dict[TopicPartition, Records]]:
        """What goes to internal partitions and what to those of users' topics, each partition's in one piece."""
        internal: dict[TopicPartition, Records] = {}
        outputs: dict[TopicPartition, Records] = {}
        for append in commit.appends:
            at, records = append.partition, append.records
            if not len(records):
                continue
            place = await self._topics.place(at)
            if not place.packed:
                await self._topics.ensure_source(at.topic, self._task.group)
            elif place.stream != self._stream:
                raise DataError(f"{self._where}: {at} belongs to another app ({place.stream})")
            kind = internal if place.packed else outputs
            if at in kind:
                kind[at].extend(records)
            else:
                kind[at] = Records(
                    list(records.keys),
                    list(records.values),
                    list(records.timestamps),
                    records.headers and [*records.headers],
                )
        return internal, outputs

    async def _blocks(self, internal: dict[TopicPartition, Records]) -> tuple[list[Message], dict[TopicPartition, int]]:
        """The messages for internal partitions, and the index of each partition's last one."""
        messages: list[Message] = []
        ends: dict[TopicPartition, int] = {}
        for at, records in internal.items():
            place = await self._topics.place(at)
            link = self._links.get(at)
            if link is None:
                link = self._links[at] = await last_link(self._api, place) if place.compact else Link(0, 0)
            back: int | None = None
            for _, payload in blocks_of(records, self._api.connection.max_payload):
                lines = link.lines(len(payload), back) if place.compact else []
                ends[at] = len(messages)
                messages.append((log_subject(self._task.group, *at), lines, payload))
                back = 1
        return messages, ends

    async def unpack(self) -> None:
        """Send the outputs that a commit had no room for, from where that stands.  Raises as ``commit`` does."""
        held, spill = self._held, _absolute(self._held.spill, self._seq)
        if spill is None:
            return
        first, last, done = spill
        subject = spill_subject(self._task.group, self._task.slot)
        seq, before = first, 0
        while seq <= last:
            stored = await self._api.message(self._stream, seq=seq, next_by_subj=subject)
            if stored is None or stored.seq > last:
                break
            spilled = _decode_spilled(stored.payload)
            at = TopicPartition(spilled.topic, spilled.partition)
            await self._topics.ensure_source(at.topic, self._task.group)
            rows = rows_of(records_of_block(spilled.block, f"{self._where}: message {stored.seq}"))
            to = out_subject(self._task.group, *at)
            for start in range(max(0, done - before), len(rows), UNPACK_RECORDS):
                part = rows[start : start + UNPACK_RECORDS]
                done = before + start + len(part)
                await self._step(
                    Held(held.generation, held.checkpoint, (first, last, done)), [(to, *row) for row in part]
                )
            before += len(rows)
            seq = stored.seq + 1
        await self._step(Held(held.generation, held.checkpoint), [])
        await self._api.purge(self._stream, subject, before=last + 1)

    async def _step(self, held: Held, messages: list[Message]) -> None:
        self._seq = await self._send([*messages, (self._pos, [(EXPECTED, b"%d" % self._seq)], _encode(held))])
        self._held = held

    async def _send(self, messages: list[Message]) -> int:
        """Store all of it or nothing; the sequence of the last message.  Raises as ``commit`` does."""
        connection = self._api.connection
        if not connection.connected:
            raise LogUnavailable(f"{self._where}: not connected; nothing was stored")
        self._written.add(self._task)
        reply, future = connection.expect()
        try:
            await connection.write(atomic_batch(messages, reply, connection.max_payload))
            async with asyncio.timeout(connection.timeout_s):
                message = await future
        except (TimeoutError, LogUnavailable) as error:
            words = "no answer came; it may have been carried out"
            raise CommitUnknown(f"{self._where}: {words}; {PERHAPS_FULL}") from error
        finally:
            connection.forget(reply)
        if message.head.startswith(b"NATS/1.0 503"):
            raise CommitUnknown(f"{self._where}: the stream has no leader now")
        answer: dict[str, Any] = _answer(message.payload)
        refused = answer.get("error")
        if refused is None:
            return int(answer["seq"])
        if refused.get("err_code") == ErrorCode.WRONG_LAST_SEQUENCE:
            raise Fenced(f"{self._where}: another owner has taken over; nothing was stored")
        raise LogUnavailable(f"{self._where}: nothing was stored: {refused_with(refused)}")


def _absolute(spill: tuple[int, int, int] | None, seq: int) -> tuple[int, int, int] | None:
    """A commit counts its blocks from its own message, whose sequence it doesn't know yet: negative numbers."""
    if spill is None or spill[0] >= 0:
        return spill
    return seq + spill[0], seq + spill[1], spill[2]
