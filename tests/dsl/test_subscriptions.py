"""What an app takes from the topics that are there: how many partitions, how they are kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from streams import App
from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog
from streams.core.log import Append, TopicInfo, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.errors import ConfigurationError, TopicMismatch, TopologyError
from streams.runtime.clock import SystemClock
from streams.runtime.existing import Watch
from streams.runtime.worker import Worker
from streams.testing import TestDriver
from streams.testing.driver import MemoryStores
from streams.testing.log_scenarios import values_of


def started(
    app: App, broker: MemoryBroker, *there: TopicSpec, others: MemoryBroker | None = None
) -> dict[str, TopicSpec]:
    """The topics of the log once the app has started on it."""

    async def check() -> dict[str, TopicSpec]:
        log = MemoryLog(broker)
        await log.open()
        await log.create_topics(there)
        async with Worker(app, log, MemoryStores(), SystemClock(), connect=lambda _: MemoryLog(others)).working():
            return {name: info.spec for name, info in (await log.topics()).items()}

    return asyncio.run(check())


def tasks(app: App) -> Sequence[str]:
    return app.build().tasks


def test_a_topic_that_is_there_has_the_partitions_that_it_has() -> None:
    app = App("shop")
    orders = app.topic("orders", value=int)
    app.stream(orders).to("out")
    started(app, MemoryBroker(), TopicSpec("orders", partitions=12))
    assert orders.spec.partitions == 12
    assert tasks(app) == [f"shop.orders-{number}" for number in range(12)]


def test_a_number_of_partitions_that_is_declared_has_to_be_right() -> None:
    app = App("shop")
    app.stream(app.topic("orders", partitions=4)).to("out")
    with pytest.raises(TopicMismatch, match="'orders': partitions is 12 on the log and 4 in the app"):
        started(app, MemoryBroker(), TopicSpec("orders", partitions=12))


def test_how_a_topic_is_kept_isn_t_compared_unless_it_is_declared() -> None:
    app = App("shop")
    orders = app.topic("orders", partitions=2)
    app.stream(orders).to("out")
    there = TopicSpec("orders", partitions=2, retention_ms=3_600_000, retention_bytes=10_000, compact=True)
    assert started(app, MemoryBroker(), there)["orders"] == there == orders.spec


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"retention": "2h"}, "retention_ms is 3600000 on the log and 7200000"), ({"compact": True}, "compact is False")],
)
def test_how_a_topic_is_kept_has_to_be_as_declared(settings: dict[str, object], text: str) -> None:
    app = App("shop")
    app.stream(app.topic("orders", **settings)).to("out")  # type: ignore[call-overload]
    with pytest.raises(TopicMismatch, match=text):
        started(app, MemoryBroker(), TopicSpec("orders", retention_ms=3_600_000))


def test_a_table_s_topic_is_made_compacted_and_read_however_it_is() -> None:
    def app() -> App:
        made = App("shop")
        made.table("names", source="names-topic", value=str)
        return made

    assert started(app(), MemoryBroker())["names-topic"].compact
    assert not started(app(), MemoryBroker(), TopicSpec("names-topic"))["names-topic"].compact


def test_the_same_app_starts_on_one_log_after_another() -> None:
    app = App("shop", partitions=3)
    orders = app.topic("orders")
    app.stream(orders).to("out")
    started(app, MemoryBroker(), TopicSpec("orders", partitions=5))
    assert started(app, MemoryBroker())["orders"].partitions == 3
    assert orders.spec.partitions == 3


def test_a_topic_of_another_log_has_the_partitions_that_it_has_there() -> None:
    others = MemoryBroker()
    others.create_topics([TopicSpec("readings", partitions=3), TopicSpec("copies", partitions=5)])
    app = App("shop")
    app.stream(app.topic("memory:other/readings")).to(app.topic("memory:other/copies"))
    started(app, MemoryBroker(), others=others)
    blueprint = app.build()
    assert [each.partitions for each in blueprint.subtopologies] == [3]
    assert [outbox.target.partitions for outbox in blueprint.outboxes] == [5]


def joined(app: App) -> None:
    names = app.table("names", source="names-topic", value=str)
    app.stream("orders").key_by(lambda order: order["user"]).join(names).to("out")


def with_an_agent(app: App) -> None:
    app.table("names", source="names-topic", value=str)

    @app.agent(app.stream("names-topic-requests").merge(app.stream("more")))
    async def look(events: object) -> None: ...


def test_a_key_by_in_front_of_a_join_gets_the_partitions_of_the_table_s_topic() -> None:
    app = App("shop", partitions=2)
    joined(app)
    log = started(app, MemoryBroker(), TopicSpec("names-topic", partitions=6), TopicSpec("orders", partitions=3))
    assert log["shop.orders.by-user.repartition"].partitions == 6
    assert [(each.name, each.partitions) for each in app.build().subtopologies] == [
        ("shop.orders", 3),
        ("shop.orders.by-user", 6),
    ]


def test_an_inbox_and_topics_that_aren_t_there_yet_go_by_those_of_the_same_tasks_that_are() -> None:
    app = App("shop")
    with_an_agent(app)
    log = started(app, MemoryBroker(), TopicSpec("more", partitions=4))
    assert log["shop.look.inbox"].partitions == log["names-topic-requests"].partitions == 4
    assert app.agents["look"].inbox.partitions == 4


def test_topics_of_different_partitions_that_feed_the_same_tasks_are_named() -> None:
    def declare(app: App) -> None:
        names = app.table("names", source="names-topic", value=str)
        app.stream("orders").join(names).to("out")

    app = App("shop")
    declare(app)
    with pytest.raises(TopologyError, match=r"orders has 3 partitions and names-topic has 6.*put a key_by in front"):
        started(app, MemoryBroker(), TopicSpec("names-topic", partitions=6), TopicSpec("orders", partitions=3))


def test_what_only_kafka_does_is_refused_elsewhere_or_passed_over() -> None:
    app = App("shop")
    app.stream(app.topic("orders", config={"max.message.bytes": 5000})).to("out")
    assert started(app, MemoryBroker())["orders"].partitions == 1
    other = App("shop")
    other.stream(other.topic("orders", timestamps="append")).to("out")
    with pytest.raises(ConfigurationError, match="'orders': timestamps='append' is something that this log doesn't do"):
        started(other, MemoryBroker())


# ── where reading begins ────────────────────────────────────────────────────────────────────────────────────────────


def filled(partitions: int = 1, topic: str = "in") -> MemoryBroker:
    """A log whose topic holds the values 0 to 4, at the times 1000 to 5000, in each partition."""
    broker = MemoryBroker()
    broker.create_topics([TopicSpec(topic, partitions=partitions)])
    return fed(broker, [0, 1, 2, 3, 4], partitions, topic)


def fed(broker: MemoryBroker, values: list[int], partitions: int = 1, topic: str = "in") -> MemoryBroker:
    async def feed() -> None:
        log = MemoryLog(broker)
        await log.open()
        records = Records([None] * len(values), [b"%d" % each for each in values], [1000 * (1 + n) for n in values])
        await log.append([Append(TopicPartition(topic, number), records) for number in range(partitions)])

    asyncio.run(feed())
    return broker


def results(app: App, broker: MemoryBroker, partitions: int = 1) -> list[list[int]]:
    """What the topic ``out`` holds, by partition, once the app has done all there is to do."""

    async def work() -> list[list[int]]:
        log = MemoryLog(broker)
        await log.open()
        async with asyncio.timeout(30), Worker(app, log, MemoryStores(), SystemClock()).working() as worker:
            while not worker.caught_up:
                worker.check()
                await asyncio.sleep(0.01)
        return [
            [int(each or b"") for each in await values_of(log, TopicPartition("out", number))]
            for number in range(partitions)
        ]

    return asyncio.run(work())


def reading(start: Any, partitions: int = 1) -> App:
    app = App("shop", partitions=partitions)
    app.stream("in", value=int, start=start).to("out")
    return app


@pytest.mark.parametrize(
    ("start", "read"),
    [
        ("earliest", [0, 1, 2, 3, 4]),
        ("latest", []),
        (3000, [2, 3, 4]),
        (2001, [2, 3, 4]),
        (datetime(1970, 1, 1, 0, 0, 4, tzinfo=UTC), [3, 4]),
        (9000, []),
        ({0: 3}, [3, 4]),
        ({0: 5}, []),
        ({}, [0, 1, 2, 3, 4]),
    ],
)
def test_an_app_begins_where_it_is_told(start: Any, read: list[int]) -> None:
    assert results(reading(start), filled()) == [read]


def test_each_partition_begins_at_its_own_offset() -> None:
    assert results(reading({0: 4, 1: 2}, 2), filled(2), 2) == [[4], [2, 3, 4]]


def test_where_it_begins_counts_once_and_then_its_position() -> None:
    broker = filled()
    assert results(reading("latest"), broker) == [[]]
    fed(broker, [5, 6])
    assert results(reading("latest"), broker) == [[5, 6]]


def test_an_offset_that_a_partition_doesn_t_have_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"in\[0\]: start=9, but it holds the offsets from 0 to 5"):
        results(reading({0: 9}), filled())


@pytest.mark.parametrize("start", ["newest", {"0": 1}, {0: -1}, None, True])
def test_a_start_that_says_nothing_is_refused(start: Any) -> None:
    with pytest.raises(ConfigurationError, match="start is 'earliest', 'latest', a time"):
        reading(start)


# ── several topics ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_several_topics_are_one_stream() -> None:
    broker = filled(topic="a")
    broker.create_topics([TopicSpec("b")])
    fed(broker, [7, 8], topic="b")
    app = App("shop")
    app.stream(["a", "b"], value=int).to("out")
    assert [sorted(each) for each in results(app, broker)] == [[0, 1, 2, 3, 4, 7, 8]]
    assert tasks(app) == ["shop.a-0"]


def test_several_topics_have_to_have_as_many_partitions() -> None:
    app = App("shop")
    app.stream([app.topic("a"), app.topic("b")]).to("out")
    with pytest.raises(TopologyError, match="a has 2 partitions and b has 3"):
        started(app, MemoryBroker(), TopicSpec("a", partitions=2), TopicSpec("b", partitions=3))


def test_no_topic_is_no_stream() -> None:
    with pytest.raises(ConfigurationError, match="name at least one topic"):
        App("shop").stream([])


def matching(pattern: str = "orders-.*") -> App:
    app = App("shop")
    app.stream(re.compile(pattern), value=int).to("out")
    return app


def orders(*suffixes: str) -> MemoryBroker:
    broker = MemoryBroker()
    broker.create_topics([TopicSpec("other")])
    for number, suffix in enumerate(suffixes):
        broker.create_topics([TopicSpec(f"orders-{suffix}")])
        fed(broker, [number], topic=f"orders-{suffix}")
    return broker


def test_a_pattern_is_all_topics_that_match_and_names_the_tasks() -> None:
    app, broker = matching(), orders("b", "c")
    assert [sorted(each) for each in results(app, broker)] == [[0, 1]]
    assert tasks(app) == ["shop.orders-0"]
    # One that comes later, and sorts before the others, changes no name: positions stay.
    broker.create_topics([TopicSpec("orders-a")])
    fed(broker, [7], topic="orders-a")
    app = matching()
    assert [sorted(each) for each in results(app, broker)] == [[0, 1, 7]]
    assert tasks(app) == ["shop.orders-0"]


def test_a_pattern_doesn_t_take_in_what_the_app_writes_or_keeps_for_itself() -> None:
    app = App("shop")
    stream = app.stream(re.compile(".*"), value=int)
    stream.to("out")
    stream.key_by(str, name="by-text").count(name="counts").to("counted")
    broker = orders("a", "b")
    broker.create_topics([TopicSpec("elsewhere.orders.changelog"), TopicSpec("elsewhere.checkpoints")])
    assert [sorted(each) for each in results(app, broker)] == [[0, 1]]
    [subtopology] = [each for each in app.build().subtopologies if each.name != "shop.by-text"]
    read = {node.reads.name for node in subtopology.sources if node.reads is not None}
    assert read == {"orders-a", "orders-b", "other"}
    assert results(app, broker) == results(app, broker)


def test_a_pattern_that_matches_nothing_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"no topic on the log matches 'orders-\.\*'"):
        results(matching(), MemoryBroker())
    assert matching().build().tasks == ["shop.orders-0"]


def test_topics_of_a_pattern_have_to_have_as_many_partitions() -> None:
    with pytest.raises(TopologyError, match=r"orders-. has 1 partitions and orders-b has 2"):
        started(matching(), orders("a"), TopicSpec("orders-b", partitions=2))


def test_topics_and_partitions_that_come_later_are_told_once() -> None:
    app, broker = matching(), orders("a")
    watch = Watch(app)
    results(app, broker)
    assert watch.news(broker.infos(None)) == []
    broker.create_topics([TopicSpec("orders-z"), TopicSpec("unrelated")])
    assert watch.news(broker.infos(None)) == ["topic orders-z matches 'orders-.*' now; start the app again to read it"]
    assert watch.news(broker.infos(None)) == []
    grown = {"orders-a": TopicInfo(TopicSpec("orders-a", partitions=3), "id")}
    assert watch.news(grown) == [
        "topic orders-a has 3 partitions now, and this app reads 1 of them; start it again to read all"
    ]


# ── where records go ────────────────────────────────────────────────────────────────────────────────────────────────


def last_digit(key: bytes | None, partitions: int) -> int:
    return 0 if key is None else key[-1] % partitions


@pytest.mark.parametrize(
    ("partitioner", "held"),
    [
        ("round_robin", [2, 2, 2]),
        (lambda key, partitions: partitions - 1, [0, 0, 6]),
        (last_digit, [6, 0, 0]),
    ],
)
def test_a_topic_s_own_partitioner_says_where_results_go(partitioner: Any, held: list[int]) -> None:
    broker = filled()
    fed(broker, [5])
    app = App("shop")
    app.stream("in", value=int).to(app.topic("out", value=int, partitions=3, partitioner=partitioner))
    assert [len(each) for each in results(app, broker, 3)] == held


def test_what_is_keyed_by_the_app_itself_is_never_spread_otherwise() -> None:
    app = App("shop", partitions=3)
    out = app.topic("out", partitioner="random", value=int)
    app.stream("in", value=int).key_by(str, name="by-text").count(name="counts").to(out)
    with TestDriver(app) as t:
        for _ in range(3):
            t.send_all("in", [(None, number) for number in range(5)])
        assert t.table("counts") == {str(number): 3 for number in range(5)}


def test_a_partitioner_that_there_isn_t_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="topic out: partitioner is 'key', 'round_robin', 'random' or"):
        App("shop").topic("out", partitioner="sticky")  # type: ignore[call-overload]


def test_records_without_a_key_don_t_all_go_to_one_partition() -> None:
    app = App("shop")
    app.stream(app.topic("in", value=int, partitions=4)).to("out")
    with TestDriver(app) as t:
        for number in range(60):
            t.send("in", number)
        broker = t._logs[""].broker
        assert all(broker.partition(TopicPartition("in", number)).end for number in range(4))
