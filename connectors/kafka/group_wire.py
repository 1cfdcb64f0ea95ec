"""What the members of a consumer group tell each other, as bytes, and the one request that aiokafka hasn't got.

What must live here: layouts.  What must not: when something is sent, and what follows from it (``membership``).

The group's protocol is the consumers' own, so that ``kafka-consumer-groups --describe`` shows who has what: a member
subscribes to the app's checkpoint topic, and each task that it runs is one partition of it there, the task's slot.
What Kafka has no field for travels as user data, MessagePack under zlib (the names of tasks resemble each other):

    Words   member → leader, in JoinGroup     what it runs, has and wants
    Told    leader → member, in SyncGroup     its share, and the words that the share was made for
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.protocol.api import Request, RequestStruct
from aiokafka.protocol.group import HeartbeatResponse_v1
from aiokafka.protocol.types import Int32, Schema, String

from streams.core.assignment import MemberState, Share
from streams.core.membership import Assignment, Member, TaskRef, Wanted
from streams.errors import LogCorrupt

__all__ = [
    "PROTOCOL",
    "PROTOCOL_TYPE",
    "REFUSALS",
    "UNREAD",
    "GroupCode",
    "HeartbeatRequest",
    "Told",
    "Words",
    "decode_told",
    "decode_words",
    "encode_told",
    "encode_words",
]

PROTOCOL_TYPE = "consumer"
PROTOCOL = "streams"
FORMAT = 1
UNREAD = -1
# Far more than a group's metadata may have (the broker refuses records above a megabyte): no peer can fill our memory.
_LIMIT_BYTES = 16 * 2**20


class GroupCode:
    """Error codes of the group's requests (kafka.apache.org/protocol, "Error Codes")."""

    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    INVALID_GROUP_ID = 24
    UNKNOWN_MEMBER_ID = 25
    INVALID_SESSION_TIMEOUT = 26
    REBALANCE_IN_PROGRESS = 27
    MEMBER_ID_REQUIRED = 79
    GROUP_MAX_SIZE_REACHED = 81
    FENCED_INSTANCE_ID = 82


REFUSALS = {
    GroupCode.FENCED_INSTANCE_ID: "another worker has come under the name {name!r}; give each worker its own name",
    GroupCode.INVALID_SESSION_TIMEOUT: "session_timeout_ms={session_ms} isn't within group.min.session.timeout.ms and "
    "group.max.session.timeout.ms of the brokers; change one or the other",
    GroupCode.INCONSISTENT_GROUP_PROTOCOL: "other consumers than workers of an app are in this group; stop them, or "
    "give the app another name",
    GroupCode.INVALID_GROUP_ID: "the brokers don't take this for the name of a group; give the app another name",
    GroupCode.GROUP_MAX_SIZE_REACHED: "the group has as many members as group.max.size of the brokers allows; raise "
    "that, or run fewer workers",
}
"""Codes that end a membership: what a person has to change."""


class Words(msgspec.Struct, frozen=True):
    """What a member says of itself; the fields of ``MemberState``, of ``Wanted``, and:

    turn: counts the rounds that this member has asked for.  A join that brings the broker nothing new starts none.
    """

    version: int
    fingerprint: str
    address: str
    stored: list[str]
    held: list[str]
    ready: list[str]
    generation: int
    turn: int
    tasks: list[tuple[str, int]]
    stateful: list[str]
    standbys: int
    format: int = FORMAT

    @property
    def state(self) -> MemberState:
        return MemberState(
            self.version,
            self.fingerprint,
            self.address,
            frozenset(self.stored),
            frozenset(self.held),
            frozenset(self.ready),
            self.generation,
        )

    def wanted(self, group: str) -> Wanted:
        refs = [TaskRef(group, slot, name) for name, slot in self.tasks]
        return Wanted(refs, frozenset(self.stateful), self.standbys)


