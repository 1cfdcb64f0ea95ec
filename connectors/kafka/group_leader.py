"""The leader's part in a consumer group: from what every member has said to what each is told.

What must live here: reading the members' words, having the tasks divided, writing the answers.  What must not: the
division itself (``core.assignment``), sending (``membership``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from streams.connectors.kafka.checkpoints import slots_topic
from streams.connectors.kafka.group_wire import Words, decode_words, encode_told
from streams.core.assignment import Share, assign, eligible
from streams.errors import LogCorrupt

__all__ = ["SAME_RELEASE", "divide"]

SAME_RELEASE = "run the same release of streams in every worker"


def divide(group: str, members: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    """One round: for each member id, with its metadata from JoinGroup, the assignment for SyncGroup.

    A member whose words can't be read gets nothing and is told so; what it runs isn't known, and is left to the fence.
    """
    heard: dict[str, Words] = {}
    shares: dict[str, Share] = {}
    for member, metadata in members.items():
        try:
            heard[member] = decode_words(metadata)
        except LogCorrupt as error:
            shares[member] = Share(reason=f"{error}; it gets no tasks; {SAME_RELEASE}")
    shares.update(_shares(group, heard))
    slots = _slots(heard.values())
    topic = slots_topic(group)
    return [(member, encode_told(topic, share, heard.get(member), slots)) for member, share in shares.items()]


def _shares(group: str, heard: Mapping[str, Words]) -> dict[str, Share]:
    states = {member: words.state for member, words in heard.items()}
    taking_part = eligible(states)
    # An outdated leader goes by what the others want, not by the tasks of a topology that is gone.
    return assign(states, heard[taking_part[0]].wanted(group)) if taking_part else {}


def _slots(words: Iterable[Words]) -> dict[str, int]:
    return {name: slot for each in words for name, slot in each.tasks}
