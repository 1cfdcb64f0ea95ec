"""JetStream as the log: the ``Log`` protocol on a NATS server.

What must live here: the protocol.  What must not: how it is done (``writer``, ``reader``, ``topics``).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any

import msgspec

from streams.connectors.jetstream.api import Api, refused_with
from streams.connectors.jetstream.chains import last_link
from streams.connectors.jetstream.client import Connection
from streams.connectors.jetstream.compaction import Policy, compact
from streams.connectors.jetstream.config import parse_url
from streams.connectors.jetstream.durability import power_failure
from streams.connectors.jetstream.group import groups_config, members_of
from streams.connectors.jetstream.membership import JetStreamMembership
from streams.connectors.jetstream.messages import MAX_RECORD_BYTES, atomic_batch, blocks_of, room, rows_of
from streams.connectors.jetstream.reader import JetStreamReader
from streams.connectors.jetstream.topics import Topics
from streams.connectors.jetstream.upkeep import Upkeep
from streams.connectors.jetstream.writer import ATTEMPTS, JetStreamTaskWriter, Message, Totals, fence, last_held
from streams.connectors.memory.rules import check_columns, check_record_sizes, partition_for
from streams.core.capability import Capabilities, Durability, Limits
from streams.core.log import Append, Commit, TopicInfo, TopicSpec
from streams.core.membership import Member, Membership, TaskRef, Wanted
from streams.core.record import Bounds, Position, Positions, TopicPartition
from streams.core.telling import PowerFailure
from streams.errors import CommitUnknown, ConfigurationError, DataError, LogUnavailable, PositionLost

__all__ = ["JetStreamLog"]

logger = logging.getLogger("streams")

CAPABILITIES = Capabilities(
    replayable=True, ordered=True, durable=Durability.PROCESS, transactional=True, fences=True, detects_recreation=True
)
MIN_VERSION = (2, 12)
BATCH_MESSAGES = 900
PACKED_RECORDS = 20_000
MAINTAIN_S = 0.3
LOOK_AGAIN_MS = 600_000


class JetStreamLog:
    """A log on JetStream.  Passes ``streams.testing`` LogContract."""

    def __init__(self, url: str, *, compaction: Policy | None = None) -> None:
        config = parse_url(url)
        self._url = config.shown
        self._monitor_url = config.monitor_url
        self._connection = Connection(self._url, config.client, timeout_s=config.request_timeout_ms / 1000)
        self._api = Api(self._connection)
        self._topics = Topics(self._api, replicas=config.replicas)
        self._identity = ""
        self._policy = compaction or Policy(config.compaction_min_bytes)
        self._session_s = -(-config.session_timeout_ms // 1000)
        self._totals: Totals = {}
        self._looked: dict[TopicPartition, tuple[int, int]] = {}
        self._pass: tuple[TopicPartition, AsyncGenerator[None, None]] | None = None
        self._upkeep = Upkeep(self._api, self._topics)

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    @property
    def limits(self) -> Limits:
        """Of the server that we are connected to."""
        return Limits(
            max_commit_records=BATCH_MESSAGES,
            max_packed_records=PACKED_RECORDS,
            max_commit_bytes=16 * 2**20,
            max_record_bytes=room(self._connection.max_payload),
        )

    @property
    def url(self) -> str:
        return self._url

    @property
    def identity(self) -> str:
        return self._identity

    async def open(self) -> None:
        if not self._connection.connected:
            await self._connection.open()
        try:
            await self._look()
        except BaseException:
            await self._connection.close()
            raise

    async def _look(self) -> None:
        version = str(self._connection.server.get("version", ""))
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < MIN_VERSION:
            raise ConfigurationError(
                f"{self._url}: nats-server {version} has no atomic batches; use {MIN_VERSION[0]}.{MIN_VERSION[1]} or a "
                f"later one"
            )
        if room(self._connection.max_payload) < MAX_RECORD_BYTES:
            logger.warning(
                "%s: the server's max_payload is %d bytes, so that a record may have %d at most",
                self._url,
                self._connection.max_payload,
                room(self._connection.max_payload),
            )
        try:
            self._identity = await self._topics.open(groups_config())
        except LogUnavailable as error:
            if self._connection.server.get("jetstream"):
                raise
            raise ConfigurationError(
                f"{self._url}: the server has no JetStream; start it with -js, or with jetstream {{}} in its "
                f"configuration"
            ) from error

    async def close(self) -> None:
        if self._pass is not None:
            await self._pass[1].aclose()
            self._pass = None
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
        """Retention is the server's business; compaction of what is written here, and upkeep, are ours."""
        await self._upkeep.run(now_ms)
        loop = asyncio.get_running_loop()
        until = loop.time() + MAINTAIN_S
        waiting = [at for at in self._totals if (self._pass is None or at != self._pass[0]) and self._worth(at, now_ms)]
        while loop.time() < until:
            if self._pass is None:
                if not waiting:
                    return
                at = waiting.pop(0)
                self._looked[at] = self._totals[at], now_ms
                self._pass = at, compact(self._api, self._topics, at, now_ms, self._policy)
            try:
                await anext(self._pass[1])
            except StopAsyncIteration:
                self._pass = None
            except (LogUnavailable, PositionLost):
                self._pass = None
                raise

    def _worth(self, at: TopicPartition, now_ms: int) -> bool:
        """Whether to ask the server if a pass is due: enough was written since then, or it is long ago."""
        total, looked_ms = self._looked.get(at, (-self._policy.min_bytes, 0))
        grown = self._totals[at] - total
        return grown >= max(1, self._policy.min_bytes // 8) or now_ms - looked_ms >= LOOK_AGAIN_MS

    def compaction_floor(self, partition: TopicPartition) -> Position:
        return Position.at(self._topics.floors.get(partition, 0))

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        return await self._topics.bounds(partitions)

    def distance(self, partition: TopicPartition, since: Position, end: Position) -> int:
        """In messages: of an internal topic each is a block of records, and its offsets have places for a million."""
        places = self._topics.places(partition.topic)
        return max(0, end.offset() // places - since.offset() // places)

    async def backlog(self, positions: Positions) -> Mapping[TopicPartition, int]:
        """In messages, as ``distance``, but only those of the partition."""
        return {at: await self._topics.pending(at, position.offset()) for at, position in positions.items()}

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Positions:
        """By the records' own times, of which the server knows nothing: the partitions are read."""
        bounds = await self._topics.bounds(times)
        found = {at: each.end for at, each in bounds.items()}
        for at, time_ms in times.items():
            reader = self.reader({at: bounds[at].start})
            try:
                found[at] = await _first_since(reader, at, bounds[at], time_ms)
            finally:
                await reader.close()
        return found

    def reader(self, positions: Positions) -> JetStreamReader:
        return JetStreamReader(self._api, self._topics, positions)

    def membership(self, group: str, member: Member, wanted: Wanted) -> Membership:
        return JetStreamMembership(
            self._api,
            group,
            member,
            wanted,
            session_s=self._session_s,
            remake=lambda: self._topics.ensure(groups_config()),
        )

    async def members(self, group: str) -> Sequence[Member]:
        return await members_of(self._api, group)

    async def power_failure(self, group: str) -> PowerFailure:
        return await power_failure(self._api, group, self._monitor_url)

    def counters(self) -> Mapping[str, tuple[str, int]]:
        connection = self._connection
        return {
            "streams_log_reconnects": ("Times that the connection to the log was made anew.", connection.reconnects),
            "streams_log_slow_consumer": (
                "Times that it was lost while this process had stopped reading.",
                connection.slow,
            ),
        }

    async def fence(self, task: TaskRef) -> JetStreamTaskWriter:
        return await fence(self._api, self._topics, task, self._check, self._totals, self._upkeep.written)

    async def checkpoint(self, task: TaskRef) -> bytes | None:
        return (await last_held(self._api, task))[1].checkpoint

    async def forget(self, tasks: Collection[TaskRef]) -> None:
        for task in tasks:
            if (await last_held(self._api, task))[0] == 0:
                continue
            for _ in range(ATTEMPTS):
                if await (await self.fence(task)).forget():
                    break
            else:
                raise LogUnavailable(
                    f"{self._url}: the checkpoint of task {task.name} is not forgotten: others keep claiming it; stop "
                    f"the workers first"
                )
        for group in {task.group for task in tasks}:
            await self._topics.forget_lost(group)

    async def append(self, appends: Sequence[Append]) -> Positions:
        self._check(Commit(b"", appends))
        ends: dict[TopicPartition, Position] = {}
        places = {append.partition: await self._topics.place(append.partition) for append in appends}
        for append in appends:
            at, place = append.partition, places[append.partition]
            messages: list[Message] = []
            if place.packed:
                link = await last_link(self._api, place) if place.compact else None
                for _, payload in blocks_of(append.records, self._connection.max_payload):
                    lines = link.lines(len(payload), 1 if messages else None) if link is not None else []
                    messages.append((place.subject, lines, payload))
                if link is not None:
                    self._totals[at] = link.total
            else:
                messages.extend((place.subject, *row) for row in rows_of(append.records))
            for start in range(0, len(messages), BATCH_MESSAGES):
                seq = await self._store(messages[start : start + BATCH_MESSAGES])
                ends[at] = Position.at(place.offset(seq + 1))
        return ends

    async def _store(self, messages: list[Message]) -> int:
        reply, future = self._connection.expect()
        try:
            if not self._connection.connected:
                raise LogUnavailable(f"{self._url}: not connected; nothing was stored")
            await self._connection.write(atomic_batch(messages, reply, self._connection.max_payload))
            try:
                async with asyncio.timeout(self._connection.timeout_s):
                    message = await future
            except (TimeoutError, LogUnavailable) as error:
                raise CommitUnknown(
                    f"{self._url}: no answer came to an append; it may have been carried out"
                ) from error
        finally:
            self._connection.forget(reply)
        answer: dict[str, Any] = (
            msgspec.json.decode(message.payload) if message.payload else {"error": {"description": "no leader"}}
        )
        if "error" in answer:
            raise LogUnavailable(f"{self._url}: nothing was stored: {refused_with(answer['error'])}")
        return int(answer["seq"])

    def _check(self, commit: Commit) -> None:
        most = room(self._connection.max_payload)
        for append in commit.appends:
            check_columns(append.partition, append.records)
            try:
                check_record_sizes(append.partition, append.records, most)
            except DataError as error:
                what, given = str(error).partition(";")[0], self._connection.max_payload
                way = (
                    f", or raise the server's max_payload={given}"
                    if most < MAX_RECORD_BYTES
                    else "; on NATS no record has more"
                )
                raise DataError(f"{what}; send less{way}") from error

    partition_for = staticmethod(partition_for)


async def _first_since(reader: JetStreamReader, at: TopicPartition, bounds: Bounds, time_ms: int) -> Position:
    reached = bounds.start
    while not reached.reached(bounds.end):
        for batch in await reader.fetch([at], max_records=1000, wait_s=1.0):
            for offset, timestamp in zip(batch.offsets, batch.records.timestamps, strict=True):
                if timestamp >= time_ms:
                    return Position.at(offset)
            reached = Position.at(batch.next_offset)
    return bounds.end
