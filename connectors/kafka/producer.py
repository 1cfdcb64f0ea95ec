"""A producer session: batches in sequence, each stored once, by an id that the broker gave (KIP-98).

What must live here: sequences, and sending batches to leaders.  What must not: when (``appender``, ``writer``).

One batch of a partition is under way at a time.  Sent again with the same sequence after an answer that didn't come, it
is recognised by the broker.  A session that met an error is thrown away with its sequences; nothing is mended.

A broker goes by the timestamps of records when it forgets producers (``producer.id.expiration.ms``, a day): one that
restarts doesn't recognise a batch of old records.  So such a batch isn't sent again once it may be stored, except in a
transaction, whose producer isn't forgotten while it is open.  With acks=1 or 0 there is no producer to recognise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from streams.connectors.kafka.batches import COMPRESSION, NO_PRODUCER, pack
from streams.connectors.kafka.cluster import TRANSACTION, Unanswered, together
from streams.connectors.kafka.faults import COORDINATOR_MOVED, MOVED, Code, error_for, name_of
from streams.core.record import Position, Records, TopicPartition
from streams.errors import CommitUnknown, LogUnavailable, StreamsError

if TYPE_CHECKING:
    from streams.connectors.kafka.cluster import Cluster

__all__ = ["Runs", "Session", "open_session", "position_behind"]

Runs = list[tuple[int, int]]
"""Where records came to lie: first offset and number of each batch.  Other producers' may lie between."""

RETRY_S = 0.01
AWAY_S = 0.1
"""How long to wait while no broker answers at all."""
RECOGNISED_MS = 12 * 3_600_000
"""Half of how long a broker knows a producer whose newest record is so old."""
RETRIED = MOVED | {
    Code.REQUEST_TIMED_OUT,
    Code.NOT_ENOUGH_REPLICAS,
    Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
}
NOT_STORED = {
    Code.UNKNOWN_TOPIC_OR_PARTITION,
    Code.NOT_ENOUGH_REPLICAS,
    Code.OUT_OF_ORDER_SEQUENCE,
    Code.UNKNOWN_PRODUCER_ID,
}
"""Said before a batch is stored, never after."""
ACKS = {"all": -1, "1": 1, "0": 0}


def position_behind(runs: Runs, count: int) -> Position:
    """The position behind the first ``count`` records."""
    for offset, held in runs:
        if count <= held:
            return Position.at(offset + count)
        count -= held
    raise AssertionError("there are fewer records than that")


@dataclass(slots=True)
class _Batch:
    at: TopicPartition
    raw: bytes
    count: int
    newest_ms: int
    uncertain: bool = False


def _given_up(why: str, batches: Mapping[TopicPartition, _Batch]) -> StreamsError:
    if any(batch.uncertain for batch in batches.values()):
        return CommitUnknown(f"{why}; what was sent may be stored")
    return LogUnavailable(why)


