"""Topics: created as they are declared, checked where they exist, trimmed, removed.

What must live here: configurations of topics and the administrative requests.  What must not: records.

Kafka judges retention by the records' own timestamps, so internal topics keep everything, and what lies behind the
committed positions is deleted by offset: replaying the history of 2013 must not lose what nobody has read yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiokafka.protocol.admin import (
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeConfigsRequest,
)

from streams.connectors.kafka.cluster import UNKNOWN_TOPIC_PATIENCE_S
from streams.connectors.kafka.faults import MOVED, Code, error_for, name_of
from streams.connectors.kafka.offsets import Offsets
from streams.core.log import TopicInfo, TopicSpec
from streams.core.record import Positions, TopicPartition
from streams.errors import ConfigurationError, LogUnavailable, TopicMismatch

if TYPE_CHECKING:
    from streams.connectors.kafka.cluster import Cluster

__all__ = ["TOMBSTONES_KEPT_MS", "Topics"]

logger = logging.getLogger("streams")

INVALID_CONFIG = 40
TOPIC = 2
FOREVER = "-1"
TOMBSTONES_KEPT_MS = 7 * 86_400_000
"""How long a changelog keeps deletes for stores that have yet to see them (protocol 12)."""
INTERNAL_SEGMENT_BYTES = 50 * 2**20
TIMESTAMPS, APPEND = "message.timestamp.type", "LogAppendTime"
ANY_TIME = {"message.timestamp.after.max.ms": str(2**63 - 1)}
"""Event times ahead of the broker's clock are no error (known since Kafka 3.6)."""
PATIENCE_S = 15.0
RETRY_S = 0.05
HEARD_S = 0.1


