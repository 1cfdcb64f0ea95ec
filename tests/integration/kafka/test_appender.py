"""Appends outside of any task on a real broker, beyond the contract: many callers at once, and each told the truth."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from streams.connectors.kafka.log import KafkaLog
from streams.core.log import Append, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.errors import CommitUnknown, LogUnavailable, StreamsError
from tests.brokers.kafka.broker import KafkaBroker
from tests.guarantees.kafka_log.reading import values_of

PATIENCE_S = 60.0


@asynccontextmanager
async def opened(bootstrap: str, query: str = "") -> AsyncIterator[KafkaLog]:
    log = KafkaLog(f"kafka://{bootstrap}?{query}")
    await log.open()
    try:
        yield log
    finally:
        await log.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - it changes by itself, and nobody tells
            await asyncio.sleep(0.01)


def records(*values: bytes) -> Records:
    return Records([None] * len(values), list(values), [1] * len(values))


def one(topic: str, *values: bytes, partition: int = 0) -> list[Append]:
    return [Append(TopicPartition(topic, partition), records(*values))]


def test_each_caller_of_many_is_told_where_its_own_records_lie(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    topic = unique("topic")

    async def check() -> None:
        async with opened(kafka.bootstrap, "batch_bytes=3000&linger_ms=1") as log:
            await log.create_topics([TopicSpec(topic, 2)])
            wanted = [
                [
                    Append(TopicPartition(topic, p), records(*[b"%d/%d/%d" % (n, p, i) * 20 for i in range(n % 7)]))
                    for p in range(2)
                ]
                for n in range(150)
            ]
            told = await asyncio.gather(*(log.append(appends) for appends in wanted))
            for partition in range(2):
                at = TopicPartition(topic, partition)
                found = await values_of(kafka.bootstrap, topic, partition)
                for appends, ends in zip(wanted, told):
                    values = appends[partition].records.values
                    if not values:
                        assert at not in ends, "where nothing was written there is no position behind it"
                        continue
                    end = ends[at].offset()
                    assert found[end - len(values) : end] == values

    asyncio.run(check())


def test_a_callers_appends_keep_their_order_without_being_waited_for(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    topic = unique("topic")

    async def check() -> None:
        async with opened(kafka.bootstrap, "linger_ms=0") as log:
            await log.create_topics([TopicSpec(topic)])
            running = []
            for number in range(300):
                running.append(asyncio.ensure_future(log.append(one(topic, b"%d" % number))))
                if number % 10 == 0:
                    await asyncio.sleep(0)
            await asyncio.gather(*running)
        assert await values_of(kafka.bootstrap, topic) == [b"%d" % number for number in range(300)]

    asyncio.run(check())


def test_one_append_that_is_refused_does_not_fail_those_it_shares_a_write_with(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    good, small, gone = unique("good"), unique("small"), unique("gone")
    kafka.create_topic(small, configs={"max.message.bytes": "2000"})

    async def check() -> None:
        async with opened(kafka.bootstrap, "linger_ms=20&compression=none") as log:
            await log.create_topics([TopicSpec(good), TopicSpec(gone)])
            await log.append(one(gone, b"it was there"))
            async with opened(kafka.bootstrap) as other:
                await other.delete_topics([gone])
            told = await asyncio.gather(
                log.append(one(good, b"first")),
                log.append(one(small, b"x" * 5000)),
                log.append(one(small, b"fits")),
                log.append(one(gone, b"where to?")),
                log.append(one(unique("never"), b"where to?")),
                log.append(one(good, b"no such partition", partition=7)),
                log.append([*one(good, b"second"), *one(small, b"fits too")]),
                *(log.append(one(small, b"%d" % number + b"y" * 500)) for number in range(8)),
                return_exceptions=True,
            )
            kinds = [type(each).__name__ for each in told]
            assert kinds == [
                "dict", "DataError", "dict", *["ConfigurationError"] * 3, "dict", *["dict"] * 8
            ], told  # fmt: skip
            assert "max.message.bytes" in str(told[1])
            assert gone in str(told[3])
            await log.append(one(good, b"third"))
        assert await values_of(kafka.bootstrap, good) == [b"first", b"second", b"third"]
        found = await values_of(kafka.bootstrap, small)
        assert Counter(found) == Counter([b"fits", b"fits too", *(b"%d" % n + b"y" * 500 for n in range(8))])

    asyncio.run(check())


def test_what_cannot_be_written_at_all_fails_its_caller_and_nobody_waits_for_ever(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    topic = unique("topic")

    async def check() -> None:
        async with opened(kafka.bootstrap, "linger_ms=20") as log, asyncio.timeout(PATIENCE_S):
            await log.create_topics([TopicSpec(topic)])
            poison = Records([None], [b"poison"], [2**63])
            told = await asyncio.gather(
                log.append(one(topic, b"before")),
                log.append([Append(TopicPartition(topic, 0), poison)]),
                log.append(one(topic, b"behind")),
                return_exceptions=True,
            )
            assert isinstance(told[1], Exception)
            assert [type(told[0]), type(told[2])] == [dict, dict], told
            await log.append(one(topic, b"later"))
        assert await values_of(kafka.bootstrap, topic) == [b"before", b"behind", b"later"]

    asyncio.run(check())


@pytest.mark.parametrize("acks", ["all", "1", "0"])
def test_each_kind_of_acknowledgement_writes(kafka: KafkaBroker, unique: Callable[[str], str], acks: str) -> None:
    topic = unique("topic")

    async def check() -> None:
        async with opened(kafka.bootstrap, f"acks={acks}&request_timeout_ms=5000") as log, asyncio.timeout(PATIENCE_S):
            await log.create_topics([TopicSpec(topic)])
            for number in range(20):
                await log.append(one(topic, b"%d" % number))
        expected = [b"%d" % number for number in range(20)]
        async with asyncio.timeout(PATIENCE_S):  # without an acknowledgement it may take a moment
            while (found := await values_of(kafka.bootstrap, topic)) != expected:
                assert found == expected[: len(found)]

    asyncio.run(check())


@pytest.mark.parametrize("old", [False, True])
def test_a_broker_that_restarts_loses_and_doubles_nothing(
    kafka_own: KafkaBroker, unique: Callable[[str], str], old: bool
) -> None:
    topic = unique("topic")
    at = 1 if old else time.time_ns() // 1_000_000  # a broker forgets producers of old records
    callers, partitions = 12, 3

    async def check() -> None:
        stored: set[bytes] = set()
        unknown: set[bytes] = set()
        refused: set[bytes] = set()
        done = asyncio.Event()

        async def call(caller: int, log: KafkaLog) -> None:
            number = 0
            while not done.is_set():
                value = b"%d/%d" % (caller, number)
                number += 1
                try:
                    records = Records([None], [value], [at])
                    await log.append([Append(TopicPartition(topic, (caller + number) % partitions), records)])
                    stored.add(value)
                except CommitUnknown:
                    unknown.add(value)
                except LogUnavailable:
                    refused.add(value)
                    await asyncio.sleep(0.05)  # as a caller that tries again does

        settings = "request_timeout_ms=2000&connect_timeout_ms=1000&linger_ms=2"
        async with opened(kafka_own.bootstrap, settings) as log:
            await log.create_topics([TopicSpec(topic, partitions)])
            calls = [asyncio.ensure_future(call(caller, log)) for caller in range(callers)]
            for stop in (kafka_own.kill, kafka_own.stop):
                before = len(stored)
                await until(lambda: len(stored) >= before + 500)  # noqa: B023
                await asyncio.to_thread(stop)
                await asyncio.to_thread(kafka_own.start)
            before = len(stored)
            await until(lambda: len(stored) >= before + 100)
            done.set()
            await asyncio.gather(*calls)
        found: Counter[bytes | None] = Counter()
        for partition in range(partitions):
            found.update(await values_of(kafka_own.bootstrap, topic, partition))
        assert max(found.values()) == 1, "something is there twice"
        assert not stored - set(found), "what was acknowledged is lost"
        assert not (wrong := refused & set(found)), f"said not to be stored, and there: {wrong}"
        print(len(stored), "stored,", len(unknown), "unknown,", len(refused), "refused")

    asyncio.run(check())


def test_closing_tells_everybody_who_waits(kafka: KafkaBroker, unique: Callable[[str], str]) -> None:
    topic = unique("topic")

    async def check() -> None:
        async with opened(kafka.bootstrap, "linger_ms=200") as log, asyncio.timeout(PATIENCE_S):
            await log.create_topics([TopicSpec(topic)])
            calls = [asyncio.ensure_future(log.append(one(topic, b"%d" % number))) for number in range(5)]
            await asyncio.sleep(0.01)
            await log.close()
            told = await asyncio.gather(*calls, return_exceptions=True)
        stored = await values_of(kafka.bootstrap, topic)
        assert all(isinstance(each, dict | StreamsError) for each in told), told
        for number, each in enumerate(told):
            there = b"%d" % number in stored
            assert there or not isinstance(each, dict)
            assert not there or isinstance(each, dict | CommitUnknown)

    asyncio.run(check())
