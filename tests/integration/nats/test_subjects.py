"""Subjects of core NATS as sources and targets of an app, on a real server: what is journaled is processed once,
through kills, and what goes out gets there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import nats as nats_py
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from streams import App
from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog
from streams.connectors.nats import intake as receiving
from streams.connectors.nats.edge import NatsEdge
from streams.connectors.registry import open_log
from streams.core.log import TopicSpec
from streams.core.record import Records, TopicPartition
from streams.errors import ConfigurationError, DataError
from streams.runtime.clock import SystemClock
from streams.runtime.worker import Worker
from streams.testing.driver import MemoryStores
from streams.testing.source_contract import values
from tests.brokers.nats.clients import taken
from tests.brokers.nats.server import NatsServer

APP = Path(__file__).with_name("edge_app.py")
PATIENCE_S = 60.0


@asynccontextmanager
async def client(server: NatsServer) -> AsyncIterator[Client]:
    connection = await nats_py.connect(server.url)
    try:
        yield connection
    finally:
        await connection.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - it changes by itself, and nobody tells
            await asyncio.sleep(0.01)


@asynccontextmanager
async def at_work(app: App, log: MemoryLog) -> AsyncIterator[Worker]:
    async with asyncio.timeout(PATIENCE_S), Worker(app, log, MemoryStores(), SystemClock()).working() as worker:
        await until(lambda: worker.caught_up)
        yield worker


async def opened() -> MemoryLog:
    log = MemoryLog(MemoryBroker())
    await log.open()
    return log


def test_what_is_sent_to_matching_subjects_is_read_with_subject_and_headers(
    nats: NatsServer, unique: Callable[[str], str]
) -> None:
    plant = unique("plant")
    app = App("shop")
    app.stream(app.topic(f"{nats.url}/{plant}.*.temperature", value=float)).to("readings")

    async def run() -> None:
        log = await opened()
        async with client(nats) as sender, at_work(app, log) as worker:
            await sender.publish(f"{plant}.1.temperature", b"20.5")
            await sender.publish(f"{plant}.1.pressure", b"1013")
            await sender.publish(f"{plant}.2.temperature", b"21.5", reply="answers", headers={"unit": "celsius"})
            await sender.publish(f"{plant}.2.temperature", b"22.5", headers={"Streams-Key": "two"})
            await taken(sender)
            readings = TopicPartition("readings", 0)
            await until(lambda: log.broker.partition(readings).end == 3)
        found = await records(log, readings)
        assert [(key, value) for key, value, _ in found] == [
            (f"{plant}.1.temperature".encode(), b"20.5"),
            (f"{plant}.2.temperature".encode(), b"21.5"),
            (b"two", b"22.5"),
        ]
        assert dict(found[0][2])["Nats-Subject"] == f"{plant}.1.temperature".encode()
        assert {name: dict(found[1][2])[name] for name in ("Nats-Reply", "unit")} == {
            "Nats-Reply": b"answers",
            "unit": b"celsius",
        }
        assert worker.ingresses[f"shop.{plant}.any.temperature.journal-0"].received == 3

    asyncio.run(run())


def test_tasks_that_share_a_subject_get_each_message_once(nats: NatsServer, unique: Callable[[str], str]) -> None:
    jobs = unique("jobs")
    app = App("shop", partitions=1)
    app.stream(app.topic(f"{nats.url}/{jobs}", value=int, partitions=3)).key_by(lambda job: str(job)).to("done")

    async def run() -> None:
        log = await opened()
        async with client(nats) as sender, at_work(app, log) as worker:
            for number in range(300):
                await sender.publish(jobs, b"%d" % number)
            await taken(sender)
            await until(lambda: log.broker.partition(TopicPartition("done", 0)).end == 300)
            shares = [each.received for each in worker.ingresses.values()]
        assert sorted(int(value or 0) for _, value, _ in await records(log, TopicPartition("done", 0))) == list(
            range(300)
        )
        assert len(shares) == 3
        assert all(shares), "each of them got some"

    asyncio.run(run())


def test_what_is_written_to_a_subject_gets_there_with_its_key_in_the_subject(
    nats: NatsServer, unique: Callable[[str], str]
) -> None:
    alerts = unique("alerts")
    app = App("shop")
    target = app.topic(f"{nats.url}/{alerts}.{{key}}.hot", value=str)
    app.stream("readings", value=str).to(target)

    async def run() -> None:
        log = await opened()
        async with client(nats) as listener, at_work(app, log):
            came: list[Msg] = []

            async def hear(message: Msg) -> None:
                came.append(message)

            await listener.subscribe(f"{alerts}.>", cb=hear)
            await taken(listener)
            readings = app.topic("readings", value=str)
            await readings.send_many([("a.1", "one"), ("b c", "two"), (None, "three")], timestamp=5)
            await until(lambda: len(came) == 3)
            assert {message.subject: message.data for message in came} == {
                f"{alerts}.a.1.hot": b"one",
                f"{alerts}.b=20c.hot": b"two",
                f"{alerts}.=.hot": b"three",
            }
            assert came[0].headers is not None
            assert came[0].headers["Streams-Time"] == "5"
            await target.send("by hand", key="x")
            await until(lambda: len(came) == 4)

    asyncio.run(run())


def test_a_message_is_sent_up_to_the_server_s_max_payload_and_refused_above_it(
    nats: NatsServer, unique: Callable[[str], str]
) -> None:
    """The line that headers begin with counts as well: the server hangs up on a message that is a byte too long."""

    async def run() -> None:
        edge = NatsEdge(nats.url)
        await edge.open()
        outlet = await edge.outlet(TopicSpec("o", address=unique("o")), "group", 0, None)
        most = edge._connection.max_payload
        largest = most - len(b"NATS/1.0\r\nStreams-Time: 1\r\n\r\n")
        await outlet.send(Records([None], [bytes(largest)], [1]), keep)
        for size in (largest + 1, largest + 12, most):
            with pytest.raises(DataError, match=rf"takes {most} \(max_payload\)"):
                await outlet.send(Records([None], [bytes(size)], [1]), keep)
        assert edge._connection.reconnects == 0, "the server hung up"
        await edge.close()

    async def keep(state: bytes | None) -> None:
        """Nothing has to be kept."""

    asyncio.run(run())


async def records(log: MemoryLog, at: TopicPartition) -> list[tuple[bytes | None, bytes | None, dict[str, bytes]]]:
    bounds = (await log.bounds([at]))[at]
    reader = log.reader({at: bounds.start})
    found: list[tuple[bytes | None, bytes | None, dict[str, bytes]]] = []
    while len(found) < log.broker.partition(at).end:
        for batch in await reader.fetch([at], max_records=1000, wait_s=1.0):
            headers = batch.records.headers or [None] * len(batch.records)
            found += zip(batch.records.keys, batch.records.values, [dict(each or ()) for each in headers], strict=True)
    await reader.close()
    return found


def test_what_a_log_takes_too_slowly_is_dropped_and_counted(
    nats: NatsServer, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = unique("flood")
    monkeypatch.setattr(receiving, "BUFFER_BYTES", 10_000)

    async def run() -> None:
        edge = NatsEdge(nats.url)
        await edge.open()
        intake = await edge.intake(TopicSpec("flood", address=subject), "group", 0, None)
        async with client(nats) as sender:
            for number in range(100):
                await sender.publish(subject, b"%03d" % number + bytes(197))
            await taken(sender)
        await intake.end()  # everything has come
        kept: list[bytes] = []
        while (more := await intake.receive(max_records=10, max_bytes=1_000, wait_s=0)) is not None:
            assert len(more.records) <= 4, "what was asked for, and the one that went over it"
            kept += [value[:3] for value in more.records.values if value is not None]
        assert kept == [b"%03d" % number for number in range(len(kept))], "the oldest are kept, in order"
        assert 0 < len(kept) == 100 - intake.lost
        await intake.close()
        await edge.close()

    asyncio.run(run())


@pytest.mark.parametrize("header", [("Streams-Time", "abc"), ("Streams-Packed", "AAAA")])
def test_a_header_that_doesn_t_read_neither_ends_the_worker_nor_loses_the_message(
    nats: NatsServer, unique: Callable[[str], str], caplog: pytest.LogCaptureFixture, header: tuple[str, str]
) -> None:
    name, content = header
    plant = unique("bad")
    app = App("shop")
    app.stream(app.topic(f"{nats.url}/{plant}.*", value=int)).to("readings")

    async def run() -> None:
        log = await opened()
        readings = TopicPartition("readings", 0)
        async with client(nats) as sender, at_work(app, log):
            for number in range(3):
                await sender.publish(f"{plant}.{number}", b"%d" % number, headers={name: content, "Streams-Key": "k"})
            await taken(sender)
            await until(lambda: log.broker.partition(readings).end == 3)
        found = await records(log, readings)
        assert [(key, value) for key, value, _ in found] == [(b"k", b"0"), (b"k", b"1"), (b"k", b"2")]
        assert all(headers[name] == content.encode() for _, _, headers in found)

    asyncio.run(run())
    told = [line for line in caplog.messages if "doesn't read" in line]
    assert len(told) == 1
    assert told[0].startswith(f"{plant}.0: ")
    assert name in told[0]


def test_who_lets_go_while_the_server_is_away_takes_nothing_from_those_who_share(nats_own: NatsServer) -> None:
    async def run() -> None:
        edge = NatsEdge(nats_own.url)
        await edge.open()
        jobs = TopicSpec("jobs", 2, address="jobs")
        first, ended = [await edge.intake(jobs, "group", number, None) for number in range(2)]
        async with client(nats_own) as sender:
            await sender.publish("jobs", b"before")
            await taken(sender)
        await edge._connection.flush()
        await asyncio.to_thread(nats_own.kill)
        await until(lambda: not edge._connection.connected)
        await ended.end()  # what has come is kept all the same
        kept = [await each.receive(max_records=10, max_bytes=1_000, wait_s=0) for each in (first, ended)]
        assert [each.records.values for each in kept if each is not None] == [[b"before"]]
        await first.close()
        await asyncio.to_thread(nats_own.start)
        await until(lambda: edge._connection.connected)
        last = await edge.intake(jobs, "group", 0, None)
        async with client(nats_own) as sender:
            for number in range(50):
                await sender.publish("jobs", b"%d" % number)
            await taken(sender)
        found: list[bytes | None] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < 50:
                more = await last.receive(max_records=100, max_bytes=10_000, wait_s=0.1)
                found += more.records.values if more is not None else []
        assert found == [b"%d" % number for number in range(50)]
        await last.close()
        await edge.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("address", "written", "said"),
    [
        ("alerts.{key}", False, "to read from such subjects use"),
        ("alerts.*", True, "are for what is read"),
        ("alerts.{customer}", True, "there is {key}, and no {customer}"),
        ("alerts..hot", False, "words with dots between them"),
        ("alerts.>.hot", False, "words with dots between them"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, written: bool, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        NatsEdge("nats://localhost").check(TopicSpec("alerts", address=address), written=written)


# ── workers and servers that are killed ─────────────────────────────────────────────────────────────────────────────


@contextmanager
def worker(log: str, server: NatsServer, folder: Path, app: str = "app") -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(exist_ok=True)
    said = (folder / "said").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "streams", "worker", "-A", f"{APP}:{app}", "--log", log, "--port", "0"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NATS": server.url},
        cwd=folder,
        stdout=said,
        stderr=said,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        said.close()


@pytest.mark.parametrize(("kind", "server_too"), [("embedded", False), ("embedded", True), ("jetstream", False)])
def test_what_was_journaled_is_processed_once_and_delivered_through_kills(
    nats_own: NatsServer, tmp_path: Path, kind: str, server_too: bool
) -> None:
    """Numbers are sent all the while; workers and the server are killed.  What nobody hears is gone, that is NATS; but
    what a worker has heard and stored is processed once, in order, and goes out at least once."""
    log = f"embedded:{tmp_path / 'log'}" if kind == "embedded" else f"{nats_own.url}?session_timeout_ms=1000"
    came: list[int] = []
    sent = 0

    async def run() -> None:
        nonlocal sent
        async with client(nats_own) as peer:

            async def hear(message: Msg) -> None:
                came.append(-int(message.data))

            await peer.subscribe("negated.>", cb=hear)
            await taken(peer)

            async def send() -> None:
                nonlocal sent
                while True:
                    if peer.is_connected:
                        await peer.publish(f"numbers.{sent % 7}", b"%d" % sent)
                        sent += 1
                    await asyncio.sleep(0.0005)

            sending = asyncio.ensure_future(send())
            for _ in range(3):
                with worker(log, nats_own, tmp_path) as process:
                    await more(came, process)
                    process.send_signal(signal.SIGKILL)
            with worker(log, nats_own, tmp_path) as process:
                await more(came, process)
                if server_too:
                    await asyncio.to_thread(nats_own.kill)
                    await asyncio.to_thread(nats_own.start)
                    await more(came, process)
                sending.cancel()
                last = sent - 1
                await until(lambda: bool(came) and last in came)
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0, (tmp_path / "said").read_text()

    async def more(came: list[int], process: subprocess.Popen[bytes]) -> None:
        """Numbers come that were sent from now on."""
        first = sent
        await until(lambda: process.poll() is not None or any(number > first for number in came[-50:]))
        assert process.poll() is None, (tmp_path / "said").read_text()

    asyncio.run(run())
    parts = asyncio.run(stored(log))
    assert all(part == sorted(set(part)) for part in parts), "once, and in order"
    seen = {number for part in parts for number in part}
    assert len(seen) == sum(map(len, parts))
    assert set(came) <= seen
    assert seen == set(came) or server_too, "everything that was processed went out"
    print(f"{sent} sent, {len(seen)} heard, {len(came)} delivered")


def receiving_tasks(folder: Path) -> set[str]:
    """The ingress tasks of a worker that are at it, as it says itself."""
    place = re.search(r"health, metrics and tables on (http://\S+)", (folder / "said").read_text())
    if place is None:
        return set()
    with urllib.request.urlopen(f"{place[1]}/tasks", timeout=PATIENCE_S) as answer:
        return {each["task"] for each in json.load(answer) if each["phase"] == "receiving"}


def test_workers_that_share_a_subject_journal_each_message_once_by_one_of_them(
    nats_own: NatsServer, tmp_path: Path
) -> None:
    count, log = 2_000, f"{nats_own.url}?session_timeout_ms=1000"
    folders = [tmp_path / "one", tmp_path / "other"]

    async def run() -> None:
        with (
            worker(log, nats_own, folders[0], "shared") as first,
            worker(log, nats_own, folders[1], "shared") as second,
        ):
            shares: list[set[str]] = []
            async with asyncio.timeout(PATIENCE_S):
                while sorted(map(len, shares)) != [2, 2]:
                    await asyncio.sleep(0.1)
                    shares = [await asyncio.to_thread(receiving_tasks, folder) for folder in folders]
            async with client(nats_own) as sender:
                for number in range(count):
                    await sender.publish(f"jobs.{number % 7}", b"%d" % number)
                await taken(sender)
            reader = open_log(log)
            await reader.open()
            journal = [TopicPartition("shared.jobs.any.journal", number) for number in range(4)]
            parts: list[list[bytes | None]] = []
            async with asyncio.timeout(PATIENCE_S):
                while sum(map(len, parts)) < count:
                    await asyncio.sleep(0.2)
                    parts = [await values(reader, at) for at in journal]
            await reader.close()
            assert sorted(int(value or 0) for part in parts for value in part) == list(range(count))
            assert all(parts), "each task of both workers got some"
            for process in (first, second):
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0

    asyncio.run(run())


async def stored(url: str) -> list[list[int]]:
    log = open_log(url)
    await log.open()
    try:
        count = (await log.topics(["seen"]))["seen"].spec.partitions
        parts = [await values(log, TopicPartition("seen", number)) for number in range(count)]
        return [[int(value or 0) for value in part] for part in parts]
    finally:
        await log.close()
