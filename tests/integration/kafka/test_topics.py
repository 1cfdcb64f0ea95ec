"""Topics on a real broker: what is there counts, what is declared is checked, and nothing is dropped in silence."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streams import App, agg, tumbling
from streams.connectors.kafka.log import KafkaLog
from streams.core.log import Append, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.errors import ConfigurationError, TopicMismatch, TopologyError
from streams.runtime.clock import SystemClock
from streams.runtime.existing import build_on
from streams.runtime.explain import explain
from streams.runtime.worker import Worker
from streams.testing.driver import MemoryStores
from streams.testing.log_scenarios import read_all
from tests.brokers.kafka.broker import KafkaBroker
from tests.guarantees.kafka_log.reading import values_of

DAY_MS = 86_400_000
PATIENCE_S = 60.0
Unique = Callable[[str], str]


def made(broker: KafkaBroker, topic: str, partitions: int, **config: str) -> None:
    """A topic as somebody else would make it; the broker has heard of it."""

    async def make() -> None:
        client = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
        await client.start()
        try:
            await client.create_topics([NewTopic(topic, partitions, 1, topic_configs=config)])
        finally:
            await client.close()
        async with asyncio.timeout(PATIENCE_S), log_on(broker) as log:
            while topic not in await log.topics([topic]):
                pass

    asyncio.run(make())


async def settings_of(broker: KafkaBroker, topic: str) -> Mapping[str, str]:
    client = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await client.start()
    try:
        [answer] = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        return {entry[0]: entry[1] for entry in answer.resources[0][4]}
    finally:
        await client.close()


@asynccontextmanager
async def log_on(broker: KafkaBroker) -> AsyncGenerator[KafkaLog]:
    log = KafkaLog(f"kafka://{broker.bootstrap}?linger_ms=0")
    await log.open()
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def at_work(app: App, broker: KafkaBroker) -> AsyncGenerator[Worker]:
    async with (
        asyncio.timeout(PATIENCE_S),
        log_on(broker) as log,
        Worker(app, log, MemoryStores(), SystemClock()).working() as worker,
    ):
        yield worker


async def settled(worker: Worker) -> None:
    while not worker.caught_up:
        worker.check()
        await asyncio.sleep(0.02)


async def appended(log: KafkaLog, topic: str, values: list[int], at_ms: int, partition: int = 0) -> None:
    records = Records([b"%d" % n for n in values], [b"%d" % n for n in values], [at_ms] * len(values))
    await log.append([Append(TopicPartition(topic, partition), records)])


def test_a_topic_that_somebody_else_made_is_read_as_it_is(kafka: KafkaBroker, unique: Unique) -> None:
    orders = unique("orders")
    made(kafka, orders, 12, **{"cleanup.policy": "compact,delete", "retention.ms": "3600000"})
    app = App(unique("shop"))
    topic = app.topic(orders, value=int)
    app.stream(topic).to(unique("out"))

    async def check() -> None:
        async with at_work(app, kafka) as worker:
            await settled(worker)
            assert len(worker.drivers) == 12

    asyncio.run(check())
    assert (topic.spec.partitions, topic.spec.retention_ms, topic.spec.compact) == (12, 3_600_000, True)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"partitions": 4}, "partitions is 3 on the log and 4 in the app"),
        ({"compact": True}, "compact is False on the log and True in the app"),
        ({"retention": "2d"}, "retention_ms is 604800000 on the log and 172800000 in the app"),
        ({"timestamps": "append"}, "timestamps is create on the log and append in the app"),
        ({"config": {"max.message.bytes": 5000}}, "max.message.bytes is 1048588 on the log and 5000 in the app"),
        ({"retention_bytes": 1000}, "retention_bytes is None on the log and 1000 in the app"),
    ],
)
def test_what_is_declared_has_to_be_so(
    kafka: KafkaBroker, unique: Unique, declared: dict[str, object], message: str
) -> None:
    orders = unique("orders")
    made(kafka, orders, 3)
    app = App(unique("shop"))
    app.stream(app.topic(orders, **declared)).to(unique("out"))  # type: ignore[call-overload]

    async def check() -> None:
        with pytest.raises(TopicMismatch, match=message):
            async with at_work(app, kafka):
                pass

    asyncio.run(check())


def test_an_internal_topic_that_somebody_lets_expire_is_an_error(kafka: KafkaBroker, unique: Unique) -> None:
    name, orders = unique("shop"), unique("orders")

    def app() -> App:
        made = App(name)
        made.stream(orders, value=int).key_by(str, name="by-text").count(name="counts")
        return made

    async def check() -> None:
        async with at_work(app(), kafka) as worker:
            await settled(worker)
        internal = f"{name}.by-text.repartition"
        assert (await settings_of(kafka, internal))["retention.ms"] == "-1"
        assert (await settings_of(kafka, f"{name}.counts.changelog"))["cleanup.policy"] == "compact"
        client = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await client.start()
        await client.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, internal, {"retention.ms": "1000", "cleanup.policy": "delete"})]
        )
        await client.close()
        with pytest.raises(TopicMismatch, match="retention_ms is 1000 on the log and None in the app"):
            async with at_work(app(), kafka):
                pass

    asyncio.run(check())


# ── event times of long ago ─────────────────────────────────────────────────────────────────────────────────────────


def test_results_that_their_topic_would_drop_are_told(
    kafka: KafkaBroker, unique: Unique, caplog: pytest.LogCaptureFixture
) -> None:
    orders, out = unique("orders"), unique("out")
    made(kafka, orders, 1, **{"retention.ms": "-1"})
    made(kafka, out, 1)  # seven days, as brokers have it
    app = App(unique("shop"))
    app.stream(orders, value=int).window(tumbling("1h")).aggregate(n=agg.count()).updates().to(out)

    async def check() -> None:
        async with log_on(kafka) as log:
            await appended(log, orders, [1, 2], 1_357_000_000_000)
        async with at_work(app, kafka) as worker:
            await settled(worker)

    with caplog.at_level(logging.WARNING, "streams"):
        logging.getLogger("streams").propagate = True
        asyncio.run(check())
    told = [record.message for record in caplog.records if f"topic {out} keeps" in record.message]
    assert len(told) == 2
    assert f"keeps records for 7d by their timestamps, and {orders} holds older ones" in told[0]
    assert "what was just written to it is" in told[1]


def test_a_topic_that_keeps_everything_or_records_of_today_are_no_reason_to_warn(
    kafka: KafkaBroker, unique: Unique, caplog: pytest.LogCaptureFixture
) -> None:
    old, today, kept, week = unique("old"), unique("today"), unique("kept"), unique("week")
    for topic in (old, kept):
        made(kafka, topic, 1, **{"retention.ms": "-1"})
    for topic in (today, week):
        made(kafka, topic, 1)
    one, other = App(unique("one")), App(unique("other"))
    one.stream(old, value=int).to(kept)
    other.stream(today, value=int).to(week)

    async def check() -> None:
        async with log_on(kafka) as log:
            await appended(log, old, [1], 1_357_000_000_000)
            await appended(log, today, [1], SystemClock().now_ms())
        for app in (one, other):
            async with at_work(app, kafka) as worker:
                await settled(worker)

    with caplog.at_level(logging.WARNING, "streams"):
        asyncio.run(check())
    assert not [record.message for record in caplog.records if "by their timestamps" in record.message]


def test_explain_tells_of_an_output_topic_that_expires_by_timestamp(kafka: KafkaBroker, unique: Unique) -> None:
    out = unique("out")
    made(kafka, out, 1)
    app = App(unique("shop"))
    app.stream(unique("orders"), value=int).to(out)

    async def check() -> list[str]:
        async with log_on(kafka) as log:
            await build_on(app, log)
            return explain(app, log.url, lambda _: log.capabilities).warnings

    assert [line for line in asyncio.run(check()) if line.startswith(f"{out} keeps records for 7d by their timestamps")]


# ── topics that feed the same tasks ─────────────────────────────────────────────────────────────────────────────────


def joined(app: App, orders: str, users: str, *, key_by: bool) -> None:
    table = app.table("users", source=users, value=int)
    stream = app.stream(orders, value=int)
    if key_by:
        stream = stream.key_by(str, name="by-user")
    stream.join(table, lambda order, user: order + user, value=int).to(f"{app.name}-out")


def test_a_join_of_topics_that_aren_t_partitioned_alike_is_refused_before_anything_is_made(
    kafka: KafkaBroker, unique: Unique
) -> None:
    orders, users = unique("orders"), unique("users")
    made(kafka, orders, 3)
    made(kafka, users, 6)
    app = App(unique("shop"))
    joined(app, orders, users, key_by=False)

    async def check() -> None:
        message = f"{orders} has 3 partitions and {users} has 6, but both feed users.*put a key_by in front"
        with pytest.raises(TopologyError, match=message):
            async with at_work(app, kafka):
                pass
        async with log_on(kafka) as log:
            assert not [name for name in await log.topics() if name.startswith(app.name)]

    asyncio.run(check())


def test_a_key_by_repairs_it_and_explain_shows_it(kafka: KafkaBroker, unique: Unique) -> None:
    orders, users = unique("orders"), unique("users")
    made(kafka, orders, 3)
    made(kafka, users, 6)
    app = App(unique("shop"))
    joined(app, orders, users, key_by=True)

    async def check() -> list[int]:
        async with log_on(kafka) as log:
            for number in range(20):
                key = b"%d" % number
                row = Records([key], [b"%d" % (number * 1000)], [SystemClock().now_ms()])
                await log.append([Append(TopicPartition(users, log.partition_for(key, 6)), row)])
            await build_on(app, log)
            plan = explain(app, log.url, lambda _: log.capabilities)
            [repartition] = [topic for topic in plan.topics if topic.kind == "repartition"]
            assert repartition.partitions == 6
            assert {each.name: len(each.tasks) for each in plan.subtopologies} == {orders: 3, "by-user": 6}
        async with at_work(app, kafka) as worker:
            await settled(worker)  # the table first
            for partition in range(3):
                await appended(worker.log, orders, list(range(partition, 20, 3)), SystemClock().now_ms(), partition)  # type: ignore[arg-type]
            found: list[int] = []
            out = f"{app.name}-out"
            at = TopicPartition(out, 0)
            reader = worker.log.reader({at: (await worker.log.bounds([at]))[at].start})
            while len(found) < 20:
                for batch in await reader.fetch([at], max_records=100, wait_s=1):
                    found.extend(int(each or b"") for each in batch.records.values)
                worker.check()
            await reader.close()
            return found

    assert sorted(asyncio.run(check())) == [number * 1001 for number in range(20)]


def test_a_declared_topic_is_made_as_declared(kafka: KafkaBroker, unique: Unique) -> None:
    async def check() -> None:
        async with log_on(kafka) as log:
            name = unique("made")
            spec = TopicSpec(name, 3, "user", 2 * DAY_MS, 10_000_000, True)
            await log.create_topics([spec])
            await log.create_topics([spec])
            assert (await log.topics([name]))[name].spec == spec
            config = await settings_of(kafka, name)
            assert config["cleanup.policy"] == "compact,delete"
            assert (config["retention.ms"], config["retention.bytes"]) == (str(2 * DAY_MS), "10000000")

    asyncio.run(check())


def test_a_topic_s_settings_reach_kafka_and_append_time_is_that_of_the_broker(
    kafka: KafkaBroker, unique: Unique
) -> None:
    stamped = unique("stamped")

    def app() -> App:
        made = App(unique("shop"))
        topic = made.topic(
            stamped, value=int, timestamps="append", config={"max.message.bytes": 5000, "preallocate": False}
        )
        made.stream(topic).to(unique("out"))
        return made

    async def check() -> None:
        for _ in range(2):
            async with at_work(app(), kafka) as worker:
                await settled(worker)
        config = await settings_of(kafka, stamped)
        assert (config["max.message.bytes"], config["message.timestamp.type"]) == ("5000", "LogAppendTime")
        async with log_on(kafka) as log:
            before = SystemClock().now_ms()
            await appended(log, stamped, [1, 2], 1_357_000_000_000)
            at = TopicPartition(stamped, 0)
            [batch] = await read_all(log, at)
            assert all(before - 60_000 < time < before + 60_000 for time in batch.records.timestamps)

    asyncio.run(check())


def test_a_setting_that_kafka_doesn_t_know_is_one_clear_line(kafka: KafkaBroker, unique: Unique) -> None:
    app = App(unique("shop"))
    app.stream(app.topic(unique("orders"), config={"max.mesage.bytes": 5000})).to(unique("out"))

    async def check() -> None:
        with pytest.raises(ConfigurationError, match=r"creating topic .* INVALID_CONFIG.*max\.mesage\.bytes"):
            async with at_work(app, kafka):
                pass

    asyncio.run(check())


def test_headers_of_another_program_go_through_an_app_to_another_program(kafka: KafkaBroker, unique: Unique) -> None:
    incoming, outgoing = unique("in"), unique("out")
    made(kafka, incoming, 1)
    app = App(unique("shop"))
    app.stream(incoming, value=int).key_by(str, name="by-text").to(outgoing)

    async def check() -> list[tuple[str, bytes]]:
        settings = {"bootstrap_servers": kafka.bootstrap}
        async with AIOKafkaProducer(**settings) as producer:
            await producer.send_and_wait(incoming, b"1", headers=[("trace", b"a"), ("trace", b"b"), ("none", None)])
        async with at_work(app, kafka) as worker:
            await settled(worker)
            async with AIOKafkaConsumer(outgoing, **settings, auto_offset_reset="earliest") as consumer:
                return list((await consumer.getone()).headers)

    assert asyncio.run(check()) == [("trace", b"a"), ("trace", b"b"), ("none", b"")]


def test_topics_that_are_named_by_a_pattern_and_by_a_list_are_read_from_a_time_on(
    kafka: KafkaBroker, unique: Unique
) -> None:
    orders, returns, refunds, out = (unique(what) for what in ("orders", "returns", "refunds", "out"))
    topics = [f"{orders}-eu", f"{orders}-us", returns, refunds]
    for topic in [*topics, f"other-{orders}-eu"]:
        made(kafka, topic, 2)
    since_ms = SystemClock().now_ms() - 3_600_000
    app = App(unique("shop"))
    app.stream(re.compile(re.escape(orders) + "-.*"), value=int, start=since_ms).to(out)
    app.stream([returns, refunds], value=int, start=since_ms).to(out)

    async def check() -> None:
        async with log_on(kafka) as log:
            for number, topic in enumerate([*topics, f"other-{orders}-eu"]):
                for partition in range(2):
                    ten = 100 * number + 10 * partition
                    await appended(log, topic, [ten, ten + 1], since_ms - 1, partition)
                    await appended(log, topic, [ten + 2, ten + 3], since_ms, partition)
        async with at_work(app, kafka) as worker:
            await settled(worker)
            assert len(worker.drivers) == 4, "two subscriptions of two partitions"
            async with log_on(kafka) as log:
                await appended(log, f"{orders}-us", [199], since_ms - 1, 1)  # old, but it comes later
            while b"199" not in await values_of(kafka.bootstrap, out):
                worker.check()

    asyncio.run(check())
    found = asyncio.run(values_of(kafka.bootstrap, out))
    wanted = [100 * number + 10 * partition + n for number in range(4) for partition in range(2) for n in (2, 3)]
    assert sorted(int(each or b"") for each in found) == sorted([*wanted, 199])


def test_records_go_to_the_partitions_that_a_topic_s_partitioner_says(kafka: KafkaBroker, unique: Unique) -> None:
    incoming, even, chosen = unique("in"), unique("even"), unique("chosen")
    made(kafka, incoming, 1)
    app = App(unique("shop"))
    source = app.stream(incoming, value=int)
    source.to(app.topic(even, value=int, partitions=3, partitioner="round_robin"))
    source.to(app.topic(chosen, value=int, partitions=3, partitioner=lambda key, count: int(key or 0) % (count - 1)))

    async def check() -> dict[str, list[list[int]]]:
        async with log_on(kafka) as log:
            await appended(log, incoming, list(range(12)), SystemClock().now_ms())
        async with at_work(app, kafka) as worker:
            await settled(worker)
        return {
            topic: [
                [int(each or b"") for each in await values_of(kafka.bootstrap, topic, number)] for number in range(3)
            ]
            for topic in (even, chosen)
        }

    found = asyncio.run(check())
    assert found[chosen] == [list(range(0, 12, 2)), list(range(1, 12, 2)), []]
    assert sorted(found[even]) == [list(range(first, 12, 3)) for first in range(3)], "one after the other"
