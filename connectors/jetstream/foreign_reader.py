"""Reading streams of others: what a message is there, and which gaps mean that something was lost.

What must live here: that.  What must not: consumers and pulls (``reader``, which this extends).

**Gaps.**  A stream with a limit by subject (``max_msgs_per_subject``, so every KV bucket) loses messages one by one, by
design: a gap there means nothing.  On others what is missing below the stream's first message was removed, and may have
been ours.  To keep that from being said of a partition whose subjects are merely quiet, its position moves along with
the end of the stream while nothing comes, unless the consumer had more to send of what is there no longer.

**The last of each subject.**  A reader that stands before everything begins with the last message of each subject, if
the topic says so, and goes on with all that follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from streams.connectors.jetstream.client import Message, header_of
from streams.connectors.jetstream.foreign_streams import EVERYTHING, ForeignPlace
from streams.connectors.jetstream.messages import record_of, unreadable
from streams.connectors.jetstream.reader import LOOK_S, SILENCE_S, JetStreamReader, Partition
from streams.connectors.jetstream.topics import Place
from streams.core.record import Fetched, Headers, Position, Records, TopicPartition

__all__ = ["SEQUENCE", "SUBJECT", "ForeignReader"]

SUBJECT, SEQUENCE = "Nats-Subject", "Nats-Sequence"
"""As servers name them where they hand messages on (republish, direct get)."""
OWN = b"Streams-"
Waiting = tuple[int, int, Message]


class ForeignReader(JetStreamReader):
    """A ``Reader`` of partitions of others' streams."""

    def _start_of(self, each: Partition, place: Place, first: Position) -> dict[str, Any]:
        assert isinstance(place, ForeignPlace)
        start = super()._start_of(each, place, first)
        if place.conflated and each.position <= first.offset():
            start = {"deliver_policy": "last_per_subject"}
            each.free = each.end or 0
        return start if place.subject != EVERYTHING or place.conflated else {**start, "filter_subject": ""}

    def _columns(self, at: TopicPartition, place: Place, taken: Sequence[Waiting]) -> Records:
        assert isinstance(place, ForeignPlace)
        keys: list[bytes | None] = []
        values: list[bytes | None] = []
        times: list[int] = []
        headers: list[Headers | None] = []
        key_from = place.key_from
        for seq, time_ns, (subject, _, head, payload) in taken:
            own: Headers = ((SUBJECT, subject), (SEQUENCE, b"%d" % seq))
            key: bytes | None = subject[key_from:] if key_from >= 0 else None
            value: bytes | None = payload
            time_ms = time_ns // 1_000_000
            if head:
                if OWN in head:
                    try:
                        given, value, time_ms, _ = record_of(head, payload, time_ms)
                    except ValueError as error:
                        raise unreadable(f"{self._api.connection.url}: {at}", place.stream, seq, error) from error
                    key = key if given is None else given
                own += _headers(head)
                if b"Nats-Marker-Reason:" in head or (
                    b"KV-Operation:" in head and header_of(head, b"KV-Operation") in (b"DEL", b"PURGE")
                ):
                    value = None
            keys.append(key)
            values.append(value)
            times.append(time_ms)
            headers.append(own)
        return Records(keys, values, times, headers)

    async def _check_gap(self, each: Partition, max_records: int) -> None:
        assert each.place is None or isinstance(each.place, ForeignPlace)
        if each.place is not None and not each.place.holes:
            await super()._check_gap(each, max_records)

    async def _keep_up(self, each: Partition) -> Fetched | None:
        """Move the position to the end where nothing of ours is left before it.  Raises PositionLost where that is gone
        which was to come."""
        place = each.place
        if place is None or each.subscription is None or each.broken or each.waiting:
            return None
        assert isinstance(place, ForeignPlace)
        now = asyncio.get_running_loop().time()
        if now >= each.looked_at + LOOK_S and each.asked and now - each.heard_at <= SILENCE_S:
            each.looked_at, each.pending = now, 0
            stream = await self._api.stream(place.stream)
            if stream is None or stream["created"] != place.created:
                each.broken = "the stream is another one"
                return None
            each.end = max(each.end or 0, stream["state"]["last_seq"] + 1)
            each.first = stream["state"]["first_seq"]
            each.unasked = each.unasked and each.first > max(each.position, 1)
        end = each.end or 0
        if each.waiting or each.pending or end <= each.position:
            return None
        # That the consumer has nothing more is no proof: it may lie on a server that hasn't got everything yet.
        # This is answered by the stream's leader.
        since = max(1, each.position)
        left = await self._api.message(place.stream, seq=since, next_by_subj=place.subject)
        if each.waiting or each.life != self._api.connection.reconnects:
            return None
        if left is not None and left.seq < end:
            each.pending = 1
            return None
        if not place.holes and each.position >= each.free:
            self._check_unread(each, each.first)
        each.position = end
        return Fetched(each.at, [], Records(), end)


def _headers(head: bytes) -> Headers:
    """The headers of a message, but for those that say what of it is key, time and value."""
    found: list[tuple[str, bytes]] = []
    for line in head.split(b"\r\n")[1:]:
        name, colon, content = line.partition(b":")
        if not colon:
            continue
        if name == b"Streams-Packed":
            packed = record_of(b"\r\n" + line, b"", 0)[3]
            found.extend(packed or ())
        elif not name.startswith(OWN):
            found.append((name.decode(errors="replace"), content.strip()))
    return tuple(found)
