"""TestDriver: an app run in a test, without a broker, with time in the test's hands.

The same runtime as in production on a log in memory; only the log, the stores and the clock are others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog
from streams.core.capability import Limits
from streams.core.duration import Duration, parse_duration_ms, to_epoch_ms
from streams.core.log import Append
from streams.core.record import Records, TopicPartition
from streams.core.store import Store
from streams.core.watermark import MARK_HEADER
from streams.dsl.app import App
from streams.dsl.topic import Topic, watermark_record
from streams.runtime.worker import Worker
from streams.state.memory import MemoryDisk, MemoryStore
from streams.testing.edge import QuietEdge
from streams.testing.loop import VirtualClock, VirtualLoop


class MemoryStores:
    """Stores in memory, which outlive the worker that has them open."""

    def __init__(self, *, volatile_writes: int = 0) -> None:
        self.disks: dict[str, MemoryDisk] = {}
        self._volatile_writes = volatile_writes

    def open(self, task: str) -> Store:
        disk = self.disks.setdefault(task, MemoryDisk(volatile_writes=self._volatile_writes))
        return MemoryStore(disk)

    def set_aside(self, task: str) -> None:
        self.disks.pop(task, None)


class TestDriver:
    """Runs an app inside of a test: ``with TestDriver(app) as t: t.send(…); t.advance("1m")``.

    Everything sent is processed and committed when ``send`` returns.  What fails the app is raised by the call in
    which it happens.

    after: a driver that has ended; this one goes on with its log, stores and clock: a restart, with the same app or
    with a later version of it.  limits: those of the log, to see what an app does at them.
    """

    __test__ = False

    def __init__(self, app: App, *, after: TestDriver | None = None, limits: Limits | None = None) -> None:
        app.build()  # what is wrong with the app is raised before there is a loop to close
        self.app = app
        self._limits = limits
        self._loop = VirtualLoop()
        self._clock = VirtualClock(self._loop) if after is None else VirtualClock(self._loop, after.now_ms())
        self._logs: dict[str, MemoryLog] = {}
        if after is not None:
            self._logs.update({at: MemoryLog(log.broker, limits=limits) for at, log in after._logs.items()})
        self._log = self._logs.setdefault("", MemoryLog(MemoryBroker(), limits=limits))
        for log in self._logs.values():
            log.broker.now_ms = self._clock.now_ms  # retention goes by the test's time, not by the machine's
        self._stores: MemoryStores = MemoryStores() if after is None else after._stores
        self._worker = Worker(
            app, self._log, self._stores, self._clock, connect=self._connect, connect_edge=self._connect_edge
        )
        self._read: dict[TopicPartition, int] = {} if after is None else after._read

    async def _make_foreign_topics(self) -> None:
        """The topics that the app expects on other logs, empty."""
        blueprint = self.app.build()
        for spec in [*blueprint.foreign_topics, *blueprint.edge_topics]:
            log = self._connect(spec.location)
            await log.open()
            await log.create_topics([replace(spec, name=spec.name_there, location="", address="", there="")])
            await log.close()

    def _connect(self, location: str) -> MemoryLog:
        """Every other log that the app names is one in memory, which the test can fill and read as well."""
        known = self._logs.get(location)
        broker = MemoryBroker(now_ms=self._clock.now_ms) if known is None else known.broker
        made = MemoryLog(broker, limits=self._limits)
        self._logs.setdefault(location, made)
        return made

    def _connect_edge(self, location: str) -> QuietEdge:
        """Nothing comes from outside but what the test sends; what goes out is kept as on another log."""
        return QuietEdge(self._connect(location))

    def __enter__(self) -> TestDriver:
        try:
            self._run(self._log.open())
            self._run(self._make_foreign_topics())
            self._working = self._worker.working()
            self._run(self._working.__aenter__())
        except BaseException:
            self._loop.close()
            raise
        try:
            self._settle()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._run(self._working.__aexit__(kind, error, traceback))
            self._run(self._log.close())
        finally:
            self._loop.close()

    def send(
        self,
        topic: Topic[Any, Any] | str,
        value: Any,
        *,
        key: Any = None,
        timestamp: Any = None,
        headers: Mapping[str, bytes | str] | None = None,
    ) -> None:
        """Append a record to a topic of the app and let everything follow from it.  ``timestamp``: ms or a datetime."""
        self.send_all(topic, [(key, value)], timestamp=timestamp, headers=headers)

    def send_all(
        self,
        topic: Topic[Any, Any] | str,
        items: list[tuple[Any, Any]],
        *,
        timestamp: Any = None,
        headers: Mapping[str, bytes | str] | None = None,
    ) -> None:
        """As ``send``, for many (key, value) pairs at once."""
        target = self._topic(topic)
        at = self._clock.now_ms() if timestamp is None else to_epoch_ms(timestamp)
        records = target.encode(items, [at] * len(items), headers)
        self._append(target, self._worker.spread(target.spec, records))

    def send_bytes(self, topic: str, value: bytes | None, *, key: bytes | None = None) -> None:
        """Append raw bytes: a record that may not decode; None is a tombstone."""
        target = self._topic(topic)
        records = Records([key], [value], [self._clock.now_ms()])
        self._append(target, self._worker.spread(target.spec, records))

    def send_watermark(self, topic: Topic[Any, Any] | str, time: Any) -> None:
        """Promise that nothing with an event time below ``time`` comes any more, so that windows before it close."""
        target = self._topic(topic)
        mark = watermark_record(to_epoch_ms(time), self._clock.now_ms())
        partitions = range(target.spec.partitions)
        self._append(target, [Append(TopicPartition(target.name, number), mark) for number in partitions])

    def advance(self, by: Duration) -> None:
        """Let wall-clock time pass: timers tick, idle inputs turn idle, batches that waited are sent."""
        self._run(asyncio.sleep(parse_duration_ms(by, "advance") / 1000))
        self._settle()

    def now_ms(self) -> int:
        """The wall clock of the test."""
        return self._clock.now_ms()

    def outputs(self, topic: Topic[Any, Any] | str) -> list[tuple[Any, Any]]:
        """The (key, value) pairs that came to a topic since the last call, by partition."""
        return [(key, value) for key, value, _ in self.records(topic)]

    def records(self, topic: Topic[Any, Any] | str) -> list[tuple[Any, Any, int]]:
        """As ``outputs``, with timestamps in ms."""
        target = self._topic(topic)
        found = []
        for number in range(target.spec.partitions):
            at = TopicPartition(target.name, number)
            held = self._logs[target.spec.location].broker.partition(TopicPartition(target.spec.name_there, number))
            while (batch := held.read(self._read.get(at, 0), 1000)) is not None:
                self._read[at] = batch.next_offset
                found.extend(_decoded(target, batch.records))
        return found

    def table(self, name: str) -> dict[Any, Any]:
        """What a table or aggregate holds, committed, over all its tasks."""
        view = self.app.views[name]
        held: dict[Any, Any] = {}
        for driver in self._worker.drivers.values():
            if driver.task is not None and view.state.name in driver.task.states:
                for key, value in driver.task.context.keyed(view.state.name).committed_scan():
                    held[view.keys.decode(key)] = view.result(value)
        return held

    def run(self, work: Any) -> Any:
        """Run a coroutine beside the app: ``t.run(agent.ask(…))``."""
        return self._run(work)

    async def _to(self, location: str, appends: Sequence[Append]) -> None:
        log = self._log if not location else self._connect(location)
        await log.open()
        await log.append(appends)

    def _append(self, topic: Topic[Any, Any], appends: Sequence[Append]) -> None:
        journal = self.app.journals.get(topic.name)
        name = topic.spec.name_there if journal is None else journal.topic.name  # as if it had come from there
        appends = [Append(TopicPartition(name, each.partition.partition), each.records) for each in appends]
        self._run(self._to(topic.spec.location if journal is None else "", appends))
        self._settle()

    def _topic(self, topic: Topic[Any, Any] | str) -> Topic[Any, Any]:
        return topic if isinstance(topic, Topic) else self.app.topics[topic]

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    def _settle(self) -> None:
        self._run(self._until_settled())

    async def _until_settled(self) -> None:
        """Until every task has committed all there is, and has looked once more."""
        for _ in range(2):
            while True:
                await asyncio.sleep(0.25)
                self._worker.check()
                if self._worker.caught_up:
                    break


def _decoded(topic: Topic[Any, Any], records: Records) -> list[tuple[Any, Any, int]]:
    decode_key, decode = topic.key_codec.decode, topic.value_codec.decode
    headers = records.headers or [None] * len(records)
    return [
        (None if key is None else decode_key(key), None if value is None else decode(value), time)
        for key, value, time, mark in zip(records.keys, records.values, records.timestamps, headers, strict=True)
        if not (mark and mark[0][0] == MARK_HEADER)
    ]
