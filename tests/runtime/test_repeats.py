"""What a reader hands out again: nothing that follows from it happens twice."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from hypothesis import given
from hypothesis import strategies as st

from streams.connectors.log_sink import sink_on
from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog, MemoryReader
from streams.core.log import Append, TaskRef, TopicSpec
from streams.core.record import START, Fetched, Position, Positions, Records, TopicPartition
from streams.dsl.foreign import Outbox
from streams.runtime.delivery import Delivery
from streams.runtime.restore import Copy
from streams.runtime.retention import Expiry
from streams.state.memory import MemoryStore

OUT, BOX = TopicPartition("alerts", 0), TopicPartition("shop.alerts.outbox", 0)
OUTBOX = Outbox(TopicSpec(BOX.topic, 1, "outbox", owner="shop"), TopicSpec(OUT.topic, location="memory:there"))
PATIENCE_S = 120.0


def fetched(first: int, *values: bytes) -> Fetched:
    records = Records([b"key"] * len(values), list(values), [1] * len(values))
    return Fetched(BOX, range(first, first + len(values)), records, first + len(values))


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 8))
def test_a_batch_since_a_position_holds_what_is_not_before_it(first: int, count: int, seen: int) -> None:
    values = [b"%d" % offset for offset in range(first, first + count)]
    left = fetched(first, *values).since(Position.at(seen))
    assert left.records.values == values[max(0, seen - first) :]
    assert list(left.offsets) == [offset for offset in range(first, first + count) if offset >= seen]
    assert START.advanced(0, seen).advanced(0, left.next_offset) == START.advanced(0, max(seen, first + count))


class Repeating(MemoryLog):
    """A log whose readers hand out each batch with what came before it."""

    def reader(self, positions: Positions) -> MemoryReader:
        log = self

        class Reader(MemoryReader):
            async def fetch(
                self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
            ) -> Sequence[Fetched]:
                found = await super().fetch(partitions, max_records=max_records, wait_s=wait_s)
                return [again for batch in found if (again := log.broker.partition(batch.partition).read(0, 100))]

        return Reader(self, positions)


def test_what_a_reader_repeats_is_delivered_once() -> None:
    async def run() -> None:
        log, target = Repeating(MemoryBroker()), MemoryLog(MemoryBroker())
        await log.open()
        await target.open()
        await log.create_topics([OUTBOX.topic])
        await target.create_topics([OUTBOX.target])
        ref = TaskRef("shop", 0, OUTBOX.task_id(0))
        delivery = Delivery(ref, log, sink_on(target, OUT.topic), target, OUTBOX, 0, 0, Expiry({}))
        running = asyncio.ensure_future(delivery.run())
        values = [b"1", b"2", b"3"]
        async with asyncio.timeout(PATIENCE_S):
            for number, value in enumerate(values, 1):
                await log.append([Append(BOX, Records([None], [value], [1]))])
                while delivery.delivered.offset() < number:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.001)
        delivery.stop()
        await running
        assert target.broker.partition(OUT).values == values

    asyncio.run(run())


def test_a_former_value_that_a_changelog_s_reader_repeats_at_the_end_does_not_stay() -> None:
    copy = Copy(MemoryStore(), {"counts": START}, {}, 0)
    copy.take("counts", fetched(0, b"former", b"last"))
    copy.take("counts", fetched(0, b"former"))
    assert copy.pending["counts"] == {b"key": b"last"}
    assert copy.positions["counts"] == Position.at(2)
