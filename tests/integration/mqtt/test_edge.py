"""Topics of a broker as sources and targets of an app, on Mosquitto: what a session keeps is processed once, what goes
out gets there, and what MQTT can't give is said."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streams import App
from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog
from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.edge import MqttEdge
from streams.connectors.mqtt.errors import ConnectionLost, Refused, SessionTakenOver, Unsendable
from streams.connectors.mqtt.packets import MQTT_5, Publish, Subscription
from streams.core.log import TopicSpec
from streams.core.record import Records, TopicPartition
from streams.runtime.clock import SystemClock
from streams.runtime.worker import Worker
from streams.testing.driver import MemoryStores
from tests.brokers.kafka.certificates import Authority
from tests.brokers.mqtt.server import Mosquitto
from tests.integration.mqtt.helpers import PATIENCE_S, config_of, one, opened, send, subscribed, take

Unique = Callable[[str], str]
Found = list[tuple[bytes | None, bytes | None, dict[str, bytes]]]
BOTH = pytest.mark.parametrize("version", ["3.1.1", "5"])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - it changes by itself, and nobody tells
            await asyncio.sleep(0.01)


async def ended(worker: Worker) -> None:
    """Waits for the error that ends it, and raises it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            worker.check()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def at_work(app: App, broker: MemoryBroker) -> AsyncIterator[Worker]:
    """A worker, from when it has subscribed."""
    log = MemoryLog(broker)
    await log.open()
    async with asyncio.timeout(PATIENCE_S), Worker(app, log, MemoryStores(), SystemClock()).working() as worker:
        await until(lambda: worker.caught_up)
        yield worker


@asynccontextmanager
async def peer(broker: Mosquitto, name: str, **settings: Any) -> AsyncIterator[Connection]:
    connection = await opened(config_of(broker.url, MQTT_5), name, **settings)
    try:
        yield connection
    finally:
        await connection.close()


def numbered(topic: str, numbers: range, qos: int) -> list[Publish]:
    return [Publish(topic, b"%d" % number, qos, packet_id=number + 1 if qos else 0) for number in numbers]


async def held(broker: MemoryBroker, topic: str, count: int) -> Found:
    """The first records of a topic, when there are so many."""
    at = TopicPartition(topic, 0)
    await until(lambda: broker.partition(at).end >= count)
    log = MemoryLog(broker)
    await log.open()
    reader = log.reader({at: (await log.bounds([at]))[at].start})
    found: Found = []
    while len(found) < count:
        for batch in await reader.fetch([at], max_records=1000, wait_s=1.0):
            headers = batch.records.headers or [None] * len(batch.records)
            found += zip(batch.records.keys, batch.records.values, [dict(each or ()) for each in headers], strict=True)
    await reader.close()
    await log.close()
    return found


def numbers(found: Found) -> list[int]:
    return [int(value or 0) for _, value, _ in found]


# ── in ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_is_sent_on_matching_topics_is_read_with_topic_and_headers(
    mosquitto: Mosquitto, unique: Unique, version: str, qos: int
) -> None:
    plant, log = unique("plant"), MemoryBroker()
    app = App(unique("shop"))
    address = f"{plant}/+/temperature,{plant}/+/heat/#?qos={qos}&version={version}"
    app.stream(app.topic(f"{mosquitto.url}/{address}", value=bytes)).to("readings")

    async def main() -> None:
        async with at_work(app, log), peer(mosquitto, plant) as sender:
            told: dict[str, Any] = {"user_property": [("unit", "celsius")], "content_type": "text/plain"}
            told |= {"correlation_data": b"7", "payload_format_indicator": 1, "message_expiry_interval": 3600}
            await send(
                sender,
                [
                    Publish(f"{plant}/1/temperature", b"20.5", qos, packet_id=qos and 1, properties=told),  # type: ignore[arg-type]
                    Publish(f"{plant}/1/pressure", b"1013", qos, packet_id=qos and 2),
                    Publish(f"{plant}/2/temperature", b"", qos, packet_id=qos and 3),
                    Publish(f"{plant}/2/heat/1/2", b"22.5", qos, packet_id=qos and 4),
                ],
            )
            found = await held(log, "readings", 3)
        assert [(key, value) for key, value, _ in found] == [
            (f"{plant}/1/temperature".encode(), b"20.5"),
            (f"{plant}/2/temperature".encode(), b""),
            (f"{plant}/2/heat/1/2".encode(), b"22.5"),
        ]
        first = found[0][2]
        assert (first["Mqtt-Topic"], first["Mqtt-Qos"]) == (f"{plant}/1/temperature".encode(), b"%d" % qos)
        assert "Mqtt-Retain" not in first
        if version == "5":
            named = {name: first[name] for name in ("unit", "Mqtt-Content-Type", "Mqtt-Correlation-Data")}
            assert named == {"unit": b"celsius", "Mqtt-Content-Type": b"text/plain", "Mqtt-Correlation-Data": b"7"}
            assert (first["Mqtt-Payload-Format"], int(first["Mqtt-Message-Expiry"]) > 3000) == (b"1", True)

    asyncio.run(main())


