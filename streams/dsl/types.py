"""What is known of the types in a pipeline, and how values of an undeclared type cross the log."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, get_type_hints

from streams.core.duration import Duration, to_epoch_ms
from streams.core.graph import Start
from streams.core.policy import Action
from streams.core.spread import How
from streams.dsl.codec import Codec, value_codec
from streams.errors import ConfigurationError

T = TypeVar("T")

Kind: TypeAlias = type[T] | Codec[T]
"""What ``key=`` and ``value=`` take, as far as a type checker can infer from it; unions and the like count as Any."""


AgentFunction: TypeAlias = Callable[..., Any]
"""``async def agent(events)``, with or without ``yield``."""


StartAt: TypeAlias = Literal["earliest", "latest"] | datetime | float | Mapping[int, int]
"""What ``start=`` takes: see ``App.stream``."""


class AgentSettings(TypedDict, total=False):
    """The settings of ``App.agent``: sinks are Topics or names, tables are Tables."""

    name: str
    concurrency: int
    sinks: Iterable[Any]
    tables: Iterable[Any]


class TopicSettings(TypedDict, total=False):
    """The settings of ``App.topic`` that don't bear on its types."""

    partitions: int | None
    retention: Duration | None
    retention_bytes: int | None
    compact: bool | None
    partitioner: How
    timestamps: Literal["create", "append"] | None
    config: Mapping[str, object] | None
    label: str | None
    qos: Literal[0, 1, 2] | None
    retain: bool | None


class StreamSettings(TypedDict, total=False):
    """The settings of ``App.stream`` that don't bear on its types; ``dead_letters`` is a Topic or a name."""

    out_of_orderness: Duration
    idle_after: Duration | None
    on_error: Action
    dead_letters: Any
    on_lost: Literal["fail", "earliest"]
    start: StartAt
    tombstones: bool


class Unknown:
    """The type of values that nobody declared."""


def returned_type(fn: Callable[..., Any], otherwise: Any = Unknown) -> Any:
    """The annotated return type of a function; a class returns itself."""
    if inspect.isclass(fn):
        return fn
    try:
        return get_type_hints(fn).get("return", otherwise)
    except (NameError, TypeError):
        return otherwise


_PLAIN = (dict, list, str, int, float, bool, type(None))


def writable_codec(known: Any, what: str) -> Codec[Any]:
    """The codec of a stream's values.  Of an undeclared type only what JSON gives back unchanged is let through."""
    if known is not Unknown:
        return value_codec(known)
    plain = value_codec(None)
    encode = plain.encode

    def encode_plain(value: Any) -> bytes:
        if type(value) not in _PLAIN:
            raise TypeError(
                f"{what}: a {type(value).__name__} would come back as plain JSON; declare the type with value="
                f"{type(value).__name__}, or annotate what the function before it returns"
            )
        return encode(value)

    return Codec(plain.name, plain.decode, encode_plain, plain.schema)


def checked_start(start: StartAt, what: str) -> Start:
    """Where to begin, as the core has it.  Raises ConfigurationError for what says nothing."""
    if isinstance(start, str) and start in ("earliest", "latest"):
        return "earliest" if start == "earliest" else "latest"
    if isinstance(start, datetime | int | float) and not isinstance(start, bool):
        return to_epoch_ms(start)
    if isinstance(start, Mapping) and all(type(each) is int and each >= 0 for pair in start.items() for each in pair):
        return dict(start)
    raise ConfigurationError(
        f"{what}: start is 'earliest', 'latest', a time (a datetime, or ms) or {{partition: offset}}, not {start!r}"
    )
