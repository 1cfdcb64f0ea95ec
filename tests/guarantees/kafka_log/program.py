"""``streams worker`` as a process on a Kafka log: start it, see how it ends and what it says.

What must not live here: brokers, or what is expected of an app.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

APP = Path(__file__).with_name("apps") / "counts.py"
PATIENCE_S = 30.0
SETTINGS = "session_timeout_ms=2000&heartbeat_interval_ms=400&transaction_timeout_ms=4000&connect_timeout_ms=2000"


class Program:
    """One life of a worker.  Made by ``running``, which ends it in any case."""

    def __init__(self, url: str, directory: Path, *options: str, app: Path = APP, **env: str) -> None:
        self._said = directory / f"said-{time.monotonic_ns()}.txt"
        self.began = time.monotonic()
        with self._said.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streams", "worker", "-A", str(app), "--log", url, *options],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def said(self) -> str:
        return self._said.read_text("utf-8", "replace")

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until it is so; fails if the worker ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"it ended before {what}:\n{self.said[-3000:]}"
            assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}\n{self.said[-3000:]}"
            time.sleep(0.05)

    def until_it_works(self) -> None:
        self.until(lambda: " works on " in self.said, "it works")

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it didn't end within {timeout_s:g} s:\n{self.said[-3000:]}") from None

    def pause(self) -> None:
        """SIGSTOP; it has stopped when this returns."""
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def refusal(self, timeout_s: float = PATIENCE_S) -> str:
        """The last line of what a worker said that ended by an error; one line, no traceback."""
        status = self.wait(timeout_s)
        assert status in (1, 2), f"it ended with {status}:\n{self.said[-3000:]}"
        assert "Traceback" not in self.said, self.said[-5000:]
        return self.said.strip().splitlines()[-1]

    def metric(self, name: str) -> float:
        """The sum of a counter over its labels, as the worker's web endpoint tells it."""
        (address,) = set(re.findall(r"http://[\d.]+:\d+", self.said)) or {""}
        with urlopen(f"{address}/metrics", timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        return sum(
            float(value) for value in re.findall(rf"^{name}(?:_total)?(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        )


@contextmanager
def running(url: str, directory: Path, *options: str, app: Path = APP, **env: str) -> Iterator[Program]:
    program = Program(url, directory, *options, app=app, **env)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.process.kill()
        program.process.wait(PATIENCE_S)


def finish(url: str, directory: Path, **env: str) -> str:
    """Let a worker do all there is to do; it must end well.  What it said."""
    with running(url, directory, "--until-idle", app=APP, **env) as program:
        assert program.wait() == 0, program.said[-3000:]
        return program.said
