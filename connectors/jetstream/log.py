"""JetStream as the log: the ``Log`` protocol on a NATS server.

What must live here: the protocol.  What must not: how it is done (``writer``, ``reader``, ``topics``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from streams.connectors.alone import Alone
from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.client import Connection
from streams.connectors.jetstream.messages import atomic_batch, blocks_of, message_of
from streams.connectors.jetstream.reader import JetStreamReader
from streams.connectors.jetstream.topics import Topics
from streams.connectors.jetstream.writer import JetStreamTaskWriter, fence, last_held
from streams.connectors.memory.rules import check_columns, check_record_sizes, partition_for
from streams.core.capability import Capabilities, Durability, Limits
from streams.core.log import Append, Commit, TopicInfo, TopicSpec
from streams.core.membership import Member, Membership, TaskRef, Wanted
from streams.core.record import Bounds, Position, Positions, TopicPartition
from streams.errors import CommitUnknown, LogUnavailable

__all__ = ["JetStreamLog"]

CAPABILITIES = Capabilities(
    replayable=True, ordered=True, durable=Durability.PROCESS, transactional=True, fences=True, detects_recreation=True
)
MIN_VERSION = (2, 12)
BATCH_MESSAGES = 900


class JetStreamLog:
    """A log on JetStream.  Passes ``streams.testing`` LogContract."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = f"nats://{parts.hostname}:{parts.port or 4222}"
        self._connection = Connection(
            self._url, {"servers": [self._url], "user": parts.username, "password": parts.password}, timeout_s=5.0
        )
        self._api = Api(self._connection)
        self._topics = Topics(self._api, replicas=1)
        self._identity = ""
        self._limits = Limits(max_commit_records=BATCH_MESSAGES, max_commit_bytes=16 * 2**20, max_record_bytes=500_000)

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def url(self) -> str:
        return self._url

    @property
    def identity(self) -> str:
        return self._identity

    async def open(self) -> None:
        if not self._connection.connected:
            await self._connection.open()
        self._identity = await self._topics.open()

    async def close(self) -> None:
        await self._connection.close()

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]:
        return await self._topics.infos(names)

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        await self._topics.create(specs)

    async def delete_topics(self, names: Collection[str]) -> None:
        await self._topics.delete(names)

    async def trim(self, positions: Positions) -> None:
        await self._topics.trim(positions)

    async def maintain(self, now_ms: int) -> None:
        """The server does it."""

    def compaction_floor(self, partition: TopicPartition) -> Position:
        return Position.at(0)

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        return await self._topics.bounds(partitions)

    def reader(self, positions: Positions) -> JetStreamReader:
        return JetStreamReader(self._api, self._topics, positions)

    def membership(self, group: str, member: Member, wanted: Wanted) -> Membership:
        return Alone(wanted)

    async def fence(self, task: TaskRef) -> JetStreamTaskWriter:
        return await fence(self._api, self._topics, task, self._check)

    async def checkpoint(self, task: TaskRef) -> bytes | None:
        return (await last_held(self._api, task))[1].checkpoint

    async def forget(self, tasks: Collection[TaskRef]) -> None:
        for task in tasks:
            if (await last_held(self._api, task))[0] == 0:
                continue
            writer = await self.fence(task)
            await writer.forget()

    async def append(self, appends: Sequence[Append]) -> Positions:
        self._check(Commit(b"", appends))
        ends: dict[TopicPartition, Position] = {}
        places = {append.partition: await self._topics.place(append.partition) for append in appends}
        for append in appends:
            at, records = append.partition, append.records
            place = places[at]
            if place.packed:
                messages = [(place.subject, (), payload) for _, payload in blocks_of(records)]
            else:
                headers = records.headers if records.headers is not None else [None] * len(records)
                rows = map(message_of, records.keys, records.values, records.timestamps, headers)
                messages = [(place.subject, *row) for row in rows]
            for start in range(0, len(messages), BATCH_MESSAGES):
                seq = await self._store(messages[start : start + BATCH_MESSAGES])
                ends[at] = Position.at(place.offset(seq + 1))
        return ends

    async def _store(self, messages: list[tuple[str, Any, bytes]]) -> int:
        reply, future = self._connection.expect()
        try:
            await self._connection.write(atomic_batch(messages, reply))
            import asyncio

            async with asyncio.timeout(self._connection.timeout_s):
                message = await future
        except TimeoutError as error:
            raise CommitUnknown(f"{self._url}: no answer came to an append; it may have been carried out") from error
        finally:
            self._connection.forget(reply)
        answer = msgspec.json.decode(message.payload) if message.payload else {"error": {"description": "no leader"}}
        if "error" in answer:
            raise LogUnavailable(f"{self._url}: {answer['error'].get('description')}; nothing was stored")
        return int(answer["seq"])

    def _check(self, commit: Commit) -> None:
        for append in commit.appends:
            check_columns(append.partition, append.records)
            check_record_sizes(append.partition, append.records, self._limits.max_record_bytes)

    partition_for = staticmethod(partition_for)
