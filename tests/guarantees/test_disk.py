"""A full disk and damaged files under a real worker: a clear error, and nothing that was committed is lost."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.connectors.embedded import EmbeddedLog
from tests.disks import mounted
from tests.guarantees.support import error_line, finish, raw_rows, rows, send, wait_for, with_log, working

MB = 2**20
COUNT = 150


def blob(number: int) -> bytes:
    return b"%06d" % number + bytes([number % 251]) * 100_000


def fill(path: Path) -> None:
    """15 MB of input, which make 15 MB of output."""
    with_log(path, lambda log: send(log, "blobs", [("k", blob(number), number) for number in range(COUNT)], 1))


def check_results(path: Path) -> None:
    async def check(log: EmbeddedLog) -> None:
        treated = [value for _, value in await raw_rows(log, "treated")]
        assert treated == [blob(number)[::-1] for number in range(COUNT)]
        assert [value for _, value in await rows(log, "counted")] == list(range(1, COUNT + 1))

    with_log(path, check)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", 80) as place:
        yield place


def make_full(disk: Path, left_bytes: int) -> Path:
    """Leave only so much space."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - left_bytes))
    return ballast


def test_on_a_full_disk_the_worker_says_what_to_do_and_whatever_becomes_of_it_nothing_is_lost(small_disk: Path) -> None:
    path = small_disk / "log"
    fill(path)
    ballast = make_full(small_disk, 8 * MB)
    for _ in range(3):  # killed while it waits for space, and started anew without any
        with working("blobs.py", path) as worker:
            wait_for(lambda: "free space" in worker.stderr, "it met the full disk")
            assert "disk is full" in worker.stderr, worker.stderr
            assert "Traceback" not in worker.stderr, worker.stderr
    ballast.unlink()
    finish("blobs.py", path)
    check_results(path)


def test_a_worker_goes_on_by_itself_when_the_full_disk_gets_space_again(small_disk: Path) -> None:
    path = small_disk / "log"
    fill(path)
    ballast = make_full(small_disk, 8 * MB)
    with working("blobs.py", path, "--until-idle") as worker:
        worker.until(lambda: "starts again from its last commit" in worker.stderr, "it met the full disk")
        ballast.unlink()
        assert worker.wait() == 0, worker.stderr
    check_results(path)


def test_a_worker_whose_files_may_not_grow_tells_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fill(path)

    def limit() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))  # less than one record

    with working("blobs.py", path, preexec=limit) as worker:
        wait_for(lambda: "free space" in worker.stderr, "it met the limit")
        assert "Traceback" not in worker.stderr, worker.stderr
    finish("blobs.py", path)
    check_results(path)


def killed_at_work(path: Path) -> None:
    """A log whose worker was killed with results in RocksDB's own log."""
    fill(path)
    with working("blobs.py", path) as worker:
        worker.until_working()
        worker.until_commits(3)
        worker.kill()


@pytest.mark.parametrize("damage", ["cut off", "gone"])
@pytest.mark.parametrize("kind", [".log", ".sst"])
def test_a_damaged_file_of_the_log_is_a_clear_error_and_nothing_is_lost_in_silence(
    tmp_path: Path, kind: str, damage: str
) -> None:
    path, whole = tmp_path / "log", tmp_path / "whole"
    killed_at_work(path)
    if kind == ".sst":
        finish("blobs.py", path)  # opening it writes what was in the log into tables
    shutil.copytree(path, whole)
    victim = max((path / "db").glob(f"*{kind}"), key=lambda file: (file.stat().st_size, file.name))
    assert victim.stat().st_size > 1000
    if damage == "gone":
        victim.unlink()
    else:
        with victim.open("r+b") as file:
            file.truncate(victim.stat().st_size // 2)
    for _ in range(2):  # the first try must not have made the second one succeed
        with working("blobs.py", path, "--until-idle") as worker:
            assert worker.wait() == 1, worker.stderr
            line = error_line(worker)
            assert "doesn't read back" in line, line
            assert "restore" in line, line
    shutil.rmtree(path)
    shutil.copytree(whole, path)
    finish("blobs.py", path)
    check_results(path)
