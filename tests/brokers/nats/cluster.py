"""Three nats-servers with JetStream as one cluster, on loopback.

What must live here: the processes, and who leads a stream.  What must not: fixtures.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from types import TracebackType

import nats
from nats.errors import Error

from tests.brokers.nats.server import NatsServer

PATIENCE_S = 60.0


class NatsCluster:
    """Leaving the ``with`` statement kills all."""

    def __init__(self, folder: Path, size: int = 3) -> None:
        probes = [socket.socket() for _ in range(size)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in probes]
        for probe in probes:
            probe.close()
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
        self.servers = {
            f"n{number}": NatsServer(
                folder / f"n{number}",
                *["--name", f"n{number}", "--cluster_name", "three"],
                *["--cluster", f"nats://127.0.0.1:{port}", "--routes", routes],
            )
            for number, port in enumerate(ports)
        }

    @property
    def url(self) -> str:
        return "nats://" + ",".join(each.url.removeprefix("nats://") for each in self.servers.values())

    def __enter__(self) -> NatsCluster:
        for server in self.servers.values():
            server.start()
        self.until_ready()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server in self.servers.values():
            server.kill()

    def until_ready(self) -> None:
        """Wait until the cluster has elected who leads it, and takes requests."""
        deadline = time.monotonic() + PATIENCE_S
        while "streams" not in self._ask("STREAM.NAMES"):
            assert time.monotonic() < deadline, "the cluster doesn't elect a leader"
            time.sleep(0.1)

    def leader_of(self, stream: str) -> str:
        """The name of the server that leads a stream."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            leader = self._ask(f"STREAM.INFO.{stream}").get("cluster", {}).get("leader", "")
            if leader in self.servers:
                return str(leader)
            assert time.monotonic() < deadline, f"stream {stream} has no leader"
            time.sleep(0.1)

    def _ask(self, subject: str) -> dict[str, dict[str, object]]:
        async def ask() -> dict[str, dict[str, object]]:
            try:
                client = await nats.connect([each.url for each in self.servers.values()], connect_timeout=2)
            except (OSError, Error):
                return {}
            try:
                answer = await client.request(f"$JS.API.{subject}", b"", timeout=2)
                found: dict[str, dict[str, object]] = json.loads(answer.data)
                return found
            except (TimeoutError, Error):
                return {}
            finally:
                await client.close()

        return asyncio.run(ask())
