"""Egress: hands an outbox to a transport that keeps no position of its own.

    claim on the app's log ──▶ open the outlet with the state that the last owner left ──▶ send batch after batch

The checkpoint holds the position before the batch that is under way, and the outlet's state in it.  It is committed
when the outlet asks for it, else every now and then, and when sending ends, also by an error: only what is sent behind
it when the process dies is sent again.  Where the promise is at most once, it says before a batch is sent that it may
be out, and nobody sends that again.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left

import msgspec

from streams.core.checkpoint import Checkpoint, claimed, decode_checkpoint, encode_checkpoint, partition_key
from streams.core.edge import Edge, Outlet
from streams.core.log import Commit, Log, Reader, TaskRef, TaskWriter
from streams.core.record import Fetched, Position, Records, TopicPartition
from streams.dsl.foreign import Outbox
from streams.errors import Fenced, PositionLost, RetryableError, StreamsError, TopicRecreated
from streams.runtime.outages import Outages
from streams.runtime.owner import check_owner, confirmed
from streams.runtime.restarts import run_until
from streams.runtime.stopping import LET_GO_S, CutOff, Stop

logger = logging.getLogger("streams")

STATE = "outlet"
"""The fact of the checkpoint that holds an outlet's state."""
PERHAPS = "perhaps"
"""The fact that holds up to where the outbox may be out, which isn't sent again.  The position stays before that: what
surely isn't out must not be trimmed, and is sent when it was an error that ended the batch."""
CHECKPOINT_EVERY_S = 1.0
WAIT_S = 0.2


