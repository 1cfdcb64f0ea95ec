"""JetStream as a log: the contract, on a real server."""

from __future__ import annotations

import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.connectors.jetstream.compaction import Policy
from streams.connectors.jetstream.log import JetStreamLog
from streams.core.log import Log
from streams.testing.log_contract import LogContract


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binary = Path(sysconfig.get_path("scripts")) / "nats-server"
    process = subprocess.Popen(
        [str(binary), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.02)
    yield f"nats://127.0.0.1:{port}"
    process.kill()
    process.wait()


class TestJetStreamLog(LogContract):
    shared = True

    @pytest.fixture(autouse=True)
    def _server(self, server: str) -> None:
        self.url = server

    def make_log(self) -> Log:
        return JetStreamLog(self.url, compaction=Policy(min_bytes=1))

    async def maintain(self, log: Log, now_ms: int) -> bool:
        await log.maintain(now_ms)
        return False

    async def compact(self, log: Log, now_ms: int) -> bool:
        await log.maintain(now_ms)
        return True

    def reopen_log(self, log: Log) -> Log | None:
        return JetStreamLog(self.url)
