"""Three nats-servers with JetStream as one cluster, on loopback.

What must live here: the processes, and who leads what.  What must not: fixtures.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import nats
from nats.errors import Error

from tests.brokers.nats.server import NatsServer
from tests.brokers.ports import free_port

PATIENCE_S = 120.0
META = ""
"""In place of a stream's name: the group that places streams and consumers."""


class NatsCluster:
    """Leaving the ``with`` statement kills all."""

    def __init__(self, folder: Path, size: int = 3) -> None:
        ports = [free_port() for _ in range(size)]
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
        self.servers = {
            f"n{number}": NatsServer(
                folder / f"n{number}",
                *["--name", f"n{number}", "--cluster_name", "three"],
                *["--cluster", f"nats://127.0.0.1:{port}", "--routes", routes],
            )
            for number, port in enumerate(ports)
        }
        self.down: set[str] = set()

    @property
    def url(self) -> str:
        return "nats://" + ",".join(each.url.removeprefix("nats://") for each in self.servers.values())

    def __enter__(self) -> NatsCluster:
        try:
            for server in self.servers.values():
                server.start()
            self.leader_of(META)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server in self.servers.values():
            server.kill()
        if error is not None:
            error.add_note(f"what the servers said: {', '.join(str(each.said_in) for each in self.servers.values())}")

    def kill(self, name: str) -> None:
        """kill -9."""
        self.servers[name].kill()
        self.down.add(name)

    def start(self, name: str) -> None:
        """Start it again, where it was; it catches up after that."""
        self.servers[name].start()
        self.down.discard(name)

    def leader_of(self, stream: str) -> str:
        """The name of the server that leads a stream, or ``META``; waits until one does that runs."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            leader = self._leader(stream)
            if leader in self.servers and leader not in self.down:
                return leader
            assert time.monotonic() < deadline, f"stream {stream or 'placement'} has no leader"
            time.sleep(0.1)

    def until_whole(self, streams: list[str]) -> None:
        """Wait until every replica of these streams has all that the leader has: the next one may be killed."""
        deadline = time.monotonic() + PATIENCE_S
        while not all(self._whole(stream) for stream in streams):
            assert time.monotonic() < deadline, "a server that is back doesn't catch up"
            time.sleep(0.1)

    def _whole(self, stream: str) -> bool:
        replicas = self._ask(f"STREAM.INFO.{stream}").get("cluster", {}).get("replicas", [])
        return len(replicas) == len(self.servers) - 1 and all(
            each.get("current") and not each.get("offline") and not each.get("lag") for each in replicas
        )

    def _leader(self, stream: str) -> str:
        if stream == META:
            found = max((_last_leader(name, each.said()) for name, each in self.servers.items()), default=("", ""))
            return found[1] if "streams" in self._ask("STREAM.NAMES") else ""
        return str(self._ask(f"STREAM.INFO.{stream}").get("cluster", {}).get("leader", ""))

    def _ask(self, subject: str) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            running = [each.url for name, each in self.servers.items() if name not in self.down]
            try:
                client = await nats.connect(running, connect_timeout=5, allow_reconnect=False, error_cb=_passed_over)
            except (OSError, TimeoutError, Error):
                return {}
            try:
                answer = await client.request(f"$JS.API.{subject}", b"", timeout=2)
                found: dict[str, Any] = json.loads(answer.data)
                return found
            except (TimeoutError, Error):
                return {}
            finally:
                await client.close()

        return asyncio.run(ask())


async def _passed_over(error: Exception) -> None:
    """A server that is down shows in the answer that doesn't come; the client would print it besides."""


def _last_leader(name: str, said: str) -> tuple[str, str]:
    """When a server last said who leads all of them, and who."""
    lines = re.findall(
        r"^\[\d+\] (\S+ \S+) \[INF\] "
        r"(?:(Self) is new JetStream cluster metadata leader|JetStream cluster new metadata leader: (\w+))",
        said,
        re.MULTILINE,
    )
    return (lines[-1][0], name if lines[-1][1] else lines[-1][2]) if lines else ("", "")
