"""A topic of another log under a name of the app's own passes the contracts of sources and sinks under that name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streams import App
from streams.connectors.memory.log import MemoryLog
from streams.connectors.renamed import ForeignTopic
from streams.core.log import Append, Sink, Source, TopicSpec
from streams.core.record import Position, Records, TopicPartition
from streams.errors import ConfigurationError, PositionLost
from streams.runtime.explain import explain
from streams.testing import TestDriver
from streams.testing.sink_contract import ALERTS, Read, SinkContract
from streams.testing.source_contract import Feed, SourceContract, values


class TestARenamedSource(SourceContract):
    @asynccontextmanager
    async def sources(self) -> AsyncGenerator[tuple[Source, Feed]]:
        log = MemoryLog()
        await log.open()
        await log.create_topics([TopicSpec("temperatures", partitions=2)])

        async def feed(partition: int, fed: list[bytes]) -> None:
            records = Records([b"key"] * len(fed), list(fed), [1000] * len(fed))
            await log.append([Append(TopicPartition("temperatures", partition), records)])

        yield ForeignTopic(log, "readings", "temperatures"), feed
        await log.close()


class TestARenamedSink(SinkContract):
    @asynccontextmanager
    async def sinks(self) -> AsyncGenerator[tuple[Sink, Read]]:
        log = MemoryLog()
        await log.open()
        await log.create_topics([TopicSpec("warnings")])

        async def read() -> list[bytes | None]:
            return await values(log, TopicPartition("warnings", 0))

        yield ForeignTopic(log, "alerts", "warnings").sink(ALERTS.topic), read
        await log.close()


def test_what_is_lost_is_told_under_the_name_that_the_app_reads() -> None:
    async def check() -> None:
        log = MemoryLog()
        await log.open()
        await log.create_topics([TopicSpec("temperatures")])
        at = TopicPartition("temperatures", 0)
        end = (await log.append([Append(at, Records([None] * 3, [b"1", b"2", b"3"], [0] * 3))]))[at]
        await log.trim({at: end})
        reader = ForeignTopic(log, "readings", "temperatures").reader({TopicPartition("readings", 0): Position()})
        with pytest.raises(PositionLost) as caught:
            await reader.fetch([TopicPartition("readings", 0)], max_records=10, wait_s=0.0)
        assert (caught.value.topic, caught.value.partition) == ("readings", 0)
        await log.close()

    asyncio.run(check())


def test_topics_of_one_name_on_two_logs_are_copied_from_one_to_the_other() -> None:
    app = App("mirror")
    north = app.topic("memory:north/orders", value=int, label="north-orders")
    app.stream(north).to(app.topic("memory:south/orders", value=int))
    with TestDriver(app) as t:
        t.send(north, 1, key="a")
        t.send("north-orders", 2, key="b")
        assert t.outputs("orders") == [("a", 1), ("b", 2)]


def test_a_plan_shows_where_a_renamed_topic_lies() -> None:
    app = App("mirror")
    app.stream(app.topic("memory:north/orders", value=int, label="north-orders")).to("orders")
    plan = explain(app, "memory:", lambda _: MemoryLog().capabilities)
    assert any(edge.source == "memory:north/orders" for edge in plan.edges), plan.edges


def test_a_topic_of_the_app_s_own_log_has_no_other_name() -> None:
    with pytest.raises(ConfigurationError, match=r"orders: label='sales': on the app's own log"):
        App("shop").topic("orders", label="sales")


def test_a_renamed_topic_on_an_embedded_log_is_looked_at_by_tools(tmp_path: Path) -> None:
    from streams.cli.lag import _lag
    from streams.connectors.embedded.log import EmbeddedLog

    async def check() -> None:
        log = EmbeddedLog(f"embedded:{tmp_path / 'north'}")
        await log.open()
        await log.create_topics([TopicSpec("orders", partitions=2)])
        await log.append([Append(TopicPartition("orders", 1), Records([b"a"], [b"1"], [0]))])
        await log.close()
        own = EmbeddedLog(f"embedded:{tmp_path / 'own'}")
        await own.open()
        await own.close()
        app = App("mirror")
        app.stream(app.topic(f"embedded:{tmp_path / 'north'}/orders", value=int, label="north")).to("copies")
        rows = await _lag(app, f"embedded:{tmp_path / 'own'}")
        assert {(row["topic"], row["partition"]): row["lag"] for row in rows} == {("north", 0): 0, ("north", 1): 1}

    asyncio.run(check())
