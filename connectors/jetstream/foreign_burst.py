"""A burst: messages for a stream of others that are sent at once, and found again by their numbers.

What must live here: the headers that make a burst hold together, what answers mean, looking for it.  What must not:
what follows from that (``foreign_sink``).

Messages of a burst lie side by side behind the message that the burst expects to be the last, from the first one on:
in one atomic batch all of them or none; else each one expects the sequence *and* the id of the one before it, or is
sent when that one is stored.  The sequence alone would let a burst go on behind a message of somebody else's that took
the place of one of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.client import Connection, Message, header_of
from streams.connectors.jetstream.messages import atomic_batch
from streams.errors import CommitUnknown, LogUnavailable

__all__ = ["Burst", "Outcome", "find", "send"]

ID = "Nats-Msg-Id"
CONTENDED = (10071, 10070)
FULL = (10077, 10023, 10047, 10122)
TOO_LARGE = 10054
REPEATED = 10201
LAST_IS = "wrong last sequence: "
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Burst(msgspec.Struct, array_like=True, frozen=True):
    """after: sequence of the message that it follows.  first: number of its first message.  whole: all or nothing."""

    stream: str
    created: str
    after: int
    count: int
    first: int
    whole: bool
    sent_ms: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """stored: how many messages the stream has, from the first on.  refused: the server's words about the next one.
    repeated: it had them before.  last: the sequence of the stream's last message, where a refusal named it."""

    stored: int
    refused: str | None = None
    code: int = 0
    repeated: bool = False
    last: int | None = None

    @property
    def contended(self) -> bool:
        """Somebody else wrote in between."""
        return self.code in CONTENDED

    @property
    def full(self) -> bool:
        return self.code in FULL

    @property
    def seen(self) -> bool:
        """A batch has messages that the stream has already."""
        return self.code == REPEATED

    @property
    def too_large(self) -> bool:
        return self.code == TOO_LARGE


async def send(
    connection: Connection,
    burst: Burst,
    name: str,
    messages: Sequence[tuple[str, bytes, bytes]],
    where: str,
    *,
    apart: bool = False,
) -> Outcome:
    """Send the messages (subject, lines, payload) of a burst.

    apart: each one is sent when the one before it is known to be stored.  Raises LogUnavailable (nothing was sent), and
    CommitUnknown.
    """
    if not connection.connected:
        raise LogUnavailable(f"{where}: not connected; nothing was sent")
    if burst.whole:
        batch = _numbered(burst, name, messages)
        answers = await _ask(connection, where, 1, lambda replies: atomic_batch(batch, replies[0]))
        return _judged(answers, len(messages), where)
    frames = _chained(burst, name, messages, linked=not apart)
    if not apart:
        return _judged(await _ask(connection, where, len(frames), lambda replies: _frames(frames, replies)), 1, where)
    outcome = Outcome(0)
    for frame in frames:
        answers = await _ask(connection, where, 1, lambda replies: _frames([frame], replies))  # noqa: B023
        one = _judged(answers, 1, where)
        repeated = outcome.repeated or one.repeated
        outcome = Outcome(outcome.stored + one.stored, one.refused, one.code, repeated, one.last)
        if one.refused is not None or one.repeated:
            break  # one that was there already doesn't end the stream, as the next one expects
    return outcome


async def _ask(
    connection: Connection, where: str, count: int, made: Callable[[Sequence[str]], bytes]
) -> Sequence[Message]:
    """The answers to messages with so many reply subjects.  Raises CommitUnknown where one doesn't come."""
    expected = dict(connection.expect() for _ in range(count))
    try:
        await connection.write(made(list(expected)))
        async with asyncio.timeout(connection.timeout_s):
            return await asyncio.gather(*expected.values())
    except (TimeoutError, LogUnavailable) as error:
        raise CommitUnknown(f"{where}: no answer came; it may have been stored") from error
    finally:
        for reply in expected:
            connection.forget(reply)


