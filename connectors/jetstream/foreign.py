"""JetStream streams, KV buckets and object stores of others as topics of an app on another log.

What must live here: the ``Log`` protocol as far as a foreign topic needs it.  What must not: how it is done
(``foreign_streams``, ``foreign_reader``, ``foreign_sink``).

A topic that an app of this project has made on its JetStream log can be read like any other stream.  Written to, it is
served by that log's own writer (``log``), as is a topic that isn't there yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from streams.connectors.jetstream.api import Api, ApiError
from streams.connectors.jetstream.client import Connection
from streams.connectors.jetstream.foreign_config import parse_foreign
from streams.connectors.jetstream.foreign_messages import form_of
from streams.connectors.jetstream.foreign_object_reader import ObjectReader
from streams.connectors.jetstream.foreign_reader import ForeignReader
from streams.connectors.jetstream.foreign_sink import NOTES, ForeignSink, forget
from streams.connectors.jetstream.foreign_streams import EVERYTHING, ForeignStreams
from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.names import app_stream
from streams.connectors.log_sink import LogSink
from streams.connectors.memory.rules import partition_for
from streams.connectors.since import first_since
from streams.core.capability import Capabilities, Durability, Limits
from streams.core.log import Append, Reader, Sink, SinkWriter, TopicInfo, TopicSpec
from streams.core.membership import Member, Membership, TaskRef, Wanted
from streams.core.record import Bounds, Position, Positions, TopicPartition
from streams.errors import ConfigurationError, LogUnavailable, TopicMismatch

__all__ = ["ForeignJetStream"]

CAPABILITIES = Capabilities(
    replayable=True,
    ordered=True,
    durable=Durability.PROCESS,
    fences=True,
    deduplicates="forever",
    detects_recreation=True,
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ForeignJetStream:
    """The streams of a server, to be read and delivered to.  A ``Log`` that no app can commit on."""

    def __init__(self, url: str) -> None:
        self._config = parse_foreign(url)
        self._url = self._config.shown
        nats = self._config.nats
        self._connection = Connection(self._url, nats.client, timeout_s=nats.request_timeout_ms / 1000)
        self._api = Api(self._connection)
        self._streams = ForeignStreams(self._api, self._config)
        self._logs = (
            f"nats{url[url.index('://') :].partition('?')[0]}",
            [pair for pair in url.partition("?")[2].split("&") if pair and pair.partition("=")[0] not in _SETTINGS],
        )
        self._log: JetStreamLog | None = None
        self._ours: set[str] = set()
        self._turns: dict[str, asyncio.Lock] = {}

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    @property
    def limits(self) -> Limits:
        return Limits()

    @property
    def url(self) -> str:
        return self._url

    @property
    def identity(self) -> str:
        return self._url

    async def open(self) -> None:
        if self._connection.connected:
            return
        await self._connection.open()
        try:
            await self._api.stream(NOTES)  # any question will do, and this one has to be allowed anyway
        except LogUnavailable as error:
            served = self._connection.server.get("jetstream")
            await self._connection.close()
            if served:
                raise
            raise ConfigurationError(
                f"{self._url}: the server has no JetStream; start it with -js, or with jetstream {{}} in its "
                f"configuration"
            ) from error

    async def close(self) -> None:
        if self._log is not None:
            await self._log.close()
        await self._connection.close()

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]:
        return await self._streams.infos(names)

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        return await self._streams.bounds(partitions)

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Positions:
        """By when messages were stored: the server says where a consumer from that time on would begin.  Records of an
        app's topic have times of their own, of which it knows nothing: such a topic is read."""
        found: dict[TopicPartition, Position] = {}
        bounds = await self._streams.bounds(times)
        for at, time_ms in times.items():
            place = await self._streams.place(at)
            if place.timed:
                found.update(await first_since(self, {at: time_ms}))
                continue
            config = {
                "deliver_policy": "by_start_time",
                "opt_start_time": (EPOCH + timedelta(milliseconds=time_ms)).isoformat(),
                "ack_policy": "none",
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": 1_000_000_000,
                **({} if place.subject == EVERYTHING else {"filter_subject": place.subject}),
            }
            try:
                made = await self._api.call(
                    f"CONSUMER.CREATE.{place.stream}", {"stream_name": place.stream, "config": config}
                )
                await self._api.call(f"CONSUMER.DELETE.{place.stream}.{made['name']}")
            except ApiError as error:
                raise self._api.failure(error, f"the first record of {at} since {time_ms}") from error
            first = Position.at(made["delivered"]["stream_seq"] + 1)
            end = bounds[at].end
            found[at] = end if not made["num_pending"] or first.reached(end) else first
        return found

    def reader(self, positions: Positions) -> Reader:
        reader = ForeignReader(self._api, self._streams, positions)
        if self._config.kind == "object":
            return ObjectReader(self._api, self._config, reader)
        return reader

    def compaction_floor(self, partition: TopicPartition) -> Position:
        return Position()

    def partition_for(self, key: bytes, partitions: int) -> int:
        return partition_for(key, partitions)

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See to it that topics can be delivered to.  One that isn't there becomes a topic of ours, unless what is said
        of it speaks of a stream that somebody has.  Raises ConfigurationError, TopicMismatch."""
        for spec in specs:
            stream = await self._streams.stream(spec.name)
            if stream is not None and not self._streams.is_ours(stream):
                form_of(self._config, spec.name, stream)
                if spec.partitions != 1:
                    raise TopicMismatch(
                        f"{self._url}/{spec.name} is a stream of its own kind, which counts as one partition, and the "
                        f"app declares {spec.partitions}; give app.topic partitions=1"
                    )
                self._ours.discard(spec.name)
                continue
            if stream is None and (self._config.kind != "stream" or self._config.given):
                raise ConfigurationError(
                    f"{self._url}: there is no stream {self._config.stream(spec.name)!r}; create it first"
                )
            if self._log is None:
                place, settings = self._logs
                self._log = JetStreamLog(f"{place}?{'&'.join(settings)}" if settings else place)
                await self._log.open()
            await self._log.create_topics([spec])
            self._ours.add(spec.name)

    def sink(self, topic: str) -> Sink:
        """What delivers to a topic; ``create_topics`` has seen to it before."""
        if topic in self._ours and self._log is not None:
            return _Tended(self._log)
        turn = self._turns.setdefault(topic, asyncio.Lock())
        return ForeignSink(self._api, self._streams, self._config, topic, turn)

    async def forget(self, tasks: Collection[TaskRef]) -> None:
        for task in tasks:
            await forget(self._api, task)
            if await self._api.stream(app_stream(task.group)) is not None:
                place, settings = self._logs
                log = JetStreamLog(f"{place}?{'&'.join(settings)}" if settings else place)
                await log.open()
                try:
                    await log.forget([task])
                finally:
                    await log.close()

    # ── what only an app's own log does ───────────────────────────────────────────────────────────────────────────

    def _not_ours(self) -> NoReturn:
        raise ConfigurationError(
            f"{self._url} holds topics of others and can't be the log of an app; for that, write nats:// in its place"
        )

    async def delete_topics(self, names: Collection[str]) -> None:
        self._not_ours()

    def membership(self, group: str, member: Member, wanted: Wanted) -> Membership:
        self._not_ours()

    async def members(self, group: str) -> Sequence[Member]:
        return ()

    async def fence(self, task: TaskRef) -> NoReturn:
        self._not_ours()

    async def checkpoint(self, task: TaskRef) -> bytes | None:
        return None

    async def append(self, appends: Sequence[Append]) -> Positions:
        self._not_ours()

    async def trim(self, positions: Positions) -> None:
        """What others have isn't ours to trim."""

    async def maintain(self, now_ms: int) -> None:
        """Nor to look after."""


_SETTINGS = ("subjects", "subject", "key", "start", "unsure", "max_object_bytes")


class _Tended:
    """A topic of ours on another server: what its stream has taken in is freed there as we go."""

    def __init__(self, log: JetStreamLog) -> None:
        self._log = log
        self._sink = LogSink(log)

    @property
    def capabilities(self) -> Capabilities:
        return self._sink.capabilities

    async def fence(self, task: TaskRef) -> SinkWriter:
        return _TendedWriter(await self._sink.fence(task), self._log)


class _TendedWriter:
    def __init__(self, writer: SinkWriter, log: JetStreamLog) -> None:
        self._writer = writer
        self._log = log

    @property
    def delivered(self) -> bytes | None:
        return self._writer.delivered

    async def deliver(self, appends: Sequence[Append], delivered: bytes) -> None:
        await self._writer.deliver(appends, delivered)
        await self._log.maintain(time.time_ns() // 1_000_000)

    async def close(self) -> None:
        await self._writer.close()
