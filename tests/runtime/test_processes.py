"""Several worker processes: how they are started, marked, stopped, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SUPERVISE = """
import sys
from streams.runtime.processes import Supervisor
commands = [[sys.executable, "-c", text, str(number)] for number, text in enumerate(sys.argv[2:])]
sys.exit(Supervisor(commands, 20.0, first_pause_s=float(sys.argv[1])).run())
"""
SAY = "import os, sys; print('out', sys.argv[1]); print('err', sys.argv[1], file=sys.stderr); sys.stdout.flush()\n"
# Tells when it can be stopped; a signal is its end, with a status that tells of it.
WAIT = """
import signal, sys, threading
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), stopped.set()))
from streams.runtime.processes import leave_with_parent
leave_with_parent()
import os
print("ready", os.getpid(), flush=True)
while not stopped.wait(0.05):
    pass
open(f"ended-{sys.argv[1]}", "w").close()
"""
FAIL = "import sys; sys.exit(7)"
KILL_ITSELF = "import os, signal; print('again', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
DIE_ONCE = """
import os, signal
if not os.path.exists("died"):
    open("died", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""
TIMEOUT_S = 60.0

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a supervisor of these programs; what it and they say stands in ``said``."""
    started: list[subprocess.Popen[bytes]] = []

    def start_it(*programs: str, pause_s: float = 0.01) -> subprocess.Popen[bytes]:
        with (tmp_path / "said").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISE, str(pause_s), *programs],
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        started.append(process)
        return process

    yield start_it
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def said(folder: Path) -> list[str]:
    return (folder / "said").read_text().splitlines()


def wait_for(condition: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, said(folder)
        time.sleep(0.02)


def ready(folder: Path) -> dict[str, int]:
    """The pid of each child that is ready, by its mark."""
    return {line[:3]: int(line.split()[-1]) for line in said(folder) if " ready " in line}


def test_lines_of_both_streams_are_marked_with_the_number_of_the_worker(start: Start, tmp_path: Path) -> None:
    assert start(SAY, SAY).wait(TIMEOUT_S) == 0
    assert sorted(said(tmp_path)) == ["[0] err 0", "[0] out 0", "[1] err 1", "[1] out 1"]


def test_a_line_without_an_end_and_one_of_a_megabyte_get_through(start: Start, tmp_path: Path) -> None:
    assert start("import sys; print('x' * 3_000_000); sys.stdout.write('no end')").wait(TIMEOUT_S) == 0
    text = (tmp_path / "said").read_text()
    assert text.count("x") == 3_000_000
    assert text.endswith("[0] no end\n")


def test_the_first_failure_stops_the_others_and_is_the_status(start: Start, tmp_path: Path) -> None:
    process = start(WAIT, f"import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)\n{FAIL}")
    wait_for(lambda: len(ready(tmp_path)) == 1, tmp_path)
    (tmp_path / "go").touch()
    assert process.wait(TIMEOUT_S) == 7
    assert (tmp_path / "ended-0").exists(), "it came to its own end"


def test_a_signal_is_passed_on_once_and_all_come_to_their_end(start: Start, tmp_path: Path) -> None:
    process = start(WAIT, WAIT, WAIT)
    wait_for(lambda: len(ready(tmp_path)) == 3, tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT_S) == 0
    assert {path.name for path in tmp_path.glob("ended-*")} == {"ended-0", "ended-1", "ended-2"}
    assert sorted(line for line in said(tmp_path) if "asked" in line) == ["[0] asked", "[1] asked", "[2] asked"]


def test_a_child_that_was_killed_is_started_again_and_that_is_said(start: Start, tmp_path: Path) -> None:
    assert start(DIE_ONCE, SAY).wait(TIMEOUT_S) == 0
    assert "streams: worker 0 was killed by SIGKILL; starting it again in 0.01 s" in said(tmp_path)


def test_a_child_that_is_killed_again_and_again_is_given_up_and_the_others_stop(start: Start, tmp_path: Path) -> None:
    process = start(KILL_ITSELF, WAIT)
    assert process.wait(TIMEOUT_S) == 128 + signal.SIGKILL
    assert said(tmp_path).count("[0] again") == 5
    assert any(line.startswith("streams: error: worker 0 was killed by SIGKILL, 5 times") for line in said(tmp_path))


def test_children_leave_when_their_parent_is_killed(start: Start, tmp_path: Path) -> None:
    process = start(WAIT, WAIT)
    wait_for(lambda: len(ready(tmp_path)) == 2, tmp_path)
    process.kill()
    process.wait(TIMEOUT_S)
    wait_for(lambda: len(list(tmp_path.glob("ended-*"))) == 2, tmp_path)


def test_a_child_of_a_supervisor_has_a_group_of_its_own(start: Start, tmp_path: Path) -> None:
    process = start(WAIT)
    wait_for(lambda: len(ready(tmp_path)) == 1, tmp_path)
    [pid] = ready(tmp_path).values()
    assert os.getpgid(pid) == pid, "a Ctrl-C for the parent doesn't reach it a second time"
    process.terminate()
    assert process.wait(TIMEOUT_S) == 0
