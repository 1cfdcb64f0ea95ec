"""A full disk: a clear error, nothing committed is lost, reading goes on, and the log takes writes again.

Once on a small file system of its own (needs the right to mount), and once in a process whose files may not grow,
which needs no rights.  This file is also the program that runs there.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.connectors.embedded import EmbeddedLog
from streams.core.log import Commit, TopicSpec
from streams.core.record import START, TopicPartition
from streams.errors import LogUnavailable, RetryableError
from streams.testing.log_contract import append, task_ref, values_of
from tests.disks import mounted

ORDERS = TopicPartition("orders", 0)
VALUE = bytes(100_000)


async def fill_and_go_on(path: Path, make_full: Callable[[], None], make_room: Callable[[], None]) -> None:
    """Commit until it fails, see that reading goes on, make room, and commit again; then look at everything."""
    log = EmbeddedLog(f"embedded:{path}")
    await log.open()
    await log.create_topics([TopicSpec("orders")])
    committed = 0

    async def commit_some(count: int) -> None:
        nonlocal committed
        writer = await log.fence(task_ref(0))
        assert int(writer.checkpoint or b"0") == committed, (
            "a commit that failed was stored, or one that didn't is gone"
        )
        for _ in range(count):
            await writer.commit(Commit(b"%d" % (committed + 1), [append(ORDERS, b"%06d" % committed + VALUE)]))
            committed += 1

    await commit_some(10)
    make_full()
    with pytest.raises(LogUnavailable, match=r"free space") as full:
        await commit_some(10_000)
    assert "\n" not in str(full.value)
    assert committed >= 10
    for _ in range(3):  # however often it is tried
        with pytest.raises(LogUnavailable):
            await log.append([append(ORDERS, VALUE)])
    reader = log.reader({ORDERS: START})
    first = await reader.fetch([ORDERS], max_records=1, wait_s=0)
    assert [value and value[:6] for value in first[0].records.values] == [b"000000"], "reading stopped as well"
    make_room()
    await commit_some(20)
    await log.close()

    again = EmbeddedLog(f"embedded:{path}")
    await again.open()
    assert await again.checkpoint(task_ref(0)) == b"%d" % committed
    found = await values_of(again, ORDERS)
    assert [value and value[:6] for value in found] == [b"%06d" % number for number in range(committed)]
    await again.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", 64) as place:
        yield place


@pytest.mark.parametrize("full_with_mb", [40, 55])
def test_a_full_disk_loses_nothing_and_the_log_goes_on_once_there_is_space(small_disk: Path, full_with_mb: int) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(full_with_mb * 2**20))
    asyncio.run(fill_and_go_on(small_disk / "log", lambda: None, ballast.unlink))


def test_a_disk_without_a_single_byte_left_is_told_when_opening(small_disk: Path) -> None:
    with (small_disk / "ballast").open("wb", buffering=0) as file:
        for size in (2**20, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue

    async def main() -> None:
        log = EmbeddedLog(f"embedded:{small_disk}/log")
        with pytest.raises(RetryableError, match=r"free space") as full:
            await log.open()
        assert "\n" not in str(full.value)
        (small_disk / "ballast").unlink()
        await log.open()
        await log.close()

    asyncio.run(main())


def test_files_that_may_not_grow_are_told_and_lose_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "log")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def _limit(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


if __name__ == "__main__":
    asyncio.run(fill_and_go_on(Path(sys.argv[1]), lambda: _limit(64 * 1024), lambda: _limit(resource.RLIM_INFINITY)))
