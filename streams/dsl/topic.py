"""Topics as users declare them.

What must live here: the declaration and what may be sent.  What must not: what becomes of it on a log (``settle``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from streams.core.batch import OWN_HEADERS
from streams.core.duration import Duration, parse_duration_ms
from streams.core.log import TopicSpec
from streams.core.message import Message
from streams.core.record import Headers, Records
from streams.core.spread import BY_KEY, How
from streams.core.urls import quoted, without_secrets
from streams.core.watermark import MARK_HEADER, Mark, encode_mark
from streams.dsl.codec import Codec, value_codec
from streams.dsl.foreign import edge_label, split_edge, split_location
from streams.dsl.keys import key_codec
from streams.dsl.naming import check_name, check_partitions, check_plain
from streams.dsl.types import returned_type
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.dsl.app import App

K = TypeVar("K")
V = TypeVar("V")


class Topic(Generic[K, V]):
    """A named sequence of records on the app's log.  Made by ``App.topic``.

    declared: as the app says.  undeclared: the settings in it that are only defaults.  spec: as it is to be; while the
    app runs, with what the log has in place of defaults.  key_of: finds the key of what a transport brings; None where
    a record has its own.
    """

    def __init__(
        self,
        app: App,
        spec: TopicSpec,
        key_codec: Codec[K],
        value_codec: Codec[V],
        value_type: Any,
        key_type: Any = None,
        undeclared: frozenset[str] = frozenset(),
        key_of: Callable[[Message], Any] | None = None,
    ) -> None:
        self.app = app
        self.spec = self.declared = spec
        self.undeclared = undeclared
        self.key_codec = key_codec
        self.value_codec = value_codec
        self.value_type = value_type
        self.key_type = key_type
        self.key_of = key_of

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def read_key(self) -> Callable[[Message], bytes] | None:
        """A record as it came to the key that it is read under, encoded; None where that is its own."""
        find, encode = self.key_of, self.key_codec.encode
        return None if find is None else lambda message: encode(find(message))

    def __repr__(self) -> str:
        return f"Topic({self.name!r}, partitions={self.spec.partitions})"

    async def send(
        self,
        value: V | None,
        *,
        key: K | None = None,
        timestamp: int | None = None,
        headers: Mapping[str, bytes | str] | None = None,
    ) -> None:
        """Append one record, outside of any task; returns once the log has it.

        For start-up code, HTTP handlers and timers.  Inside an agent it is an external effect, which a re-run
        repeats: there ``yield`` is the exactly-once way.  ``timestamp`` is in ms, now by default; None as value is a
        tombstone; ``headers`` travel beside the value.  Raises RuntimeError when the app isn't running.
        """
        await self.send_many([(key, value)], timestamp=timestamp, headers=headers)

    async def send_many(
        self,
        items: list[tuple[K | None, V | None]],
        *,
        timestamp: int | None = None,
        headers: Mapping[str, bytes | str] | None = None,
    ) -> None:
        """As ``send``, for many (key, value) pairs in one write; each gets the same headers."""
        running = self.app.running
        at = running.now_ms() if timestamp is None else timestamp
        await running.produce(self.spec, self.encode(items, [at] * len(items), headers))

    async def send_watermark(self, time: int) -> None:
        """Promise that no record with an event time below ``time`` (ms) will come: windows before it close.

        Goes to every partition, in-band, as a record without key that readers of this project understand.
        """
        running = self.app.running
        await running.produce_marks(self.spec, watermark_record(time, running.now_ms()))

    def encode(
        self,
        items: list[tuple[K | None, V | None]],
        times: list[int],
        headers: Mapping[str, bytes | str] | None = None,
    ) -> Records:
        """Columns of encoded records.  Raises ConfigurationError, naming the item, for what can't be encoded."""
        keys: list[bytes | None] = []
        values: list[bytes | None] = []
        for key, value in items:
            try:
                keys.append(None if key is None else self.key_codec.encode(key))
                values.append(None if value is None else self.value_codec.encode(value))
            except (TypeError, ValueError) as error:
                raise ConfigurationError(
                    f"topic {self.name}: can't send {value!r:.80} under key {key!r}: {error}"
                ) from error
        return Records(keys, values, times, [self._headers(headers)] * len(items) if headers else None)

    def _headers(self, given: Mapping[str, bytes | str]) -> Headers:
        for name, content in given.items():
            if not isinstance(name, str) or not isinstance(content, bytes | str):
                raise ConfigurationError(f"topic {self.name}: header {name!r}: {content!r} is neither bytes nor text")
            if name.startswith(OWN_HEADERS):
                raise ConfigurationError(f"topic {self.name}: header {name!r}: names from {OWN_HEADERS!r} on are taken")
        return tuple((name, one.encode() if isinstance(one, str) else one) for name, one in given.items())


