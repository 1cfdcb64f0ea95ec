"""Both logs as sources and sinks of apps on another log."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streams import App
from streams.connectors.embedded.log import EmbeddedLog
from streams.connectors.log_sink import LogSink
from streams.connectors.memory.log import MemoryLog
from streams.core.log import Append, Log, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.errors import ConfigurationError, TopicMismatch
from streams.runtime.clock import SystemClock
from streams.runtime.worker import Worker
from streams.testing import TestDriver
from streams.testing.driver import MemoryStores
from streams.testing.sink_contract import ALERTS, Read, SinkContract
from streams.testing.source_contract import Feed, SourceContract, values


@asynccontextmanager
async def opened(make: Callable[[Path], Log], *topics: TopicSpec) -> AsyncGenerator[Log]:
    with tempfile.TemporaryDirectory() as folder:
        log = make(Path(folder))
        await log.open()
        await log.create_topics(topics)
        try:
            yield log
        finally:
            await log.close()


def memory(_: Path) -> Log:
    return MemoryLog()


def embedded(_: Path) -> Log:
    return EmbeddedLog(f"embedded:{_ / 'log'}")


class OfALog:
    make = staticmethod(memory)

    @asynccontextmanager
    async def sources(self) -> AsyncGenerator[tuple[Log, Feed]]:
        async with opened(self.make, TopicSpec("readings", partitions=2)) as log:

            async def feed(partition: int, fed: list[bytes]) -> None:
                records = Records([b"key"] * len(fed), list(fed), [1000] * len(fed))
                await log.append([Append(TopicPartition("readings", partition), records)])

            yield log, feed

    @asynccontextmanager
    async def sinks(self) -> AsyncGenerator[tuple[LogSink, Read]]:
        async with opened(self.make, TopicSpec("alerts")) as log:

            async def read() -> list[bytes | None]:
                return await values(log, ALERTS)

            yield LogSink(log), read


class TestMemoryAsSource(OfALog, SourceContract): ...


class TestMemoryAsSink(OfALog, SinkContract): ...


class TestEmbeddedAsSource(OfALog, SourceContract):
    make = staticmethod(embedded)


class TestEmbeddedAsSink(OfALog, SinkContract):
    make = staticmethod(embedded)


def test_what_is_written_to_another_log_arrives_there_once_and_over_a_restart() -> None:
    app = App("plant")
    app.stream("readings", value=int).map(lambda n: n * 2, value=int).to(app.topic("memory:other/doubled", value=int))
    with TestDriver(app) as t:
        t.send("readings", 1)
        t.send("readings", 2)
        assert [value for _, value in t.outputs("doubled")] == [2, 4]


def test_a_topic_of_another_log_is_read_from_its_start() -> None:
    app = App("plant", partitions=2)
    source = app.topic("memory:other/readings", value=int)
    app.stream(source).map(lambda n: n + 1, value=int).to("next")
    with TestDriver(app) as t:
        t.send(source, 1, key="a")
        t.send(source, 5, key="b")
        assert sorted(value for _, value in t.outputs("next")) == [2, 6]


def test_a_source_that_another_log_doesn_t_have_is_named() -> None:
    async def check() -> None:
        app = App("plant")
        app.stream(app.topic("memory:other/readings")).to("next")
        async with opened(memory) as own, opened(memory) as other:
            worker = Worker(app, own, MemoryStores(), SystemClock(), connect=lambda _: other)
            with pytest.raises(ConfigurationError, match="'readings' doesn't exist"):
                await worker.run(asyncio.Event())

    asyncio.run(check())


def test_another_number_of_partitions_at_the_other_log_is_refused() -> None:
    async def check() -> None:
        app = App("plant")
        app.stream(app.topic("memory:other/readings", partitions=2)).to("next")
        async with (
            asyncio.timeout(30),
            opened(memory) as own,
            opened(memory, TopicSpec("readings", partitions=3)) as other,
        ):
            worker = Worker(app, own, MemoryStores(), SystemClock(), connect=lambda _: other)
            with pytest.raises(TopicMismatch, match="3 partitions"):
                await worker.run(asyncio.Event())

    asyncio.run(check())
