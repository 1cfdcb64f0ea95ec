"""Commits of a task: each one a transaction that begins at commit time.

    fence():   InitProducerId ends what a former owner left open ──▶ only then: the last checkpoint
    commit():  add partitions and the group ──▶ batches to the leaders, offsets to the group ──▶ EndTxn(commit)

What must live here: the order of these requests, and what an error at each of them means.  What must not: batches
(``producer``), finding a checkpoint (``checkpoints``).

Until EndTxn has been sent nothing can have been committed: an error means that nothing was stored.  An answer to it
that doesn't come leaves the outcome unknown.  It is never sent twice: before KIP-890 a late one may end the next
transaction.  After any error the writer is of no further use, and the next fence aborts what hangs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)

from streams.connectors.kafka.checkpoints import checkpoint_partition, last_checkpoint
from streams.connectors.kafka.cluster import GROUP, TRANSACTION, together
from streams.connectors.kafka.faults import COORDINATOR_MOVED, MOVED, Code, error_for, name_of
from streams.connectors.kafka.producer import Runs, Session, open_session, position_behind
from streams.core.log import Append, Commit
from streams.core.membership import TaskRef
from streams.core.record import Positions, Records, TopicPartition
from streams.errors import CommitUnknown, Fenced, LogUnavailable

if TYPE_CHECKING:
    from streams.connectors.kafka.cluster import Cluster
    from streams.connectors.kafka.offsets import Offsets

__all__ = ["KafkaTaskWriter", "by_partition", "fence"]

RETRY_S = 0.005
Check = Callable[[Commit], object]


async def fence(cluster: Cluster, offsets: Offsets, task: TaskRef, check: Check) -> KafkaTaskWriter:
    """Take the task over.  ``check`` raises for what a commit must not hold."""
    lane = cluster.lane(f"task {task.name}")
    try:
        session = await open_session(cluster, lane, task.name)
        checkpoint = await last_checkpoint(cluster, offsets, task)
    except BaseException:
        cluster.drop(lane)
        raise
    return KafkaTaskWriter(cluster, task, lane, session, checkpoint, check)


def by_partition(appends: Sequence[Append]) -> dict[TopicPartition, Records]:
    """The records of each partition, in order; columns are copied only where there are several appends to one."""
    parts: dict[TopicPartition, Records] = {}
    joined: set[TopicPartition] = set()
    for append in appends:
        at = append.partition
        if at not in parts:
            if len(append.records):
                parts[at] = append.records
            continue
        if at not in joined:
            joined.add(at)
            first, parts[at] = parts[at], Records()
            parts[at].extend(first)
        parts[at].extend(append.records)
    return parts


class KafkaTaskWriter:
    """A ``TaskWriter`` that holds a transactional id."""

    def __init__(
        self, cluster: Cluster, task: TaskRef, lane: str, session: Session, checkpoint: bytes | None, check: Check
    ) -> None:
        self.checkpoint = checkpoint
        self._cluster = cluster
        self._task = task
        self._lane = lane
        self._offsets_lane = f"{lane} offsets"
        self._session = session
        self._check = check
        self._where = f"{cluster.url}: commit of task {task.name}"
        self._at = checkpoint_partition(task)
        self._coordinator: int | None = None
        self._group_coordinator: int | None = None
        self._spent = False
        self._patience_s = cluster.config.transaction_timeout_ms / 1000 / 2

    async def commit(self, commit: Commit) -> Positions:
        if self._spent:
            raise Fenced(f"{self._where}: the writer is closed; fence the task anew")
        self._check(commit)  # what is wrong with the commit itself leaves the writer as it is
        self._spent = True
        ends = await self._transaction(commit.appends, commit.checkpoint, commit.positions)
        self._spent = False
        return ends

    async def forget(self) -> None:
        """Leave no checkpoint; the writer is of no further use."""
        self._spent = True
        await self._transaction((), None, {})

    async def close(self) -> None:
        self._spent = True
        for lane in (self._lane, self._offsets_lane):
            self._cluster.drop(lane)

    async def _transaction(
        self, appends: Sequence[Append], checkpoint: bytes | None, positions: Positions
    ) -> Positions:
        parts = by_partition(appends)
        parts[self._at] = Records([self._task.name.encode()], [checkpoint], [time.time_ns() // 1_000_000])
        runs: dict[TopicPartition, Runs] = {}
        try:
            async with asyncio.timeout(self._cluster.config.transaction_timeout_ms / 1000):
                await self._add(list(parts), bool(positions))
                await together(
                    self._session.produce(parts, patience_s=self._patience_s, runs=runs),
                    self._add_positions(positions),
                )
        except CommitUnknown as error:
            # Without its end no transaction is committed, whatever became of its batches.
            raise LogUnavailable(f"{self._where}: {error}") from error
        except TimeoutError as error:
            raise LogUnavailable(f"{self._where}: took longer than transaction_timeout_ms; nothing stored") from error
        await self._end()
        return {at: position_behind(runs[at], len(records)) for at, records in parts.items() if at != self._at}

    # ── requests, in their order ──────────────────────────────────────────────────────────────────────────────────

    async def _add(self, partitions: list[TopicPartition], offsets: bool) -> None:
        """Tell the coordinator what the transaction is going to hold."""
        topics: dict[str, list[int]] = {}
        for topic, number in partitions:
            topics.setdefault(topic, []).append(number)
        name, producer = self._task.name, self._session.producer
        added = AddPartitionsToTxnRequest(name, *producer, list(topics.items()))
        requests = [self._ask(added, lambda r: (code for _, held in r.errors for _, code in held))]
        if offsets:
            group = AddOffsetsToTxnRequest(name, *producer, self._task.group)
            requests.append(self._ask(group, lambda r: (r.error_code,)))
        await together(*requests)

    async def _ask(self, request: Any, codes: Callable[[Any], Any]) -> None:
        """A request to the transaction's coordinator.  Waits while the former transaction is being completed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            node = await self._transaction_coordinator()
            response = await self._cluster.send(node, request, self._lane)
            bad = [code for code in codes(response) if code != Code.NONE]
            # The first code that isn't about waiting for others (OPERATION_NOT_ATTEMPTED, 55) tells.
            telling = [code for code in bad if code != 55] or bad
            if not telling:
                return
            code = telling[0]
            if code in COORDINATOR_MOVED:
                self._coordinator = None
            elif code != Code.CONCURRENT_TRANSACTIONS and code not in MOVED:
                raise error_for(code, self._where)
            if loop.time() > deadline:
                raise LogUnavailable(f"{self._where}: {name_of(code)}; nothing was stored")
            await asyncio.sleep(RETRY_S)

    async def _transaction_coordinator(self) -> int:
        if self._coordinator is None:
            self._coordinator = await self._cluster.coordinator(self._task.name, TRANSACTION)
        return self._coordinator

    async def _add_positions(self, positions: Positions) -> None:
        """Give the group's offsets to the transaction, for everybody's lag tools."""
        if not positions:
            return
        topics: dict[str, list[tuple[int, int, str]]] = {}
        for at, position in positions.items():
            topics.setdefault(at.topic, []).append((at.partition, position.offset(), ""))
        request = TxnOffsetCommitRequest(
            self._task.name, self._task.group, *self._session.producer, list(topics.items())
        )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            if self._group_coordinator is None:
                self._group_coordinator = await self._cluster.coordinator(self._task.group, GROUP)
            response = await self._cluster.send(self._group_coordinator, request, self._offsets_lane)
            bad = [code for _, held in response.errors for _, code in held if code != Code.NONE]
            if not bad:
                return
            if bad[0] in COORDINATOR_MOVED:
                self._group_coordinator = None
            elif bad[0] not in MOVED:
                raise error_for(bad[0], self._where)
            if loop.time() > deadline:
                raise LogUnavailable(f"{self._where}: offsets of group {self._task.group}: {name_of(bad[0])}")
            await asyncio.sleep(RETRY_S)

    async def _end(self) -> None:
        request = EndTxnRequest(self._task.name, *self._session.producer, True)
        node = await self._transaction_coordinator()
        try:
            response = await self._cluster.send(node, request, self._lane)
        except LogUnavailable as error:
            raise CommitUnknown(f"{self._where}: no answer came; it may have been carried out ({error})") from error
        code = response.error_code
        # A coordinator that failed to replicate its decision says that it isn't available; the next one may find it.
        if code != Code.NONE:
            refused = error_for(code, self._where)
            raise refused if isinstance(refused, Fenced) else CommitUnknown(str(refused))
