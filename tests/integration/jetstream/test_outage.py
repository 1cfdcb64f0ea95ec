"""A nats-server that is away for longer than a session: workers wait for it at low cost, say so, and come back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.nats.server import NatsServer

WORDCOUNT = Path(__file__).resolve().parents[3] / "examples" / "wordcount.py"
PATIENCE_S = 120.0
SHARE = 0.2
"""Of a core: the most that a worker may take while it has nothing to do but to wait."""
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Desk:
    """A worker process on a server, seen from outside."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder, self._said = url, folder, folder / "worker.err"
        around = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")}
        self._environment = {**around, "PYTHONPATH": os.pathsep.join(sys.path)}
        with self._said.open("w") as err:
            self.process = subprocess.Popen(
                self._command("worker", "--port", "0"), cwd=folder, env=self._environment, stderr=err
            )

    def _command(self, verb: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "streams", verb, *words, "-A", str(WORDCOUNT), "--log", self._url]

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

    def disconnected(self) -> bool:
        """Whether it isn't well, and names the server that is away."""
        status, body = self.get("/health")
        named = any(self._url.partition("?")[0] in line for line in body["problems"])
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
def at_work(url: str, folder: Path) -> Iterator[Desk]:
    desk = Desk(url, folder)
    try:
        desk.until(lambda: "works on" in desk.said(), "it works")
        desk.until(desk.healthy, "it is healthy")
        yield desk
    finally:
        desk.process.kill()
        desk.process.wait()


def url_of(server: NatsServer) -> str:
    return f"{server.url}?session_timeout_ms=2000&request_timeout_ms=1000&ping_interval_ms=500"


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_server_that_is_away_for_longer_than_a_session_is_waited_for(
    nats_own: NatsServer, tmp_path: Path, how: str
) -> None:
    with at_work(url_of(nats_own), tmp_path) as desk:
        desk.send("one two one\n")
        desk.until(lambda: desk.counted() == 3, "three words are counted")
        (nats_own.kill if how == "killed" else nats_own.pause)()
        desk.until(desk.disconnected, "it says that it is disconnected")
        desk.until(desk.idle, "its session is over")
        desk.until(lambda: "lost the connection" in desk.said(), "it knows that the server is gone")
        assert desk.share(4.0) < SHARE
        assert desk.disconnected(), "a worker without tasks says so, too"
        (nats_own.start if how == "killed" else nats_own.resume)()
        desk.until(desk.healthy, "it is healthy again")
        desk.send("one\n")
        desk.until(lambda: desk.counted() == 4, "a fourth word is counted")
        desk.process.send_signal(signal.SIGTERM)
        assert desk.process.wait(PATIENCE_S) == 0, desk.said()


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_worker_ends_while_its_server_is_away(nats_own: NatsServer, tmp_path: Path, how: str) -> None:
    with at_work(url_of(nats_own), tmp_path) as desk:
        (nats_own.kill if how == "killed" else nats_own.pause)()
        desk.until(desk.idle, "its session is over")
        desk.process.send_signal(signal.SIGTERM)
        assert desk.process.wait(PATIENCE_S) == 0, desk.said()
        assert "didn't come to an end" not in desk.said()
