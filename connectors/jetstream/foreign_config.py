"""Settings of topics that are somebody else's streams, and the URLs that carry them.

    jetstream://host/ORDERS?subjects=orders.*.created&key=subject&start=last_per_subject     to read
    jetstream://host/ALERTS?subject=alerts.{key}                                             to write
    nats-kv://host/config                                                                    a KV bucket
    nats-object://host/reports?max_object_bytes=1000000                                      an object store

What must live here: names, defaults, parsing, matching of subjects.  What must not: connecting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from streams.connectors.jetstream.config import NatsConfig, parse_url
from streams.core.urls import pairs_of, quoted, without_secrets
from streams.errors import ConfigurationError

__all__ = ["ForeignConfig", "Kind", "covers", "overlap", "parse_foreign"]

Kind = Literal["stream", "kv", "object"]
KINDS: dict[str, Kind] = {"jetstream": "stream", "nats-kv": "kv", "nats-object": "object"}
_SUBJECT = re.compile(r"[^\s]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignConfig:
    """How a stream of others is read and written.

    subjects: what to read of it, a partition each; () for all of it, in one.
    key: what the key of a record is that has no ``Streams-Key``.
    start: "last_per_subject" begins with the last message of each subject where ``start="earliest"`` would begin at the
    first one.
    subject: where records go; {key} and {subject} stand for the record's.  "" for the only subject of the stream.
    unsure: what to do with records of which nothing shows any more whether they were stored.
    max_object_bytes: the largest object that is read.
    """

    nats: NatsConfig
    shown: str
    kind: Kind = "stream"
    subjects: tuple[str, ...] = ()
    key: Literal["subject", "none"] = "subject"
    start: Literal["earliest", "last_per_subject"] = "earliest"
    subject: str = ""
    unsure: Literal["fail", "resend", "skip"] = "fail"
    max_object_bytes: int = 8 * 2**20
    given: frozenset[str] = field(default_factory=frozenset)

    def stream(self, topic: str) -> str:
        """The stream behind a topic."""
        return {"stream": "", "kv": "KV_", "object": "OBJ_"}[self.kind] + topic


_CHOICES: dict[str, tuple[str, ...]] = {
    "key": ("subject", "none"),
    "start": ("earliest", "last_per_subject"),
    "unsure": ("fail", "resend", "skip"),
}
_OF_KIND: dict[Kind, tuple[str, ...]] = {
    "stream": ("subjects", "subject", "key", "start", "unsure"),
    "kv": ("start", "unsure"),
    "object": ("start", "unsure", "max_object_bytes"),
}


def parse_foreign(url: str) -> ForeignConfig:
    """Raises ConfigurationError, without secrets."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    kind = KINDS[scheme]
    shown = without_secrets(url)
    found: dict[str, Any] = {} if kind == "stream" else {"start": "last_per_subject"}
    others: list[str] = []
    given = set()
    for name, value in pairs_of(query):
        if name not in ("subjects", "subject", "key", "start", "unsure", "max_object_bytes"):
            others.append(f"{name}={quoted(value)}")
            continue
        if name not in _OF_KIND[kind]:
            raise ConfigurationError(f"{shown}: {name} is no setting of {scheme}://; there are {_names(kind)}")
        given.add(name)
        if name == "subjects":
            found[name] = _filters(value, shown)
        elif name == "max_object_bytes":
            if not value.isdigit() or not int(value):
                raise ConfigurationError(f"{shown}: {name}={value}: a number of bytes is needed")
            found[name] = int(value)
        elif name == "subject":
            found[name] = _template(value, shown)
        elif value in _CHOICES[name]:
            found[name] = value
        else:
            raise ConfigurationError(f"{shown}: {name}={value}: it is one of {', '.join(_CHOICES[name])}")
    nats = parse_url(f"nats://{place}" + (f"?{'&'.join(others)}" if others else ""))
    shown = nats.shown.replace("nats://", f"{scheme}://", 1)
    return ForeignConfig(nats=nats, shown=shown, kind=kind, given=frozenset(given), **found)


def _names(kind: Kind) -> str:
    return ", ".join(_OF_KIND[kind])


def _filters(value: str, shown: str) -> tuple[str, ...]:
    filters = tuple(value.split(","))
    for number, one in enumerate(filters):
        if not _valid(one):
            raise ConfigurationError(f"{shown}: subjects={value}: {one!r} is no subject; write orders.*.made, or a.>")
        for other in filters[:number]:
            if overlap(one, other):
                raise ConfigurationError(
                    f"{shown}: subjects={value}: {other} and {one} have subjects in common, so messages would be read "
                    f"twice; each one is a partition of its own"
                )
    return filters


def _template(value: str, shown: str) -> str:
    plain = value.replace("{key}", "x").replace("{subject}", "x")
    if not _valid(plain) or set(plain) & set("*>{}"):
        raise ConfigurationError(
            f"{shown}: subject={value}: it names one subject, with {{key}} or {{subject}} for the record's, as in "
            f"alerts.{{key}}"
        )
    return value


def _valid(subject: str) -> bool:
    tokens = subject.split(".")
    return _SUBJECT.fullmatch(subject) is not None and all(tokens) and ">" not in tokens[:-1]


def covers(filter: str, subject: str) -> bool:
    """Whether a subject without wildcards is one of a filter's."""
    wanted, tokens = filter.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(one in ("*", other) for one, other in zip(wanted, tokens, strict=True))


def overlap(one: str, other: str) -> bool:
    """Whether two filters have a subject in common."""
    left, right = one.split("."), other.split(".")
    for first, second in zip(left, right, strict=False):
        if ">" in (first, second):
            return True
        if first != second and "*" not in (first, second):
            return False
    return len(left) == len(right)
