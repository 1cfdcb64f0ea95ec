"""Reading partitions: an ephemeral consumer for each, with a pull or two under way.

What must live here: consumers, positions, what an answer means.  What must not: the form of messages (``messages``).

    fetch() ──▶ open what isn't open: bounds, identity, consumer ──▶ hand out what has arrived ──▶ pull more ──▶ wait
                        ▲                                                        │
                        └──── a gap in the consumer's numbers, no answer, gone ◀─┘   opened anew at the position

Positions aren't the server's business: a consumer acknowledges nothing and may vanish at any time.

Below the manifest of a compacted partition its snapshot is read, block by block, and the log from there on.  Where a
block's predecessor wasn't seen, compaction was quicker: the partition is opened anew, and the snapshot has it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streams.connectors.jetstream.api import Api, ApiError
from streams.connectors.jetstream.chains import previous_of
from streams.connectors.jetstream.client import Message, Subscription, publication
from streams.connectors.jetstream.messages import BLOCK_PLACES, record_of, records_of_block
from streams.connectors.jetstream.names import snapshot_subject
from streams.connectors.jetstream.snapshots import Manifest, next_block
from streams.connectors.jetstream.topics import Place, Topics
from streams.core.record import Fetched, Headers, Position, Positions, Records, TopicPartition
from streams.errors import DataError, LogCorrupt, PositionLost, TopicRecreated

__all__ = ["JetStreamReader"]

NS = 1_000_000_000
PULL_RECORDS, PULL_BLOCKS = 500, 16
PULL_BYTES = 512 * 1024
EXPIRES_S = 30.0
HEARTBEAT_S = 1.0
SILENCE_S = 4.0
"""Without a heartbeat for so long, the consumer is taken to be gone with its server."""
INACTIVE_S = 60.0
OVERTAKEN = "compaction was quicker"


@dataclass(slots=True)
class _Partition:
    """What is known of one partition.

    position: of the next record to hand out.  seen: sequence of the last message that arrived.
    manifest: while its snapshot is read; part, part_seq: number of its next block, and from where on to look for it.
    """

    at: TopicPartition
    position: int
    place: Place | None = None
    consumer: str = ""
    inbox: str = ""
    subscription: Subscription | None = None
    expected: int = 1
    asked: int = 0
    heard_at: float = 0.0
    broken: str = ""
    end: int | None = None
    seen: int = 0
    overtaken_at: int = -1
    manifest: Manifest | None = None
    part: int = 0
    part_seq: int = 1
    waiting: list[tuple[int, int, Message]] = field(default_factory=list)


class JetStreamReader:
    """A ``Reader`` of fixed partitions."""

    def __init__(self, api: Api, topics: Topics, positions: Positions) -> None:
        self._api = api
        self._topics = topics
        self._partitions = {at: _Partition(at, position.offset()) for at, position in positions.items()}
        self._arrived = asyncio.Event()
        self._created: dict[str, str] = {}

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        await asyncio.sleep(0)  # while one partition has plenty, the others' messages must be read from the socket, too
        while True:
            self._arrived.clear()
            for at in partitions:
                await self._see_to(self._partitions[at])
            found: list[Fetched] = []
            for at in partitions:
                each = self._partitions[at]
                await self._check_gap(each, max_records)
                batch = self._take(each, max_records) if each.manifest is None else await self._take_snapshot(each)
                if batch is not None:
                    found.append(batch)
            for at in partitions:
                await self._pull(self._partitions[at])
            if found:
                return found
            if any(
                self._partitions[at].manifest is None and self._partitions[at].subscription is None for at in partitions
            ):
                continue  # what was read to the end of a snapshot, or lost it, is opened at once
            left = deadline - loop.time()
            if left <= 0:
                return []
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await self._arrived.wait()
            except TimeoutError:
                continue

    def ends(self) -> Positions:
        return {at: Position.at(known.end) for at, known in self._partitions.items() if known.end is not None}

    async def close(self) -> None:
        for each in self._partitions.values():
            await self._drop(each)

    # ── consumers ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _see_to(self, each: _Partition) -> None:
        """Have a consumer that stands where the partition's buffer ends."""
        now = asyncio.get_running_loop().time()
        if each.manifest is not None:
            return
        if each.subscription is not None and not each.broken:
            if each.asked and now - each.heard_at > SILENCE_S:
                each.broken = "it doesn't answer"
            else:
                return
        if each.waiting:
            return  # first what has arrived
        if each.broken == OVERTAKEN:
            if each.overtaken_at == each.position:
                raise LogCorrupt(
                    f"{self._api.connection.url}: {each.at}: records from {each.position} on are gone, and no snapshot "
                    f"has them; restore the app's stream, or start over with `streams reset`"
                )
            each.overtaken_at = each.position
        await self._drop(each)
        await self._open(each)

    async def _open(self, each: _Partition) -> None:
        await self._topics.infos([each.at.topic])
        place = await self._topics.place(each.at)
        bounds = (await self._topics.bounds([each.at]))[each.at]
        start, end = bounds.start.offset(), bounds.end.offset()
        known = self._created.setdefault(each.at.topic, place.created)
        if known != place.created:
            raise TopicRecreated(
                f"{self._api.connection.url}: {each.at.topic} was deleted and created again while it was read; "
                f"start again"
            )
        if each.position < start:
            topic, number = each.at
            raise PositionLost(topic=topic, partition=number, position=each.position, first=start)
        if each.position > end:
            raise DataError(
                f"{self._api.connection.url}: {each.at}: the reader stands at {each.position} but the log ends at "
                f"{end}: it lost its tail or was replaced; reset the reader, or bring the right log back"
            )
        each.place, each.end = place, end
        if place.compact:
            manifest = (await self._topics.manifest(each.at))[1]
            if manifest is not None and each.position < manifest.upto:
                each.manifest, each.part, each.part_seq = manifest, 0, 1
                return
        each.seen = max(0, place.seq(each.position) - 1)
        each.inbox = self._api.connection.inbox()
        each.subscription = await self._api.connection.subscribe(
            each.inbox, lambda messages: self._receive(each, messages)
        )
        config: dict[str, Any] = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, place.seq(each.position)),
            "ack_policy": "none",
            "filter_subject": place.subject,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE_S * NS),
        }
        try:
            made = await self._api.call(
                f"CONSUMER.CREATE.{place.stream}", {"stream_name": place.stream, "config": config}
            )
        except ApiError as error:
            raise self._api.failure(error, f"reading {each.at}") from error
        each.consumer, each.expected, each.asked, each.broken = made["name"], 1, 0, ""

    async def _drop(self, each: _Partition) -> None:
        subscription, each.subscription = each.subscription, None
        if subscription is not None:
            await subscription.close()
        if each.consumer and each.place is not None and self._api.connection.connected:
            subject = f"$JS.API.CONSUMER.DELETE.{each.place.stream}.{each.consumer}"
            await self._api.connection.write(publication(subject, b""))
        each.consumer = ""

    async def _pull(self, each: _Partition) -> None:
        """Ask for more when little of what was asked for is still to come."""
        place = each.place
        if each.subscription is None or each.broken or place is None:
            return
        batch = PULL_BLOCKS if place.packed else PULL_RECORDS
        if each.asked > batch // 2 or len(each.waiting) >= 2 * batch:
            return
        request = {
            "batch": batch,
            "max_bytes": PULL_BYTES,
            "expires": int(EXPIRES_S * NS),
            "idle_heartbeat": int(HEARTBEAT_S * NS),
        }
        each.asked = batch
        each.heard_at = asyncio.get_running_loop().time()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{place.stream}.{each.consumer}"
        await self._api.connection.write(publication(subject, msgspec.json.encode(request), each.inbox))

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _receive(self, each: _Partition, messages: list[Message]) -> None:
        each.heard_at = asyncio.get_running_loop().time()
        for message in messages:
            if not message.reply.startswith(b"$JS.ACK."):
                self._status(each, message)
                continue
            # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>; newer servers put
            # the domain and the account in front.
            seq, number, time_ns, pending = _numbers(message.reply.split(b"."))
            if number != each.expected:
                each.broken = each.broken or "a message is missing"
                continue
            assert each.place is not None
            if each.place.compact and previous_of(message.head, seq) > each.seen:
                each.broken = each.broken or OVERTAKEN
                continue
            each.expected += 1
            each.seen = seq
            each.asked = max(0, each.asked - 1)
            each.waiting.append((seq, time_ns, message))
            each.end = max(each.end or 0, each.place.offset(seq + 1 + pending))
        self._arrived.set()

    def _status(self, each: _Partition, message: Message) -> None:
        status = message.head[9:12]
        if status in (b"408", b"404") or (status == b"409" and b"Max" in message.head):
            each.asked = 0  # the pull is over; nothing is wrong
        elif status == b"100":
            return
        else:
            each.broken = message.head.split(b"\r\n")[0].decode(errors="replace")

    async def _check_gap(self, each: _Partition, max_records: int) -> None:
        """Raise PositionLost where retention has removed what was yet to be read: the server passes over it in silence.

        Where a topic has more than one partition a gap mostly holds records of the others; one that lies below the
        first record that the stream still has may have held ours.
        """
        if each.place is None or each.place.packed or not each.waiting:
            return
        before = max(each.position, 1)
        for seq, _, _ in each.waiting[:max_records]:
            if seq > before:
                break
            before = seq + 1
        else:
            return
        stream = await self._api.stream(each.place.stream)
        first = stream["state"]["first_seq"] if stream is not None else 0
        if before < first:
            topic, number = each.at
            raise PositionLost(topic=topic, partition=number, position=before, first=first)

    def _take(self, each: _Partition, max_records: int) -> Fetched | None:
        if not each.waiting or each.place is None:
            return None
        if each.place.packed:
            return self._take_block(each)
        taken, each.waiting = each.waiting[:max_records], each.waiting[max_records:]
        rows = [record_of(message.head, message.payload, time_ns // 1_000_000) for _, time_ns, message in taken]
        headers: list[Headers | None] = [row[3] for row in rows]
        first, last = taken[0][0], taken[-1][0]
        whole = last - first == len(taken) - 1
        each.position = last + 1
        return Fetched(
            each.at,
            range(first, last + 1) if whole else [seq for seq, _, _ in taken],
            Records(
                [row[0] for row in rows],
                [row[1] for row in rows],
                [row[2] for row in rows],
                headers if any(headers) else None,
            ),
            each.position,
        )

    async def _take_snapshot(self, each: _Partition) -> Fetched | None:
        """The next block of the snapshot from the position on; behind its last one the log follows."""
        manifest, place = each.manifest, each.place
        assert manifest is not None
        assert place is not None
        subject = snapshot_subject(self._topics.owner(each.at), *each.at, manifest.id)
        while each.part < manifest.blocks:
            found = await next_block(self._api, place.stream, subject, each.part_seq, each.part)
            if found is None:
                each.manifest = None  # a later compaction has replaced it: open anew
                return None
            each.part_seq, block = found
            each.part += 1
            first = bisect_left(block.offsets, each.position)
            whole = each.part == manifest.blocks
            if first == len(block.offsets) and not whole:
                continue
            each.position = manifest.upto if whole else block.offsets[-1] + 1
            if whole:
                each.manifest = None
            headers = block.headers[first:] if block.headers is not None else None
            records = Records(block.keys[first:], block.values[first:], block.timestamps[first:], headers)
            return Fetched(each.at, block.offsets[first:], records, each.position)
        each.manifest, each.position = None, manifest.upto
        return Fetched(each.at, [], Records(), each.position)

    def _take_block(self, each: _Partition) -> Fetched:
        assert each.place is not None
        seq, _, message = each.waiting.pop(0)
        records = records_of_block(message.payload, f"{self._api.connection.url}: {each.at}, message {seq}")
        base = seq * BLOCK_PLACES
        skip = max(0, each.position - base)
        if skip:
            headers = records.headers[skip:] if records.headers is not None else None
            records = Records(records.keys[skip:], records.values[skip:], records.timestamps[skip:], headers)
        each.position = base + BLOCK_PLACES
        first = base + skip
        return Fetched(each.at, range(first, first + len(records)), records, each.position)


def _numbers(words: list[bytes]) -> tuple[int, int, int, int]:
    """Stream sequence, consumer sequence, time and pending of an ack subject (ADR-15: 9 words, or 11 and more)."""
    at = 5 if len(words) == 9 else 7
    return int(words[at]), int(words[at + 1]), int(words[at + 2]), int(words[at + 3])