class Topics:
    """The topics of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._offsets = Offsets(cluster)
        self._lane = cluster.lane("topics")
        self._declared: dict[str, TopicSpec] = {}
        self._wait_ms = cluster.config.request_timeout_ms

    # ── as they are ───────────────────────────────────────────────────────────────────────────────────────────────

    async def infos(
        self, names: Collection[str] | None, config: Mapping[str, Collection[str]] | None = None
    ) -> dict[str, TopicInfo]:
        """The topics of these names that exist; all but Kafka's own for None.  config: more settings to tell of."""
        found = await self._cluster.refresh(names)
        if names is not None and len(found) < len(set(names)):
            # A broker hears of a topic a moment after it was made elsewhere: taken for missing, it would be made anew.
            await asyncio.sleep(HEARD_S)
            found = await self._cluster.refresh(names)
        known = {name: each for name, each in found.items() if names is not None or not each.internal}
        more = config or {}
        configs = await self._configs({name: more.get(name, ()) for name in known})
        infos: dict[str, TopicInfo] = {}
        for name, held in configs.items():
            each, declared = known[name], self._declared.get(name)
            spec = TopicSpec(
                name,
                len(each.leaders),
                declared.kind if declared is not None else "user",
                _limit(held.get("retention.ms")) if "delete" in held.get("cleanup.policy", "delete") else None,
                _limit(held.get("retention.bytes")),
                "compact" in held.get("cleanup.policy", ""),
                timestamps="append" if held.get(TIMESTAMPS) == APPEND else "create",
                config=tuple((setting, held.get(setting, "unknown")) for setting in more.get(name, ())),
            )
            infos[name] = TopicInfo(spec, each.id)
        return infos

    async def _configs(self, names: Mapping[str, Collection[str]]) -> dict[str, dict[str, str]]:
        """The settings of each topic; of one that is deleted meanwhile there are none.

        A broker that hasn't heard of a new topic yet says that there is none: defaults, taken for its settings, would
        contradict what was declared.  So another one is asked until one knows it.  Raises LogUnavailable.
        """
        configs: dict[str, dict[str, str]] = {}
        loop = asyncio.get_running_loop()
        started = known_at = loop.time()
        while True:
            missing = sorted(names.keys() - configs.keys())
            if not missing or loop.time() > known_at + UNKNOWN_TOPIC_PATIENCE_S:
                return configs
            if loop.time() > started + self._wait_ms / 1000:
                raise LogUnavailable(
                    f"{self._cluster.url}: settings of topic {missing[0]}: its brokers don't know it yet"
                )
            asked = [
                (TOPIC, name, ["cleanup.policy", "retention.ms", "retention.bytes", TIMESTAMPS, *names[name]])
                for name in missing
            ]
            response = await self._cluster.send(self._cluster.any_node(), DescribeConfigsRequest(asked), self._lane)
            for code, _, _, name, entries in response.resources:
                if code == Code.NONE:
                    configs[name] = {entry[0]: entry[1] for entry in entries}
                elif code != Code.UNKNOWN_TOPIC_OR_PARTITION:
                    raise error_for(code, f"{self._cluster.url}: settings of topic {name}")
            if names.keys() > configs.keys():
                await asyncio.sleep(RETRY_S)
                if await self._cluster.refresh(missing):
                    known_at = loop.time()

    # ── made and removed ──────────────────────────────────────────────────────────────────────────────────────────

    async def create(self, specs: Sequence[TopicSpec]) -> None:
        """Create what is missing.  Raises TopicMismatch, before anything is created, where one exists otherwise."""
        for spec in specs:
            if spec.partitions < 1:
                raise ConfigurationError(f"topic {spec.name!r}: partitions={spec.partitions}; at least one is needed")
            if not spec.name:
                raise ConfigurationError("a topic has no name; give it one")
        config = {spec.name: [setting for setting, _ in spec.config] for spec in specs}
        held = await self.infos([spec.name for spec in specs], config)
        missing: dict[str, TopicSpec] = {}
        for spec in specs:
            info = held.get(spec.name)
            if info is not None:
                _check(spec, info.spec)
            elif missing.setdefault(spec.name, spec) != spec:
                _check(spec, missing[spec.name])
        self._declared.update({spec.name: spec for spec in specs})
        await self._create([(spec.name, spec.partitions, _config(spec)) for spec in missing.values()])

    async def _create(self, wanted: Sequence[tuple[str, int, Mapping[str, str]]]) -> None:
        if not wanted:
            return
        replication = self._cluster.config.replication
        entries: list[Any] = [
            (name, partitions, replication, [], list(config.items())) for name, partitions, config in wanted
        ]
        request = CreateTopicsRequest(entries, self._wait_ms, False)
        response = await self._cluster.send(self._cluster.any_node(), request, self._lane)
        plainer: list[tuple[str, int, Mapping[str, str]]] = []
        there: set[str] = set()
        for name, code, message in response.topic_errors:
            _, partitions, config = next(each for each in wanted if each[0] == name)
            if code == INVALID_CONFIG and ANY_TIME.items() <= config.items():
                plainer.append((name, partitions, {key: config[key] for key in config if key not in ANY_TIME}))
            elif code == Code.TOPIC_ALREADY_EXISTS:  # another worker was quicker, and may want fewer partitions
                there.add(name)
            elif code != Code.NONE:
                raise _refused(
                    code, f"{self._cluster.url}: creating topic {name} with {partitions} partitions", message
                )
        await self._create(plainer)
        made = [
            TopicPartition(name, number)
            for name, partitions, _ in wanted
            for number in range(1 if name in there else partitions)
        ]
        await self._cluster.leaders(made, anew=True, patience_s=PATIENCE_S)

    async def ensure_slots(self, topic: str, slots: int) -> None:
        """See to it that a topic of checkpoints has so many partitions."""
        found = (await self._cluster.refresh([topic])).get(topic)
        if found is None:
            config = {
                "cleanup.policy": "compact",
                "retention.ms": FOREVER,
                "segment.bytes": str(16 * 2**20),
                "min.cleanable.dirty.ratio": "0.1",
            }
            await self._create([(topic, slots, config)])
            found = (await self._cluster.refresh([topic])).get(topic)
        if found is not None and len(found.leaders) >= slots:
            return
        request = CreatePartitionsRequest([(topic, (slots, None))], self._wait_ms, False)
        response = await self._cluster.send(self._cluster.any_node(), request, self._lane)
        for name, code, message in response.topic_errors:
            if code not in (Code.NONE, Code.INVALID_PARTITIONS):  # another worker may have been quicker
                raise _refused(code, f"{self._cluster.url}: {slots} partitions for {name}", message)
        at = [TopicPartition(topic, number) for number in range(slots)]
        await self._cluster.leaders(at, anew=True, patience_s=PATIENCE_S)

    async def delete(self, names: Collection[str]) -> None:
        """Remove topics; returns when the brokers no longer know them."""
        there = list(await self._cluster.refresh(names))
        if not there:
            return
        request = DeleteTopicsRequest(there, self._wait_ms)
        response = await self._cluster.send(self._cluster.any_node(), request, self._lane)
        for name, code, *_ in response.topic_error_codes:
            if code not in (Code.NONE, Code.UNKNOWN_TOPIC_OR_PARTITION):
                raise _refused(code, f"{self._cluster.url}: deleting topic {name}", None)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while await self._cluster.refresh(names):
            if loop.time() > deadline:
                raise LogUnavailable(
                    f"{self._cluster.url}: topics {', '.join(there)} are still being deleted; try again"
                )
            await asyncio.sleep(RETRY_S)
        for name in names:
            self._declared.pop(name, None)

    async def check(self) -> None:
        """See whether the declared topics of users still are what they were: others may alter or delete them while the
        app runs.  Raises TopicMismatch (keys go to other partitions now), ConfigurationError (deleted)."""
        declared = {name: spec for name, spec in self._declared.items() if spec.kind == "user"}
        if not declared:
            return
        found = await self._cluster.refresh(declared)
        for name, spec in declared.items():
            if name in found:
                _check(spec, replace(spec, partitions=len(found[name].leaders)))
                continue
            try:
                await self._cluster.leaders([TopicPartition(name, 0)])
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"{self._cluster.url}: topic {name!r} was deleted while the app ran; create it again, and if the "
                    f"app has read from it, start over with `streams reset`"
                ) from error

    async def trim(self, positions: Positions) -> None:
        """Delete what lies before each position (KIP-107)."""
        if not positions:
            return
        leaders = await self._cluster.leaders(positions.keys())
        by_node: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for at, node in leaders.items():
            by_node.setdefault(node, {}).setdefault(at.topic, []).append((at.partition, positions[at].offset()))
        for node, topics in by_node.items():
            request = DeleteRecordsRequest(list(topics.items()), self._wait_ms)
            response = await self._cluster.send(node, request, self._lane)
            for topic, partitions, *_ in response.topics:
                for number, _, code, *_ in partitions:
                    if code in MOVED:
                        self._cluster.moved([topic])
                    elif code == Code.OFFSET_OUT_OF_RANGE:  # past the end: all of it, then
                        at = TopicPartition(topic, number)
                        await self._trim_to_end(node, at, positions[at].offset())
                    elif code != Code.NONE:
                        raise error_for(code, f"{self._cluster.url}: trimming {topic}[{number}]")

    async def _trim_to_end(self, node: int, at: TopicPartition, offset: int) -> None:
        # Never all up to the high watermark: that of a new leader lies behind for a moment, so that an offset well
        # before the end is refused; by the next request it may have gone on past records that nobody has read.
        end = (await self._offsets.ends([at]))[at]
        request = DeleteRecordsRequest([(at.topic, [(at.partition, min(offset, end))])], self._wait_ms)
        await self._cluster.send(node, request, self._lane)


