"""Subjects of NATS: which may be listened to, which may be written, and what a record fills into one.

What must live here: their rules (docs.nats.io, "Subject-Based Messaging").  What must not: connections.
"""

from __future__ import annotations

import re

from streams.errors import ConfigurationError

__all__ = ["check_filter", "check_template", "fill"]

_TOKEN = re.compile(r"[^\s.*>]+")
_UNFIT = re.compile(r"[\x00-\x20*>\x7f]")
_FIELD = re.compile(r"\{(\w*)\}")


def check_filter(subject: str) -> str:
    """A subject to listen to, with ``*`` for a word and ``>`` for all that follows.  Raises ConfigurationError."""
    *front, last = subject.split(".")
    if not all(word == "*" or _TOKEN.fullmatch(word) for word in front) or not (
        last in ("*", ">") or _TOKEN.fullmatch(last)
    ):
        raise ConfigurationError(
            f"subject {subject!r}: words with dots between them are needed, with * for a word and > at the end for all "
            f"that follow"
        )
    if _FIELD.search(subject):
        raise ConfigurationError(
            f"subject {subject!r}: {{…}} is for what is written; to read from such subjects use *, as in "
            f"{_FIELD.sub('*', subject)!r}"
        )
    return subject


def check_template(subject: str) -> str:
    """A subject to write to, with ``{key}`` for the record's key.  Raises ConfigurationError."""
    for field in _FIELD.findall(subject):
        if field != "key":
            raise ConfigurationError(f"subject {subject!r}: there is {{key}}, and no {{{field}}}")
    plain = _FIELD.sub("x", subject)
    if not all(_TOKEN.fullmatch(word) for word in plain.split(".")):
        raise ConfigurationError(
            f"subject {subject!r}: words with dots between them are needed; * and > are for what is read"
        )
    return subject


def fill(template: str, key: bytes | None) -> str:
    """The subject of a record.  What can't stand in one (spaces, wildcards, a word without letters) is escaped, as
    =20."""
    if "{key}" not in template:
        return template
    text = _UNFIT.sub(lambda found: f"={ord(found[0]):02X}", (key or b"").decode(errors="replace"))
    return template.replace("{key}", ".".join(word or "=" for word in text.split(".")))
