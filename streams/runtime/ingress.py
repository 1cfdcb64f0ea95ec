"""Ingress: stores what comes in at an edge, before it is acknowledged.

    claim on the app's log ──▶ open the intake with the state that the last owner left ──▶ receive, commit, acknowledge

While a commit is under way the intake gathers what comes: each commit takes all of it, so that the busier it is the
larger commits are, and nobody waits for a checkpoint interval.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from streams.core.checkpoint import Checkpoint, claimed, decode_checkpoint, encode_checkpoint
from streams.core.edge import Edge, Intake, Received
from streams.core.log import Append, Commit, Log, TaskRef, TaskWriter
from streams.core.record import TopicPartition
from streams.dsl.foreign import Journal
from streams.errors import DataError
from streams.runtime.owner import confirmed
from streams.runtime.restarts import run_until

logger = logging.getLogger("streams")

STATE = "intake"
"""The fact of the checkpoint that holds an intake's state."""
MAX_RECORDS = 10_000
MAX_BYTES = 4 * 2**20
WAIT_S = 0.2


class Ingress:
    """Fills one partition of a journal until it is stopped."""

    def __init__(
        self,
        ref: TaskRef,
        log: Log,
        edge: Edge,
        journal: Journal,
        partition: int,
        topology: int,
        dropped: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.id = ref.name
        self.at = TopicPartition(journal.topic.name, partition)
        self.received = 0
        self.lost = 0
        self._log = log
        self._edge = edge
        self._journal = journal
        self._ref = ref
        self._topology = topology
        self._dropped = dropped
        self._stop = asyncio.Event()
        self._intake: Intake | None = None
        self._quiet = False

    def stop(self) -> None:
        """Ask it to let go; ``run`` returns when what has come is stored."""
        self._stop.set()

    @property
    def phase(self) -> str:
        """Whether what is sent now arrives."""
        return "connecting" if self.connecting else "receiving"

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
        await run_until(self._stop, self._live, lambda: self.received, f"ingress {self.id} starts again")

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
            self._intake = intake
            await self._receive(writer, intake, checkpoint)
        finally:
            self._intake = None
            if intake is not None:
                await intake.close()
            await writer.close()

    async def _receive(self, writer: TaskWriter, intake: Intake, checkpoint: Checkpoint) -> None:
        limits = self._log.limits
        max_records = min(MAX_RECORDS, limits.max_packed_records or limits.max_commit_records)
        max_bytes = min(MAX_BYTES, limits.max_commit_bytes // 2)
        lost, ending = 0, False
        while True:
            if self._stop.is_set() and not ending:
                await intake.end()
                ending = True
            received = await intake.receive(
                max_records=max_records, max_bytes=max_bytes, wait_s=0.0 if ending else WAIT_S
            )
            if intake.lost > lost:
                logger.warning(
                    "ingress %s: %d messages were dropped, since the log didn't take them as fast as they came",
                    self.id,
                    intake.lost - lost,
                )
                self.lost += intake.lost - lost
                self._dropped(intake.lost - lost)
                lost = intake.lost
            self._quiet = received is None
            if received is None:
                if ending:
                    return
                continue
            self._check(received)
            checkpoint = _next(checkpoint, received.state)
            appends = [Append(self.at, received.records)] if len(received.records) else []
            await writer.commit(Commit(encode_checkpoint(checkpoint), appends))
            self.received += len(received.records)
            await intake.stored()

    def _check(self, received: Received) -> None:
        """A record that the log can't hold is said before it is sent."""
        most, records = self._log.limits.max_record_bytes, received.records
        for row, value in enumerate(records.values):
            headers = (records.headers[row] if records.headers is not None else None) or ()
            size = len(records.keys[row] or b"") + len(value or b"")
            size += sum(len(name) + len(content) for name, content in headers)
            if size > most:
                key = (records.keys[row] or b"").decode(errors="replace")
                raise DataError(
                    f"{self._edge.url}: a message of {size} bytes came under {key!r}, and the log takes records "
                    f"of at most {most}; have it sent in pieces, or choose a log that takes more"
                )


def _next(checkpoint: Checkpoint, state: bytes | None) -> Checkpoint:
    changes: dict[str, Any] = {} if state is None else {"facts": {**checkpoint.facts, STATE: state}}
    return msgspec.structs.replace(checkpoint, number=checkpoint.number + 1, **changes)
