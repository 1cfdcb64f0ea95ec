"""The log in memory: the contract, and what only it does."""

from __future__ import annotations

import asyncio
import time

import pytest

from streams.connectors.memory import MemoryBroker, MemoryLog
from streams.core.capability import Limits
from streams.core.log import Append, Commit, Log, TopicSpec
from streams.core.record import START, Position, Records, TopicPartition
from streams.errors import DataError, Fenced, LogUnavailable
from streams.testing.log_contract import LogContract, append, read_all, records, task_ref

ORDERS = TopicPartition("orders", 0)


class TestMemoryLog(LogContract):
    def make_log(self) -> Log:
        return MemoryLog(limits=Limits(max_record_bytes=100_000))

    def reopen_log(self, log: Log) -> Log | None:
        assert isinstance(log, MemoryLog)
        return MemoryLog(log.broker, limits=log.limits)

    def test_two_new_logs_have_two_identities_where_a_log_outlives_its_process(self) -> None:
        # Here the identity is what the broker is given, so that a seed replays.
        assert MemoryLog(MemoryBroker("a")).identity != MemoryLog(MemoryBroker("b")).identity


def test_a_log_is_of_use_once_it_is_open_and_its_time_is_the_machines() -> None:
    async def main() -> None:
        log = MemoryLog()
        with pytest.raises(LogUnavailable):
            await log.topics()
        await log.open()
        await log.create_topics([TopicSpec("orders"), TopicSpec("more")])
        assert list(await log.topics(["more"])) == ["more"]
        assert list(await log.topics()) == ["orders", "more"]
        reader = log.reader({ORDERS: START})
        await reader.close()
        await reader.close()
        before = time.time_ns() // 1_000_000
        assert before <= log.broker.now_ms() <= time.time_ns() // 1_000_000

    asyncio.run(main())


def test_clients_of_one_broker_fence_and_wake_one_another() -> None:
    async def main() -> None:
        broker = MemoryBroker()
        killed, survivor = MemoryLog(broker), MemoryLog(broker)
        await killed.open()
        await survivor.open()
        await killed.create_topics([TopicSpec("orders")])
        writer = await killed.fence(task_ref(0))
        await writer.commit(Commit(b"one", [append(ORDERS, b"1")]))
        waiting = asyncio.create_task(
            survivor.reader({ORDERS: Position.at(1)}).fetch([ORDERS], max_records=9, wait_s=9)
        )
        await asyncio.sleep(0)
        await writer.commit(Commit(b"two", [append(ORDERS, b"2")]))
        assert [batch.records.values for batch in await waiting] == [[b"2"]]
        owner = await survivor.fence(task_ref(0))
        assert owner.checkpoint == b"two"
        with pytest.raises(Fenced):
            await writer.commit(Commit(b"three", [append(ORDERS, b"3")]))
        assert [batch.records.values for batch in await read_all(survivor, ORDERS)] == [[b"1", b"2"]]

    asyncio.run(main())


def test_what_one_record_expands_to_may_be_above_the_limit_of_records() -> None:
    async def main() -> None:
        log = MemoryLog(limits=Limits(max_commit_records=3))
        await log.open()
        await log.create_topics([TopicSpec("orders")])
        writer = await log.fence(task_ref(0))
        await writer.commit(Commit(b"one", [append(ORDERS, *[b"x"] * 10)]))
        assert [len(batch) for batch in await read_all(log, ORDERS)] == [10]

    asyncio.run(main())


def test_a_commit_far_above_the_limit_of_bytes_is_refused() -> None:
    async def main() -> None:
        log = MemoryLog(limits=Limits(max_commit_bytes=100, max_record_bytes=50))
        await log.open()
        await log.create_topics([TopicSpec("orders")])
        await log.append([append(ORDERS, *[bytes(40)] * 3)])  # one record above the limit: it came last
        with pytest.raises(DataError, match="max_commit_bytes=100"):
            await log.append([append(ORDERS, *[bytes(40)] * 4)])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        (Records([b"k"], ["text"], [1]), TypeError),  # type: ignore[list-item]
        (Records(["text"], [b"v"], [1]), TypeError),  # type: ignore[list-item]
        (Records([b"k"], [b"v"], [1.5]), TypeError),  # type: ignore[list-item]
        (Records([b"k"], [b"v"], []), ValueError),
        (Records([], [b"v"], [1]), ValueError),
        (Records([b"k"], [b"v"], [1], []), ValueError),
    ],
)
def test_columns_that_would_not_read_back_are_refused(columns: Records, error: type[Exception]) -> None:
    async def main() -> None:
        log = MemoryLog()
        await log.open()
        await log.create_topics([TopicSpec("orders")])
        with pytest.raises(error, match=r"orders\[0\]"):
            await log.append([Append(ORDERS, columns)])
        assert await read_all(log, ORDERS) == []

    asyncio.run(main())


def test_waiting_takes_the_loops_time_and_no_other() -> None:
    class VirtualTime(asyncio.SelectorEventLoop):
        """Time stands still while there is work, and jumps to the next timer when there is none."""

        now = 0.0

        def time(self) -> float:
            return self.now

        def _run_once(self) -> None:
            if not self._ready and self._scheduled:  # type: ignore[attr-defined]
                self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
            super()._run_once()  # type: ignore[misc]

    async def main() -> float:
        log = MemoryLog()
        await log.open()
        await log.create_topics([TopicSpec("orders")])
        reader = log.reader({ORDERS: START})
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert list(await reader.fetch([ORDERS], max_records=1, wait_s=1_000_000)) == []
        waited = loop.time() - started
        late = loop.call_later(500, lambda: log.broker.write([Append(ORDERS, records(b"1"))], log.limits))
        assert [len(batch) for batch in await reader.fetch([ORDERS], max_records=1, wait_s=1_000_000)] == [1]
        assert late.when() == loop.time()
        return waited

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        assert runner.run(main()) == 1_000_000