class Told(msgspec.Struct, frozen=True):
    """What a member is to do; the fields of ``Share``, and what the leader knew of the member when it decided: its
    version (UNREAD when the leader couldn't read its words), fingerprint and address.

    A worker that comes back under its name gets the share of its former life, with no new round (KIP-345): it has to
    see whether that was made for the topology and the address that it has now.
    """

    version: int
    fingerprint: str
    address: str
    active: list[str] = []
    standby: list[str] = []
    addresses: dict[str, str] = {}
    warmups: list[str] = []
    releases: list[str] = []
    reason: str = ""
    format: int = FORMAT

    @property
    def share(self) -> Share:
        return Share(
            Assignment(frozenset(self.active), frozenset(self.standby), self.addresses),
            frozenset(self.warmups),
            frozenset(self.releases),
            self.reason,
        )


def encode_words(topic: str, member: Member, wanted: Wanted, state: MemberState, turn: int) -> bytes:
    """The metadata of a member in JoinGroup.  ``state`` holds what changes, ``member`` what doesn't."""
    words = Words(
        version=member.version,
        fingerprint=member.fingerprint,
        address=member.address,
        stored=sorted(state.stored),
        held=sorted(state.held),
        ready=sorted(state.ready),
        generation=state.generation,
        turn=turn,
        tasks=[(task.name, task.slot) for task in wanted.tasks],
        stateful=sorted(wanted.stateful),
        standbys=wanted.standbys,
    )
    encoded: bytes = ConsumerProtocolMemberMetadata(0, [topic], _pack(words)).encode()
    return encoded


def decode_words(metadata: bytes) -> Words:
    """Raises LogCorrupt for what no member of this release has written."""
    try:
        return _unpack(ConsumerProtocolMemberMetadata.decode(metadata).user_data, Words)
    except _UNREADABLE as error:
        raise LogCorrupt(f"the words of a member of the group can't be read: {error}") from error


def encode_told(topic: str, share: Share, words: Words | None, slots: Mapping[str, int]) -> bytes:
    """The assignment of a member in SyncGroup."""
    given = share.assignment
    told = Told(
        version=words.version if words else UNREAD,
        fingerprint=words.fingerprint if words else "",
        address=words.address if words else "",
        active=sorted(given.active),
        standby=sorted(given.standby),
        addresses=dict(given.addresses),
        warmups=sorted(share.warmups),
        releases=sorted(share.releases),
        reason=share.reason,
    )
    partitions = sorted(slots[task] for task in given.active)
    shown = [(topic, partitions)] if partitions else []
    encoded: bytes = ConsumerProtocolMemberAssignment(0, shown, _pack(told)).encode()
    return encoded


def decode_told(assignment: bytes) -> Told:
    """Raises LogCorrupt for what no leader of this release has written."""
    try:
        return _unpack(ConsumerProtocolMemberAssignment.decode(assignment).user_data, Told)
    except _UNREADABLE as error:
        raise LogCorrupt(f"what the leader of the group has written can't be read: {error}") from error


_T = TypeVar("_T", Words, Told)
# ValueError: aiokafka's decoder at the end of its input; msgspec's own errors are among them.
_UNREADABLE = (ValueError, TypeError, zlib.error)


def _pack(what: Words | Told) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(what), 1)


def _unpack(data: bytes, kind: type[_T]) -> _T:
    engine = zlib.decompressobj()
    found = msgspec.msgpack.decode(engine.decompress(data, _LIMIT_BYTES), type=kind)
    if found.format != FORMAT:
        raise ValueError(f"format {found.format} of another release of streams")
    return found


class HeartbeatRequest_v3(RequestStruct):
    API_KEY = 12
    API_VERSION = 3
    RESPONSE_TYPE = HeartbeatResponse_v1
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
    )


class HeartbeatRequest(Request[HeartbeatRequest_v3]):
    """A heartbeat that says which static member it comes from: a worker whose name was taken is told so (KIP-345)."""

    API_KEY = 12

    def __init__(self, group: str, generation: int, member_id: str, instance_id: str | None) -> None:
        self._fields = (group, generation, member_id, instance_id)

    def build(self, request_struct_class: type[HeartbeatRequest_v3]) -> Any:
        return request_struct_class(*self._fields)
