"""Ingress: stores what comes in at an edge, before it is acknowledged.

    claim on the app's log ──▶ open the intake with the state that the last owner left ──▶ receive, commit, acknowledge

While a commit is under way the intake gathers what comes: each commit takes all of it, so that the busier it is the
larger commits are, and nobody waits for a checkpoint interval.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from streams.core.capability import Guarantee
from streams.core.checkpoint import Checkpoint, claimed, decode_checkpoint, encode_checkpoint
from streams.core.edge import Edge, Intake
from streams.core.log import Append, Commit, Log, TaskRef, TaskWriter
from streams.core.record import Records, TopicPartition
from streams.core.thresholds import PRODUCTION, Thresholds
from streams.dsl.foreign import Journal
from streams.errors import DataError, StreamsError
from streams.runtime.outages import Outages
from streams.runtime.owner import confirmed
from streams.runtime.restarts import run_until
from streams.runtime.stopping import LET_GO_S, CutOff, Stop

logger = logging.getLogger("streams")

STATE = "intake"
"""The fact of the checkpoint that holds an intake's state."""
WAIT_S = 0.2


class Ingress:
    """Fills one partition of a journal until it is stopped.

    dropped: told how many messages the intake has dropped.  skipped: told how many the log couldn't hold, which are
    passed over then; None where such a message is an error.
    """

    def __init__(
        self,
        ref: TaskRef,
        log: Log,
        edge: Edge,
        journal: Journal,
        partition: int,
        topology: int,
        dropped: Callable[[int], None] = lambda count: None,
        outages: Outages | None = None,
        thresholds: Thresholds = PRODUCTION,
    ) -> None:
        self.id = ref.name
        self.at = TopicPartition(journal.topic.name, partition)
        self.source = journal.source.name
        self.received = 0
        self.lost = 0
        self._log = log
        self._edge = edge
        self._journal = journal
        self._ref = ref
        self._topology = topology
        self._thresholds = thresholds
        self._dropped = dropped
        self._outages = outages or Outages()
        self._who = f"ingress {self.id} starts again"
        self.skipped: Callable[[int], None] | None = None
        self._stop = Stop()
        self._intake: Intake | None = None
        self._heard = self._quiet = self._ending = False
        self._known_lost = 0  # of what this intake has dropped

    def stop(self) -> None:
        """Ask it to let go; ``run`` returns when what has come is stored, or the transport was waited for for long
        enough."""
        self._stop.set()

    @property
    def phase(self) -> str:
        """Whether what is sent now arrives."""
        return "receiving" if self._intake is not None and self._heard else "connecting"

    @property
    def connecting(self) -> bool:
        """It has nothing in hand yet."""
        return self._intake is None

    @property
    def caught_up(self) -> bool:
        """The intake is open, and nothing has come for a moment."""
        return self._intake is not None and self._quiet

    async def run(self) -> None:
        """Receive until stopped.  A transport that can't be reached is tried again for as long as it takes."""
        who, seed, outages = self._who, self._log.identity, self._outages
        await run_until(self._stop.event, self._live, lambda: self.received, who, seed=seed, outages=outages)

    async def _live(self) -> None:
        writer = await self._log.fence(self._ref)
        intake: Intake | None = None
        try:
            previous = decode_checkpoint(writer.checkpoint) if writer.checkpoint is not None else None
            checkpoint = claimed(previous, log_id=self._log.identity, topology=self._topology)
            await writer.commit(Commit(encode_checkpoint(checkpoint)))
            source, group = self._journal.source, f"{self._log.identity}.{self._journal.topic.name}"
            intake = await self._edge.intake(source, group, self.at.partition, checkpoint.facts.get(STATE))
            # Who was held up until now connects with a state that its successor has long gone on from: it would
            # acknowledge what it takes for something else.
            checkpoint = await confirmed(writer, checkpoint)
            self._intake, self._known_lost = intake, 0
            self._heard = self._quiet = self._ending = False
            await self._receive(writer, intake, checkpoint)
        except CutOff:
            words = "ingress %s: %s is left, since it doesn't answer; what isn't acknowledged comes to who is next"
            logger.warning(words, self.id, self._edge.url)
        finally:
            self._intake = None
            try:
                if intake is not None:
                    await intake.close()
            finally:
                await writer.close()

    async def _receive(self, writer: TaskWriter, intake: Intake, checkpoint: Checkpoint) -> None:
        limits = self._log.limits
        most = self._thresholds
        max_records = min(most.ingress_records, limits.max_packed_records or limits.max_commit_records)
        max_bytes = min(most.ingress_bytes, limits.max_commit_bytes // 2)
        try:
            while True:
                if self._stop.is_set() and not self._ending:
                    self._ending = True
                    await self._stop.bound(intake.end(), self._patience_s)
                wait_s = 0.0 if self._ending else WAIT_S
                try:
                    received = await self._stop.bound(
                        intake.receive(max_records=max_records, max_bytes=max_bytes, wait_s=wait_s), self._patience_s
                    )
                except CutOff:
                    if self._ending:
                        raise
                    continue  # what has come all the same is handed out
                self._look_at_lost(intake)
                self._quiet = received is None
                self._heard = self._heard or received is None or bool(len(received.records))
                if self._heard:
                    self._outages.works(self._edge.url, self._who)
                if received is None:
                    self._outages.works(self._log.url, self._who)
                    if self._ending:
                        return
                    continue
                checkpoint = _next(checkpoint, received.state)
                await self._store(writer, checkpoint, received.records)
                await self._stop.bound(intake.stored(), self._patience_s)
        finally:
            self._look_at_lost(intake)

    def _patience_s(self) -> float:
        """How long a stop waits: while it connects for nothing that may never come, else for what has come."""
        return LET_GO_S if self._ending or self._heard else 0.0

    async def _store(self, writer: TaskWriter, checkpoint: Checkpoint, come: Records) -> None:
        records = self._fitting(come)
        appends = [Append(self.at, records)] if len(records) else []
        try:
            await writer.commit(Commit(encode_checkpoint(checkpoint), appends))
        except StreamsError:
            if len(records) and self._edge.guarantee(written=False).guarantee is Guarantee.AT_MOST_ONCE:
                self._drop(len(records), "the log didn't confirm them")  # and nobody sends them again
            raise
        self._outages.works(self._log.url, self._who)
        self.received += len(records)
        if self.skipped is not None and len(records) < len(come):
            self.skipped(len(come) - len(records))

    def _look_at_lost(self, intake: Intake) -> None:
        if intake.lost > self._known_lost:
            self._drop(intake.lost - self._known_lost, "the log didn't take them as fast as they came")
            self._known_lost = intake.lost

    def _drop(self, count: int, why: str) -> None:
        logger.warning("ingress %s: %d messages were dropped, since %s", self.id, count, why)
        self.lost += count
        self._dropped(count)

    def _fitting(self, records: Records) -> Records:
        """Those that the log can hold.  One that it can't is said before it is sent, and may be an error."""
        most, too_large = self._log.limits.max_record_bytes, set[int]()
        for row, value in enumerate(records.values):
            headers = (records.headers[row] if records.headers is not None else None) or ()
            size = len(records.keys[row] or b"") + len(value or b"")
            size += sum(len(name) + len(content) for name, content in headers)
            if size > most:
                key = (records.keys[row] or b"").decode(errors="replace")
                said = f"{self._edge.url}: a message of {size} bytes came under {key!r}, and the log takes records "
                said += f"of at most {most}"
                if self.skipped is None:
                    raise DataError(
                        f"{said}; have it sent in pieces, choose a log that takes more, or set on_error='skip'"
                    )
                logger.warning("%s; it is skipped", said)
                too_large.add(row)
        return _without(records, too_large) if too_large else records


def _without(records: Records, rows: set[int]) -> Records:
    left = [row for row in range(len(records)) if row not in rows]
    return Records(
        [records.keys[row] for row in left],
        [records.values[row] for row in left],
        [records.timestamps[row] for row in left],
        None if records.headers is None else [records.headers[row] for row in left],
    )


def _next(checkpoint: Checkpoint, state: bytes | None) -> Checkpoint:
    changes: dict[str, Any] = {} if state is None else {"facts": {**checkpoint.facts, STATE: state}}
    return msgspec.structs.replace(checkpoint, number=checkpoint.number + 1, **changes)
