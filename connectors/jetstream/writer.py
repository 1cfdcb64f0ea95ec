"""Commits of a task: each one an atomic batch on the app's stream, which the task's last message guards.

    fence():   read S.<group>.pos.<slot> ──▶ write it with the next generation, if nobody has in between ──▶ again, if so
    commit():  blocks, outputs, and pos.<slot> as the last message, which expects to follow the one that we know

What must live here: this order, and what an answer means.  What must not: the form of messages.

The message on the task's subject holds generation and checkpoint.  That it must follow the one that we know is fence,
order and protection against repetition in one (``Nats-Expected-Last-Subject-Sequence``, error 10071: nothing was stored).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from streams.connectors.jetstream.api import Api, ErrorCode
from streams.connectors.jetstream.messages import atomic_batch, blocks_of, message_of
from streams.connectors.jetstream.names import app_stream, log_subject, out_subject, pos_subject
from streams.connectors.jetstream.topics import Topics
from streams.core.log import Commit
from streams.core.membership import TaskRef
from streams.core.record import Position, Positions, Records, TopicPartition
from streams.errors import CommitUnknown, DataError, Fenced, LogUnavailable

__all__ = ["Held", "JetStreamTaskWriter", "fence", "last_held"]

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
ATTEMPTS = 50
BATCH_MESSAGES = 1000
Check = Callable[[Commit], None]


class Held(msgspec.Struct, array_like=True):
    """What the last message on a task's subject says."""

    generation: int
    checkpoint: bytes | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Held).decode
_answer = msgspec.json.Decoder().decode


async def last_held(api: Api, task: TaskRef) -> tuple[int, Held]:
    """Sequence and content of a task's last message; (0, nothing) before the first."""
    stored = await api.message(app_stream(task.group), last_by_subj=pos_subject(task.group, task.slot))
    if stored is None:
        return 0, Held(0, None)
    return stored.seq, _decode(stored.payload)


async def fence(api: Api, topics: Topics, task: TaskRef, check: Check) -> JetStreamTaskWriter:
    """Take the task over."""
    stream = await topics.ensure_app(task.group)
    for _ in range(ATTEMPTS):
        seq, held = await last_held(api, task)
        mine = Held(held.generation + 1, held.checkpoint)
        answer = await _publish(api, pos_subject(task.group, task.slot), seq, mine)
        if answer is not None:
            return JetStreamTaskWriter(api, topics, task, stream, mine, answer, check)
    raise LogUnavailable(
        f"{api.connection.url}: task {task.name}: others keep claiming it; are there too many workers?"
    )


async def _publish(api: Api, subject: str, after: int, held: Held) -> int | None:
    """The sequence that it got; None when another message has come before it."""
    message = await api.connection.request(subject, _encode(held), [(EXPECTED, b"%d" % after)])
    answer: dict[str, Any] = _answer(message.payload)
    if "error" not in answer:
        return int(answer["seq"])
    if answer["error"].get("err_code") == ErrorCode.WRONG_LAST_SEQUENCE:
        return None
    raise LogUnavailable(f"{api.connection.url}: {subject}: {answer['error'].get('description')}")


class JetStreamTaskWriter:
    """A ``TaskWriter`` that knows its last message's sequence."""

    def __init__(
        self, api: Api, topics: Topics, task: TaskRef, stream: str, held: Held, seq: int, check: Check
    ) -> None:
        self.checkpoint = held.checkpoint
        self._api = api
        self._topics = topics
        self._task = task
        self._stream = stream
        self._generation = held.generation
        self._seq = seq
        self._check = check
        self._spent = False
        self._where = f"{api.connection.url}: commit of task {task.name}"

    async def commit(self, commit: Commit) -> Positions:
        if self._spent:
            raise Fenced(f"{self._where}: the writer is closed; fence the task anew")
        self._check(commit)
        self._spent = True
        messages, behind = await self._messages(commit)
        if len(messages) >= BATCH_MESSAGES:
            self._spent = False
            raise DataError(
                f"{self._where}: {len(messages)} messages are more than one atomic batch holds ({BATCH_MESSAGES}); let one "
                f"record expand to less"
            )
        held = Held(self._generation, commit.checkpoint)
        pos = pos_subject(self._task.group, self._task.slot)
        messages.append((pos, [(EXPECTED, b"%d" % self._seq)], _encode(held)))
        last = await self._send(messages)
        self._seq = last
        self._spent = False
        first = last - len(messages) + 1
        return {at: Position.at(position(first)) for at, position in behind.items()}

    async def forget(self) -> None:
        """Leave no checkpoint; the writer is of no further use."""
        self._spent = True
        await _publish(
            self._api, pos_subject(self._task.group, self._task.slot), self._seq, Held(self._generation, None)
        )

    async def close(self) -> None:
        self._spent = True

    async def _messages(
        self, commit: Commit
    ) -> tuple[list[tuple[str, Any, bytes]], dict[TopicPartition, Callable[[int], int]]]:
        """The messages of a commit, and for each partition on the app's stream the position behind its last record, given
        the sequence of the first message."""
        messages: list[tuple[str, Any, bytes]] = []
        behind: dict[TopicPartition, Callable[[int], int]] = {}
        group = self._task.group
        for append in commit.appends:
            at, records = append.partition, append.records
            if not len(records):
                continue
            place = await self._topics.place(at)
            if place.packed:
                if place.stream != self._stream:
                    raise DataError(f"{self._where}: {at} belongs to another app")
                for count, payload in blocks_of(records):
                    index = len(messages)
                    messages.append((log_subject(group, *at), (), payload))
                    behind[at] = lambda first, index=index: place.offset(first + index + 1)  # type: ignore[misc]
            else:
                await self._topics.ensure_source(at.topic, group)
                subject = out_subject(group, *at)
                messages.extend((subject, *message) for message in _each(records))
        return messages, behind

    async def _send(self, messages: list[tuple[str, Any, bytes]]) -> int:
        """The sequence of the last message."""
        connection = self._api.connection
        if not connection.connected:
            raise LogUnavailable(f"{self._where}: not connected; nothing was stored")
        reply, future = connection.expect()
        try:
            await connection.write(atomic_batch(messages, reply))
            async with asyncio.timeout(connection.timeout_s):
                message = await future
        except (TimeoutError, LogUnavailable) as error:
            raise CommitUnknown(f"{self._where}: no answer came; it may have been carried out") from error
        finally:
            connection.forget(reply)
        if message.head.startswith(b"NATS/1.0 503"):
            raise CommitUnknown(f"{self._where}: the stream has no leader now")
        answer: dict[str, Any] = _answer(message.payload)
        error = answer.get("error")
        if error is None:
            return int(answer["seq"])
        if error.get("err_code") == ErrorCode.WRONG_LAST_SEQUENCE:
            raise Fenced(f"{self._where}: another owner has taken over; nothing was stored")
        raise LogUnavailable(f"{self._where}: {error.get('description')} ({error.get('err_code')}); nothing was stored")


def _each(records: Records) -> list[tuple[Any, bytes]]:
    headers = records.headers if records.headers is not None else [None] * len(records)
    return list(map(message_of, records.keys, records.values, records.timestamps, headers))
