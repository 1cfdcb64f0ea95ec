"""Replies between workers: by the log, so that workers need no network between them.

    task commits ──▶ replies of that commit, one append ──▶ <app>.replies ──▶ the worker that asked

What must live here: carrying a reply to another worker.  What must not: who waits for it (``runtime.requests``).

Each worker listens on one partition, chosen from its id, from the moment of its first question on.  Several share a
partition; a record says whose it is.  A reply is sent after the commit that holds its effects (protocol 14) and may be
lost when the worker dies right then: who asked runs into its deadline and asks again, under the same id if it is an
agent, and is answered from what the callee remembers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from streams.core.log import Append, TopicSpec
from streams.core.record import Fetched, Position, Records, TopicPartition
from streams.errors import DataError, RetryableError, StreamsError
from streams.operators.agent import Reply, Request

if TYPE_CHECKING:
    from streams.core.log import Log
    from streams.runtime.clock import Clock

__all__ = ["REPLY_HEADER", "Replies", "replies_topic"]

logger = logging.getLogger("streams")

REPLY_HEADER = "streams.reply"
"""Carries the id of the request in a reply's record; the record's key is the worker that asked."""
PARTITIONS = 8
RETENTION_MS = 3_600_000
PAUSES_S = (0.1, 0.3, 1.0)
"""Before another try to send.  What waits longer has run into its deadline, mostly."""
CLOSE_TIMEOUT_S = 3.0
LISTEN_S = 1.0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reply).decode


def replies_topic(app: str) -> TopicSpec:
    """The topic of an app's replies."""
    return TopicSpec(f"{app}.replies", PARTITIONS, "repartition", retention_ms=RETENTION_MS, owner=app)


def partition_of(topic: TopicSpec, worker_id: str) -> TopicPartition:
    """Where a worker listens."""
    return TopicPartition(topic.name, crc32(worker_id.encode()) % topic.partitions)


class Replies:
    """Sends replies to other workers, and hears those for this one.  ``hear`` is told of each, by request id."""

    def __init__(
        self, log: Log, clock: Clock, topic: TopicSpec, worker_id: str, hear: Callable[[str, Reply], None]
    ) -> None:
        self._log = log
        self._clock = clock
        self._topic = topic
        self._worker = worker_id.encode()
        self._at = partition_of(topic, worker_id)
        self._hear = hear
        self._ready: asyncio.Future[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._outgoing: list[tuple[Request, Reply]] = []
        self._sending: asyncio.Task[None] | None = None

    # ── hearing ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def listen(self) -> None:
        """Return when no reply to what is asked from now on can be missed.  Raises what keeps it from listening."""
        if self._listening is None or self._listening.done():
            loop = asyncio.get_running_loop()
            self._ready = loop.create_future()
            self._listening = loop.create_task(self._listen(self._ready), name="replies")
        assert self._ready is not None
        await asyncio.shield(self._ready)

    async def _listen(self, ready: asyncio.Future[None]) -> None:
        try:
            position = await self._end()
        except StreamsError as error:
            ready.set_exception(error)
            ready.exception()  # whoever waits has it; nobody may wait any more
            return
        ready.set_result(None)
        while True:
            try:
                position = await self._follow(position)
            except RetryableError as error:
                logger.info("replies: %s; trying again", error)
                await asyncio.sleep(PAUSES_S[-1])
            except StreamsError as error:
                logger.warning("replies: %s; listening again with the next question", error)
                return

    async def _follow(self, position: Position) -> Position:
        """Read until that is interrupted; returns where to go on."""
        reader = self._log.reader({self._at: position})
        try:
            while True:
                for batch in await reader.fetch([self._at], max_records=1000, wait_s=LISTEN_S):
                    self._take(batch)
                    position = position.advanced(batch.lane, batch.next_offset)
        except RetryableError as error:
            logger.info("replies: %s; trying again", error)
            await asyncio.sleep(PAUSES_S[0])
            return position
        except DataError as error:
            # Who waited for what is gone runs into its deadline; those who ask from now on are heard.
            logger.warning("replies: %s; going on from the end", error)
            await asyncio.sleep(PAUSES_S[-1])
            return await self._end()
        finally:
            await reader.close()

    async def _end(self) -> Position:
        return (await self._log.bounds([self._at]))[self._at].end

    def _take(self, batch: Fetched) -> None:
        records = batch.records
        headers = records.headers or [None] * len(records)
        for key, value, own in zip(records.keys, records.values, headers, strict=True):
            request = next((carried for name, carried in own or () if name == REPLY_HEADER), None)
            if key != self._worker or value is None or request is None:
                continue
            try:
                self._hear(request.decode(), _decode(value))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                logger.warning("replies: %s: a record that is no reply is passed over: %s", self._at, error)

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, replies: Sequence[tuple[Request, Reply]]) -> None:
        """Send replies to the workers that asked, soon.  Doesn't block; one append for all that waits."""
        self._outgoing.extend(replies)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._outgoing:
                batch, self._outgoing = self._outgoing, []
                await self._carry(batch)
        finally:
            self._sending = None

    async def _carry(self, batch: list[tuple[Request, Reply]]) -> None:
        for pause_s in (*PAUSES_S, None):
            try:
                await self._log.append(self._appends(batch))
                return
            except RetryableError as error:
                if pause_s is None:
                    logger.warning("%d replies couldn't be sent, so who asked waits in vain: %s", len(batch), error)
                    return
                await asyncio.sleep(pause_s)
            except StreamsError as error:
                # One that is too large, say: it must not keep the others from being sent.
                if len(batch) == 1:
                    await self._refuse(batch[0][0], error)
                    return
                for each in batch:
                    await self._carry([each])
                return

    async def _refuse(self, request: Request, error: StreamsError) -> None:
        try:
            await self._log.append(self._appends([(request, Reply([], f"the reply can't be sent: {error}"))]))
        except StreamsError as again:
            logger.warning("a reply couldn't be sent, so who asked waits in vain: %s", again)

    def _appends(self, batch: Sequence[tuple[Request, Reply]]) -> list[Append]:
        now = self._clock.now_ms()
        parts: dict[TopicPartition, Records] = {}
        for request, reply in batch:
            part = parts.setdefault(partition_of(self._topic, request.reply_to), Records([], [], [], []))
            part.keys.append(request.reply_to.encode())
            part.values.append(_encode(reply))
            part.timestamps.append(now)
            assert part.headers is not None
            part.headers.append(((REPLY_HEADER, request.id.encode()),))
        return [Append(at, part) for at, part in sorted(parts.items())]

    async def close(self) -> None:
        """Send what waits to be sent, for a moment, and stop listening."""
        if self._sending is not None:
            _, late = await asyncio.wait({self._sending}, timeout=CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
                await asyncio.wait({task})
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
