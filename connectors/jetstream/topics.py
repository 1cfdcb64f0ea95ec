"""Topics: a stream for each of a user's, and a catalog of those that only an app reads.

What must live here: making, describing, removing, trimming, and where a partition lies.  What must not: reading or
writing records.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from streams.connectors.jetstream.api import Api, ApiError, Stored
from streams.connectors.jetstream.messages import BLOCK_PLACES
from streams.connectors.jetstream.names import (
    CATALOG,
    app_mark_subject,
    app_stream,
    app_subjects,
    catalog_subject,
    is_internal,
    log_subject,
    out_filter,
    pos_subject,
    slot_mark_subject,
    snapshot_subject,
    token,
    topic_subject,
    trim_subject,
)
from streams.connectors.jetstream.snapshots import Manifest, decode_manifest
from streams.connectors.jetstream.stalls import Stalls
from streams.connectors.memory.rules import check_spec
from streams.core.log import TopicInfo, TopicSpec
from streams.core.membership import TaskRef
from streams.core.record import Bounds, Position, Positions, TopicPartition
from streams.errors import ConfigurationError, LogCorrupt, LogUnavailable

__all__ = ["Place", "Topics"]

NS = 1_000_000
KEEPS = {"retention": "limits", "discard": "new", "max_age": 0, "max_msgs_per_subject": -1}
"""Of the stream of an app."""
PARTITIONS, NAME = "streams.partitions", "streams.topic"
SOURCE_PATIENCE_S = 15.0
RETRY_S = 0.003


@dataclass(frozen=True, slots=True)
class Place:
    """Where a partition lies.  packed: in blocks.  created: of the stream, which tells it from a later one."""

    stream: str
    subject: str
    packed: bool
    created: str
    compact: bool = False

    def offset(self, seq: int) -> int:
        """The first offset of a message."""
        return seq * BLOCK_PLACES if self.packed else seq

    def seq(self, offset: int) -> int:
        """The message that holds an offset."""
        return offset // BLOCK_PLACES if self.packed else offset


class _Internal(msgspec.Struct):
    """What the catalog holds of an internal topic."""

    spec: TopicSpec
    identity: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Internal).decode
_decode_offset = msgspec.msgpack.Decoder(int).decode


class Topics:
    """The topics of a server."""

    def __init__(self, api: Api, *, replicas: int) -> None:
        self._api = api
        self._replicas = replicas
        self._known: dict[str, TopicInfo] = {}
        self._created: dict[str, str] = {}
        self._app_streams: set[str] = set()
        self._marked: set[tuple[str, int]] = set()
        self.sources: set[tuple[str, str]] = set()
        self.floors: dict[TopicPartition, int] = {}
        self.stalls = Stalls(api)

    async def open(self, *others: Mapping[str, Any]) -> str:
        """Make the catalog, whose creation time names this server's log, and ``others`` that apps share."""
        for other in others:
            await self.ensure(other)
        stream = await self.ensure(
            {
                "name": CATALOG,
                "subjects": ["S.=catalog.>"],
                "max_msgs_per_subject": 1,
                "allow_direct": True,
                "description": "streams: what topics there are",
            }
        )
        return str(stream["created"])

    async def ensure(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What the server says of a stream, which is made if it is missing."""
        found = await self._api.stream(config["name"])
        if found is None:
            whole = {"storage": "file", "num_replicas": self._replicas, "discard": "new", **config}
            try:
                found = await self._api.call(f"STREAM.CREATE.{config['name']}", whole)
            except ApiError as error:
                found = await self._api.stream(config["name"])  # another worker may have been quicker
                if found is None:
                    raise self._api.failure(error, f"creating stream {config['name']}") from error
        self._created[config["name"]] = found["created"]
        return found

    async def ensure_app(self, group: str, *, anew: bool = False) -> str:
        """The app stream of a group, made when it is missing.  It has no limits: what is read is purged.

        ``anew``: look whether it is still there.  Raises LogCorrupt where it was, and is gone or another one: an app
        that began with a new one would process everything once more, in silence."""
        name = app_stream(group)
        if name in self._app_streams and not anew:
            return name
        mark, stream, lost = await self._app(group)
        if lost:
            raise LogCorrupt(
                f"{self._api.connection.url}: stream {name} {'is gone' if stream is None else 'is another one'}: it "
                f"held the positions and the state of app {group}; bring it back (nats stream restore), or start the "
                f"app over with `streams reset`"
            )
        if stream is None:
            stream = await self.ensure(
                {
                    "name": name,
                    "subjects": [app_subjects(group)],
                    "allow_atomic": True,
                    "allow_direct": True,
                    "first_seq": await self._taken_up_to(name) + 1,
                    "description": f"streams: what only app {group} reads",
                }
            )
        if not stream["config"].get("allow_atomic"):
            raise ConfigurationError(
                f"{self._api.connection.url}: stream {name} was made by something else, and takes no atomic batches; "
                f"delete it, and app {group} makes its own"
            )
        self._check_app(group, stream["config"])
        if mark is None:
            await self._api.publish(app_mark_subject(group), stream["created"].encode(), after=0)
        self._app_streams.add(name)
        return name

    def _check_app(self, group: str, config: Mapping[str, Any]) -> None:
        """Raise ConfigurationError where the server would remove from an app's stream what nobody has read yet."""
        for name, wanted in KEEPS.items():
            held = config.get(name) or wanted
            if held != wanted:
                raise ConfigurationError(
                    f"{self._api.connection.url}: stream {config['name']} has {name}={held}, where app {group} needs "
                    f"{name}={wanted}: the server would remove what isn't read yet; set it back (nats stream edit), or "
                    f"look into who set it"
                )

    async def _app(self, group: str) -> tuple[Stored | None, dict[str, Any] | None, bool]:
        """The mark of an app, its stream, and whether what the mark tells of is gone."""
        # First the mark, then the stream: another worker may be making both, in the other order.
        mark = await self._api.message(CATALOG, last_by_subj=app_mark_subject(group))
        stream = await self._api.stream(app_stream(group))
        known = mark.payload.decode() if mark is not None else ""
        return mark, stream, bool(known) and (stream is None or stream["created"] != known)

    async def was_claimed(self, task: TaskRef) -> bool:
        """Whether a checkpoint of a task was ever written."""
        mark = await self._api.message(CATALOG, last_by_subj=slot_mark_subject(task.group, task.slot))
        return mark is not None

    async def mark_claimed(self, task: TaskRef) -> None:
        """Note that there is a checkpoint, so that a purged stream isn't taken for a new one."""
        if (task.group, task.slot) not in self._marked:
            await self._api.publish(slot_mark_subject(task.group, task.slot), b"1", after=0)
            self._marked.add((task.group, task.slot))

    async def forget_lost(self, group: str) -> None:
        """Drop what the catalog says of checkpoints that are gone, and of the app's stream if that is."""
        _, stream, lost = await self._app(group)
        held = await self._api.subjects(app_stream(group), pos_subject(group, "*")) if stream is not None else []
        for mark in await self._api.subjects(CATALOG, slot_mark_subject(group, "*")):
            slot = mark.rpartition(".")[2]
            if pos_subject(group, slot) not in held or lost:
                await self._api.purge(CATALOG, mark)
                self._marked.discard((group, int(slot)))
        if lost:
            await self._api.purge(CATALOG, app_mark_subject(group))
            self._app_streams.discard(app_stream(group))

    # ── as they are ───────────────────────────────────────────────────────────────────────────────────────────────

    async def infos(self, names: Collection[str] | None) -> dict[str, TopicInfo]:
        """The topics of these names that exist, anew from the server."""
        found: dict[str, TopicInfo] = {}
        for name in names if names is not None else await self._names():
            info = await self._info(name)
            if info is not None:
                found[name] = info
        for name in names or ():
            self._known.pop(name, None)
        self._known.update(found)
        return found

    async def _names(self) -> list[str]:
        names: list[str] = []
        for stream in await self._streams():
            topic = stream["config"].get("metadata", {}).get(NAME)
            if topic is not None:
                names.append(topic)
        catalog = await self._api.call(f"STREAM.INFO.{CATALOG}", {"subjects_filter": "S.=catalog.topic.>"})
        for subject in catalog["state"].get("subjects") or ():
            stored = await self._api.message(CATALOG, last_by_subj=subject)
            if stored is not None and stored.payload:
                names.append(_decode(stored.payload).spec.name)
        return names

    async def _streams(self) -> list[dict[str, Any]]:
        """What the server says of every stream, which comes in pages."""
        found: list[dict[str, Any]] = []
        while True:
            answer = await self._api.call("STREAM.LIST", {"offset": len(found)})
            page = answer.get("streams") or ()
            found.extend(page)
            if not page or len(found) >= answer.get("total", 0):
                return found

    async def _taken_up_to(self, name: str) -> int:
        """How far any topic has taken in what a stream of this name once held: were it made anew from 1 on, they would
        pass over as much of it."""
        taken = [
            source.get("seq") or 0
            for each in await self._streams()
            for source in each.get("sources") or ()
            if source["name"] == name
        ]
        return max(taken, default=0)

    async def _info(self, name: str) -> TopicInfo | None:
        stream = await self._api.stream(token(name)) if not is_internal(token(name)) else None
        if stream is not None:
            config = stream["config"]
            self._created[token(name)] = stream["created"]
            age, size = config.get("max_age", 0), config.get("max_bytes", -1)
            partitions = int(config.get("metadata", {}).get(PARTITIONS, 1))
            spec = TopicSpec(
                name, partitions, "user", age // NS if age else None, size if size > 0 else None, compact=False
            )
            return TopicInfo(spec, stream["created"])
        stored = await self._api.message(CATALOG, last_by_subj=catalog_subject(name))
        if stored is None or not stored.payload:
            return None
        held = _decode(stored.payload)
        return TopicInfo(held.spec, held.identity)

    async def place(self, at: TopicPartition) -> Place:
        """Where a partition lies.  Raises ConfigurationError for one that doesn't exist."""
        info = self._known.get(at.topic)
        if info is None:
            info = (await self.infos([at.topic])).get(at.topic)
        if info is None:
            raise ConfigurationError(f"{self._api.connection.url}: there is no topic {at.topic!r}; create it first")
        if not 0 <= at.partition < info.spec.partitions:
            raise ConfigurationError(
                f"{self._api.connection.url}: {at} doesn't exist; its topic has {info.spec.partitions} partitions"
            )
        if info.spec.kind == "user":
            return Place(token(at.topic), topic_subject(at.topic, at.partition), False, info.identity)
        stream = await self.ensure_app(info.spec.owner)
        subject = log_subject(info.spec.owner, at.topic, at.partition)
        return Place(stream, subject, True, info.identity, info.spec.compact)

    def places(self, topic: str) -> int:
        """Offsets of one message of a topic.  Without I/O: of one that nobody has looked at yet it is a guess."""
        info = self._known.get(topic)
        return BLOCK_PLACES if info is not None and info.spec.kind != "user" else 1

    async def pending(self, at: TopicPartition, offset: int) -> int:
        """How many messages of a partition there are from an offset on."""
        place = await self.place(at)
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, place.seq(offset)),
            "ack_policy": "none",
            "filter_subject": place.subject,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": NS * 5_000,
        }
        try:
            made = await self._api.call(
                f"CONSUMER.CREATE.{place.stream}", {"stream_name": place.stream, "config": config}
            )
            await self._api.call(f"CONSUMER.DELETE.{place.stream}.{made['name']}")
        except ApiError as error:
            raise self._api.failure(error, f"counting what is left of {at}") from error
        return int(made["num_pending"])

    async def manifest(self, at: TopicPartition) -> tuple[int, Manifest | None]:
        """What the last compaction of a partition has left, and the sequence of the message that says so (or 0)."""
        owner = self._known[at.topic].spec.owner
        stored = await self._api.message(app_stream(owner), last_by_subj=snapshot_subject(owner, *at))
        found = decode_manifest(stored.payload) if stored is not None else None
        if found is not None:
            self.floors[at] = found.floor
        return (stored.seq if stored is not None else 0), found

    def owner(self, at: TopicPartition) -> str:
        """The app that an internal topic belongs to; known once its place was asked for."""
        return self._known[at.topic].spec.owner

    # ── made and removed ──────────────────────────────────────────────────────────────────────────────────────────

    async def create(self, specs: Sequence[TopicSpec]) -> None:
        """Create what is missing.  Raises TopicMismatch, before anything is created, where one exists otherwise."""
        existing = {name: info.spec for name, info in (await self.infos([spec.name for spec in specs])).items()}
        held = dict(existing)
        for spec in specs:
            check_spec(spec, held)
            if spec.kind == "user" and is_internal(token(spec.name)):
                raise ConfigurationError(
                    f"topic {spec.name!r}: streams of apps are called S-<app>; choose a name that doesn't begin so"
                )
            if spec.kind == "user" and spec.compact:
                raise ConfigurationError(
                    f"topic {spec.name!r}: compact topics of users aren't there on JetStream yet; leave "
                    f"compact=True out"
                )
            held[spec.name] = spec
        for name, spec in held.items():
            if name not in existing:
                await self._create(spec)
        await self.infos([spec.name for spec in specs])

    async def _create(self, spec: TopicSpec) -> None:
        if spec.kind == "user":
            await self.ensure(
                {
                    "name": token(spec.name),
                    "subjects": [topic_subject(spec.name, "*")],
                    "allow_atomic": True,
                    "allow_direct": True,
                    "discard": "old",
                    "max_age": (spec.retention_ms or 0) * NS,
                    "max_bytes": spec.retention_bytes or -1,
                    "metadata": {PARTITIONS: str(spec.partitions), NAME: spec.name},
                }
            )
            return
        await self.ensure_app(spec.owner)
        payload = _encode(_Internal(spec, uuid.uuid4().hex))
        # Of workers that start at once the first one names it: a second identity would look like another topic.
        await self._api.publish(catalog_subject(spec.name), payload, after=0)

    async def delete(self, names: Collection[str]) -> None:
        """Remove topics with all their records."""
        for name, info in (await self.infos(names)).items():
            if info.spec.kind == "user":
                config = ((await self._api.stream(token(name))) or {}).get("config", {})
                await self._api.call(f"STREAM.DELETE.{token(name)}")
                for source in config.get("sources") or ():
                    # Else a topic of that name that is created anew would take in what was meant for this one.
                    for taken in source.get("subject_transforms") or ():
                        await self._api.purge(source["name"], taken["src"])
            else:
                stream = await self.ensure_app(info.spec.owner)
                await self._api.purge(stream, snapshot_subject(info.spec.owner, name, ">"))
                await self._api.purge(stream, log_subject(info.spec.owner, name, "*"))
                await self._api.purge(CATALOG, trim_subject(name, "*"))
                await self._api.purge(CATALOG, catalog_subject(name))
            self._known.pop(name, None)
            self.sources = {(topic, group) for topic, group in self.sources if topic != name}

    async def trim(self, positions: Positions) -> None:
        """Free what lies before each position: the mark first, so that nobody passes over a hole unawares."""
        for at, position in positions.items():
            place = await self.place(at)
            bounds = await self.bounds([at])
            offset = min(position.offset(), bounds[at].end.offset())
            if offset <= bounds[at].start.offset():
                continue
            await self._api.publish(trim_subject(at.topic, at.partition), _encode(offset))
            await self._api.purge(place.stream, place.subject, before=place.seq(offset))

    # ── sources and bounds ────────────────────────────────────────────────────────────────────────────────────────

    async def ensure_source(self, topic: str, group: str) -> None:
        """See to it that a topic's stream takes in what the app stream of ``group`` holds for it."""
        if (topic, group) in self.sources:
            return
        name = token(topic)
        while True:
            stream = await self._api.stream(name)
            if stream is None:
                raise ConfigurationError(f"{self._api.connection.url}: there is no topic {topic!r}; create it first")
            config = stream["config"]
            sources = config.get("sources") or []
            if any(source["name"] == app_stream(group) for source in sources):
                self.sources.add((topic, group))
                return
            taken = {"src": out_filter(group, topic), "dest": topic_subject(topic, "{{wildcard(1)}}")}
            config["sources"] = [*sources, {"name": app_stream(group), "subject_transforms": [taken]}]
            try:
                await self._api.call(f"STREAM.UPDATE.{name}", config)
            except ApiError as error:
                raise self._api.failure(error, f"stream {name} takes in what app {group} writes") from error

    async def bounds(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Bounds]:
        """First and end position.  Waits until a topic has taken in what was committed for it before the call."""
        found: dict[TopicPartition, Bounds] = {}
        for at in partitions:
            place = await self.place(at)
            if not place.packed:
                await self._taken_in(at)
            elif place.compact:
                await self.manifest(at)
            last = await self._api.message(place.stream, last_by_subj=place.subject)
            trimmed = await self._api.message(CATALOG, last_by_subj=trim_subject(at.topic, at.partition))
            start = _decode_offset(trimmed.payload) if trimmed is not None and trimmed.payload else 0
            if not place.packed:
                stream = await self._api.stream(place.stream)
                first = stream["state"]["first_seq"] if stream is not None else 0
                start = max(start, first if first > 1 else 0)
            end = max(start, place.offset(last.seq + 1) if last is not None else 0)
            found[at] = Bounds(Position.at(start), Position.at(end))
        return found

    async def _taken_in(self, at: TopicPartition) -> None:
        """Wait until the stream of a topic has taken in what the app streams hold for a partition now."""
        stream = await self._api.stream(token(at.topic))
        wanted: dict[str, int] = {}
        for source in (stream or {}).get("sources") or ():
            transform = source["subject_transforms"][0]["src"]
            subject = f"{transform.rpartition('.')[0]}.{at.partition}"
            last = await self._api.message(source["name"], last_by_subj=subject)
            if last is not None:
                wanted[source["name"]] = last.seq
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SOURCE_PATIENCE_S
        while wanted:
            sources = (stream or {}).get("sources") or ()
            behind = [each["name"] for each in sources if each.get("seq", 0) < wanted.get(each["name"], 0)]
            if not behind:
                return
            if loop.time() > deadline:
                raise LogUnavailable(
                    f"{self._api.connection.url}: topic {at.topic} hasn't taken in what {behind[0]} holds for it; "
                    f"is it at a limit (max_bytes, max_msgs)?"
                )
            if stream is not None:
                await self.stalls.look(stream)
            await asyncio.sleep(RETRY_S)
            stream = await self._api.stream(token(at.topic))
