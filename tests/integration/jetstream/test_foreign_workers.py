"""Workers with topics on streams of others, which are killed and stopped: nothing is lost, and nothing is there twice.

What they read is written by nats-py, and what they write is read by it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import nats
import pytest
from nats.js.api import ConsumerConfig, StreamConfig

from streams.connectors.jetstream.log import JetStreamLog
from streams.core.log import Append, Log, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.testing.source_contract import values
from tests.brokers.nats.server import NatsServer
from tests.guarantees.support import acknowledged
from tests.guarantees.support import opened as on_disk

APPS = Path(__file__).with_name("foreign_app.py")
COUNT = 12_000
KEYS = 7
PATIENCE_S = 120.0


@contextmanager
def worker(app: str, log: str, folder: Path, server: NatsServer, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker's life; it is over at the end of the block, however it ended."""
    folder.mkdir(exist_ok=True)
    place = server.url.removeprefix("nats://")
    with (folder / "said").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "streams", "worker", "-A", f"{APPS}:{app}", "--log", log, *options],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NATS": place},
            cwd=folder,
            stdout=said,
            stderr=said,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(PATIENCE_S)


def said(folder: Path) -> str:
    return (folder / "said").read_text()[-3000:]


def wait_for(true: Callable[[], bool], folder: Path, *alive: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert all(process.poll() is None for process in alive), said(folder)
        assert time.monotonic() < deadline, said(folder)


def run_through_kills(
    app: str, log: str, folder: Path, server: NatsServer, progress: Callable[[], int], kills: Sequence[int]
) -> None:
    """Run ``app``; kill -9 it each time that ``progress`` has grown by so much, the server as well in the middle, and
    at last let it finish."""
    for number, more in enumerate(kills):
        at = progress() + more
        with worker(app, log, folder, server) as process:
            wait_for(lambda: progress() >= at, folder, process)  # noqa: B023
            if number == len(kills) // 2:
                server.kill()
                server.start()
                further = progress() + more
                wait_for(lambda: progress() >= further, folder, process)  # noqa: B023
            process.send_signal(signal.SIGKILL)
            assert process.wait(PATIENCE_S) == -signal.SIGKILL
    with worker(app, log, folder, server, "--until-idle") as process:
        assert process.wait(PATIENCE_S) == 0, said(folder)


def on(server: NatsServer, work: Callable[[nats.js.JetStreamContext], object]) -> object:
    async def connected() -> object:
        client = await nats.connect(server.url, max_reconnect_attempts=100)
        try:
            return await work(client.jetstream(timeout=30))  # type: ignore[misc]
        finally:
            await client.close()

    return asyncio.run(connected())


def make(server: NatsServer, name: str, *subjects: str) -> None:
    on(server, lambda stream: stream.add_stream(StreamConfig(name=name, subjects=list(subjects))))


def length(server: NatsServer, name: str) -> int:
    """How many messages a stream has; a server that is just starting has none."""

    async def asked(stream: nats.js.JetStreamContext) -> int:
        return (await stream.stream_info(name)).state.messages

    with suppress(nats.errors.Error, OSError, TimeoutError):
        return int(str(on(server, asked)))
    return 0


def read(server: NatsServer, name: str) -> list[tuple[str, int]]:
    """(subject, value) of every message of a stream, in order."""

    async def taken(stream: nats.js.JetStreamContext) -> list[tuple[str, int]]:
        last = (await stream.stream_info(name)).state.last_seq
        found: list[tuple[str, int]] = []
        reader = await stream.subscribe(">", ordered_consumer=True, stream=name, config=ConsumerConfig())
        at = 0
        while at < last:
            message = await reader.next_msg(timeout=PATIENCE_S)
            at = message.metadata.sequence.stream
            found.append((message.subject, int(message.data)))
        return found

    return on(server, taken)  # type: ignore[return-value]


async def fill(log: Log, numbers: range) -> None:
    """More numbers for the topic "numbers", those of a key in one partition."""
    await log.create_topics([TopicSpec("numbers", partitions=2)])
    parts: dict[int, Records] = {0: Records(), 1: Records()}
    for number in numbers:
        key = b"%d" % (number % KEYS)
        part = parts[log.partition_for(key, 2)]
        part.keys.append(key)
        part.values.append(b"%d" % number)
        part.timestamps.append(1_000)
    await log.append([Append(TopicPartition("numbers", index), part) for index, part in parts.items()])


def once_each(found: Sequence[int]) -> None:
    repeated = {value: times for value, times in Counter(found).items() if times > 1}
    missing = len(set(range(COUNT)) - set(found))
    assert (repeated, missing, len(found)) == ({}, 0, COUNT)


def copies_are_right(server: NatsServer) -> None:
    """Each number is there once, and those of a key are in order."""
    found = read(server, "COPIES")
    once_each([value for _, value in found])
    for key in range(KEYS):
        mine = [value for subject, value in found if subject == f"copies.{key}"]
        assert mine == list(range(key, COUNT, KEYS))


def test_an_app_on_an_embedded_log_reads_wildcards_of_a_stream_once_through_kills(
    nats_own: NatsServer, tmp_path: Path
) -> None:
    make(nats_own, "ORDERS", "orders.>")

    async def publish(stream: nats.js.JetStreamContext) -> None:
        for start in range(0, COUNT, 1_000):
            told = []
            for number in range(start, start + 1_000):
                told.append(await stream.publish_async(f"orders.{number % KEYS}.created", b"%d" % number))
                if number % 3 == 0:
                    told.append(await stream.publish_async(f"orders.{number % KEYS}.removed", b"none of ours"))
            await asyncio.gather(*told)

    on(nats_own, publish)
    log = tmp_path / "log"
    folder = tmp_path / "worker"
    run_through_kills("inward", f"embedded:{log}", folder, nats_own, lambda: acknowledged(log), (5, 5, 5))

    async def arrived() -> list[int]:
        async with on_disk(log) as found:
            each = [await values(found, TopicPartition("arrived", number)) for number in range(2)]
            return [int(value or b"") for part in each for value in part]

    once_each(asyncio.run(arrived()))


def test_what_an_app_on_an_embedded_log_writes_to_a_stream_is_there_once_through_kills(
    nats_own: NatsServer, tmp_path: Path
) -> None:
    make(nats_own, "COPIES", "copies.*")

    async def filled() -> None:
        async with on_disk(tmp_path / "log") as log:
            await fill(log, range(COUNT))

    asyncio.run(filled())
    run_through_kills(
        "outward",
        f"embedded:{tmp_path / 'log'}",
        tmp_path / "worker",
        nats_own,
        lambda: length(nats_own, "COPIES"),
        (1, 1_000, 1_500),
    )
    copies_are_right(nats_own)


def test_a_worker_that_stood_still_while_another_delivered_adds_nothing(nats_own: NatsServer, tmp_path: Path) -> None:
    make(nats_own, "COPIES", "copies.*")
    rounds = 4
    portion = COUNT // rounds

    def send(numbers: range) -> None:
        async def sent() -> None:
            log = JetStreamLog(nats_own.url)
            await log.open()
            await fill(log, numbers)
            await log.close()

        asyncio.run(sent())

    url, folder = f"{nats_own.url}?session_timeout_ms=2000", tmp_path / "worker"
    with worker("outward", url, folder, nats_own) as first, worker("outward", url, folder, nats_own) as second:
        for number, stopped in enumerate([first, second, first, second]):
            before = length(nats_own, "COPIES")
            send(range(number * portion, (number + 1) * portion))
            wait_for(lambda: length(nats_own, "COPIES") > before, folder, first, second)  # noqa: B023
            stopped.send_signal(signal.SIGSTOP)
            try:
                # Its tasks are the other's after the session's time-out: what it had yet to deliver arrives.
                all_of_it = (number + 1) * portion
                wait_for(lambda: length(nats_own, "COPIES") >= all_of_it, folder, first, second)  # noqa: B023
            finally:
                stopped.send_signal(signal.SIGCONT)
    with worker("outward", url, folder, nats_own, "--until-idle") as last:
        assert last.wait(PATIENCE_S) == 0, said(folder)
    copies_are_right(nats_own)


@pytest.mark.parametrize("wrong", [[0, 0, 1], [1]])
def test_the_count_finds_what_is_lost_and_what_is_there_twice(wrong: list[int]) -> None:
    with pytest.raises(AssertionError):
        once_each(wrong)
