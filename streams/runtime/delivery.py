"""Delivery: carries an outbox out to a target that is outside of the log's commit.

    claim on the app's log ──▶ fence the target ──▶ read the delivered position *from the target* ──▶ deliver, in order

The target's position decides where to go on; the checkpoint on the app's log only says how far the outbox may be
trimmed.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from streams.core.checkpoint import Checkpoint, claimed, decode_checkpoint, encode_checkpoint, partition_key
from streams.core.log import Commit, Foreign, Log, Reader, Sink, SinkWriter, TaskRef, TaskWriter
from streams.core.record import START, Position, TopicPartition
from streams.core.spread import BY_KEY, How, Spread
from streams.core.thresholds import PRODUCTION, Thresholds
from streams.dsl.foreign import Outbox
from streams.errors import DataError, PositionLost, TopicRecreated
from streams.runtime.outages import Outages
from streams.runtime.owner import check_owner
from streams.runtime.producer import divide
from streams.runtime.restarts import run_until
from streams.runtime.retention import Expiry

logger = logging.getLogger("streams")

_encode_position = msgspec.msgpack.Encoder().encode
_decode_position = msgspec.msgpack.Decoder(Position).decode

CHECKPOINT_EVERY_S = 1.0
WAIT_S = 0.2


class Delivery:
    """Delivers one partition of an outbox until it is stopped."""

    def __init__(
        self,
        ref: TaskRef,
        log: Log,
        sink: Sink,
        target: Foreign,
        outbox: Outbox,
        partition: int,
        topology: int,
        expiry: Expiry,
        how: How = BY_KEY,
        outages: Outages | None = None,
        thresholds: Thresholds = PRODUCTION,
    ) -> None:
        self.id = ref.name
        self.delivered = Position()
        self._log = log
        self._sink = sink
        self._target = target
        self._outbox = outbox
        self.at = TopicPartition(outbox.topic.name, partition)
        self._ref = ref
        self._topology = topology
        self._expiry = expiry
        self._outages = outages or Outages()
        self._who = f"delivery {self.id} starts again from what the target has"
        self._records_at_once = thresholds.delivery_records
        home = partition if outbox.target.partitions == outbox.topic.partitions else None
        self._spread = Spread(outbox.target.name, how, target.partition_for, ref.name, home)
        self._stop = asyncio.Event()
        self._checkpoint: Checkpoint | None = None
        self._reader: Reader | None = None

    def stop(self) -> None:
        """Ask the delivery to let go; ``run`` returns soon after."""
        self._stop.set()

    @property
    def position(self) -> Position | None:
        """Up to where the outbox is delivered and checkpointed."""
        return None if self._checkpoint is None else self._checkpoint.position(self.at)

    @property
    def caught_up(self) -> bool:
        """Everything in the outbox, as far as known, has been delivered."""
        end = self._reader.ends().get(self.at) if self._reader is not None else None  # a new reader may not know it yet
        return end is not None and self.delivered.reached(end)

    async def run(self) -> None:
        """Deliver until stopped.  An unreachable target is tried again for as long as it takes: the outbox keeps."""
        who, seed, outages = self._who, self._log.identity, self._outages
        await run_until(self._stop, self._live, lambda: self.delivered, who, seed=seed, outages=outages)

    async def _live(self) -> None:
        writer = await self._log.fence(self._ref)
        sink: SinkWriter | None = None
        try:
            previous = decode_checkpoint(writer.checkpoint) if writer.checkpoint is not None else None
            self._checkpoint = claimed(previous, log_id=self._log.identity, topology=self._topology)
            await writer.commit(Commit(encode_checkpoint(self._checkpoint)))
            sink = await self._sink.fence(self._outbox.ref_at_target(self._log.identity, self.at.partition))
            self._check_known(sink)
            self.delivered = _decode_position(sink.delivered) if sink.delivered is not None else Position()
            await self._deliver(writer, sink)
        except (PositionLost, TopicRecreated) as error:
            stored = None if self._checkpoint is None else encode_checkpoint(self._checkpoint)
            await check_owner(self._log, self._ref, stored, error)
            raise
        finally:
            if sink is not None:
                await sink.close()
            await writer.close()

    def _check_known(self, sink: SinkWriter) -> None:
        """Raise DataError where the target has forgotten what the app's log knows it was given: an outbox that isn't
        trimmed yet would go out once more, in silence."""
        known = self.position
        if sink.delivered is None and known is not None and not START.reached(known):
            raise DataError(
                f"delivery {self.id}: {self._target.url} knows of no delivery to {self._outbox.target.name}, but has "
                f"had {self.at} up to {known.offset()}: was it made anew, or its note of that removed (on JetStream "
                f"the stream S-=out)?  Bring it back from a backup, or start the app over with `streams reset`, which "
                f"delivers everything once more"
            )

    async def _deliver(self, writer: TaskWriter, sink: SinkWriter) -> None:
        bounds = (await self._log.bounds([self.at]))[self.at]
        if not self.delivered.reached(bounds.start):
            raise PositionLost(
                topic=self.at.topic,
                partition=self.at.partition,
                position=self.delivered.offset(),
                first=bounds.start.offset(),
            )
        reader = self._reader = self._log.reader({self.at: self.delivered})
        loop = asyncio.get_running_loop()
        checkpoint_at = loop.time() + CHECKPOINT_EVERY_S
        try:
            while not self._stop.is_set():
                for fetched in await reader.fetch([self.at], max_records=self._records_at_once, wait_s=WAIT_S):
                    batch = fetched.since(self.delivered)  # else what a reader repeats would be delivered twice
                    position = self.delivered.advanced(batch.lane, batch.next_offset)
                    appends = divide(self._outbox.target, batch.records, self._spread)
                    self._expiry.look(appends, time.time_ns() // 1_000_000)
                    await sink.deliver(appends, _encode_position(position))
                    self.delivered = position
                    self._outages.works(self._target.url, self._who)  # a full one can be fenced, too
                if self.caught_up:
                    self._outages.works(self._target.url, self._who)
                if loop.time() >= checkpoint_at:
                    await self._keep(writer)
                    self._outages.works(self._log.url, self._who)
                    checkpoint_at = loop.time() + CHECKPOINT_EVERY_S
            await self._keep(writer)
        finally:
            self._reader = None
            await reader.close()

    async def _keep(self, writer: TaskWriter) -> None:
        """Tell the app's log how far the outbox has been delivered."""
        known = self._checkpoint
        assert known is not None
        if known.position(self.at) == self.delivered:
            return
        kept = msgspec.structs.replace(
            known, number=known.number + 1, positions={partition_key(self.at): self.delivered}
        )
        await writer.commit(Commit(encode_checkpoint(kept), positions={self.at: self.delivered}))
        self._checkpoint = kept
