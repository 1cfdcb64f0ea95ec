"""Topics with wildcards, and templates of keys.

What must live here: matching and filling in, pure.  What must not: what a route does with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from streams.errors import ConfigurationError

__all__ = ["Fill", "chooser", "template"]

Fill = Callable[[str, bytes | None, Any], str]
"""(topic, key, value) to text; raises LookupError or TypeError where the value has no such field."""

_FIELD = re.compile(r"\{(topic|key|value)(?:\[(-?\d+)\]|:([^{}]+)|((?:\.[A-Za-z0-9_-]+)+))?\}")


def chooser(include: Sequence[str], exclude: Sequence[str], separator: str) -> Callable[[str], bool]:
    """Whether a topic is meant: by one of the first, if there are any, and by none of the second.

    ``+`` or ``*`` stands for a level, ``#`` for all that follow or none, ``>`` for all that follow, one at least: as
    with MQTT (5, section 4.7) and NATS.
    """
    wanted = [_compiled(pattern, separator) for pattern in include]
    unwanted = [_compiled(pattern, separator) for pattern in exclude]

    def chosen(topic: str) -> bool:
        if wanted and not any(pattern.fullmatch(topic) for pattern in wanted):
            return False
        return not any(pattern.fullmatch(topic) for pattern in unwanted)

    return chosen


def _compiled(pattern: str, separator: str) -> re.Pattern[str]:
    cut = re.escape(separator)
    levels = pattern.split(separator)
    if not pattern or {"#", ">"} & set(levels[:-1]):
        raise ConfigurationError(f"{pattern!r} is no pattern of topics: # and > stand at the end, for all that follow")
    text = ""
    for number, level in enumerate(levels):
        before = cut if number else ""
        if level == "#":
            text += f"(?:{before}.*)?"
        elif level == ">":
            text += f"{before}.+"
        else:
            text += before + (f"[^{cut}]*" if level in ("+", "*") else re.escape(level))
    return re.compile(text, re.DOTALL)


def template(text: str, separator: str) -> Fill:
    """``{topic}``, a level of it as ``{topic[1]}`` (the last one: ``{topic[-1]}``), all of them with something else
    between them as ``{topic:/}``, ``{key}``, ``{value.device.id}``.  Raises ConfigurationError."""
    if set(_FIELD.sub("", text)) & set("{}"):
        raise ConfigurationError(
            f"key {text!r}: there are {{topic}}, {{topic[0]}}, {{topic:/}}, {{key}} and {{value.field}}, and text "
            f"around them"
        )
    parts: list[str | Fill] = []
    end = 0
    for found in _FIELD.finditer(text):
        parts += [text[end : found.start()], _field(text, separator, *found.groups())]
        end = found.end()
    parts.append(text[end:])
    return lambda topic, key, value: "".join(
        part if isinstance(part, str) else part(topic, key, value) for part in parts
    )


def _field(text: str, separator: str, name: str, level: str | None, between: str | None, path: str | None) -> Fill:
    if ((level or between) and name != "topic") or (path and name != "value"):
        raise ConfigurationError(f"key {text!r}: a topic has levels, {{topic[0]}}, and a value fields, {{value.field}}")
    if name == "topic":
        if level is not None:
            number = int(level)
            return lambda topic, key, value: topic.split(separator)[number]
        return lambda topic, key, value: topic if between is None else topic.replace(separator, between)
    if name == "key":
        return lambda topic, key, value: (key or b"").decode()
    steps = path[1:].split(".") if path else []

    def of_value(topic: str, key: bytes | None, value: Any) -> str:
        for step in steps:
            value = value[step]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise TypeError(f"{{value{path or ''}}} is {type(value).__name__}, which makes no key")
        return str(value)

    return of_value