@BOTH
def test_what_is_sent_while_no_worker_runs_waits_in_the_session(
    mosquitto: Mosquitto, unique: Unique, version: str
) -> None:
    topic, log = unique("jobs"), MemoryBroker()
    app = App(unique("shop"))
    app.stream(app.topic(f"{mosquitto.url}/{topic}?qos=2&version={version}", value=int)).to("done")

    async def main() -> None:
        async with peer(mosquitto, topic) as sender:
            async with at_work(app, log):
                await send(sender, numbered(topic, range(50), 2))
            await send(sender, numbered(topic, range(50, 100), 2))
            async with at_work(app, log):
                await send(sender, numbered(topic, range(100, 150), 2))
                assert numbers(await held(log, "done", 150)) == list(range(150))

    asyncio.run(main())


def test_retained_messages_are_read_once_and_marked(mosquitto: Mosquitto, unique: Unique) -> None:
    topic, log = unique("state"), MemoryBroker()
    app = App(unique("shop"))
    app.stream(app.topic(f"{mosquitto.url}/{topic}/#", value=str)).to("states")

    async def main() -> None:
        async with peer(mosquitto, topic) as sender:
            await send(sender, [Publish(f"{topic}/a", b"old", 1, retain=True, packet_id=1)])
            async with at_work(app, log):
                await held(log, "states", 1)
            async with at_work(app, log):
                await send(sender, [Publish(f"{topic}/b", b"new", 1, retain=True, packet_id=2)])
                found = await held(log, "states", 2)
        assert [value for _, value, _ in found] == [b"old", b"new"]
        assert [headers.get("Mqtt-Retain") for _, _, headers in found] == [b"1", None]

    asyncio.run(main())


def test_tasks_that_share_a_subscription_get_each_message_once(mosquitto: Mosquitto, unique: Unique) -> None:
    topic, log = unique("jobs"), MemoryBroker()
    app = App(unique("shop"), partitions=1)
    jobs = app.stream(app.topic(f"{mosquitto.url}/{topic}?qos=1", value=int, partitions=3))
    jobs.key_by(lambda job: str(job)).to("done")

    async def main() -> None:
        async with peer(mosquitto, topic) as sender:
            async with at_work(app, log) as worker:
                await send(sender, numbered(topic, range(300), 1))
                await held(log, "done", 300)
                shares = [each.received for each in worker.ingresses.values()]
            await send(sender, numbered(topic, range(300, 330), 1))  # kept for the clients that are away
            async with at_work(app, log):
                found = await held(log, "done", 330)
        assert sorted(numbers(found)) == list(range(330))
        assert len(shares) == 3
        assert all(shares), "each of them got some"

    asyncio.run(main())


