"""Workers of one app as processes, on a real broker.

What must live here: starting, killing, stopping for a while and ending ``streams worker``.  What must not: an app, or
what is expected of it.

Each worker has a number and, under it, a folder of its own that outlives it, so that it finds its stores again; each
of its lives has a file with what it said.  A test that fails names that folder.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tests.guarantees.support import PATIENCE_S

SESSION_MS = 2_000
SETTINGS = f"session_timeout_ms={SESSION_MS}&heartbeat_interval_ms=400&transaction_timeout_ms=6000"
"""A worker that is killed is missed soon; nothing else of it differs from the defaults."""
LOOK_S = 0.05
"""Between two looks at what is waited for; each may be a request to a broker."""


ROOT = Path(__file__).resolve().parents[3]
"""Behind everything else on the path: what runs in a worker imports ``tests`` from there."""


class FleetWorker:
    """One life of a worker."""

    def __init__(self, number: int, command: list[str], folder: Path, said: Path, env: dict[str, str]) -> None:
        self.number = number
        self.said_in = said
        folder.mkdir(parents=True, exist_ok=True)
        with said.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)]), **env},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def said(self) -> str:
        return self.said_in.read_text("utf-8", "replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def works(self) -> bool:
        return " works on " in self.said

    @property
    def address(self) -> str:
        """Of its web endpoint; empty until it has one."""
        place = re.search(r"health, metrics and tables on (http://\S+)", self.said)
        return place[1] if place is not None else ""

    @property
    def cpu_s(self) -> float:
        """What it has used of the processors up to now."""
        after_name = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = int(after_name[11]), int(after_name[12])
        return (user + system) / os.sysconf("SC_CLK_TCK")

    @property
    def memory_mb(self) -> float:
        """What it holds in memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def kill(self) -> None:
        """kill -9, now; fails if it had ended by itself."""
        assert self.alive, f"{self} had ended by itself:\n{self.said[-3000:]}"
        self.process.kill()
        assert self.process.wait(PATIENCE_S) == -signal.SIGKILL

    def ask_to_leave(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def left(self) -> None:
        """Wait until it has left well."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} doesn't leave:\n{self.said[-3000:]}") from None
        assert status == 0, f"{self} ended with {status}:\n{self.said[-3000:]}"

    def pause(self) -> None:
        """SIGSTOP; it has stopped when this returns."""
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def __str__(self) -> str:
        return f"worker {self.number} ({self.said_in})"


class Fleet:
    """The workers of an app.  On leaving the ``with`` statement all are killed, whatever they do.

    together: all in one folder, as on one machine, where each has to find stores of its own.  log: the URL of another
    log than Kafka, in place of ``bootstrap`` and ``settings``.  options: of ``streams worker``.
    """

    def __init__(
        self,
        app: Path,
        bootstrap: str,
        directory: Path,
        *,
        settings: str = SETTINGS,
        program: Collection[str] = ("-m", "streams"),
        options: Collection[str] = (),
        env: Mapping[str, str] | None = None,
        together: bool = False,
        log: str | None = None,
    ) -> None:
        self.directory = directory / "workers"
        self.running: dict[int, FleetWorker] = {}
        self._lives = 0
        self._together = together
        self._env = dict(env or {})
        self._command = [
            *[sys.executable, *program, "worker", "-A", str(app)],
            *["--log", log if log is not None else f"kafka://{bootstrap}?{settings}"],
            *options,
        ]

    def __enter__(self) -> Fleet:
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self.running.values():
            worker.process.kill()
            worker.process.wait(PATIENCE_S)
        if error is not None:
            error.add_note(f"what the workers said: {self.directory}")

    def start(self, number: int, **env: str) -> FleetWorker:
        """A new life of a worker.  Returns at once."""
        assert number not in self.running or not self.running[number].alive, f"worker {number} lives"
        self._lives += 1
        worker = FleetWorker(
            number,
            self._command,
            self.directory / ("all" if self._together else f"worker-{number}"),
            self.directory / f"life-{self._lives:03}-of-worker-{number}.log",
            {**self._env, **env},
        )
        self.running[number] = worker
        return worker

    def start_all(self, count: int) -> None:
        """So many workers, at work when this returns."""
        for number in range(count):
            self.start(number)
        self.all_work()

    def all_work(self) -> None:
        """Wait until each has said so: before that a SIGTERM may find it without anybody who hears it."""
        self.until(lambda: all(worker.works for worker in self.running.values()), "all workers to work")

    def kill(self, number: int) -> None:
        self.running.pop(number).kill()

    def stop_all(self) -> None:
        """SIGTERM to all; each has to end well."""
        self.all_work()
        for worker in self.running.values():
            worker.ask_to_leave()
        for worker in self.running.values():
            worker.left()
        self.running.clear()

    def until(self, condition: Callable[[], object], what: str, *, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the condition holds; fails at once when a worker ends by itself."""

        deadline = time.monotonic() + timeout_s
        while not condition():
            for worker in self.running.values():
                assert worker.alive, f"{worker} ended with {worker.process.returncode}:\n{worker.said[-3000:]}"
            assert time.monotonic() < deadline, f"gave up waiting for {what}"
            time.sleep(LOOK_S)

    def lines(self, pattern: str) -> list[str]:
        """What any worker said, in any of its lives, that matches."""
        return [
            f"{said.name}: {line}"
            for said in sorted(self.directory.glob("life-*.log"))
            for line in said.read_text("utf-8", "replace").splitlines()
            if re.search(pattern, line)
        ]


def some_time(chance: random.Random, least_s: float, most_s: float) -> Callable[[], bool]:
    """A condition that holds after a random time."""
    until = time.monotonic() + least_s + chance.random() * (most_s - least_s)
    return lambda: time.monotonic() >= until


@contextmanager
def paused(worker: FleetWorker) -> Iterator[None]:
    """The worker stands still meanwhile (SIGSTOP, then SIGCONT)."""
    worker.pause()
    try:
        yield
    finally:
        if worker.alive:
            worker.resume()
