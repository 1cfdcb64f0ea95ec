"""The life of a connection: servers that die, stop, or are about to; a client that doesn't read."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from streams.connectors.jetstream import client, reader
from streams.connectors.jetstream.client import STALL_S, Connection, publication
from streams.connectors.jetstream.config import parse_url
from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.session import LAST_PAUSE_S, Rounds
from streams.core.log import Append, TopicSpec
from streams.core.record import START, Records, TopicPartition
from streams.errors import LogUnavailable
from tests.brokers.nats.clients import taken
from tests.brokers.nats.server import NatsServer
from tests.brokers.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
WORDCOUNT = ROOT / "examples" / "wordcount.py"
PATIENCE_S = 120
Start = Callable[..., NatsServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server with a configuration and options."""
    servers: list[NatsServer] = []

    def start_it(config: str = "debug: false\n", *options: str, jetstream: bool = False) -> NatsServer:
        folder = tmp_path / f"server-{len(servers)}"
        folder.mkdir()
        (folder / "server.conf").write_text(config)
        servers.append(NatsServer(folder, "-c", str(folder / "server.conf"), *options, jetstream=jetstream))
        servers[-1].start()
        return servers[-1]

    yield start_it
    for each in servers:
        each.kill()


def monitored(port: int, what: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{what}", timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition didn't come true"
        time.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def connection(*servers: NatsServer, settings: str = "") -> Connection:
    url = "nats://" + ",".join(each.url.removeprefix("nats://") for each in servers)
    config = parse_url(f"{url}?{settings}")
    return Connection(config.shown, config.client, timeout_s=config.request_timeout_ms / 1000)


def of(held: Connection, *servers: NatsServer) -> NatsServer:
    """The one of ``servers`` that it is connected to."""
    [found] = [each for each in servers if each.url.endswith(held.place)]
    return found


async def echo(server: NatsServer) -> Any:
    """Somebody who answers."""
    answering = await nats.connect(server.url)

    async def answer(message: Any) -> None:
        await message.respond(message.data)

    await answering.subscribe("echo", cb=answer)
    await taken(answering)
    return answering


# ── which server next ───────────────────────────────────────────────────────────────────────────────────────────────


def test_every_server_is_tried_once_before_a_pause_and_pauses_grow_and_differ() -> None:
    rounds = Rounds(random.Random(1))
    places = ["a", "b", "c"]
    tried = [rounds.next(places) for _ in range(30)]
    for number in range(0, 30, 3):
        assert {place for place, _ in tried[number : number + 3]} == set(places)
        assert [pause for _, pause in tried[number + 1 : number + 3]] == [0.0, 0.0]
    pauses = [tried[number][1] for number in range(0, 30, 3)]
    assert pauses[0] <= 0.1
    assert pauses[1:5] == sorted(pauses[1:5])
    assert LAST_PAUSE_S / 2 <= pauses[-1] <= LAST_PAUSE_S
    other = Rounds(random.Random(2))
    assert [other.next(places)[1] for _ in range(30)][::3] != pauses
    rounds.reset()
    assert rounds.next(places)[1] <= 0.1


def test_a_server_that_is_about_to_stop_is_tried_last_and_one_that_is_gone_not_at_all() -> None:
    rounds = Rounds(random.Random(1))
    rounds.leaving = "b"
    for _ in range(20):
        rounds.reset()
        assert [rounds.next(["a", "b", "c"])[0] for _ in range(3)][2] == "b"
    rounds.reset()
    rounds.next(["a", "b", "c"])
    assert {rounds.next(["c"])[0] for _ in range(4)} == {"c"}


# ── servers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_server_that_dies_is_left_for_another_and_who_waits_is_told_at_once(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = start(), start()

    async def run() -> None:
        held = connection(one, two, settings="request_timeout_ms=60000")
        await held.open()
        dies = of(held, one, two)
        stays = two if dies is one else one
        answering = await echo(stays)
        _, waiting = held.expect()
        dies.kill()
        with pytest.raises(LogUnavailable, match="the connection was lost"):
            await waiting
        await until(lambda: held.connected and held.reconnects == 1)
        assert of(held, one, two) is stays
        assert (await held.request("echo", b"still here")).payload == b"still here"
        stays.kill()
        await until(lambda: not held.connected)
        with pytest.raises(LogUnavailable, match="not connected"):
            await held.request("echo")
        stays.start()
        await until(lambda: held.connected and held.reconnects == 2)
        await held.close()
        await answering.close()

    with caplog.at_level(logging.INFO, "streams"):
        asyncio.run(run())
    lost = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(lost) == 2
    assert all("lost the connection to 127.0.0.1:" in line and "trying again" in line for line in lost)


def test_a_server_that_stands_still_is_left_though_its_connection_stands_and_it_takes_nothing(start: Start) -> None:
    one, two = start(), start()

    async def run() -> None:
        held = connection(one, two, settings="ping_interval_ms=200")
        await held.open()
        stands = of(held, one, two)
        stands.pause()
        try:
            # More than the sockets hold: what can't be sent must not keep the connection from being dropped.
            for _ in range(32):
                await held.write(publication("nowhere", bytes(2**19)))
            await until(lambda: held.connected and held.reconnects == 1)
            assert of(held, one, two) is not stands
        finally:
            stands.resume()
        await held.close()

    asyncio.run(run())


def test_a_server_that_is_about_to_stop_is_left_before_it_throws_its_clients_out(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    routes = [free_port(), free_port()]
    cluster = [
        ["--cluster_name", "two", "--cluster", f"nats://127.0.0.1:{mine}", "--routes", f"nats://127.0.0.1:{other}"]
        for mine, other in (routes, routes[::-1])
    ]
    ports = [free_port(), free_port()]
    one, two = (
        start("debug: false\n", *options, "-m", str(port)) for options, port in zip(cluster, ports, strict=True)
    )
    wait(lambda: all(monitored(port, "routez")["num_routes"] > 0 for port in ports))

    async def run() -> None:
        held = connection(one)  # the other one it learns of from this one
        await held.open()
        answering = await echo(two)
        await until(held._client.elsewhere)
        while True:  # until this server has heard of the one who answers at the other
            try:
                await held.request("echo")
                break
            except LogUnavailable:
                await asyncio.sleep(0.01)
        asked = 0
        done = asyncio.Event()

        async def ask() -> None:
            nonlocal asked
            while not done.is_set():
                assert (await held.request("echo", b"%d" % asked)).payload == b"%d" % asked
                asked += 1

        asking = asyncio.create_task(ask())
        await until(lambda: asked > 100 or asking.done())
        one._signal(signal.SIGUSR2)
        await until(lambda: held.reconnects == 1 or asking.done())
        assert held.place == two.url.removeprefix("nats://")
        before = asked
        await until(lambda: asked > before + 100 or asking.done())
        done.set()
        [ended] = await asyncio.gather(asking, return_exceptions=True)
        await held.close()
        await answering.close()
        # One request may have been under way.
        assert ended is None or isinstance(ended, LogUnavailable)
        assert one._process is not None
        assert one._process.poll() is None, "it was left before it ended"

    with caplog.at_level(logging.INFO, "streams"):
        asyncio.run(run())
    said = [each.getMessage() for each in caplog.records]
    assert any("is about to stop; going to another server" in line for line in said)


def test_a_reader_goes_on_at_once_when_the_connection_was_made_anew(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SILENCE_S", 10 * PATIENCE_S)
    server = start(jetstream=True)
    at = TopicPartition("orders", 0)

    async def run() -> None:
        log, other = JetStreamLog(server.url), JetStreamLog(server.url)
        await log.open()
        await other.open()
        await log.create_topics([TopicSpec("orders")])
        reading = log.reader({at: START})
        assert await reading.fetch([at], max_records=10, wait_s=0.1) == []
        server.kill()
        server.start()
        await until(lambda: log._connection.reconnects == other._connection.reconnects == 1)
        await other.append([Append(at, Records([None], [b"one"], [1]))])
        [batch] = await reading.fetch([at], max_records=10, wait_s=PATIENCE_S)
        assert batch.records.values == [b"one"]
        await reading.close()
        await log.close()
        await other.close()

    asyncio.run(run())


# ── us ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_that_does_not_read_is_thrown_out_comes_back_and_says_why(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "STALL_S", 0.3)
    monkeypatch.setattr(client, "TICK_S", 0.05)
    port = free_port()
    server = start('write_deadline: "500ms"\nmax_pending: 2000000\n', "-m", str(port))
    flood = subprocess.Popen(
        [sys.executable, "-c", FLOOD, server.url], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )

    async def run() -> None:
        held = connection(server)
        await held.open()
        got = 0

        def take(messages: list[Any]) -> None:
            nonlocal got
            got += len(messages)
            if got == len(messages):  # a user's function that blocks, once
                began = time.monotonic()
                wait(lambda: monitored(port, "varz")["slow_consumers"] > 0 and time.monotonic() > began + 1)

        await held.subscribe("flood", take)
        await until(lambda: held.connected and held.reconnects >= 1)
        before = got
        await until(lambda: got > before)
        assert held.slow >= 1
        await held.close()

    try:
        with caplog.at_level(logging.WARNING, "streams"):
            asyncio.run(run())
    finally:
        flood.kill()
        flood.wait()
    assert "this process had stopped reading (blocked, paused or overloaded): a slow consumer" in caplog.text


FLOOD = """
import asyncio, sys, nats

async def main():
    client = await nats.connect(sys.argv[1])
    while True:
        await client.publish("flood", bytes(100_000))
        await client.flush()

asyncio.run(main())
"""


def test_a_worker_that_was_paused_says_so_once_counts_it_and_goes_on(start: Start, tmp_path: Path) -> None:
    port = free_port()
    server = start('ping_interval: "1s"\nping_max: 1\n', "-m", str(port), jetstream=True)
    around = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")}
    environment = {**around, "PYTHONPATH": os.pathsep.join(sys.path)}

    def send(line: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "streams", "send", "lines", "-A", str(WORDCOUNT), "--log", server.url],
            cwd=tmp_path,
            env=environment,
            input=line,
            text=True,
            check=True,
            capture_output=True,
            timeout=PATIENCE_S,
        )

    said = tmp_path / "worker.err"
    with said.open("w") as err:
        worker = subprocess.Popen(
            [sys.executable, "-m", "streams", "worker", "-A", str(WORDCOUNT), "--log", server.url, "--port", "0"],
            cwd=tmp_path,
            env=environment,
            stderr=err,
        )
    try:
        wait(lambda: "works on" in said.read_text())
        found = re.search(r"http://127\.0\.0\.1:\d+", said.read_text())
        assert found is not None
        address = found[0]
        send("one two one\n")
        wait(lambda: total(address) == 3)
        worker.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        wait(lambda: monitored(port, "connz")["num_connections"] == 0)
        wait(lambda: time.monotonic() > stopped + 1.5 * STALL_S)
        worker.send_signal(signal.SIGCONT)
        wait(lambda: "lost the connection" in said.read_text())
        send("one\n")
        wait(lambda: total(address) == 4)
        lines = [line for line in said.read_text().splitlines() if "lost the connection" in line]
        assert "this process had stopped reading" in lines[0]
        metrics = read(f"{address}/metrics")
        # One, unless this machine is so slow that it happens by itself.
        assert f'streams_log_reconnects_total{{app="wordcount"}} {len(lines)}.0' in metrics
        slow = [line for line in lines if "a slow consumer" in line]
        assert f'streams_log_slow_consumer_total{{app="wordcount"}} {len(slow)}.0' in metrics
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0, said.read_text()
    finally:
        worker.kill()
        worker.wait()


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        found: str = answer.read().decode()
        return found


def total(address: str) -> int:
    """How many words are counted."""
    try:
        [name] = json.loads(read(f"{address}/tables"))
        return sum(row["value"] for row in json.loads(read(f"{address}/tables/{name}"))["rows"])
    except urllib.error.HTTPError as error:  # its tasks start again
        error.close()
        return -1
