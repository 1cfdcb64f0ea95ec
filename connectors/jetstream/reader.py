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
from typing import Any, Protocol

import msgspec

from streams.connectors.jetstream.api import Api, ApiError
from streams.connectors.jetstream.chains import previous_of
from streams.connectors.jetstream.client import Message, Subscription, header_of, publication
from streams.connectors.jetstream.messages import BLOCK_PLACES, Arrived, columns_of, records_of_block
from streams.connectors.jetstream.names import snapshot_subject
from streams.connectors.jetstream.snapshots import Manifest, next_block
from streams.connectors.jetstream.topics import Place
from streams.core.record import Bounds, Fetched, Position, Positions, Records, TopicPartition
from streams.errors import DataError, LogCorrupt, PositionLost, TopicRecreated

__all__ = ["LOOK_S", "SILENCE_S", "JetStreamReader", "Partition", "Places"]

NS = 1_000_000_000
PULL_RECORDS, PULL_BLOCKS = 500, 16
PULL_BYTES = 512 * 1024
EXPIRES_S = 30.0
HEARTBEAT_S = 1.0
SILENCE_S = 4.0
"""Without a heartbeat for so long, the consumer is taken to be gone with its server."""
LOOK_S = 10.0
INACTIVE_S = 60.0
OVERTAKEN = "compaction was quicker"


class Places(Protocol):
    """Where partitions lie: ``topics.Topics``, or the streams of others (``foreign_streams``)."""

    async def infos(self, names: Collection[str] | None) -> Any:
        """Look at topics anew."""
        ...

    async def place(self, at: TopicPartition) -> Place: ...

    async def bounds(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Bounds]: ...

    async def manifest(self, at: TopicPartition) -> tuple[int, Manifest | None]: ...

    def owner(self, at: TopicPartition) -> str: ...


@dataclass(slots=True)
class Partition:
    """What is known of one partition.

    position: of the next record to hand out.  seen: sequence of the last message that arrived.
    checked: up to that sequence no gap holds anything that was lost.
    pending: how many more there were for us when it was sent.  free: gaps that begin before it mean nothing.
    due: how many the consumer said it had yet to send.  unasked: for a moment it had nobody to send to, and what came
    then may be gone without having been due.
    manifest: while its snapshot is read; part, part_seq: number of its next block, and from where on to look for it.
    life: of the connection, when something was last asked for.
    """

    at: TopicPartition
    position: int
    place: Place | None = None
    consumer: str = ""
    inbox: str = ""
    subscription: Subscription | None = None
    expected: int = 1
    checked: int = 0
    asked: int = 0
    asked_at: float = 0.0
    life: int = 0
    heard_at: float = 0.0
    looked_at: float = 0.0
    broken: str = ""
    end: int | None = None
    seen: int = 0
    pending: int = 1
    due: int = 0
    unasked: bool = False
    first: int = 0
    free: int = 0
    overtaken_at: int = -1
    manifest: Manifest | None = None
    part: int = 0
    part_seq: int = 1
    waiting: list[Arrived] = field(default_factory=list)