def _judged(answers: Sequence[Message], each: int, where: str) -> Outcome:
    stored, repeated = 0, False
    refused: str | None = None
    refused_as = 0
    last: int | None = None
    for answer in answers:
        if not answer.payload:
            raise CommitUnknown(f"{where}: the stream has no leader now; it may have been stored")
        said = _decode(answer.payload)
        error = said.get("error")
        if error is not None:
            code, words = int(error.get("err_code", 0)), str(error.get("description"))
            if refused is None:
                refused, refused_as = f"{words} ({code})", code
            named = words.removeprefix(LAST_IS)
            if code == CONTENDED[0] and named != words and named.isdigit():
                last = int(named)  # of the latest refusal, which is nearer to now than another question would be
        elif refused is None:
            stored += each
            repeated = repeated or bool(said.get("duplicate"))
    return Outcome(stored, refused, refused_as, repeated, last)


def _numbered(burst: Burst, name: str, messages: Sequence[tuple[str, bytes, bytes]]) -> list[tuple[str, bytes, bytes]]:
    found = []
    for index, (subject, lines, payload) in enumerate(messages):
        own = b"%b: %b-%d\r\n" % (ID.encode(), name.encode(), burst.first + index)
        if not index:
            own += b"Nats-Expected-Last-Sequence: %d\r\n" % burst.after
        found.append((subject, own + lines, payload))
    return found


def _chained(
    burst: Burst, name: str, messages: Sequence[tuple[str, bytes, bytes]], *, linked: bool
) -> list[tuple[str, bytes, bytes]]:
    found = []
    stream, id = burst.stream.encode(), name.encode()
    for index, (subject, lines, payload) in enumerate(messages):
        number = burst.first + index
        own = b"Nats-Msg-Id: %b-%d\r\nNats-Expected-Stream: %b\r\nNats-Expected-Last-Sequence: %d\r\n" % (
            id,
            number,
            stream,
            burst.after + index,
        )
        if index and linked:
            own += b"Nats-Expected-Last-Msg-Id: %b-%d\r\n" % (id, number - 1)
        found.append((subject, own + lines, payload))
    return found


def _frames(messages: Sequence[tuple[str, bytes, bytes]], replies: Sequence[str]) -> bytes:
    return b"".join([_frame(*message, reply) for message, reply in zip(messages, replies, strict=True)])


def _frame(subject: str, lines: bytes, payload: bytes, reply: str) -> bytes:
    size = len(lines) + 12  # NATS/1.0, its line end, and the empty line
    return b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (
        subject.encode(),
        reply.encode(),
        size,
        size + len(payload),
        lines,
        payload,
    )


async def find(api: Api, burst: Burst, name: str, last: int) -> tuple[int, int]:
    """How many messages of a burst the stream has, from the first one on, and how many more may have been there and are
    removed.  ``last``: sequence of the stream's last message.

    A former owner's burst may have been longer than the one that was noted: it is followed to its end.
    """
    stored = 0
    while burst.after + stored < last:
        at = burst.after + stored + 1
        message = await api.message(burst.stream, seq=at, next_by_subj=">")
        number = -1 if message is None else _number(message.head, name)
        if message is None or number != burst.first + message.seq - burst.after - 1:
            # Not ours, or nothing left: what lies before it is gone and may have been.
            gone = (last + 1 if message is None else message.seq) - at
            doubtful = min(gone, burst.count - stored)
            return stored, 0 if doubtful <= 0 or (burst.whole and doubtful < burst.count) else doubtful
        stored = await _run(api, burst, name, message.seq - burst.after, last)
        if burst.whole:
            stored = max(stored, burst.count)
    return stored, 0


async def _run(api: Api, burst: Burst, name: str, stored: int, last: int) -> int:
    """From ``stored`` messages that are known to be ours to how many there are: by halves, as they lie side by side."""

    async def ours(count: int) -> bool:
        if burst.after + count > last:
            return False
        message = await api.message(burst.stream, seq=burst.after + count)
        return message is not None and _number(message.head, name) == burst.first + count - 1

    step = 1
    while await ours(stored + step):
        stored += step
        step *= 2
    while step > 1:
        step //= 2
        if await ours(stored + step):
            stored += step
    return stored


def _number(head: bytes, name: str) -> int:
    """The number of a message that was numbered under ``name``; -1 of another one."""
    id = header_of(head, ID.encode())
    if id is None:
        return -1
    whose, _, number = id.rpartition(b"-")
    return int(number) if whose == name.encode() and number.isdigit() else -1
