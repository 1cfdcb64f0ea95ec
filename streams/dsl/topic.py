"""Topics as users declare them.

What must live here: the declaration and what may be sent.  What must not: what becomes of it on a log (``settle``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from streams.core.batch import OWN_HEADERS
from streams.core.duration import Duration, parse_duration_ms
from streams.core.log import TopicSpec
from streams.core.record import Headers, Records
from streams.core.spread import BY_KEY, How
from streams.core.urls import without_secrets
from streams.core.watermark import MARK_HEADER, Mark, encode_mark
from streams.dsl.codec import Codec, value_codec
from streams.dsl.foreign import edge_label, split_edge, split_location
from streams.dsl.keys import key_codec
from streams.dsl.naming import check_name, check_partitions
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.dsl.app import App

K = TypeVar("K")
V = TypeVar("V")


class Topic(Generic[K, V]):
    """A named sequence of records on the app's log.  Made by ``App.topic``.

    declared: as the app says.  undeclared: the settings in it that are only defaults.  spec: as it is to be; while the
    app runs, with what the log has in place of defaults.
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
    ) -> None:
        self.app = app
        self.spec = self.declared = spec
        self.undeclared = undeclared
        self.key_codec = key_codec
        self.value_codec = value_codec
        self.value_type = value_type
        self.key_type = key_type

    @property
    def name(self) -> str:
        return self.spec.name

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


def _place(name: str) -> tuple[str, str, str]:
    """(location, address, name) of a topic as users write it."""
    edge = split_edge(name)
    if edge is not None:
        return *edge, edge_label(edge[1])
    return (split := split_location(name))[0], "", split[1]


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
    compacted: bool = False,
) -> Topic[Any, Any]:
    """What ``App.topic`` does.  ``compacted``: whether a topic is made so where neither app nor log says."""
    location, address, name = _place(name)
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
    )
    undeclared = frozenset(field for field, given in said.items() if given is None)
    keys, values = key_codec(key).at(name, "key"), value_codec(value).at(name)
    topic: Topic[Any, Any] = Topic(app, spec, keys, values, value, key, undeclared)
    known = app.topics.setdefault(name, topic)
    if (known.declared.location, known.declared.address) != (location, address):
        both = (known.declared, spec)
        places = " and ".join(without_secrets(each.location) or "the app's own log" for each in both)
        addresses = " and ".join(repr(each.address) for each in both if each.address)
        raise ConfigurationError(
            f"topic {name!r}{f' ({addresses})' if addresses else ''} is declared on {places}; an app knows a topic by "
            f"its name alone, so one of them has to bear another"
            f"{', or to be in another app, with a topic of the log between the two' if addresses else ''}"
        )
    if (known.declared, known.value_codec.schema, known.key_codec.schema) != (
        spec,
        topic.value_codec.schema,
        topic.key_codec.schema,
    ):
        raise ConfigurationError(
            f"topic {name!r} is declared twice with different settings; declare it once and pass the Topic on"
        )
    known.undeclared &= undeclared
    if partitioner != BY_KEY:
        app.spreads[name] = _checked(partitioner, name)
    return known