def _place(name: str, label: str | None, settings: Mapping[str, object]) -> tuple[str, str, str, str]:
    """(location, address, there, name) of a topic as users write it: see ``TopicSpec``.

    label: what it is called in the app.  settings: those of a transport, None for what wasn't given.
    """
    given = "&".join(f"{each}={quoted(_as_text(value))}" for each, value in settings.items() if value is not None)
    edge = split_edge(name)
    if edge is not None:
        location, address = edge
        location += ("&" if "?" in location else "?") + given if given else ""
        return location, address, "", edge_label(address) if label is None else label
    if given:
        raise ConfigurationError(f"topic {without_secrets(name)}: {given} is a setting of topics of MQTT")
    location, there = split_location(name)
    if label is None or label == there:
        return location, "", "", there
    if not location:
        raise ConfigurationError(f"topic {name}: label={label!r}: on the app's own log a topic has its name, no other")
    return location, "", there, label


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _checked(partitioner: How, topic: str) -> How:
    if callable(partitioner) or partitioner in ("key", "round_robin", "random"):
        return partitioner
    raise ConfigurationError(
        f"topic {topic}: partitioner is 'key', 'round_robin', 'random' or a function (key, partitions) → partition, "
        f"not {partitioner!r}"
    )


def watermark_record(time: int, now_ms: int) -> Records:
    """A producer's watermark as a record."""
    return Records([None], [encode_mark(Mark("", time))], [now_ms], [((MARK_HEADER, b""),)])


def declare_topic(
    app: App,
    name: str,
    *,
    key: Any = None,
    value: Any = None,
    partitions: int | None = None,
    retention: Duration | None = None,
    retention_bytes: int | None = None,
    compact: bool | None = None,
    partitioner: How = BY_KEY,
    timestamps: Literal["create", "append"] | None = None,
    config: Mapping[str, object] | None = None,
    label: str | None = None,
    qos: int | None = None,
    retain: bool | None = None,
    compacted: bool = False,
) -> Topic[Any, Any]:
    """What ``App.topic`` does.  ``compacted``: whether a topic is made so where neither app nor log says."""
    location, address, there, name = _place(name, label, {"qos": qos, "retain": retain})
    if address:
        partitions = 1 if partitions is None else partitions  # what comes is in one order; more share it out
        given = {"retention": retention, "retention_bytes": retention_bytes, "compact": compact, "config": config}
        for setting in [setting for setting, value in {**given, "timestamps": timestamps}.items() if value]:
            raise ConfigurationError(
                f"topic {name}: {setting} is a setting of topics on a log, and a transport keeps nothing"
            )
    retention_ms = None if retention is None else parse_duration_ms(retention, "retention")
    said = {
        "partitions": partitions,
        "retention_ms": retention_ms,
        "retention_bytes": retention_bytes,
        "compact": compact,
        "timestamps": timestamps,
    }
    if timestamps not in (None, "create", "append"):
        raise ConfigurationError(f"topic {name}: timestamps is 'create' or 'append', not {timestamps!r}")
    spec = TopicSpec(
        check_name(name, "a topic"),
        check_partitions(partitions, app.partitions, f"topic {name}"),
        "user",
        retention_ms,
        retention_bytes,
        compacted if compact is None else compact,
        location,
        timestamps or "create",
        tuple(sorted((setting, _as_text(given)) for setting, given in (config or {}).items())),
        address,
        there,
    )
    undeclared = frozenset(field for field, given in said.items() if given is None)
    key, key_of = _key_of(name, key, at_edge=bool(address))
    keys, values = key_codec(key).at(name, "key"), value_codec(value).at(name)
    topic: Topic[Any, Any] = Topic(app, spec, keys, values, value, key, undeclared, key_of)
    known = app.topics.setdefault(name, topic)
    _check_same(known, topic)
    known.undeclared &= undeclared
    if partitioner != BY_KEY:
        app.spreads[name] = _checked(partitioner, name)
    return known


def _key_of(name: str, key: Any, *, at_edge: bool) -> tuple[Any, Callable[[Message], Any] | None]:
    """(type of the keys, what finds them), of what ``key=`` says."""
    if not (inspect.isroutine(key) or isinstance(key, partial)):
        return key, None
    if not at_edge:
        raise ConfigurationError(
            f"topic {name}: a function as key is for topics of a transport; on a log a record has its key: say its "
            f"type here, and give the values another key with .key_by(…)"
        )
    check_plain(key, f"topic {name}: its key")
    return returned_type(key, None), key


def _check_same(known: Topic[Any, Any], topic: Topic[Any, Any]) -> None:
    """Raise where two topics that bear one name aren't the same."""
    both = (known.declared, topic.declared)
    first, second = ((spec.location, spec.address, spec.there) for spec in both)
    if first != second:
        places = " and ".join(without_secrets(spec.location) or "the app's own log" for spec in both)
        addresses = " and ".join(repr(spec.address) for spec in both if spec.address)
        raise ConfigurationError(
            f"topic {topic.name!r}{f' ({addresses})' if addresses else ''} is declared on {places}; an app knows a "
            f"topic by its name alone, so give one of them that lies elsewhere another, as in label='{topic.name}-2'"
        )
    if _settings(known) != _settings(topic):
        raise ConfigurationError(
            f"topic {topic.name!r} is declared twice with different settings; declare it once and pass the Topic on"
        )


def _settings(topic: Topic[Any, Any]) -> tuple[object, ...]:
    return topic.declared, topic.value_codec.schema, topic.key_codec.schema, topic.key_of
