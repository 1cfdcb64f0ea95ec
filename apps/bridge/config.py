"""What the file of a bridge may say.

What must live here: names, types and defaults, checked strictly.  What must not: what becomes of them (``routes``).

    name = "plant"                              # of what the bridge keeps on its log
    log = "embedded:./bridge"

    [[routes]]
    from = "mqtt://localhost/plant/#?qos=2"     # one or a list; {topic = "…", label = "…", partitions = 4} says more
    to = "kafka://broker:9092/readings"
    include = ["plant/+/temperature"]
    key = "{topic[1]}"
    decode = "json"
    encode = "msgpack"
    dead_letters = "rejected"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from streams.errors import ConfigurationError

__all__ = ["BridgeConfig", "Format", "Place", "RouteConfig", "read_config"]

Format = Literal["bytes", "text", "json", "msgpack"]


class Place(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A topic with more than its name.  label, partitions, retention, compact: see ``App.topic``."""

    topic: str
    label: str | None = None
    partitions: int | None = None
    retention: str | None = None
    compact: bool | None = None


class RouteConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """From topics to topics.

    include, exclude: of the topics that a source brings only those that match one of the first (all, if there are none)
    and none of the second.  key: a template; None keeps the key.  decode, encode: what payloads are, and become.
    on_error: of what doesn't decode or has no such key; with ``dead_letters`` it goes there.
    start, on_lost: see ``App.stream``.
    """

    sources: str | Place | list[str | Place] = msgspec.field(name="from")
    targets: str | Place | list[str | Place] = msgspec.field(name="to")
    include: list[str] = []
    exclude: list[str] = []
    key: str | None = None
    decode: Format | None = None
    encode: Format | None = None
    on_error: Literal["fail", "skip"] | None = None
    dead_letters: str | Place | None = None
    start: Literal["earliest", "latest"] = "earliest"
    on_lost: Literal["fail", "earliest"] = "fail"


class BridgeConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The whole file.  All but the routes is as of ``App``."""

    routes: list[RouteConfig]
    name: str = "bridge"
    log: str | None = None
    version: int = 1
    partitions: int = 1
    commit_interval: str = "100ms"
    guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once"
    state_dir: str | None = None


def read_config(config: Mapping[str, Any]) -> BridgeConfig:
    """Raises ConfigurationError, which says where."""
    try:
        found = msgspec.convert(config, BridgeConfig)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{error}".replace("$.", "").replace(" - at `", ": in `")) from None
    if not found.routes:
        raise ConfigurationError("a bridge needs a route; write [[routes]] with from = … and to = …")
    return found
