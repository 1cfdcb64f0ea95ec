"""Where a topic at a broker is, and how it is read or written: the location of a topic, as users write it.

What must live here: the settings that belong to the topic, its filters and its template.  What must not: those of the
connection (``config``).

    mqtt://broker/plant/+/temperature?qos=2            read: several filters with a comma between them
    mqtt://broker/alerts/{key}?qos=1&retain=yes        written
    wss://broker/mqtt/plant/#                          the path of the WebSocket stands before the topic
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations, zip_longest

from streams.connectors.mqtt.config import MqttConfig, parse_url
from streams.connectors.mqtt.packets import Will
from streams.core.urls import pairs_of, without_secrets
from streams.errors import ConfigurationError

__all__ = ["Place", "check_filters", "check_template", "fill", "parse_location"]

_FIELD = re.compile(r"\{(\w*)\}")
_UNFIT = re.compile(r"[\x00-\x1f+#\x7f\udc80-\udcff]")
_WILL = {"will_topic": "", "will_payload": "", "will_qos": "0", "will_retain": "no"}
_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Place:
    """qos: 0, 1 or 2, of the subscription or of what is published.  retain: of what is published.  client_id: what the
    ids of our clients begin with, before the names of the log and of the journal or outbox.  will: what the broker
    publishes when one of our clients is gone without a word."""

    config: MqttConfig
    qos: int = 1
    retain: bool = False
    client_id: str = ""
    will: Will | None = None


def parse_location(url: str) -> Place:
    """Raises ConfigurationError, without secrets."""
    shown = without_secrets(url)
    base, _, query = url.partition("?")
    own = {"qos": "1", "retain": "no", "client_id": "", **_WILL}
    rest: list[str] = []
    for part in filter(None, query.split("&")):
        name = part.partition("=")[0]
        if name in own:
            own[name] = dict(pairs_of(part))[name]
        else:
            rest.append(part)
    for name in ("qos", "will_qos"):
        if own[name] not in ("0", "1", "2"):
            raise ConfigurationError(f"{shown}: {name}={own[name]}: 0, 1 or 2 is needed")
    for name in ("retain", "will_retain"):
        if own[name] not in _YES:
            raise ConfigurationError(f"{shown}: {name}={own[name]}: yes or no is needed")
    topic, will = own["will_topic"], None
    if topic:
        if set(topic) & set("+#\0"):
            raise ConfigurationError(f"{shown}: will_topic={topic}: + and # are for what is read")
        will = Will(topic, own["will_payload"].encode(), int(own["will_qos"]), _YES[own["will_retain"]])
    elif any(own[name] != default for name, default in _WILL.items()):
        raise ConfigurationError(f"{shown}: a will without will_topic, where it is to be published")
    config = parse_url(base + ("?" + "&".join(rest) if rest else ""))
    return Place(config, int(own["qos"]), _YES[own["retain"]], own["client_id"], will)


def check_filters(address: str) -> list[str]:
    """The filters of a source (MQTT 5, section 4.7).  Raises ConfigurationError."""
    filters = [each.strip() for each in address.split(",")]
    for each in filters:
        levels = each.split("/")
        fits = all(level in ("+", "#") or not set(level) & set("+#\0") for level in levels) and "#" not in levels[:-1]
        if not each or not fits:
            raise ConfigurationError(
                f"topic filter {each!r}: + stands for a level by itself, and # at the end for all that follow"
            )
        if _FIELD.search(each):
            raise ConfigurationError(
                f"topic filter {each!r}: {{…}} is for what is written; to read such topics use +, as in "
                f"{_FIELD.sub('+', each)!r}"
            )
    for one, other in combinations(filters, 2):
        if _overlap(one, other):  # a broker of MQTT 5 sends what both match for each of them: it would be there twice
            raise ConfigurationError(
                f"topic filters {one!r} and {other!r} overlap: what both match may come for each of them; write the "
                f"wider one alone, or read them as two topics"
            )
    return filters


def _overlap(one: str, other: str) -> bool:
    """Whether there is a topic that both match."""
    ours, theirs = one.split("/"), other.split("/")
    if (ours[0][:1] == "$" and theirs[0] in ("+", "#")) or (theirs[0][:1] == "$" and ours[0] in ("+", "#")):
        return False  # no wildcard stands for the first level of $SYS/… (section 4.7.2)
    for level, other_level in zip_longest(ours, theirs):
        if "#" in (level, other_level):
            return True  # it matches the level above it, too
        if None in (level, other_level):
            return False
        if level != other_level and "+" not in (level, other_level):
            return False
    return True


def check_template(address: str) -> str:
    """A topic to publish to, with ``{key}`` for the record's key.  Raises ConfigurationError."""
    for field in _FIELD.findall(address):
        if field != "key":
            raise ConfigurationError(f"topic {address!r}: there is {{key}}, and no {{{field}}}")
    if set(address) & set("+#\0"):
        raise ConfigurationError(f"topic {address!r}: + and # are for what is read")
    return address


def fill(template: str, key: bytes | None) -> str:
    """The topic of a record.  What can't stand in one (wildcards, control characters, bytes that aren't UTF-8) is
    escaped, as =23."""
    if "{key}" not in template:
        return template
    text = (key or b"").decode(errors="surrogateescape")
    return template.replace("{key}", _UNFIT.sub(lambda found: f"={ord(found[0]) & 0xFF:02X}", text))
