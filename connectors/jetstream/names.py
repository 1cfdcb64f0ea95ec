"""Names on JetStream: streams and subjects.

    app stream of a group     S-<group>    S.<group>.pos.<slot>                    checkpoints
                                           S.<group>.log.<topic>.<partition>       what only the app reads, in blocks
                                           S.<group>.out.<topic>.<partition>       outputs, on their way to their topic
                                           S.<group>.snap.<topic>.<partition>      manifests of what compaction has left
                                           S.<group>.snap.<topic>.<partition>.<id> and blocks of a snapshot
                                           S.<group>.spill.<slot>                  outputs of a commit above the limit
    stream of a user's topic  <topic>      <topic>.<partition>
    the catalog               S-=catalog   S.=catalog.topic.<topic>                what internal topics are
                                           S.=catalog.trim.<topic>.<partition>     up to where they were trimmed
                                           S.=catalog.app.<group>                  when its stream was made
                                           S.=catalog.slot.<group>.<slot>          that there is a checkpoint
    deliveries elsewhere      S-=out       S.=out.<group>.<slot>                   how far, beside the streams of others

What must live here: the form of names.  What must not: talking to the server.

A name is one token: dots and other characters with a meaning in subjects are escaped, as =2E, so that two names never
meet.
"""

from __future__ import annotations

import re

__all__ = [
    "CATALOG",
    "app_mark_subject",
    "app_stream",
    "app_subjects",
    "catalog_subject",
    "is_internal",
    "log_subject",
    "out_filter",
    "out_subject",
    "pos_subject",
    "slot_mark_subject",
    "snapshot_subject",
    "spill_subject",
    "token",
    "topic_subject",
    "trim_subject",
]

CATALOG = "S-=catalog"
"""No group can be called so: an equals sign is escaped."""

_SPECIAL = re.compile(r"[^A-Za-z0-9_+-]")


def token(name: str) -> str:
    """``name`` as one token of a subject, or as the name of a stream."""
    return _SPECIAL.sub(lambda found: "".join(f"={byte:02X}" for byte in found.group().encode()), name)


def app_stream(group: str) -> str:
    return f"S-{token(group)}"


def app_subjects(group: str) -> str:
    return f"S.{token(group)}.>"


def pos_subject(group: str, slot: int | str) -> str:
    return f"S.{token(group)}.pos.{slot}"


def log_subject(group: str, topic: str, partition: int | str) -> str:
    return f"S.{token(group)}.log.{token(topic)}.{partition}"


def out_subject(group: str, topic: str, partition: int | str) -> str:
    return f"S.{token(group)}.out.{token(topic)}.{partition}"


def out_filter(group: str, topic: str) -> str:
    return out_subject(group, topic, "*")


def snapshot_subject(group: str, topic: str, partition: int | str, id: str = "") -> str:
    """Of the manifest, or of the blocks of the snapshot ``id``."""
    subject = f"S.{token(group)}.snap.{token(topic)}.{partition}"
    return f"{subject}.{id}" if id else subject


def spill_subject(group: str, slot: int) -> str:
    return f"S.{token(group)}.spill.{slot}"


def topic_subject(topic: str, partition: int | str) -> str:
    return f"{token(topic)}.{partition}"


def catalog_subject(topic: str) -> str:
    return f"S.=catalog.topic.{token(topic)}"


def trim_subject(topic: str, partition: int | str) -> str:
    return f"S.=catalog.trim.{token(topic)}.{partition}"


def app_mark_subject(group: str) -> str:
    return f"S.=catalog.app.{token(group)}"


def slot_mark_subject(group: str, slot: int | str) -> str:
    return f"S.=catalog.slot.{token(group)}.{slot}"


def is_internal(stream: str) -> bool:
    """True for the streams of apps, and those that they share: no topic has a stream of such a name."""
    return stream.startswith("S-")
