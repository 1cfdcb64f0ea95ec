"""The lock of the embedded log: one process at a time, and the others can say who it is."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.connectors.embedded import EmbeddedLog, read_holder
from streams.connectors.embedded.lock import FILE_NAME
from streams.errors import ConfigurationError, LogLocked

HOLD = """
import asyncio, sys
from streams.connectors.embedded import EmbeddedLog
async def main():
    log = EmbeddedLog("embedded:" + sys.argv[1])
    await log.open()
    log.publish_endpoint(4711, "secret-token")
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await log.close()
asyncio.run(main())
"""


@contextmanager
def another_process_that_holds(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.communicate()


async def open_and_close(path: Path) -> None:
    log = EmbeddedLog(f"embedded:{path}")
    await log.open()
    await log.close()


def test_a_second_process_is_refused_in_one_line_that_names_the_holder_and_what_to_do(tmp_path: Path) -> None:
    with another_process_that_holds(tmp_path / "log") as process:
        with pytest.raises(LogLocked) as refused:
            asyncio.run(open_and_close(tmp_path / "log"))
        message = str(refused.value)
        assert f"pid {process.pid}" in message
        assert "4711" in message
        assert "stop that process" in message
        assert "secret-token" not in message
        assert "\n" not in message


def test_another_process_reads_who_holds_the_log_and_where_to_reach_it(tmp_path: Path) -> None:
    with another_process_that_holds(tmp_path / "log") as process:
        holder = read_holder(tmp_path / "log")
        assert holder is not None
        assert (holder.pid, holder.port, holder.token) == (process.pid, 4711, "secret-token")
        assert holder.host
        assert holder.started
        assert stat.S_IMODE((tmp_path / "log" / FILE_NAME).stat().st_mode) == 0o600
    assert read_holder(tmp_path / "log") is None, "the process is dead"


def test_the_file_of_a_dead_process_is_no_obstacle(tmp_path: Path) -> None:
    with another_process_that_holds(tmp_path / "log"):
        pass  # killed with the log open
    assert (tmp_path / "log" / FILE_NAME).read_text()
    asyncio.run(open_and_close(tmp_path / "log"))


def test_a_log_that_was_closed_is_free_for_another_process(tmp_path: Path) -> None:
    asyncio.run(open_and_close(tmp_path / "log"))
    assert read_holder(tmp_path / "log") is None
    with another_process_that_holds(tmp_path / "log") as process:
        process.communicate("")
        assert process.returncode == 0
    asyncio.run(open_and_close(tmp_path / "log"))


def test_a_second_log_in_the_same_process_is_refused_as_well(tmp_path: Path) -> None:
    async def main() -> None:
        log = EmbeddedLog(f"embedded:{tmp_path}/log")
        await log.open()
        with pytest.raises(LogLocked, match=f"pid {os.getpid()}"):
            await open_and_close(tmp_path / "log")
        holder = read_holder(tmp_path / "log")
        assert holder is not None
        assert (holder.pid, holder.port, holder.token) == (os.getpid(), None, None)
        await log.close()

    asyncio.run(main())


def test_who_only_looks_does_not_keep_a_log_from_opening(tmp_path: Path) -> None:
    async def main() -> None:
        await open_and_close(tmp_path / "log")
        looking = True

        def look() -> None:
            while looking:
                read_holder(tmp_path / "log")

        thread = asyncio.create_task(asyncio.to_thread(look))
        try:
            for _ in range(10):
                await open_and_close(tmp_path / "log")
        finally:
            looking = False
            await thread

    asyncio.run(main())


def test_where_no_log_ever_was_nobody_holds_it(tmp_path: Path) -> None:
    assert read_holder(tmp_path / "nothing") is None
    (tmp_path / "file").write_text("")
    assert read_holder(tmp_path / "file") is None


def test_a_failed_opening_leaves_the_lock_free(tmp_path: Path) -> None:
    asyncio.run(open_and_close(tmp_path / "log"))
    current = tmp_path / "log" / "db" / "CURRENT"
    kept = current.read_bytes()
    current.write_bytes(b"nonsense\n")
    with pytest.raises(Exception, match="doesn't read back"):
        asyncio.run(open_and_close(tmp_path / "log"))
    assert read_holder(tmp_path / "log") is None
    current.write_bytes(kept)
    asyncio.run(open_and_close(tmp_path / "log"))


def test_a_directory_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "log"):
        with pytest.raises(ConfigurationError, match="choose one that can be written") as refused:
            asyncio.run(open_and_close(path))
        assert "\n" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir(mode=0o500)
    with pytest.raises(ConfigurationError, match="can be written"):
        asyncio.run(open_and_close(tmp_path / "log"))
