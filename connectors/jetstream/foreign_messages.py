"""Records as messages of others' streams: their subject, and the headers that clients there understand.

What must live here: that form.  What must not: sending (``foreign_sink``).

The subject comes from the topic's setting, as in ``subject=alerts.{key}``; where that leaves it out, from the stream,
if it has a single subject.  What can't stand in a subject (spaces, wildcards, control characters) is escaped, as =20;
the whole key is in the header ``Streams-Key``.  In a KV bucket a tombstone is a deletion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from streams.connectors.jetstream.foreign_config import ForeignConfig, covers
from streams.connectors.jetstream.foreign_objects import object_messages
from streams.connectors.jetstream.messages import rows_of
from streams.core.log import Append
from streams.core.record import Headers, Records, TopicPartition
from streams.errors import ConfigurationError, DataError

__all__ = ["Form", "Wire", "form_of"]

Wire = tuple[str, bytes, bytes]
"""Subject, lines of headers, payload."""
_UNFIT = re.compile(r"[\x00-\x20*>\x7f]")
_UNFIT_KV = re.compile(r"[^-/_=.A-Za-z0-9]")
DELETED = b"KV-Operation: DEL\r\n"


def form_of(config: ForeignConfig, topic: str, stream: Mapping[str, Any]) -> Form:
    """How records of a topic are written to a stream.  Raises ConfigurationError where no subject follows."""
    held = list(stream["config"].get("subjects") or ())
    if config.kind == "kv":
        return Form(config, topic, f"$KV.{topic}.{{key}}", held)
    if config.kind == "object":
        return Form(config, topic, "", held)
    template = config.subject
    name = stream["config"]["name"]
    if not template:
        if len(held) != 1 or set(held[0].split(".")) & {"*", ">"}:
            raise ConfigurationError(
                f"{config.shown}/{topic}: the stream {name} takes {', '.join(held) or 'no subjects'}; say which one "
                f"records go to, as in {config.shown}/{topic}?subject={_example(held)}"
            )
        template = held[0]
    elif "{" not in template and not any(covers(one, template) for one in held):
        raise ConfigurationError(
            f"{config.shown}/{topic}: stream {name} doesn't take the subject {template}; it takes {', '.join(held)}"
        )
    return Form(config, topic, template, held)


def _example(held: Sequence[str]) -> str:
    return held[0].replace(">", "{key}").replace("*", "{key}") if held else "orders.{key}"


class Form:
    """Writes records of one topic as messages."""

    def __init__(self, config: ForeignConfig, topic: str, template: str, held: Sequence[str]) -> None:
        self._config = config
        self._topic = topic
        self._template = template
        self._held = tuple(held)
        self._unfit = _UNFIT_KV if config.kind == "kv" else _UNFIT
        self._known: dict[tuple[bytes | None, bytes | None], str] = {}

    def messages(self, appends: Sequence[Append], name: str, number: int) -> list[Wire]:
        """The messages of some records, in order: the same ones for the same records.

        number: how many messages this task has delivered before; with ``name`` it names what has to have a name.
        Raises DataError for a record that no message can be made of.
        """
        found: list[Wire] = []
        for append in appends:
            if self._config.kind == "object":
                found.extend(object_messages(append, self._topic, name, number + len(found)))
                continue
            records = append.records
            origins = [_origin(headers) for headers in records.headers] if records.headers is not None else None
            if origins is not None:
                records = Records(
                    records.keys, records.values, records.timestamps, [_foreign(each) for each in records.headers or ()]
                )
            for row, (lines, payload) in enumerate(rows_of(records)):
                subject = self._subject(append.partition, records.keys[row], origins[row] if origins else None)
                deleted = self._config.kind == "kv" and records.values[row] is None
                found.append((subject, lines + DELETED if deleted else lines, payload))
        return found

    def _subject(self, at: TopicPartition, key: bytes | None, origin: bytes | None) -> str:
        known = self._known.get((key, origin))
        if known is not None:
            return known
        subject = self._template
        for place, part in (("{key}", key), ("{subject}", origin)):
            if place not in self._template:
                continue
            if not part:
                raise DataError(
                    f"{self._config.shown}/{at.topic}: a record has no {place[1:-1]}, which its subject "
                    f"{self._template} is made of; give it one with .key_by(…), or another subject="
                )
            text = self._unfit.sub(_escaped, part.decode(errors="backslashreplace"))
            subject = subject.replace(place, text)
        if not all(subject.split(".")) or not any(covers(one, subject) for one in self._held):
            raise DataError(
                f"{self._config.shown}/{at.topic}: the record with the key {key!r} would go to the subject {subject}, "
                f"which its stream doesn't take ({', '.join(self._held)}); change the key, or subject="
            )
        if len(self._known) >= 65_536:
            self._known.clear()
        self._known[key, origin] = subject
        return subject


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in found.group().encode())


def _origin(headers: Headers | None) -> bytes | None:
    """The subject that a record was read from."""
    for name, value in headers or ():
        if name == "Nats-Subject":
            return value
    return None


def _foreign(headers: Headers | None) -> Headers | None:
    """What a server would take for an order to itself isn't handed on: it was meant for the stream it came from."""
    kept = tuple(pair for pair in headers or () if not pair[0].startswith(("Nats-", "KV-")))
    return kept or None
