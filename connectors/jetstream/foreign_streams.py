"""Streams of others as topics to read: what they are, where their partitions lie, and their bounds.

What must live here: describing them.  What must not: reading records (``foreign_reader``), writing (``foreign_sink``).

A stream is one partition, or one for each of the subjects that the app wants of it.  A topic that an app of this
project has made on its log is known by the metadata of its stream, and has the partitions that it has there.

Positions are sequences of the stream.  Its end is the sequence behind its last message, whatever the subject of that:
the last message of *our* subjects may be removed, and an end that moves back would look like a lost log.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.foreign_config import ForeignConfig, overlap
from streams.connectors.jetstream.names import token, topic_subject
from streams.connectors.jetstream.snapshots import Manifest
from streams.connectors.jetstream.topics import NAME, PARTITIONS, Place, Topics
from streams.core.log import TopicInfo, TopicSpec
from streams.core.record import Bounds, Position, TopicPartition
from streams.errors import ConfigurationError

__all__ = ["ForeignPlace", "ForeignStreams"]

NS_PER_MS = 1_000_000
EVERYTHING = ">"


@dataclass(frozen=True, slots=True)
class ForeignPlace(Place):
    """Where a partition lies.

    key_from: how many characters of a subject stand before the key; -1: the subject is no key.
    holes: messages go one by one (a limit by subject), so that one that is missing means nothing.
    conflated: it is begun with the last message of each subject.
    timed: its records have times of their own.
    """

    key_from: int = 0
    holes: bool = False
    conflated: bool = False
    timed: bool = False


class ForeignStreams:
    """The streams of a server, as the settings of one location show them.  A ``reader.Places``."""

    def __init__(self, api: Api, config: ForeignConfig) -> None:
        self._api = api
        self._config = config
        self._own = Topics(api, replicas=config.nats.replicas)
        self._known: dict[str, Mapping[str, Any]] = {}

    async def stream(self, topic: str) -> Mapping[str, Any] | None:
        """What the server says of the stream behind a topic; None where there is none.  A topic of ours may bear a name
        that no stream can have."""
        name = self._config.stream(topic)
        found = await self._api.stream(name) if token(name) == name else None
        return found if found is not None or self._config.kind != "stream" else await self._api.stream(token(topic))

    def is_ours(self, stream: Mapping[str, Any]) -> bool:
        """Whether an app of this project has made the stream for a topic, and it is to be read as that."""
        return NAME in (stream["config"].get("metadata") or {}) and "subjects" not in self._config.given

    async def infos(self, names: Collection[str] | None) -> dict[str, TopicInfo]:
        """The topics of these names that exist, anew from the server."""
        found: dict[str, TopicInfo] = {}
        for name in names if names is not None else await self._names():
            stream = await self.stream(name)
            self._known.pop(name, None)
            if stream is not None:
                self._known[name] = stream
                found[name] = TopicInfo(self._spec(name, stream), stream["created"])
        return found

    async def _names(self) -> list[str]:
        prefix = self._config.stream("")
        names: list[str] = []
        while True:
            answer = await self._api.call("STREAM.LIST", {"offset": len(names)})
            page = [stream["config"] for stream in answer.get("streams") or ()]
            names.extend((config.get("metadata") or {}).get(NAME, config["name"]) for config in page)
            if not page or len(names) >= answer.get("total", 0):
                return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def _spec(self, name: str, stream: Mapping[str, Any]) -> TopicSpec:
        config = stream["config"]
        age, size = config.get("max_age", 0), config.get("max_bytes", -1)
        partitions = int(config["metadata"][PARTITIONS]) if self.is_ours(stream) else len(self._config.subjects) or 1
        compact = self._config.kind == "stream" and config.get("max_msgs_per_subject", -1) == 1
        return TopicSpec(
            name, partitions, "user", age // NS_PER_MS if age else None, size if size > 0 else None, compact=compact
        )

    async def place(self, at: TopicPartition) -> ForeignPlace:
        """Where a partition lies.  Raises ConfigurationError for one that isn't there, or can't be read again."""
        if at.topic not in self._known:
            await self.infos([at.topic])
        stream = self._known.get(at.topic)
        where, name = self._config.shown, self._config.stream(at.topic)
        if stream is None:
            raise ConfigurationError(f"{where}: there is no stream {name!r}; create it first, or mend the topic's name")
        config, created = stream["config"], stream["created"]
        self.check(at.topic, stream)
        partitions = self._spec(at.topic, stream).partitions
        if not 0 <= at.partition < partitions:
            raise ConfigurationError(f"{where}: {at} doesn't exist; the topic has {partitions} partitions")
        holes = config.get("max_msgs_per_subject", -1) > 0
        conflated = self._config.start == "last_per_subject"
        if self.is_ours(stream):
            return ForeignPlace(
                *(
                    config["name"],
                    topic_subject(at.topic, at.partition),
                    False,
                    created,
                    False,
                    -1,
                    holes,
                    conflated,
                    True,
                )
            )
        subject, key_from = EVERYTHING, 0 if self._config.key == "subject" else -1
        if self._config.kind == "kv":
            subject, key_from = f"$KV.{at.topic}.>", len(f"$KV.{at.topic}.")
        elif self._config.kind == "object":
            subject = f"$O.{at.topic}.M.>"
        elif self._config.subjects:
            subject = self._config.subjects[at.partition]
        return ForeignPlace(name, subject, False, created, False, key_from, holes, conflated)

    def check(self, topic: str, stream: Mapping[str, Any]) -> None:
        """Raise ConfigurationError for a stream that can't be read again, or that has nothing of what is wanted."""
        config, where = stream["config"], self._config.shown
        if config.get("retention", "limits") != "limits":
            raise ConfigurationError(
                f"{where}: stream {config['name']} has the retention {config['retention']!r}: a message goes once "
                f"others have acknowledged it, so nobody can read it again; let a stream with limits take it in "
                f"(sources), and read that"
            )
        if config.get("mirror") or config.get("sources"):
            return  # what comes in needn't bear one of its own subjects
        for wanted in self._config.subjects:
            if not any(overlap(wanted, held) for held in config.get("subjects") or ()):
                raise ConfigurationError(
                    f"{where}: stream {config['name']} has no subject {wanted!r}; it has "
                    f"{', '.join(config.get('subjects') or ()) or 'none'}"
                )

    async def bounds(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Bounds]:
        """First and end position.  The start of a stream with holes is 0: nothing of it can be lost unread."""
        found: dict[TopicPartition, Bounds] = {}
        for at in partitions:
            place = await self.place(at)
            if self.is_ours(self._known[at.topic]):
                await self._own.infos([at.topic])
                await self._own.bounds([at])  # waits until it has taken in what was committed for it
            stream = await self._api.stream(place.stream)
            state = stream["state"] if stream is not None else {"first_seq": 0, "last_seq": 0}
            end = state["last_seq"] + 1 if state["last_seq"] else 0
            start = state["first_seq"] if state["first_seq"] > 1 and not place.holes else 0
            if place.conflated and start:
                start -= 1  # a reader there has read nothing yet: see ``foreign_reader``
            found[at] = Bounds(Position.at(start), Position.at(max(start, end)))
        return found

    async def manifest(self, at: TopicPartition) -> tuple[int, Manifest | None]:
        """Nobody compacts here."""
        return 0, None

    def owner(self, at: TopicPartition) -> str:
        """Nobody's of ours."""
        return ""