# ── out ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_is_written_gets_there_with_its_key_in_the_topic(
    mosquitto: Mosquitto, unique: Unique, version: str, qos: int
) -> None:
    alerts = unique("alerts")
    app = App(unique("shop"))
    target = app.topic(f"{mosquitto.url}/{alerts}/{{key}}/hot?qos={qos}&retain=yes&version={version}", value=str)
    app.stream("readings", value=str).to(target)

    async def main() -> None:
        async with peer(mosquitto, alerts) as listener, at_work(app, MemoryBroker()):
            await subscribed(listener, Subscription(f"{alerts}/#", 2))
            readings = app.topic("readings", value=str)
            await readings.send("one", key="a/1", headers={"unit": "celsius"})
            await readings.send("two", key="b+c")
            await readings.send("", key="d")
            came = await take(listener, 3)
            assert {message.topic: message.payload for message in came} == {
                f"{alerts}/a/1/hot": b"one",
                f"{alerts}/b=2Bc/hot": b"two",
                f"{alerts}/d/hot": b"",
            }
            assert {message.qos for message in came} == {qos}
            first = next(message for message in came if message.payload == b"one")
            wanted = [("unit", "celsius")] if version == "5" else None
            assert first.properties.get("user_property") == wanted
            await target.send("by hand", key="x")
            assert (await take(listener, 1))[0].payload == b"by hand"
        async with peer(mosquitto, alerts + "-late") as late:
            late.subscribe(1, [Subscription(f"{alerts}/a/1/hot", 0)])
            kept = await one(late, Publish)
            assert (kept.payload, kept.retain) == (b"one", True)

    asyncio.run(main())


