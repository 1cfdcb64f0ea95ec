"""Appends through a bad network: what was acknowledged is there once, what was said not to be stored is not there."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable

import pytest

from streams.connectors.kafka.log import KafkaLog
from streams.core.log import Append, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.errors import CommitUnknown, LogUnavailable
from tests.brokers.kafka.proxied import ProxiedKafka
from tests.guarantees.kafka_log import proxy as network
from tests.guarantees.kafka_log.proxy import KINDS, Fault, Proxy
from tests.guarantees.kafka_log.reading import values_of

SETTINGS = (
    "request_timeout_ms=300&connect_timeout_ms=1000&fetch_max_wait_ms=50&linger_ms=1&compression=none&batch_bytes=1500"
)
REQUESTS = (network.PRODUCE, network.PRODUCE, network.METADATA, network.INIT_PRODUCER_ID)
CALLERS = 8
PARTITIONS = 3
ROUNDS = 2


def test_what_an_append_says_is_what_is_on_the_log_whatever_the_network_does(
    kafka_proxied: ProxiedKafka, unique: Callable[[str], str], chance: random.Random
) -> None:
    topic = unique("topic")
    stored: Counter[bytes] = Counter()
    unknown: set[bytes] = set()
    refused: set[bytes] = set()
    said: dict[bytes, str] = {}
    struck: list[Fault] = []
    now = time.time_ns() // 1_000_000  # what is written again is recognised: see below

    async def call(log: KafkaLog, caller: int, turn: int, partitions: list[int]) -> None:
        """Now and then of more than fits into one batch, or for several partitions."""
        values = [b"%d/%d/%d/%0100d" % (caller, turn, each, 0) for each in range(len(partitions) * turn % 40 + 1)]
        appends = [
            Append(TopicPartition(topic, at), Records([b"%d" % at] * len(values), [*values], [now] * len(values)))
            for at in partitions
        ]
        written = [b"%d:" % at + value for at in partitions for value in values]
        try:
            await log.append(appends)
        except (CommitUnknown, LogUnavailable) as error:
            (unknown if isinstance(error, CommitUnknown) else refused).update(written)
            said.update(dict.fromkeys(written, f"{type(error).__name__}: {error}"))
        else:
            stored.update(written)

    async def run() -> None:
        async with Proxy(kafka_proxied) as proxy:
            log = KafkaLog(f"kafka://{kafka_proxied.proxied}?{SETTINGS}")
            await log.open()
            try:
                await log.create_topics([TopicSpec(topic, PARTITIONS)])
                plan = [(api, kind) for api in REQUESTS for kind in KINDS] * ROUNDS
                chance.shuffle(plan)
                for turn, (api, kind) in enumerate(plan):
                    delay_s = chance.choice([0.05, 0.5])
                    proxy.faults = [Fault(api, kind, delay_s, skip=chance.choice([0, 0, 1]))]
                    if chance.random() < 0.5:
                        proxy.faults.append(
                            Fault(network.PRODUCE, chance.choice(KINDS), delay_s, skip=chance.randrange(3))
                        )
                    await asyncio.gather(
                        *(
                            call(log, caller, turn, chance.sample(range(PARTITIONS), chance.choice([1, 1, 2])))
                            for caller in range(CALLERS)
                        )
                    )
                    struck.extend(fault for fault in proxy.faults if fault.struck)
                await proxy.delivered()
            finally:
                await log.close()

    asyncio.run(run())
    print(len(stored), "stored", len(unknown), "unknown", len(refused), "refused;", len(struck), "faults struck")
    found: Counter[bytes] = Counter()
    for partition in range(PARTITIONS):
        values = asyncio.run(values_of(kafka_proxied.bootstrap, topic, partition))
        found.update(b"%d:" % partition + value for value in values if value is not None)
    assert not (lost := stored - found), f"{len(lost)} were acknowledged and are not there"
    assert not (twice := [value for value, times in found.items() if times > 1]), (len(twice), said.get(twice[0]))
    assert not (lies := refused & found.keys()), (len(lies), said[next(iter(lies))])
    assert struck, "the network was too good"
    assert unknown, "the network was too good"


@pytest.mark.parametrize("old", [False, True])
def test_what_a_broker_has_stored_and_forgotten_is_not_written_again(
    kafka_proxied: ProxiedKafka, unique: Callable[[str], str], old: bool
) -> None:
    """A broker that restarts knows a producer by what it wrote last, unless that is older than a day."""
    topic = unique("topic")
    at = 1 if old else time.time_ns() // 1_000_000

    async def run() -> None:
        async with Proxy(kafka_proxied) as proxy, asyncio.timeout(120):
            log = KafkaLog(f"kafka://{kafka_proxied.proxied}?request_timeout_ms=60000&connect_timeout_ms=1000")
            await log.open()
            try:
                await log.create_topics([TopicSpec(topic)])

                async def append(value: bytes) -> None:
                    await log.append([Append(TopicPartition(topic, 0), Records([None], [value], [at]))])

                await append(b"first")
                proxy.faults = [Fault(network.PRODUCE, "lose answer")]
                second = asyncio.ensure_future(append(b"second"))
                while len(await values_of(kafka_proxied.bootstrap, topic, 0)) < 2:
                    assert not second.done()
                await asyncio.to_thread(kafka_proxied.restart)
                if old:
                    with pytest.raises(CommitUnknown, match="wouldn't recognise them"):
                        await second
                else:
                    await second
            finally:
                await log.close()

    asyncio.run(run())
    assert asyncio.run(values_of(kafka_proxied.bootstrap, topic, 0)) == [b"first", b"second"]
