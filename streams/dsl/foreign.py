"""Topics of another log than the app's own: read directly, written through an outbox.

What is written to a foreign topic first goes to an outbox topic on the app's log, in the commit of the task; a delivery
task carries it out (``runtime.delivery``).
"""

from __future__ import annotations

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