class JetStreamReader:
    """A ``Reader`` of fixed partitions.  What is special of others' streams overrides the methods that say so."""

    def __init__(self, api: Api, topics: Places, positions: Positions) -> None:
        self._api = api
        self._topics = topics
        self._partitions = {at: Partition(at, position.offset()) for at, position in positions.items()}
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
                skipped = await self._keep_up(each)
                if skipped is not None:
                    found.append(skipped)
                    continue
                ready = min(max_records, len(each.waiting))  # what arrives meanwhile was looked into by nobody
                await self._check_gap(each, max_records)
                batch = self._take(each, ready) if each.manifest is None else await self._take_snapshot(each)
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

    async def _see_to(self, each: Partition) -> None:
        """Have a consumer that stands where the partition's buffer ends."""
        now = asyncio.get_running_loop().time()
        if each.manifest is not None:
            return
        if each.subscription is not None and not each.broken:
            if each.asked and now - each.heard_at > SILENCE_S:
                each.broken = "it doesn't answer"
            elif each.asked and each.life != self._api.connection.reconnects:
                each.broken = "what was asked for on a former connection won't come"
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

    async def _open(self, each: Partition) -> None:
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
            "ack_policy": "none",
            "filter_subject": place.subject,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE_S * NS),
            **self._start_of(each, place, bounds.start),
        }
        try:
            made = await self._api.call(
                f"CONSUMER.CREATE.{place.stream}", {"stream_name": place.stream, "config": config}
            )
        except ApiError as error:
            raise self._api.failure(error, f"reading {each.at}") from error
        each.consumer, each.expected, each.asked, each.broken = made["name"], 1, 0, ""
        each.asked_at, each.unasked = 0.0, False
        each.pending = each.due = made.get("num_pending", 1)

    def _start_of(self, each: Partition, place: Place, first: Position) -> dict[str, Any]:
        """Where a new consumer begins; ``first``: of what can be read.  May be overridden."""
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, place.seq(each.position))}

    def _columns(self, at: TopicPartition, place: Place, taken: Sequence[Arrived]) -> Records:
        """Messages as records.  Raises LogCorrupt.  May be overridden."""
        return columns_of(taken, f"{self._api.connection.url}: {at}", place.stream)

    async def _drop(self, each: Partition) -> None:
        subscription, each.subscription = each.subscription, None
        if subscription is not None:
            await subscription.close()
        if each.consumer and each.place is not None and self._api.connection.connected:
            subject = f"$JS.API.CONSUMER.DELETE.{each.place.stream}.{each.consumer}"
            await self._api.connection.write(publication(subject, b""))
        each.consumer = ""

    async def _pull(self, each: Partition) -> None:
        """Ask for more when little of what was asked for is still to come."""
        place = each.place
        if each.subscription is None or each.broken or place is None:
            return
        batch = PULL_BLOCKS if place.packed else PULL_RECORDS
        now = asyncio.get_running_loop().time()
        if len(each.waiting) >= 2 * batch or (each.asked > batch // 2 and now - each.asked_at < EXPIRES_S / 2):
            return
        if not each.asked and each.asked_at:
            each.unasked, each.looked_at = True, 0.0
        request = {
            "batch": batch,
            "max_bytes": PULL_BYTES,
            "expires": int(EXPIRES_S * NS),
            "idle_heartbeat": int(HEARTBEAT_S * NS),
        }
        each.asked += batch
        each.life = self._api.connection.reconnects
        each.heard_at = each.asked_at = now
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{place.stream}.{each.consumer}"
        await self._api.connection.write(publication(subject, msgspec.json.encode(request), each.inbox))

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _receive(self, each: Partition, messages: list[Message]) -> None:
        each.heard_at = asyncio.get_running_loop().time()
        place, before, last = each.place, len(each.waiting), b"0"
        assert place is not None
        for message in messages:
            # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>
            words = message[1].rsplit(b".", 4)
            if len(words) != 5 or message[1].count(b".") != 8:
                if not message[1].startswith(b"$JS.ACK."):
                    self._status(each, message)
                    continue
                words = message[1].split(b".")[6:11]  # ADR-15: domain and account in front, a token behind
            _, found, number, time_ns, pending = words
            if int(number) != each.expected:
                each.broken = each.broken or "a message is missing"
                continue
            seq = int(found)
            if place.compact and previous_of(message.head, seq) > each.seen:
                each.broken = each.broken or OVERTAKEN
                continue
            each.expected += 1
            each.waiting.append((seq, int(time_ns), message))
            each.seen, last = seq, pending
        arrived = len(each.waiting) - before
        if arrived:
            each.pending, each.due, each.unasked = int(last), int(last), False
            each.asked = max(0, each.asked - arrived)
            each.end = max(each.end or 0, place.offset(each.seen + 1 + each.pending))
        self._arrived.set()

    def _status(self, each: Partition, message: Message) -> None:
        status, head = message.head[9:12], message.head
        if status == b"100":
            return
        if status in (b"408", b"404") or (status == b"409" and (b"Max" in head or b"Batch Completed" in head)):
            # A pull is over, by time or by bytes; nothing is wrong.  The next one may be under way already.
            left = header_of(head, b"Nats-Pending-Messages")
            each.asked = max(0, each.asked - int(left)) if left is not None else 0
        else:
            each.broken = head.split(b"\r\n")[0].decode(errors="replace")

    async def _check_gap(self, each: Partition, max_records: int) -> None:
        """Raise PositionLost where retention has removed what was yet to be read: the server passes over it in silence.

        Where a topic has more than one partition a gap mostly holds records of the others; one that lies below the
        first record that the stream still has may have held ours.
        """
        place, waiting = each.place, each.waiting
        if place is None or place.packed or not waiting:
            return
        until = waiting[min(max_records, len(waiting)) - 1][0]
        if until <= each.checked:
            return
        before = max(each.position, each.checked + 1)
        for seq, _, _ in waiting:
            if seq > before >= each.free:
                break
            before = seq + 1
        else:
            return
        arrived = waiting[-1][0]
        stream = await self._api.stream(place.stream)
        first = stream["state"]["first_seq"] if stream is not None else 0
        if before < first:
            topic, number = each.at
            raise PositionLost(topic=topic, partition=number, position=before, first=first)
        each.checked = arrived  # a later gap begins later: one question answers for all that had arrived by then

    async def _keep_up(self, each: Partition) -> Fetched | None:
        """Move the position of a partition that gets nothing along with the first record that the stream still has.

        Other partitions of the topic move that on.  Were the position left behind, whoever opens the partition next
        would have to take it that records were removed unread.  Raises PositionLost where some were.
        """
        place, now = each.place, asyncio.get_running_loop().time()
        if place is None or place.packed or each.subscription is None or each.broken or each.waiting:
            return None
        if not each.asked or now - each.heard_at > SILENCE_S or now < each.looked_at + LOOK_S:
            return None
        each.looked_at = now
        stream = await self._api.stream(place.stream)
        first = stream["state"]["first_seq"] if stream is not None else 0
        if first <= max(each.position, 1):
            each.unasked = False
            if not each.due:
                return None
        if await self._api.message(place.stream, last_by_subj=place.subject) is not None:
            return None
        if each.waiting or each.life != self._api.connection.reconnects:
            return None
        self._check_unread(each, first)
        each.position, each.end = first, max(each.end or 0, first)
        return Fetched(each.at, [], Records(), first)

    def _check_unread(self, each: Partition, first: int) -> None:
        """Raise PositionLost where nothing of ours is left from the position on, and something was to come.

        A purge or an age limit may leave nothing behind the hole that would show it.  That records of others were
        removed doesn't count: while it is asked, the consumer sends what comes for us before anything removes it.
        """
        if each.due or (each.unasked and first > max(each.position, 1)):
            topic, number = each.at
            raise PositionLost(
                topic=topic,
                partition=number,
                position=each.position,
                first=max(first, each.position + max(1, each.due)),
            )

    def _take(self, each: Partition, max_records: int) -> Fetched | None:
        if not max_records or each.place is None:
            return None
        if each.place.packed:
            return self._take_block(each)
        taken = each.waiting[:max_records]
        records = self._columns(each.at, each.place, taken)  # first: what doesn't read back must not be passed over
        first, last = taken[0][0], taken[-1][0]
        whole = last - first == len(taken) - 1
        each.waiting, each.position = each.waiting[max_records:], last + 1
        offsets = range(first, last + 1) if whole else [seq for seq, _, _ in taken]
        return Fetched(each.at, offsets, records, each.position)

    async def _take_snapshot(self, each: Partition) -> Fetched | None:
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

    def _take_block(self, each: Partition) -> Fetched:
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
