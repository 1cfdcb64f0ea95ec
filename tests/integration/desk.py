"""A worker as a process, for tests of what it says and takes while something is away.

What must live here: starting it, asking its endpoint, its share of a core.  What must not: brokers, and what is
expected.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 120.0
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Desk:
    """A worker process, seen from outside."""

    def __init__(self, app: Path, log: str, folder: Path) -> None:
        self._app, self._log, self._folder, self._said = app, log, folder, folder / "worker.err"
        around = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")}
        self._environment = {**around, "PYTHONPATH": os.pathsep.join(sys.path)}
        with self._said.open("w") as err:
            self.process = subprocess.Popen(
                self._command("worker", "--port", "0"), cwd=folder, env=self._environment, stderr=err
            )

    def _command(self, verb: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "streams", verb, *words, "-A", str(self._app), "--log", self._log]

    def said(self) -> str:
        return self._said.read_text()

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"the worker ended with {self.process.returncode}: {self.said()}"
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:g} s: {self.said()}"
            time.sleep(0.05)

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body; a worker that doesn't answer fails the test."""
        found = re.search(r"http://127\.0\.0\.1:\d+", self.said())
        assert found is not None
        try:
            with urllib.request.urlopen(f"{found[0]}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def healthy(self) -> bool:
        return self.get("/health")[0] == 200

    def disconnected(self, server: str) -> bool:
        """Whether it isn't well, and names this server."""
        status, body = self.get("/health")
        named = any(server in line for line in body["problems"])
        return (status, body["status"], named) == (503, "disconnected", True)

    def idle(self) -> bool:
        """Whether it has no tasks any more: its session is over."""
        return not self.get("/health")[1]["tasks"]

    def send(self, line: str) -> None:
        subprocess.run(
            self._command("send", "lines"),
            cwd=self._folder,
            env=self._environment,
            input=line,
            text=True,
            check=True,
            capture_output=True,
            timeout=PATIENCE_S,
        )

    def counted(self) -> int:
        """How many words are counted; -1 while its tasks start."""
        status, names = self.get("/tables")
        status, rows = self.get(f"/tables/{names[0]}")
        return sum(row["value"] for row in rows["rows"]) if status == 200 else -1

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND

    def share(self, seconds: float) -> float:
        """Of a core, for so long from now on."""
        began, before = time.monotonic(), self.cpu_s()
        self.until(lambda: time.monotonic() > began + seconds, "time passes")
        return (self.cpu_s() - before) / (time.monotonic() - began)


@contextmanager
def at_work(app: Path, log: str, folder: Path) -> Iterator[Desk]:
    """Ends it in any case."""
    desk = Desk(app, log, folder)
    try:
        desk.until(lambda: "works on" in desk.said(), "it works")
        desk.until(desk.healthy, "it is healthy")
        yield desk
    finally:
        desk.process.kill()
        desk.process.wait()
