"""Blocks of a compacted partition form a chain: each names the one before it.

What must live here: how a block names its predecessor.  What must not: compaction.

Compaction removes blocks from the log once a snapshot holds their records.  A reader that was slower would pass over
the hole unawares: the server says nothing of what it no longer has.  So each block says which one comes before it, and
a reader that hasn't seen that one looks for the snapshot.  The first block that a commit adds to a partition expects
its predecessor as the last one there (``Nats-Expected-Last-Subject-Sequence``, which the server checks and keeps); a
further one says how many messages back in the same batch it is.  Compaction leaves the last block, so that the chain
goes on.

``total`` counts the bytes of all blocks ever: the difference of two is what lies between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from streams.connectors.jetstream.api import EXPECTED, Api
from streams.connectors.jetstream.client import header_of
from streams.connectors.jetstream.messages import Lines
from streams.connectors.jetstream.topics import Place

__all__ = ["Link", "last_link", "previous_of"]

BACK, TOTAL = "Streams-Back", "Streams-Total"


@dataclass(slots=True)
class Link:
    """The last block of a partition.  seq: 0 for none."""

    seq: int
    total: int

    def lines(self, size_bytes: int, back: int | None) -> Lines:
        """The headers of the next block; ``back``: of one whose predecessor is in the same batch."""
        self.total += size_bytes
        first = (EXPECTED, b"%d" % self.seq) if back is None else (BACK, b"%d" % back)
        return [first, (TOTAL, b"%d" % self.total)]


async def last_link(api: Api, place: Place) -> Link:
    """As it is on the log now."""
    stored = await api.message(place.stream, last_by_subj=place.subject)
    if stored is None:
        return Link(0, 0)
    return Link(stored.seq, int(header_of(stored.head, TOTAL.encode()) or 0))


def previous_of(head: bytes, seq: int) -> int:
    """The sequence of the block before the one with these headers."""
    back = header_of(head, BACK.encode())
    if back is not None:
        return seq - int(back)
    return int(header_of(head, EXPECTED.encode()) or 0)
