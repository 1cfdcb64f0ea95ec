"""Reading partitions, committed records only: a fetch ahead for each broker, batches in whole.

What must live here: what is asked of which broker and when, positions, and what an answer means.  What must not: record
formats (``batches``), connections (``cluster``).

    fetch() ──▶ hand out what has arrived ──▶ ask each broker for the partitions of which little is left ──▶ wait
                                                       │ one request under way for each broker
                          answer ──▶ batches by partition, ends, gaps ◀──┘

A partition's error is kept until ``fetch`` is asked for that partition, so that no batch before it is passed over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from streams.connectors.kafka.batches import Packed, arrived, unpack
from streams.connectors.kafka.faults import MOVED, Code, error_for, name_of
from streams.connectors.kafka.wire import FetchByIdRequest
from streams.core.record import Fetched, Position, Positions, Records, TopicPartition
from streams.errors import DataError, LogUnavailable, PositionLost, StreamsError, TopicRecreated

if TYPE_CHECKING:
    from streams.connectors.kafka.cluster import Cluster
    from streams.connectors.kafka.offsets import Offsets

__all__ = ["KafkaReader"]

AHEAD_BYTES = 4 * 2**20
"""How much of a partition is fetched before it is asked for."""
HURRIED_MS = 10
"""How long a broker may wait for records while another of its partitions has been read and isn't in the request."""
PATIENCE_S = 20.0
BEYOND_END_PATIENCE_S = 3.0
"""How long a partition may be without a leader, or be unknown, before that is an error."""
RETRY_S = 0.1


@dataclass(slots=True)
class _Partition:
    """What is known of one partition.  position: next to hand out; ahead: next to ask the broker for."""

    at: TopicPartition
    position: int
    ahead: int
    end: int | None = None
    packed: deque[tuple[Packed, int]] = field(default_factory=deque)
    bytes: int = 0
    failure: StreamsError | None = None
    trouble_since: float | None = None

    def take(self, max_records: int) -> list[Fetched]:
        """Batches up to ``max_records``; the last one may overrun it."""
        found: list[Fetched] = []
        taken = 0
        while self.packed and taken < max_records:
            packed, size = self.packed.popleft()
            self.bytes -= size
            if packed.batch is None:
                offsets: Sequence[int] = ()
                records = Records()
            else:
                offsets, records = unpack(packed.batch, self.position)
            self.position = packed.next_offset
            taken += len(records)
            if len(records) or not self.packed:  # of several gaps the last one tells
                found.append(Fetched(self.at, offsets, records, packed.next_offset))
        return found


