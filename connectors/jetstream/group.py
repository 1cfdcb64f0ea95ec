"""Workers of an app on JetStream: what they write to each other, and reading it.

What must live here: the messages, the stream that holds them, and one round's division.  What must not: when they are
sent (``membership``).

    S-=group    S.=group.<group>.member.<id>    what a worker says of itself; gone when its session is over (Nats-TTL)
                S.=group.<group>.lead           who leads; gone likewise
                S.=group.<group>.round          what each is to do
    core        S.=news.<group>                 that something of it is new
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.names import token
from streams.core.assignment import MemberState, Share, assign, eligible
from streams.core.membership import Member, TaskRef, Wanted

__all__ = [
    "GROUPS",
    "Round",
    "Told",
    "Words",
    "divide",
    "encode",
    "groups_config",
    "heard",
    "last_round",
    "members_of",
    "news_subject",
    "subject_of",
    "words_of",
]

GROUPS = "S-=group"


class Words(msgspec.Struct):
    """What a worker says.  incarnation: of this life of it.  tasks: (name, slot)."""

    id: str
    incarnation: str
    name: str
    state: MemberState
    tasks: list[tuple[str, int]]
    stateful: frozenset[str]
    standbys: int

    def wanted(self, group: str) -> Wanted:
        return Wanted([TaskRef(group, slot, name) for name, slot in self.tasks], self.stateful, self.standbys)


class Told(msgspec.Struct):
    """What one life of a worker is to do."""

    incarnation: str
    share: Share


class Round(msgspec.Struct):
    """What everybody is to do.  number: they go up, over leaders."""

    number: int
    leader: str
    told: dict[str, Told]


_encode = msgspec.msgpack.Encoder().encode
_decode_words = msgspec.msgpack.Decoder(Words).decode
_decode_round = msgspec.msgpack.Decoder(Round).decode


def encode(value: Words | Round) -> bytes:
    return _encode(value)


def subject_of(group: str, *what: str) -> str:
    return ".".join(["S.=group", token(group), *map(token, what)])


def news_subject(group: str) -> str:
    return f"S.=news.{token(group)}"


def _member_filter(group: str) -> str:
    return f"S.=group.{token(group)}.member.*"


def groups_config() -> dict[str, object]:
    return {
        "name": GROUPS,
        "subjects": ["S.=group.>"],
        "max_msgs_per_subject": 1,
        "allow_msg_ttl": True,
        "description": "streams: which workers there are",
    }


async def heard(api: Api, group: str) -> dict[str, Words]:
    """What the members say, by id.  One whose words can't be read is left out: it is of another release."""
    found: dict[str, Words] = {}
    for subject in await api.subjects(GROUPS, _member_filter(group)):
        stored = await api.message(GROUPS, last_by_subj=subject)
        words = words_of(stored.payload) if stored is not None else None
        if words is not None:
            found[words.id] = words
    return found


def words_of(payload: bytes) -> Words | None:
    try:
        return _decode_words(payload)
    except msgspec.MsgspecError:
        return None


async def last_round(api: Api, group: str) -> tuple[int, Round | None]:
    """The last round, and the sequence of its message."""
    stored = await api.message(GROUPS, last_by_subj=subject_of(group, "round"))
    if stored is None:
        return 0, None
    try:
        return stored.seq, _decode_round(stored.payload)
    except msgspec.MsgspecError:
        return stored.seq, None


def divide(group: str, members: Mapping[str, Words], before: Round | None) -> dict[str, Told]:
    """One round.  Who hasn't said yet that it knows of the one before may be about to act on it."""
    states: dict[str, MemberState] = {}
    for id, words in members.items():
        state = words.state
        told = before.told.get(id) if before is not None and state.generation < before.number else None
        if told is not None and told.incarnation == words.incarnation:
            state = replace(state, held=state.held | told.share.assignment.active)
        states[id] = state
    taking_part = eligible(states)
    shares = assign(states, members[taking_part[0]].wanted(group)) if taking_part else {}
    return {id: Told(members[id].incarnation, share) for id, share in shares.items()}


async def members_of(api: Api, group: str) -> list[Member]:
    """For tools."""
    return [
        Member(words.name, words.state.version, words.state.fingerprint, words.state.address, words.state.stored)
        for _, words in sorted((await heard(api, group)).items())
    ]
