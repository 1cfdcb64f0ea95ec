"""Standbys and the age of stores, on a real broker: transaction markers, compaction and a consumer group included."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from streams import App
from streams.connectors.kafka.log import KafkaLog
from streams.core.log import Append
from streams.core.record import Records, TopicPartition
from streams.core.store import prefix_bytes
from streams.runtime.clock import SystemClock
from streams.runtime.driver import Phase
from streams.runtime.stores import RocksStores
from streams.runtime.worker import Worker
from tests.brokers.kafka.broker import KafkaBroker

KEYS = 200
PATIENCE_S = 60.0
URL = "kafka://{}?session_timeout_ms=6000&heartbeat_interval_ms=300"


def counting(name: str, standbys: int) -> App:
    app = App(name, partitions=2, standbys=standbys, commit_interval="50ms")
    app.stream(app.topic(f"{name}-orders", value=int)).count(name="by-key")
    return app


class Fleet:
    """Workers of one app, each with a log client and a disk of its own."""

    def __init__(self, broker: KafkaBroker, app: str, directory: Path, standbys: int) -> None:
        self.url = URL.format(broker.bootstrap)
        self.app = app
        self.standbys = standbys
        self.directory = directory
        self.restored: dict[str, int] = {}
        self.log = KafkaLog(self.url)

    @asynccontextmanager
    async def worker(self, name: str) -> AsyncIterator[Worker]:
        log = KafkaLog(self.url)
        await log.open()

        def note(task: str, done: int, total: int) -> None:
            assert done <= total
            self.restored[task] = total if done == total else -1

        try:
            stores = RocksStores(self.directory / name)
            worker = Worker(counting(self.app, self.standbys), log, stores, SystemClock(), progress=note)
            async with worker.working():
                yield worker
        finally:
            await log.close()

    async def send(self, keys: Iterable[int]) -> None:
        parts: dict[int, Records] = {}
        for key in keys:
            encoded = f"k{key}".encode()
            part = parts.setdefault(self.log.partition_for(encoded, 2), Records())
            part.keys.append(encoded)
            part.values.append(b"1")
            part.timestamps.append(1_700_000_000_000)
        topic = f"{self.app}-orders"
        await self.log.append([Append(TopicPartition(topic, at), part) for at, part in parts.items()])

    def counts(self, worker: str) -> dict[str, int]:
        """What lies on the disk of a worker that has ended."""
        stores, found = RocksStores(self.directory / worker), {}
        spec = counting(self.app, 0).build().subtopologies[0].states["by-key"]
        for task in counting(self.app, 0).build().subtopologies[0].task_ids:
            store = stores.open(task)
            try:
                for key, value in store.scan(prefix_bytes(1), prefix_bytes(2)):
                    found[key[2:].decode()] = spec.decode(value)
            finally:
                store.close()
        return found


def runs(worker: Worker) -> set[str]:
    return {task for task, driver in worker.drivers.items() if driver.phase is Phase.RUNNING}


async def until(condition: Callable[[], bool], *workers: Worker) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            for worker in workers:
                worker.check()
            await asyncio.sleep(0.05)


def play(fleet: Fleet, story: Callable[[], Awaitable[None]]) -> None:
    async def played() -> None:
        await fleet.log.open()
        try:
            await story()
        finally:
            await fleet.log.close()

    asyncio.run(played())


def test_a_worker_that_leaves_is_replaced_by_its_standby_which_reads_only_the_tail(
    kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path
) -> None:
    fleet = Fleet(kafka, unique("shop"), tmp_path, standbys=1)

    async def story() -> None:
        async with fleet.worker("b") as second:
            async with AsyncExitStack() as first_life:
                first = await first_life.enter_async_context(fleet.worker("a"))
                await until(lambda: len(runs(first)) == len(runs(second)) == 1, first, second)
                await fleet.send([*range(KEYS)] * 50)
                await until(lambda: first.caught_up and second.caught_up, first, second)

                seen = {each.id: each.rounds for worker in (first, second) for each in worker.standbys.by_task.values()}

                def followed(worker: Worker) -> bool:
                    """Also what was sent just now: a round that began before may have missed some of it."""
                    standbys = worker.standbys.by_task.values()
                    return len(worker.standbys.ready) == 1 and all(
                        each.lag == 0 and each.rounds >= seen.get(each.id, 0) + 2 for each in standbys
                    )

                await until(lambda: followed(first) and followed(second), first, second)
                taken = set(second.standbys.by_task)
                fleet.restored.clear()
            await until(lambda: len(runs(second)) == 2, second)
            for task in taken:
                assert 0 <= fleet.restored.get(task, 0) <= 10, "it read again what it had followed"
            await fleet.send(range(KEYS))
            await until(lambda: second.caught_up and sum(d.lag for d in second.drivers.values()) == 0, second)

    play(fleet, story)
    assert fleet.counts("b") == {f"k{key}": 51 for key in range(KEYS)}


def test_a_new_worker_warms_up_before_it_gets_a_task_of_another(
    kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path
) -> None:
    fleet = Fleet(kafka, unique("shop"), tmp_path, standbys=0)

    async def story() -> None:
        async with fleet.worker("a") as first:
            await until(lambda: len(runs(first)) == 2, first)
            await fleet.send([*range(KEYS)] * 20)
            await until(lambda: first.caught_up, first)
            async with fleet.worker("b") as second:
                fleet.restored.clear()
                await until(lambda: len(runs(first)) == len(runs(second)) == 1, first, second)
                for task in runs(second):
                    assert 0 <= fleet.restored.get(task, 0) <= 10, "the task came before its state"
                await fleet.send(range(KEYS))
                await until(lambda: first.caught_up and second.caught_up, first, second)
            await until(lambda: len(runs(first)) == 2, first)
            await fleet.send(range(KEYS))
            await until(lambda: first.caught_up and sum(d.lag for d in first.drivers.values()) == 0, first)

    play(fleet, story)
    assert fleet.counts("a") == {f"k{key}": 22 for key in range(KEYS)}


def test_a_store_older_than_half_of_what_kafka_keeps_deletes_for_is_built_anew(
    kafka: KafkaBroker,
    unique: Callable[[str], str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("streams"), "propagate", True)
    fleet = Fleet(kafka, unique("shop"), tmp_path, standbys=0)
    tasks = counting(fleet.app, 0).build().subtopologies[0].task_ids

    async def story() -> None:
        async with fleet.worker("a") as worker:
            await until(lambda: len(runs(worker)) == 2, worker)
            await fleet.send(range(KEYS))
            await until(lambda: worker.caught_up and worker.drivers[tasks[0]].lag == 0, worker)
        young, old = tasks
        for task, age_days in ((young, 3), (old, 4)):
            store = RocksStores(tmp_path / "a").open(task)
            assert store.state is not None
            assert store.state.as_of_ms > 0
            as_of_ms = store.state.as_of_ms - age_days * 86_400_000
            store.load(
                prefix_bytes(1),
                {f"gone {task}".encode(): b"\x01"},
                msgspec.structs.replace(store.state, as_of_ms=as_of_ms),
            )
            store.close()
        with caplog.at_level(logging.WARNING, "streams"):
            async with fleet.worker("a") as worker:
                await until(lambda: len(runs(worker)) == 2, worker)
        said = [record.getMessage() for record in caplog.records if "too old" in record.getMessage()]
        assert len(said) == 1
        assert old in said[0]

    play(fleet, story)
    # What the old store had kept of a key whose delete it can't have seen is gone; the young one resumed.
    counts = fleet.counts("a")
    assert counts.pop(f"gone {tasks[0]}") == 1
    assert counts == {f"k{key}": 1 for key in range(KEYS)}
