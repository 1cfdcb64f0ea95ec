"""Topics that don't lie on the app's own log: those of another log, and those of transports that aren't logs.

What is written to one first goes to an outbox topic on the app's log, in the commit of the task; a delivery task
carries it out (``runtime.delivery``).  Another log is read directly.  What comes by a transport that can't be read
again (``core.edge``) goes to a journal topic on the app's log first (``runtime.ingress``), which is read then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from streams.core.log import TaskRef, TopicSpec
from streams.core.urls import without_secrets
from streams.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Outbox:
    """The outbox of one foreign topic."""

    topic: TopicSpec
    target: TopicSpec

    def task_id(self, partition: int) -> str:
        return f"{self.topic.name}-{partition}"

    @property
    def task_ids(self) -> list[str]:
        return [self.task_id(partition) for partition in range(self.topic.partitions)]

    def ref_at_target(self, log_id: str, partition: int) -> TaskRef:
        """How the target knows the delivery of a partition: a group of its own for each outbox of each log."""
        group = f"{log_id}.{self.topic.name}"
        return TaskRef(group, partition, f"{group}-{partition}")


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal of a source that can't be read again."""

    topic: TopicSpec
    source: TopicSpec

    @property
    def task_ids(self) -> list[str]:
        return [f"{self.topic.name}-{partition}" for partition in range(self.topic.partitions)]


EDGES = {
    "nats": "Nats-Subject",
    "mqtt": "Mqtt-Topic",
    "mqtts": "Mqtt-Topic",
    "ws": "Mqtt-Topic",
    "wss": "Mqtt-Topic",
}
"""Schemes of transports that aren't logs, and the header in which a message of each names where it came."""
_WORDS = {"*": "any", "+": "any", ">": "all", "#": "all"}


def split_edge(name: str) -> tuple[str, str] | None:
    """(location, address) of a topic at an edge, as ``nats://host/alerts.{key}``; None for any other.

    Settings of the transport stand behind a question mark.
    """
    scheme, hosted, rest = name.partition("://")
    if not hosted or scheme not in EDGES:
        return None
    rest, mark, settings = rest.partition("?")
    host, _, address = rest.partition("/")
    if scheme in ("ws", "wss"):  # the path of a WebSocket comes first
        path, _, address = address.partition("/")
        host = f"{host}/{path}"
    if not host or not address:
        raise ConfigurationError(
            f"{without_secrets(name)!r} names no subject or topic; write {scheme}://<host>/<subject>, as in "
            f"nats://localhost/alerts.{{key}} or mqtt://localhost/alerts/{{key}}"
        )
    return f"{scheme}://{host}{mark}{settings}", address


def topic_header(location: str) -> str:
    """The header that names where a message at an edge came; "" for what lies on a log."""
    return EDGES.get(location.partition(":")[0], "")


def edge_label(address: str) -> str:
    """What a topic at an edge is called in the app: its address without what no name may hold."""
    words = (_WORDS.get(word) or re.sub(r"[^A-Za-z0-9_-]+", "-", word).strip("-") for word in re.split("[./]", address))
    return ".".join(word for word in words if word) or "root"


def split_location(name: str) -> tuple[str, str]:
    """A topic as users write it, to (location of its log, topic name): the location is "" for a plain name.

    ``embedded:./plant/readings`` is the topic readings of the log embedded:./plant.  Settings of the log stand behind
    the topic, ``kafka://broker/readings?security=tls``, or where they stand in its URL.
    """
    if ":" not in name:
        return "", name
    place, mark, settings = name.partition("?")
    scheme, hosted, at = place.partition("://")
    if mark and hosted and scheme != "embedded" and "/" in at.rstrip("/"):
        place, _, topic = place.rpartition("/")
        return f"{place}?{settings}", topic
    location, slash, topic = name.rpartition("/")
    if not slash or not topic or "?" in topic or location.endswith((":", "/")):
        raise ConfigurationError(
            f"{without_secrets(name)!r} names no topic; write <log>/<topic>, as in embedded:./plant/readings"
        )
    return location, topic
