"""Who is in an app's consumer group now, asked from outside: for tools.

What must live here: asking the coordinator, and reading what the members have said.  What must not: being one
(``membership``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka.protocol.admin import DescribeGroupsRequest

from streams.connectors.kafka.cluster import GROUP
from streams.connectors.kafka.faults import COORDINATOR_MOVED, Code, error_for, name_of
from streams.connectors.kafka.group_wire import decode_words
from streams.core.membership import Member
from streams.errors import LogCorrupt, LogUnavailable

if TYPE_CHECKING:
    from streams.connectors.kafka.cluster import Cluster

__all__ = ["members_of"]

PATIENCE_S = 10.0
RETRY_S = 0.1


async def members_of(cluster: Cluster, group: str) -> list[Member]:
    """The members, by id.  Of one that the coordinator tells nothing of, since a rebalance is under way, or whose words
    can't be read, nothing is known but that it is there."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    lane = cluster.lane(f"members of {group}")
    try:
        while True:
            node = await cluster.coordinator(group, GROUP)
            response = await cluster.send(node, DescribeGroupsRequest([group]), lane)
            code, _, _, _, _, members, *_ = response.groups[0]
            if code == Code.NONE:
                return [_member(metadata) for _, metadata in sorted((each[0], each[3]) for each in members)]
            if code not in COORDINATOR_MOVED:
                raise error_for(code, f"{cluster.url}: group {group}")
            if loop.time() > deadline:
                raise LogUnavailable(f"{cluster.url}: group {group}: {name_of(code)}")
            await asyncio.sleep(RETRY_S)
    finally:
        cluster.drop(lane)


def _member(metadata: bytes | None) -> Member:
    try:
        words = decode_words(metadata or b"")
    except LogCorrupt:
        return Member()
    return Member(
        version=words.version, fingerprint=words.fingerprint, address=words.address, stored=frozenset(words.stored)
    )
