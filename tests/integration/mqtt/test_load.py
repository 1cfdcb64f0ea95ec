"""Much at once, on Mosquitto: ten thousand topics, and a broker that is killed while messages come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count

import pytest

from streams import App
from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.mqtt.errors import ConnectionLost
from streams.connectors.mqtt.packets import MQTT_5, Publish, Subscription
from streams.core.record import TopicPartition
from tests.brokers.mqtt.server import Mosquitto
from tests.integration.mqtt.helpers import PATIENCE_S, config_of, opened, send, subscribed, take
from tests.integration.mqtt.test_edge import BOTH, Unique, at_work, held, numbers, peer, until

TOPICS = 10_000
LAST = 10**9


@pytest.fixture(scope="module")
def quick_mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """Writes nothing while messages come: else it would write all that it holds at each of them."""
    broker = Mosquitto(tmp_path_factory.mktemp("mqtt"), lines=["autosave_on_changes false", "autosave_interval 3600"])
    broker.start()
    yield broker
    broker.kill()


@BOTH
def test_ten_thousand_topics_come_in_by_one_source_and_go_out_by_one_target(
    quick_mosquitto: Mosquitto, unique: Unique, version: str
) -> None:
    broker = quick_mosquitto
    here, there, log = unique("here"), unique("there"), MemoryBroker()
    app = App(unique("shop"), partitions=1)
    readings = app.stream(app.topic(f"{broker.url}/{here}/#?qos=1&version={version}", value=int))
    readings.to("seen")
    readings.to(app.topic(f"{broker.url}/{there}/{{key}}?qos=1&version={version}", value=int))

    async def main() -> None:
        async with peer(broker, there) as listener, peer(broker, here) as sender, at_work(app, log):
            await subscribed(listener, Subscription(f"{there}/#", 1))
            names = [f"{here}/{number % 100}/{number}" for number in range(TOPICS)]
            taking = asyncio.create_task(take(listener, TOPICS))
            await send(sender, [Publish(name, b"%d" % at, 1, packet_id=at + 1) for at, name in enumerate(names)])
            seen = await held(log, "seen", TOPICS)
            assert [(key or b"").decode() for key, _, _ in seen] == names
            came = await taking
            assert [message.topic for message in came] == [f"{there}/{name}" for name in names]
            assert [int(message.payload) for message in came] == list(range(TOPICS))

    asyncio.run(main())


@pytest.mark.parametrize("qos", [1, 2])
def test_of_what_a_killed_broker_had_on_disk_nothing_is_lost(
    own_mosquitto: Mosquitto, unique: Unique, qos: int
) -> None:
    """It writes after each turn of its loop: when the next batch is acknowledged, the one before is on disk."""
    topic, log = unique("jobs"), MemoryBroker()
    app = App(unique("shop"))
    app.stream(app.topic(f"{own_mosquitto.url}/{topic}?qos={qos}", value=int)).to("done")
    batches, sure = count(), set[int]()

    async def feed() -> None:
        sender = await opened(config_of(own_mosquitto.url, MQTT_5), topic + "-sender")
        before: range | None = None
        try:
            while True:
                first = next(batches) * 50
                batch = range(first, first + 50)
                messages = [Publish(topic, b"%d" % number, qos, packet_id=number - first + 1) for number in batch]
                await send(sender, messages)
                sure.update(before or ())
                before = batch
        except ConnectionLost:
            await sender.close()

    async def main() -> None:
        async with at_work(app, log):
            # The subscription is on disk with the next autosave, which a later change starts.
            async with peer(own_mosquitto, topic) as sender:
                await send(sender, [Publish(topic + "/other", b"", 1, packet_id=1)])
            for kill in range(1, 3):
                feeding = asyncio.create_task(feed())
                await until(lambda: len(sure) > kill * 500)  # noqa: B023  # awaited at once
                await asyncio.to_thread(own_mosquitto.kill)
                await feeding
                await asyncio.to_thread(own_mosquitto.start)
            async with peer(own_mosquitto, topic) as sender:
                await send(sender, [Publish(topic, b"%d" % LAST, qos, packet_id=1)])
            came: list[int] = []
            async with asyncio.timeout(PATIENCE_S):
                while LAST not in came:
                    await asyncio.sleep(0.05)
                    came = numbers(await held(log, "done", log.partition(TopicPartition("done", 0)).end))
            assert sure <= set(came)

    asyncio.run(main())