def _refused(code: int, what: str, message: str | None) -> Exception:
    error = error_for(code, what)
    if isinstance(error, LogUnavailable) and code not in (Code.REQUEST_TIMED_OUT,):
        return ConfigurationError(f"{what}: {name_of(code)}{f': {message}' if message else ''}")
    return error


def _limit(text: str | None) -> int | None:
    return None if text is None or text == FOREVER else int(text)


def _config(spec: TopicSpec) -> dict[str, str]:
    """The settings that make Kafka keep what the declaration says."""
    policy = ["compact"] if spec.compact else []
    if not spec.compact or spec.retention_ms is not None or spec.retention_bytes is not None:
        policy.append("delete")
    config = {
        "cleanup.policy": ",".join(policy),
        "retention.ms": FOREVER if spec.retention_ms is None else str(spec.retention_ms),
        "retention.bytes": FOREVER if spec.retention_bytes is None else str(spec.retention_bytes),
        TIMESTAMPS: APPEND if spec.timestamps == "append" else "CreateTime",
        **ANY_TIME,
    }
    if spec.kind != "user":
        config["segment.bytes"] = str(INTERNAL_SEGMENT_BYTES)
    if spec.kind == "changelog":
        config["delete.retention.ms"] = str(TOMBSTONES_KEPT_MS)
    return {**config, **dict(spec.config)}


def _check(asked: TopicSpec, held: TopicSpec) -> None:
    """Raise TopicMismatch, naming both values.  What a user's topic doesn't declare may be as the cluster has it."""
    for name in ("partitions", "compact", "retention_ms", "retention_bytes", "timestamps"):
        is_value, asked_value = getattr(held, name), getattr(asked, name)
        undeclared = asked_value is None and asked.kind == "user"
        if is_value != asked_value and not undeclared:
            raise TopicMismatch(
                f"topic {asked.name!r}: {name} is {is_value} on the log and {asked_value} in the app; declare it as "
                f"it is, or alter the topic"
            )
    for (name, asked_text), (_, held_text) in zip(asked.config, held.config, strict=False):
        if asked_text != held_text:
            raise TopicMismatch(
                f"topic {asked.name!r}: {name} is {held_text} on the log and {asked_text} in the app; declare it as it "
                f"is, or alter the topic"
            )