class Session:
    """Sends records in the name of one producer.  Not to be used after an error."""

    def __init__(
        self, cluster: Cluster, lane: str, producer: tuple[int, int], transactional_id: str | None = None
    ) -> None:
        self.producer = producer
        self.uncertain: dict[TopicPartition, int] = {}
        self._cluster = cluster
        self._lane = lane
        self._transactional_id = transactional_id
        self._sequences: dict[TopicPartition, int] = {}
        config = cluster.config
        self._compression = COMPRESSION[config.compression]
        self._batch_bytes = config.batch_bytes
        self._acks = -1 if transactional_id is not None else ACKS[config.acks]
        self._timeout_ms = config.request_timeout_ms

    async def produce(
        self,
        parts: Mapping[TopicPartition, Records],
        *,
        patience_s: float,
        runs: dict[TopicPartition, Runs] | None = None,
    ) -> dict[TopicPartition, Runs]:
        """Store the records of each partition, in order.  Where they came to lie.

        Waits for all replicas in sync.  What may pass is tried again for ``patience_s``.  Raises LogUnavailable (what
        was in hand isn't stored), CommitUnknown (it may be), Fenced, DataError, ConfigurationError.

        After an error ``runs`` tells what is stored all the same, and ``uncertain`` how many records behind that may
        be, by partition.  What lies behind these is not.
        """
        runs = {} if runs is None else runs
        batches: dict[TopicPartition, _Batch] = {}
        try:
            await self._produce(parts, batches, runs, patience_s)
        finally:
            self.uncertain = {at: batch.count for at, batch in batches.items() if batch.uncertain}
        return runs

    async def _produce(
        self,
        parts: Mapping[TopicPartition, Records],
        batches: dict[TopicPartition, _Batch],
        runs: dict[TopicPartition, Runs],
        patience_s: float,
    ) -> None:
        """``batches``: those in hand, one of each partition."""
        waiting = {at: self._batches(at, records) for at, records in parts.items()}
        batches.update({at: batch for at, each in waiting.items() if (batch := next(each, None)) is not None})
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        anew = False
        while batches:
            try:
                leaders = await self._cluster.leaders(batches.keys(), anew=anew)
            except LogUnavailable as error:
                if loop.time() > deadline:
                    raise _given_up(str(error), batches) from error
                anew = True
                await asyncio.sleep(AWAY_S)
                continue
            by_node: dict[int, list[_Batch]] = {}
            for at, batch in batches.items():
                by_node.setdefault(leaders[at], []).append(batch)
            sent = await together(*(self._send(node, held) for node, held in by_node.items()))
            trouble: dict[TopicPartition, str] = {}
            failure: StreamsError | None = None
            for stored, refused, failed in sent:
                trouble.update(refused)
                failure = failure or failed
                for at, offset in stored.items():
                    runs.setdefault(at, []).append((offset, batches[at].count))
                    following = next(waiting[at], None)
                    if following is None:
                        del batches[at]
                    else:
                        batches[at] = following
            if failure is not None:
                raise failure
            anew = bool(trouble)
            if trouble:
                if loop.time() > deadline:
                    at, why = next(iter(trouble.items()))
                    raise _given_up(f"{self._cluster.url}: {at}: {why}", batches)
                await asyncio.sleep(RETRY_S)

    def _batches(self, at: TopicPartition, records: Records) -> Iterator[_Batch]:
        start = 0
        while start < len(records):
            sequence = self._sequences.get(at, 0) if self.producer != NO_PRODUCER else -1
            raw, count = pack(
                records,
                start,
                compression=self._compression,
                max_bytes=self._batch_bytes,
                transactional=self._transactional_id is not None,
                producer=self.producer,
                sequence=sequence,
            )
            self._sequences[at] = (self._sequences.get(at, 0) + count) % 2**31
            newest_ms = max(records.timestamps[start : start + count])
            start += count
            yield _Batch(at, raw, count, newest_ms)

    async def _send(
        self, node: int, batches: list[_Batch]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, str], StreamsError | None]:
        """One request; the first offsets of what is stored, why what may pass is not, and an error that won't pass."""
        topics: dict[str, list[tuple[int, bytes]]] = {}
        for batch in batches:
            topics.setdefault(batch.at.topic, []).append((batch.at.partition, batch.raw))
        request = ProduceRequest(self._transactional_id, self._acks, self._timeout_ms, list(topics.items()))
        stored: dict[TopicPartition, int] = {}
        refused: dict[TopicPartition, str] = {}
        failure: StreamsError | None = None
        uncertain = {batch.at for batch in batches if batch.uncertain}
        for batch in batches:
            batch.uncertain = True  # until an answer says otherwise, whatever happens
        try:
            response = await self._cluster.send(node, request, self._lane, answered=self._acks != 0)
        except LogUnavailable as error:
            if not isinstance(error, Unanswered):
                for batch in batches:
                    batch.uncertain = batch.at in uncertain
            elif not all(map(self._recognised, batches)):
                return {}, {}, self._not_again(str(error))
            return {}, {batch.at: str(error).removeprefix(f"{self._cluster.url}: ") for batch in batches}, None
        if self._acks == 0:
            return {batch.at: 0 for batch in batches}, {}, None
        held = {batch.at: batch for batch in batches}
        for topic, partitions in response.topics:
            for number, code, offset, *_ in partitions:
                at = TopicPartition(topic, number)
                if code == Code.NONE:  # also for a batch that was sent again: with the offset it got at first
                    stored[at] = offset
                elif code == Code.DUPLICATE_SEQUENCE:
                    failure = CommitUnknown(f"{self._cluster.url}: {at}: stored before, but nobody knows where")
                elif code in RETRIED:
                    # One that ceases to lead says so even of what it has stored just before, and then also where.
                    held[at].uncertain = code not in NOT_STORED or at in uncertain
                    refused[at] = name_of(code)
                    stored_it = offset >= 0 or code == Code.KAFKA_STORAGE_ERROR
                    if stored_it and held[at].uncertain and not self._recognised(held[at]):
                        self._cluster.moved([topic])  # else the next session would ask the same broker
                        failure = self._not_again(f"{self._cluster.url}: {at}: {name_of(code)}")
                else:
                    failure = error_for(code, f"{self._cluster.url}: {at}")
                    refusal = code in NOT_STORED or not isinstance(failure, LogUnavailable)
                    held[at].uncertain = not refusal or at in uncertain
        return stored, refused, failure

    def _recognised(self, batch: _Batch) -> bool:
        """Whether a broker that has stored this batch is sure to know it when it comes again."""
        if self.producer == NO_PRODUCER:
            return False
        return self._transactional_id is not None or batch.newest_ms > time.time() * 1000 - RECOGNISED_MS

    def _not_again(self, what: str) -> CommitUnknown:
        why = "records so old aren't sent again, since a broker that restarts wouldn't recognise them"
        if self.producer == NO_PRODUCER:
            why = "it isn't sent again, since only with acks=all the broker would recognise it"
        return CommitUnknown(f"{what}; what was sent may be stored ({why})")


async def open_session(cluster: Cluster, lane: str, transactional_id: str | None = None) -> Session:
    """A session with a producer id of its own.

    With a transactional id this fences whoever had it before, and ends what that one left open (KIP-98): when it
    returns, no write of a former session will be seen any more.  Waits for the end of that transaction.  Raises
    LogUnavailable, ConfigurationError.
    """
    config = cluster.config
    if transactional_id is None and config.acks != "all":
        return Session(cluster, lane, NO_PRODUCER)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + config.transaction_timeout_ms / 1000 + 5.0
    request = InitProducerIdRequest(transactional_id, config.transaction_timeout_ms)
    what = f"task {transactional_id}" if transactional_id is not None else "producer"
    while True:
        if transactional_id is None:
            node = cluster.any_node()
        else:
            node = await cluster.coordinator(transactional_id, TRANSACTION)
        response = await cluster.send(node, request, lane)
        code = response.error_code
        if code == Code.NONE:
            return Session(cluster, lane, (response.producer_id, response.producer_epoch), transactional_id)
        if code not in COORDINATOR_MOVED and code != Code.CONCURRENT_TRANSACTIONS:
            raise error_for(code, f"{cluster.url}: {what}")
        if loop.time() > deadline:
            raise LogUnavailable(f"{cluster.url}: {what}: {name_of(code)}")
        await asyncio.sleep(RETRY_S)