class KafkaReader:
    """A ``Reader`` of fixed partitions."""

    def __init__(self, cluster: Cluster, offsets: Offsets, positions: Positions, *, max_wait_ms: int) -> None:
        self._cluster = cluster
        self._offsets = offsets
        self._max_wait_ms = max_wait_ms
        self._lane = cluster.lane("reader")
        self._partitions = {
            at: _Partition(at, position.offset(), position.offset()) for at, position in positions.items()
        }
        self._ids: dict[str, str] = {}
        self._fetching: dict[int, asyncio.Task[None]] = {}
        self._arrived = asyncio.Event()
        self._locate = True
        self._leaders: dict[TopicPartition, int] = {}
        self._first = True
        self._bug: BaseException | None = None

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            self._arrived.clear()
            found = [batch for at in partitions for batch in self._partitions[at].take(max_records)]
            if not found:
                self._raise_failure(partitions)
            await self._ask(partitions)
            if found:
                return found
            left = deadline - loop.time()
            if left <= 0:
                return []
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                deadline = loop.time()  # one look more: it may have come in the same turn of the loop

    def _raise_failure(self, partitions: Collection[TopicPartition]) -> None:
        if self._bug is not None:  # asked again, it would happen again, in silence
            raise self._bug
        for at in partitions:
            failure = self._partitions[at].failure
            if failure is not None:
                self._partitions[at].failure = None
                raise failure

    def ends(self) -> Positions:
        return {at: Position.at(known.end) for at, known in self._partitions.items() if known.end is not None}

    async def close(self) -> None:
        for task in self._fetching.values():
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)
        self._fetching.clear()
        self._cluster.drop(self._lane)

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask(self, wanted: Collection[TopicPartition]) -> None:
        """See to it that a request is under way at each broker that has something to give."""
        hungry = [
            each
            for each in self._partitions.values()
            if each.failure is None and each.bytes < AHEAD_BYTES and (not each.packed or each.at in wanted)
        ]
        if not hungry:
            return
        if self._locate:
            self._leaders = await self._cluster.leaders(list(self._partitions), anew=bool(self._ids))
            self._check_identities()
            self._locate = False
        by_node: dict[int, list[_Partition]] = {}
        for each in hungry:
            by_node.setdefault(self._leaders[each.at], []).append(each)
        for node, held in by_node.items():
            if node not in self._fetching:
                all_here = sum(leader == node for leader in self._leaders.values())
                wait_ms = 0 if self._first else (self._max_wait_ms if len(held) == all_here else HURRIED_MS)
                task = asyncio.get_running_loop().create_task(self._fetch_from(node, held, wait_ms))
                task.add_done_callback(self._ended)
                self._fetching[node] = task
        self._first = False

    def _check_identities(self) -> None:
        """Raise TopicRecreated where the topic isn't the one that reading began with (protocol 10)."""
        for at in self._partitions:
            now = self._cluster.topic_id(at.topic)
            if now is not None and self._ids.setdefault(at.topic, now) != now:
                raise TopicRecreated(
                    f"{self._cluster.url}: {at.topic} was deleted and created again while it was read; start again"
                )

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bug = error
            self._arrived.set()

    async def _fetch_from(self, node: int, held: Sequence[_Partition], wait_ms: int) -> None:
        config = self._cluster.config
        asked = [(each.at.topic, self._ids[each.at.topic], each.at.partition, each.ahead) for each in held]
        request = FetchByIdRequest(wait_ms, config.fetch_max_bytes, config.fetch_partition_max_bytes, asked)
        try:
            response = await self._cluster.send(node, request, self._lane)
            astray = self._receive(response, {each.at: each for each in held})
            for each in astray:
                await self._find_out(each)
            if self._locate:
                await asyncio.sleep(RETRY_S)
        except LogUnavailable as error:
            self._locate = True
            for each in held:
                self._note_trouble(each, error)
            await asyncio.sleep(RETRY_S)
        except StreamsError as error:
            for each in held:
                each.failure = error
        finally:
            self._fetching.pop(node, None)
            self._arrived.set()

    def _note_trouble(self, each: _Partition, error: StreamsError, patience_s: float = PATIENCE_S) -> None:
        """What may pass is an error of the partition only once it has lasted."""
        now = asyncio.get_running_loop().time()
        if each.trouble_since is None:
            each.trouble_since = now
        elif now - each.trouble_since > patience_s:
            each.failure, each.trouble_since = error, None

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _receive(self, response: Any, held: Mapping[TopicPartition, _Partition]) -> list[_Partition]:
        """Take an answer in.  The partitions whose position lies outside of what the broker has."""
        astray: list[_Partition] = []
        names = {UUID(topic_id): name for name, topic_id in self._ids.items()}
        for topic, partitions, *_ in response.topics:
            name = names[topic] if isinstance(topic, UUID) else topic
            for number, code, high, stable, _, aborted, _, raw, *_ in partitions:
                each = held[TopicPartition(name, number)]
                where = f"{self._cluster.url}: {each.at}"
                if code == Code.NONE:
                    each.trouble_since = None
                    self._take_in(each, arrived(raw or b"", aborted, where), len(raw or b""))
                    self._note_end(each, high if stable < 0 else stable)
                elif code in MOVED:
                    self._locate = True
                    self._note_trouble(each, LogUnavailable(f"{where}: {name_of(code)}"))
                elif code == Code.OFFSET_OUT_OF_RANGE:
                    astray.append(each)
                else:
                    each.failure = error_for(code, where)
        return astray

    def _note_end(self, each: _Partition, end: int) -> None:
        if each.end is not None and end < each.end:
            self._locate = True  # it shrank: the topic may be another one
        each.end = end

    def _take_in(self, each: _Partition, batches: Iterable[Packed], size: int) -> None:
        new = [packed for packed in batches if packed.next_offset > each.ahead]
        for packed in new:
            each.packed.append((packed, size // len(new)))
            each.bytes += size // len(new)
            each.ahead = packed.next_offset

    async def _find_out(self, each: _Partition) -> None:
        """Why a broker hasn't got the offset that it was asked for."""
        await self._cluster.leaders([each.at], anew=True)
        self._check_identities()
        bounds = (await self._offsets.bounds([each.at]))[each.at]
        start, end = bounds.start.offset(), bounds.end.offset()
        topic, number = each.at
        if each.ahead < start:
            each.failure = PositionLost(topic=topic, partition=number, position=each.ahead, first=start)
        elif each.ahead > end:
            error = DataError(
                f"{self._cluster.url}: {each.at}: the reader stands at {each.ahead} but the log ends at {end}: it lost "
                f"its tail (an unclean election?) or was replaced; reset the reader, or bring the right log back"
            )
            self._note_trouble(each, error, BEYOND_END_PATIENCE_S)  # a new leader may not know yet how far it goes
            self._locate = True
