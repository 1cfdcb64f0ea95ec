"""From the file of a bridge to an app: a pipeline for each source and target of a route.

    source ── bytes ──▶ chosen by topic ──▶ decoded, keyed, encoded ──▶ target
                 └─ what can't be ──▶ dead letters, in the same commit

What must live here: that.  What must not: reading the file (``config``), wildcards and templates (``patterns``).

A payload is decoded where it has to be: for another encoding, or for a key that stands in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from streams.apps.bridge.config import BridgeConfig, Format, Place, RouteConfig, read_config
from streams.apps.bridge.patterns import Fill, chooser, template
from streams.core.capability import Guarantee
from streams.core.message import Message
from streams.dsl.app import App
from streams.dsl.codec import Codec, value_codec
from streams.dsl.foreign import EDGES
from streams.dsl.topic import Topic
from streams.errors import ConfigurationError
from streams.runtime.draw import place_of

__all__ = ["make_bridge"]

logger = logging.getLogger("streams")

BY_SUBJECT = ("jetstream", "nats-kv", "nats-object")
"""Logs of others whose records have the subject that they came on as key."""


class Out(NamedTuple):
    """A record on its way to a target, encoded."""

    key: bytes | None
    value: bytes | None


FORMATS: dict[Format, Codec[Any]] = {
    "bytes": value_codec(bytes),
    "text": value_codec(str),
    "json": value_codec(None),
    "msgpack": Codec("msgpack", msgspec.msgpack.Decoder().decode, msgspec.msgpack.Encoder().encode),
}
ENCODED: Codec[Any] = Codec("bytes", FORMATS["bytes"].decode, itemgetter(1))
"""Of every topic, so that one may be in several routes: read as bytes, written as ``Out``, whose None is a deletion."""


def make_bridge(config: Mapping[str, Any]) -> App:
    """The app of a bridge.  config: its file, as ``tomllib`` reads it.  Raises ConfigurationError, naming the route."""
    read = read_config(config)
    app = _app(read)
    ways: list[_Way] = []
    for number, route in enumerate(read.routes, 1):
        try:
            ways += _add(app, route, number)
        except ConfigurationError as error:
            raise ConfigurationError(f"route {number}: {error}") from error

    @app.on_start
    async def say() -> None:
        for way in ways:
            logger.info("app %s: route %d: %s", app.name, way.route, _promise(app, way))

    return app


def _app(read: BridgeConfig) -> App:
    return App(
        read.name,
        log=read.log,
        version=read.version,
        partitions=read.partitions,
        commit_interval=read.commit_interval,
        guarantee=read.guarantee,
        state_dir=read.state_dir,
    )


@dataclass(frozen=True, slots=True)
class _Way:
    """One pipeline of a route."""

    route: int
    source: Topic[Any, Any]
    target: Topic[Any, Any]


def _add(app: App, route: RouteConfig, number: int) -> list[_Way]:
    ways = []
    targets = [_target(app, to) for to in _places(route.targets)]
    letters = [_target(app, to) for to in _places(route.dead_letters)]
    for source in [_source(app, each) for each in _places(route.sources)]:
        stream = app.stream(
            source,
            on_error="dead_letter" if letters else route.on_error or "fail",
            dead_letters=letters[0] if letters else None,
            start=route.start,
            on_lost=route.on_lost,
            tombstones=True,
        )
        address, separator = _address(source)
        pairs = stream.items()
        if route.include or route.exclude:
            pairs = pairs.filter(_choice(chooser(route.include, route.exclude, separator), address))
        fill = None if route.key is None else template(route.key, separator)
        converted = pairs.map(_conversion(route, fill, address), value=Out)
        for target in targets:
            converted.to(target, key=None if fill is None else itemgetter(0))
            ways.append(_Way(number, source, target))
    return ways


def _places(given: str | Place | list[str | Place] | None) -> list[Place]:
    several = given if isinstance(given, list) else [] if given is None else [given]
    return [each if isinstance(each, Place) else Place(topic=each) for each in several]


def _source(app: App, place: Place) -> Topic[Any, Any]:
    at_edge = place.topic.partition(":")[0] in EDGES
    return _topic(app, place, _came_on if at_edge else bytes)


def _target(app: App, place: Place) -> Topic[Any, Any]:
    return _topic(app, place, bytes)


def _topic(app: App, place: Place, key: Any) -> Topic[Any, Any]:
    return app.topic(
        place.topic,
        key=key,
        value=ENCODED,
        label=place.label,
        partitions=place.partitions,
        retention=place.retention,
        compact=place.compact,
    )


def _came_on(message: Message) -> bytes:
    return message.topic.encode()


def _address(source: Topic[Any, Any]) -> tuple[Callable[[bytes | None], str], str]:
    """(from a record's key to the topic that it came on, what is between the levels of such a topic)."""
    scheme, spec = source.spec.location.partition(":")[0], source.spec
    if scheme in EDGES or scheme in BY_SUBJECT:
        return lambda key: (key or b"").decode(), "/" if EDGES.get(scheme) == "Mqtt-Topic" else "."
    return lambda key: spec.name_there, "."


def _choice(
    chosen: Callable[[str], bool], address: Callable[[bytes | None], str]
) -> Callable[[tuple[bytes | None, bytes | None]], bool]:
    return lambda pair: chosen(address(pair[0]))


def _conversion(
    route: RouteConfig, fill: Fill | None, address: Callable[[bytes | None], str]
) -> Callable[[tuple[bytes | None, bytes | None]], Out]:
    """From a record as it came to what is written.  A payload is decoded only for another encoding or a key in it."""
    encode = None if route.encode is None else FORMATS[route.encode].encode
    in_value = route.key is not None and "{value" in route.key
    name = route.decode or ("json" if in_value or route.encode is not None else "bytes")
    decode = FORMATS[name].decode

    def convert(pair: tuple[bytes | None, bytes | None]) -> Out:
        key, raw = pair
        value = None if raw is None else decode(raw)
        body = raw if raw is None or encode is None else encode(value)
        return Out(key if fill is None else fill(address(key), key, value).encode(), body)

    return convert


def _promise(app: App, way: _Way) -> str:
    """What holds from end to end; where that isn't exactly once, of each half."""
    come = app.running.promised(way.source.spec, written=False)
    go = app.running.promised(way.target.spec, written=True)
    both = f"{place_of(way.source.spec)} to {place_of(way.target.spec)}"
    if come.guarantee is go.guarantee is Guarantee.EXACTLY_ONCE:
        return f"{both}: exactly once ({come.why}; {go.why})"
    return f"{both}: in {come.guarantee.value} ({come.why}), out {go.guarantee.value} ({go.why})"