class Egress:
    """Carries one partition of an outbox out until it is stopped."""

    def __init__(
        self,
        ref: TaskRef,
        log: Log,
        edge: Edge,
        outbox: Outbox,
        partition: int,
        topology: int,
        outages: Outages | None = None,
    ) -> None:
        self.id = ref.name
        self.at = TopicPartition(outbox.topic.name, partition)
        self.delivered = Position()
        self._log = log
        self._edge = edge
        self._outbox = outbox
        self._ref = ref
        self._topology = topology
        self._outages = outages or Outages()
        self._who = f"egress {self.id} starts again"
        self._stop = Stop()
        self._checkpoint: Checkpoint | None = None
        self._reader: Reader | None = None
        self._begun = False  # the checkpoint holds a state of the batch in hand: nothing else may be kept
        self._unsure = False  # a commit has failed, or didn't end: what the log holds isn't known

    def stop(self) -> None:
        """Ask it to let go; ``run`` returns when the batch in hand is out, or has been waited for long enough."""
        self._stop.set()

    @property
    def connecting(self) -> bool:
        """It has nothing in hand yet."""
        return self._reader is None

    @property
    def position(self) -> Position | None:
        """Up to where the outbox is out and checkpointed."""
        return None if self._checkpoint is None else self._checkpoint.position(self.at)

    @property
    def caught_up(self) -> bool:
        """Everything in the outbox, as far as known, is out."""
        end = self._reader.ends().get(self.at) if self._reader is not None else None  # a new reader may not know it yet
        return end is not None and self.delivered.reached(end)

    async def run(self) -> None:
        """Send until stopped.  A transport that can't be reached is tried again for as long as it takes."""
        who, seed, outages = self._who, self._log.identity, self._outages
        await run_until(self._stop.event, self._live, lambda: self.delivered, who, seed=seed, outages=outages)

    async def _live(self) -> None:
        writer = await self._log.fence(self._ref)
        self._unsure = False
        outlet: Outlet | None = None
        try:
            previous = decode_checkpoint(writer.checkpoint) if writer.checkpoint is not None else None
            self._checkpoint = claimed(previous, log_id=self._log.identity, topology=self._topology)
            await writer.commit(Commit(encode_checkpoint(self._checkpoint)))
            start = (await self._log.bounds([self.at]))[self.at].start
            self.delivered = self._checkpoint.position(self.at) or start
            if (perhaps := self._checkpoint.facts.get(PERHAPS)) is not None:
                before, self.delivered = self.delivered, msgspec.convert(perhaps, Position)
                self._tell_lost(before.distance(self.delivered), "nobody has seen the end of it")
            if not self.delivered.reached(start):
                raise PositionLost(
                    topic=self.at.topic,
                    partition=self.at.partition,
                    position=self.delivered.offset(),
                    first=start.offset(),
                )
            target, group = self._outbox.target, f"{self._log.identity}.{self._outbox.topic.name}"
            state = self._checkpoint.facts.get(STATE)
            outlet = await self._edge.outlet(target, group, self.at.partition, state)
            # Who was held up until now connects with a state that its successor has long gone on from: it would send
            # again what is out, or take ids that are in use.
            self._checkpoint = await confirmed(writer, self._checkpoint)
            await self._send(writer, outlet)
        except (PositionLost, TopicRecreated) as error:
            stored = None if self._checkpoint is None else encode_checkpoint(self._checkpoint)
            await check_owner(self._log, self._ref, stored, error)
            raise
        finally:
            try:
                if outlet is not None:
                    await outlet.close()
            finally:
                await writer.close()

    async def _send(self, writer: TaskWriter, outlet: Outlet) -> None:
        reader = self._reader = self._log.reader({self.at: self.delivered})
        loop = asyncio.get_running_loop()
        checkpoint_at = loop.time() + CHECKPOINT_EVERY_S
        queue, wanted = _Queue(self.delivered), outlet.under_way
        self._begun = wanted > 0
        try:
            while not self._stop.is_set():
                if len(queue) < max(1, wanted):
                    for batch in await reader.fetch([self.at], max_records=wanted or outlet.batch, wait_s=WAIT_S):
                        queue.put(batch)
                if len(queue) >= max(1, wanted):
                    await self._hand_over(writer, outlet, *queue.take(wanted or outlet.batch))
                    wanted = 0
                elif not len(queue):
                    self.delivered = queue.end
                    self._outages.works(self._edge.url, self._who)  # it is connected, and nothing waits
                if loop.time() >= checkpoint_at and not self._begun:
                    await self._keep(writer, outlet.state)
                    self._outages.works(self._log.url, self._who)
                    checkpoint_at = loop.time() + CHECKPOINT_EVERY_S
            if not self._begun:
                await self._keep(writer, outlet.state)
        except Exception as error:
            # Else what is out since the last checkpoint goes out again with each restart, and where it is a message
            # behind it that fails, for ever.
            if not self._begun and not self._unsure:
                await self._keep_at_last(writer, outlet, error)
            if not isinstance(error, CutOff):
                raise
            words = "egress %s: %s is left, since it doesn't answer; what it hasn't acknowledged stays in the outbox"
            logger.log(logging.WARNING if outlet.connected else logging.INFO, words, self.id, self._edge.url)
        finally:
            self._reader = None
            await reader.close()

    async def _hand_over(self, writer: TaskWriter, outlet: Outlet, records: Records, behind: list[Position]) -> None:
        """Send a batch.  behind: the position behind each record.  Afterwards, also when it raises, ``delivered`` is
        behind those that needn't be sent again.  Raises CutOff at a stop that doesn't wait any longer."""

        async def keep(state: bytes) -> None:
            self._begun = not outlet.keeps_first
            await self._keep(writer, state or None, behind[-1] if outlet.keeps_first else None)

        try:
            await self._stop.bound(outlet.send(records, keep), lambda: LET_GO_S if outlet.connected else 0.0)
        except Exception as error:
            if not self._begun and (sent := outlet.sent):
                self.delivered = behind[sent - 1]
                if outlet.keeps_first:
                    self._tell_lost(sent, error)
            raise
        self.delivered, self._begun = behind[-1], False
        self._outages.works(self._edge.url, self._who)

    def _tell_lost(self, count: int, why: object) -> None:
        words = "egress %s: of %d messages that were on their way some may not have arrived: %s"
        logger.warning(words, self.id, count, why)

    async def _keep_at_last(self, writer: TaskWriter, outlet: Outlet, error: Exception) -> None:
        """Keep how far it has got before ``error``, which counts for more than an error here."""
        try:
            await self._keep(writer, outlet.state)
        except Fenced:
            if isinstance(error, RetryableError):
                raise  # else it would claim at once what is another one's by now
        except StreamsError as why:
            words = "egress %s: what went out since the last checkpoint is sent again, since it couldn't be kept: %s"
            logger.warning(words, self.id, why)

    async def _keep(self, writer: TaskWriter, state: bytes | None, perhaps: Position | None = None) -> None:
        """Make the position durable, together with the outlet's state, and up to where it may be out: one says nothing
        without the other."""
        known = self._checkpoint
        assert known is not None
        said = ((STATE, state), (PERHAPS, perhaps))
        facts = {name: fact for name, fact in said if fact is not None}
        if known.facts == facts and known.position(self.at) == self.delivered:
            return
        kept = msgspec.structs.replace(
            known, number=known.number + 1, positions={partition_key(self.at): self.delivered}, facts=facts
        )
        self._unsure = True
        await writer.commit(Commit(encode_checkpoint(kept), positions={self.at: self.delivered}))
        self._checkpoint, self._unsure = kept, False


class _Queue:
    """Records that were read and aren't sent yet.  end: the position behind all of them."""

    def __init__(self, position: Position) -> None:
        self.end = position
        self._records = Records()
        self._behind: list[Position] = []

    def __len__(self) -> int:
        return len(self._behind)

    def put(self, batch: Fetched) -> None:
        """Add what a reader has handed out; what it repeats is left out."""
        first = bisect_left(batch.offsets, self.end.offset(batch.lane))
        self._records.extend(_part(batch.records, first, len(batch)))
        self._behind += [self.end.advanced(batch.lane, offset + 1) for offset in batch.offsets[first:]]
        self.end = self.end.advanced(batch.lane, batch.next_offset)
        if first < len(batch):
            self._behind[-1] = self.end

    def take(self, most: int) -> tuple[Records, list[Position]]:
        """Up to so many records, in order, and the position behind each."""
        taken, rest = _part(self._records, 0, most), _part(self._records, most, len(self._behind))
        behind, self._behind = self._behind[:most], self._behind[most:]
        self._records = rest
        return taken, behind


def _part(records: Records, first: int, end: int) -> Records:
    headers = None if records.headers is None else records.headers[first:end]
    return Records(records.keys[first:end], records.values[first:end], records.timestamps[first:end], headers)