@BOTH
def test_what_goes_out_waits_in_order_while_the_broker_is_away(
    own_mosquitto: Mosquitto, unique: Unique, version: str
) -> None:
    topic, log = unique("out"), MemoryBroker()
    app = App(unique("shop"), partitions=1)
    app.stream("readings", value=int).to(app.topic(f"{own_mosquitto.url}/{topic}?qos=2&version={version}", value=int))

    async def main() -> None:
        listener = await opened(config_of(own_mosquitto.url, MQTT_5), topic, clean_start=False)
        await subscribed(listener, Subscription(topic, 2))
        readings = app.topic("readings", value=int)
        async with at_work(app, log) as worker:
            await readings.send_many([(None, number) for number in range(50)])
            found = await take(listener, 50)
            await listener.close()
            await until(lambda: worker.caught_up)
            await asyncio.to_thread(own_mosquitto.stop)
            await readings.send_many([(None, number) for number in range(50, 100)])
        # Nor does a worker need the broker to start.
        log_again = MemoryLog(log)
        await log_again.open()
        async with asyncio.timeout(PATIENCE_S), Worker(app, log_again, MemoryStores(), SystemClock()).working():
            await readings.send_many([(None, number) for number in range(100, 150)])
            await asyncio.to_thread(own_mosquitto.start)
            listener = await opened(config_of(own_mosquitto.url, MQTT_5), topic, clean_start=False)
            found += await take(listener, 100)
        assert [int(message.payload) for message in found] == list(range(150))
        await listener.close()

    asyncio.run(main())


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a_broker_that_is_killed_and_has_its_sessions_on_disk_loses_nothing(
    own_mosquitto: Mosquitto, unique: Unique, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    topic, log = unique("jobs"), MemoryBroker()
    app = App(unique("shop"))
    app.stream(app.topic(f"{own_mosquitto.url}/{topic}?qos=2&version={version}", value=int)).to("done")

    async def main() -> None:
        async with at_work(app, log) as worker:
            async with peer(own_mosquitto, topic) as sender:
                await send(sender, numbered(topic, range(50), 2))
                await held(log, "done", 50)
                # The subscription is on disk with the next autosave, which a later change starts.
                await send(sender, [Publish(topic + "/other", b"", 1, packet_id=1000)])
            await asyncio.to_thread(own_mosquitto.kill)
            await asyncio.to_thread(own_mosquitto.start)
            async with peer(own_mosquitto, topic) as sender:
                await send(sender, numbered(topic, range(50, 100), 2))
            assert numbers(await held(log, "done", 100)) == list(range(100))
            assert not any(edge.sessions_lost for edge in worker.outside.edges.values() if isinstance(edge, MqttEdge))

    asyncio.run(main())
    assert "lost the session" not in caplog.text


def test_a_session_that_the_broker_has_lost_is_said_and_counted(
    own_mosquitto: Mosquitto, unique: Unique, caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    topic, log = unique("jobs"), MemoryBroker()
    app = App(unique("shop"))
    app.stream(app.topic(f"{own_mosquitto.url}/{topic}?qos=2", value=int)).to("done")

    async def main() -> None:
        async with at_work(app, log) as worker:
            async with peer(own_mosquitto, topic) as sender:
                await send(sender, numbered(topic, range(5), 2))
                await held(log, "done", 5)
            await asyncio.to_thread(own_mosquitto.stop)
            own_mosquitto.forget()
            await asyncio.to_thread(own_mosquitto.start)
            [edge] = worker.outside.edges.values()
            assert isinstance(edge, MqttEdge)
            await until(lambda: edge.sessions_lost == 1 and worker.caught_up)
            async with peer(own_mosquitto, topic) as sender:
                await send(sender, numbered(topic, range(5, 10), 2))
            assert numbers(await held(log, "done", 10)) == list(range(10))

    asyncio.run(main())
    assert caplog.text.count("the broker has lost the session of") == 1


def test_who_is_taken_over_comes_back_with_a_new_claim_only(
    mosquitto: Mosquitto, unique: Unique, caplog: pytest.LogCaptureFixture
) -> None:
    topic, log = unique("jobs"), MemoryBroker()
    name = unique("shop")
    app = App(name)
    app.stream(app.topic(f"{mosquitto.url}/{topic}?qos=1", value=int)).to("done")

    async def main() -> None:
        async with peer(mosquitto, topic) as sender, at_work(app, log) as worker:
            config = config_of(mosquitto.url, MQTT_5)
            other = await opened(config, f"{worker.log.identity}.{name}.{topic}.journal-0", clean_start=False)
            assert other.connected.session_present, "it has the worker's session now"
            with pytest.raises((SessionTakenOver, ConnectionLost)):  # before 2.0.15 mosquitto doesn't say why
                await forever(other)
            await send(sender, numbered(topic, range(5), 1))
            assert numbers(await held(log, "done", 5)) == list(range(5))

    with caplog.at_level(logging.DEBUG, "streams"):
        asyncio.run(main())
    assert "starts again" in caplog.text, "a new claim on the log came first"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With a password, and rights for topics under plant/ only."""
    folder = tmp_path_factory.mktemp("strict")
    rights = folder / "rights"
    rights.write_text("user shop\ntopic readwrite plant/#\n")
    broker = Mosquitto(
        folder / "broker", users={"shop": "s3cret"}, lines=[f"acl_file {rights}", "max_packet_size 100000"]
    )
    broker.start()
    yield broker
    broker.kill()


def said_at_its_end(url: str, folder: Path) -> str:
    """What a worker that reads there writes before it ends with a failure."""
    (folder / "shop.py").write_text(
        f'from streams import App\napp = App("shop")\napp.stream(app.topic("{url}", value=str)).to("seen")\n'
    )
    ended = subprocess.run(
        [sys.executable, "-m", "streams", "worker", "-A", "shop.py:app", "--log", "embedded:log", "--port", "0"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("mqtt://shop:wrong@127.0.0.1:{port}/plant/#", "look at user, password"),
        ("mqtts://127.0.0.1:{port}/plant/#?ca_file=nothing.pem", "certificates can't be used"),
        ("mqtt://shop:s3cret@127.0.0.1:{port}/plant/#/x", "# at the end"),
        ("mqtt://127.0.0.1:{port}/plant/#?qos=3", "0, 1 or 2 is needed"),
    ],
)
def test_a_worker_that_is_let_in_nowhere_says_why_in_a_line(
    strict: Mosquitto, tmp_path: Path, where: str, said: str
) -> None:
    lines = said_at_its_end(where.format(port=strict.port), tmp_path)
    assert said in lines
    assert "wrong" not in lines


@pytest.mark.parametrize(
    ("settings", "said"),
    [("", "the broker's certificate isn't accepted"), ("?ca_file={ca}", "is a cert_file asked for?")],
    ids=["theirs", "ours"],
)
def test_a_certificate_that_isn_t_trusted_ends_a_worker_with_a_line(
    secured: Mosquitto, authority: Authority, tmp_path: Path, settings: str, said: str
) -> None:
    url = f"mqtts://shop:s3cret@127.0.0.1:{secured.tls_port}/plant/#{settings.format(ca=authority.certificate)}"
    lines = said_at_its_end(url, tmp_path)
    assert said in lines
    assert "s3cret" not in lines


@pytest.mark.parametrize("qos", [1, 2])
def test_a_topic_that_one_may_not_write_is_an_error(strict: Mosquitto, unique: Unique, qos: int) -> None:
    async def main() -> None:
        edge = MqttEdge(f"mqtt://shop:s3cret@127.0.0.1:{strict.port}?qos={qos}")
        outlet = await edge.outlet(TopicSpec("out", address="office/{key}"), unique("group"), 0, None)
        with pytest.raises(Refused, match="doesn't take a message on office/a: not authorized"):
            await outlet.send(Records([b"a"], [b"x"], [0]), kept)
        await outlet.close()

    asyncio.run(main())


async def forever(connection: Connection) -> None:
    while True:
        await connection.events()


async def kept(state: bytes) -> None:
    pass


def test_a_message_that_is_too_large_is_an_error_that_says_so(strict: Mosquitto, unique: Unique) -> None:
    async def main() -> None:
        edge = MqttEdge(f"mqtt://shop:s3cret@127.0.0.1:{strict.port}?qos=2")
        outlet = await edge.outlet(TopicSpec("out", address="plant/a"), unique("group"), 0, None)
        with pytest.raises(Unsendable, match="limit is 100000"):
            await outlet.send(Records([b"a"], [bytes(200_000)], [0]), kept)
        await outlet.close()

    asyncio.run(main())


HUGE = bytes(100_000_000)


@BOTH
def test_100_mb_that_come_end_the_worker_with_their_size_and_the_limit(
    mosquitto: Mosquitto, unique: Unique, version: str
) -> None:
    topic = unique("huge")
    app = App(unique("shop"))
    app.stream(app.topic(f"{mosquitto.url}/{topic}?qos=2&version={version}", value=bytes)).to("done")

    async def main() -> None:
        sender = await opened(config_of(mosquitto.url, MQTT_5, max_packet_bytes=2**28), topic)
        async with at_work(app, MemoryBroker()) as worker:
            await send(sender, [Publish(topic, HUGE, 2, packet_id=1)])
            with pytest.raises(Unsendable, match=r"PUBLISH of 1000000\d\d bytes .* max_packet_bytes=16777216"):
                await ended(worker)
        await sender.close()

    asyncio.run(main())


@BOTH
def test_100_mb_don_t_go_out(mosquitto: Mosquitto, unique: Unique, version: str) -> None:
    async def main() -> None:
        edge = MqttEdge(f"{mosquitto.url}?qos=2&version={version}")
        outlet = await edge.outlet(TopicSpec("out", address=unique("huge")), unique("group"), 0, None)
        with pytest.raises(Unsendable, match=r"a message of 1000000\d\d bytes; max_packet_bytes is 16777216"):
            await outlet.send(Records([b"a"], [HUGE], [0]), kept)
        await outlet.close()

    asyncio.run(main())


def test_the_sessions_of_3_1_1_and_5_are_the_same_to_the_broker(mosquitto: Mosquitto, unique: Unique) -> None:
    """So the version may be changed between two runs of an app."""
    topic, log, name = unique("jobs"), MemoryBroker(), unique("shop")

    async def main() -> None:
        async with peer(mosquitto, topic) as sender:
            for first, version in ((0, "3.1.1"), (10, "5"), (20, "3.1.1")):
                app = App(name)
                source = app.topic(f"{mosquitto.url}/{topic}?qos=2&version={version}", value=int)
                app.stream(source).to("done")
                async with at_work(app, log):
                    await send(sender, numbered(topic, range(first, first + 10), 2))
                    assert numbers(await held(log, "done", first + 10)) == list(range(first + 10))

    asyncio.run(main())
