"""The server's disk is full under a worker: it says so, waits, and with room again nothing is lost or twice."""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.connectors.jetstream.log import JetStreamLog
from streams.core.log import Append, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.testing.source_contract import values
from tests.brokers.nats.server import NatsServer
from tests.disks import mounted
from tests.guarantees.kafka.fleet import Fleet
from tests.guarantees.support import APPS

MB = 2**20
COUNT = 80
BLOBS, TREATED, COUNTED = (TopicPartition(name, 0) for name in ("blobs", "treated", "counted"))


def blob(number: int) -> bytes:
    return b"%06d" % number + bytes([number % 251]) * 100_000


async def fill(url: str) -> None:
    """8 MB of input, which make 16 MB of output: it lies in the app's stream first."""
    log = JetStreamLog(url)
    await log.open()
    await log.create_topics([TopicSpec(at.topic) for at in (BLOBS, TREATED, COUNTED)])
    for first in range(0, COUNT, 20):
        numbers = range(first, first + 20)
        records = Records([b"k"] * 20, [blob(number) for number in numbers], list(numbers))
        await log.append([Append(BLOBS, records)])
    await log.close()


async def results(url: str) -> tuple[list[bytes | None], list[bytes | None]]:
    log = JetStreamLog(url)
    await log.open()
    try:
        return await values(log, TREATED), await values(log, COUNTED)
    finally:
        await log.close()


def goes_on(
    server: NatsServer, folder: Path, make_full: Callable[[], None], make_room: Callable[[], None], error: str
) -> None:
    """``error``: the system's, in the server's log.

    What the server does then is a matter of chance.  It refuses what it can't store, with the error; it stops its
    JetStream; or it keeps the stream, and answers nothing any more to what the stream is to store.
    """
    asyncio.run(fill(server.url))
    make_full()
    settings = "session_timeout_ms=2000&request_timeout_ms=1000"
    with Fleet(APPS / "blobs.py", "", folder, log=f"{server.url}?{settings}") as fleet:
        worker = fleet.start(0)
        fleet.until(lambda: error in server.said(), "the server to meet the full disk")
        fleet.until(lambda: re.search(f"disk is full: make room|{error}", worker.said), "the worker to say so")
        server.kill()
        make_room()
        server.start()
        fleet.until(lambda: len(asyncio.run(results(server.url))[1]) >= COUNT, "it to go on by itself")
        fleet.stop_all()
        assert "Traceback" not in worker.said
    check(server.url)


def check(url: str) -> None:
    """Everything is there once, in order."""
    treated, counted = asyncio.run(results(url))
    assert treated == [blob(number)[::-1] for number in range(COUNT)]
    assert counted == [b"%d" % number for number in range(1, COUNT + 1)]


async def limit(url: str, size: int) -> None:
    """As an administrator does it: for the app's stream."""
    log = JetStreamLog(url)
    await log.open()
    config = (await log._api.call("STREAM.INFO.S-blobs"))["config"]
    await log._api.call("STREAM.UPDATE.S-blobs", {**config, "max_bytes": size})
    await log.close()


def test_a_worker_whose_app_s_stream_is_at_its_limit_goes_on_by_itself_when_it_is_raised(
    nats_own: NatsServer, tmp_path: Path
) -> None:
    with Fleet(APPS / "blobs.py", "", tmp_path, log=nats_own.url) as fleet:
        fleet.start_all(1)
        worker = fleet.running[0]
        asyncio.run(limit(nats_own.url, MB))
        asyncio.run(fill(nats_own.url))
        fleet.until(lambda: "nothing was stored: maximum bytes exceeded" in worker.said, "it to meet the limit")
        asyncio.run(limit(nats_own.url, -1))
        fleet.until(lambda: len(asyncio.run(results(nats_own.url))[1]) >= COUNT, "it to go on")
        fleet.stop_all()
        assert "Traceback" not in worker.said
    check(nats_own.url)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", 60) as place:
        yield place


def test_a_worker_whose_server_s_disk_is_full_says_so_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("jetstream { max_file_store: 4GB }\n")  # else the server keeps away from the end of the disk
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "data").symlink_to(small_disk)  # its log has to be written when the disk is full
    server = NatsServer(folder, "-c", str(config))
    server.start()
    ballast = small_disk / "ballast"

    def make_full() -> None:
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 5 * MB))

    try:
        goes_on(server, tmp_path, make_full, ballast.unlink, "no space left on device")
    finally:
        server.kill()


def test_a_worker_whose_server_s_files_may_not_grow_says_so_and_loses_nothing(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "server")
    server.start()

    def make_full() -> None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (3 * MB, resource.RLIM_INFINITY))

    def make_room() -> None:
        """A server that is started anew has no limit."""

    try:
        goes_on(server, tmp_path, make_full, make_room, "file too large")
    finally:
        server.kill()
