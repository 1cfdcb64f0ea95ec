"""One Apache Kafka broker for tests, in KRaft mode: its settings, its process, and the end of both.

What lives here: ``KafkaBroker``, which formats, starts, stops, kills, freezes and restarts a broker on a port and a
folder that stay the same.  What must not: several brokers (``cluster.py``), security (``secured.py``), pytest
(``fixtures.py``).

A broker is a process of Java that outlives nobody: beside each runs a little shell that waits for the end of a pipe
whose other end only this process holds.  However this process ends, killed too, the shell kills the broker and removes
its folder.  (PR_SET_PDEATHSIG would strike when the *thread* ends that started the broker, and is Linux' own.)
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.brokers.kafka import admin
from tests.brokers.kafka.archive import archive_options
from tests.brokers.kafka.jars import CACHE, java_command, library
from tests.brokers.ports import free_port

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0

SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    # Internal topics, as small as one node can have them: each partition costs time when it is first used.
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # What tests wait for comes soon.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "16777216",
}
"""What every broker has.  Those that tests change often: ``transaction.max.timeout.ms``, ``log.retention.*``."""

# $1: the broker.  $2: its folder.  What is written is of no interest: only the end of the pipe is.
WATCH = 'while read -r line; do :; done; kill -KILL "$1" 2>/dev/null; rm -rf "$2"'


def kafka_uuid() -> str:
    """An id as Kafka writes it.  One that starts with a dash would be taken for an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


class KafkaBroker:
    """A broker with a port and a folder of its own.

    ``start`` blocks until the broker has answered a request; ``stop``, ``kill`` and ``pause`` until it is so.  Stopped
    or killed, it can be started again, on the same port and with the same data.  ``close`` ends it and removes its
    data; a ``with`` statement does both.  All may be called from within a running loop, which they block meanwhile: use
    ``await asyncio.to_thread(broker.start)`` where the loop has to go on.

    ``properties`` are settings of the broker over ``SETTINGS``.
    """

    def __init__(
        self,
        properties: Mapping[str, str] | None = None,
        *,
        node_id: int = 1,
        cluster_id: str | None = None,
        controllers: Mapping[int, int] | None = None,
        format_options: tuple[str, ...] = (),
        java_options: tuple[str, ...] | None = None,
    ) -> None:
        self.node_id = node_id
        self.cluster_id = cluster_id or kafka_uuid()
        self.port = free_port()
        self.controllers = dict(controllers or {node_id: free_port()})
        self.folder = Path(tempfile.gettempdir(), f"kafka-{uuid.uuid4().hex[:12]}")
        self._format_options = format_options
        self._java_options = archive_options() if java_options is None else java_options
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._settings = {**SETTINGS, **self._own_settings(), **(properties or {})}

    @property
    def bootstrap(self) -> str:
        """``127.0.0.1:port``, the same for the broker's whole life."""
        return f"127.0.0.1:{self.port}"

    @property
    def client(self) -> dict[str, Any]:
        """The arguments of an aiokafka client that reaches this broker and may do anything there."""
        return {"bootstrap_servers": self.bootstrap}

    @property
    def pid(self) -> int:
        assert self._process is not None, "the broker doesn't run"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    # ── its life ────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, *, brokers: int = 1, timeout_s: float = START_TIMEOUT_S) -> KafkaBroker:
        """Start, or start again; return when the broker has answered and knows of so many brokers in all."""
        self.launch()
        self.wait_until_ready(brokers=brokers, timeout_s=timeout_s)
        return self

    def launch(self) -> None:
        """Start the process and return at once.  ``wait_until_ready`` belongs to it."""
        assert not self.running, "the broker runs already"
        self._reap()
        properties = self.folder / "server.properties"
        command = java_command("kafka.Kafka", str(properties), options=self._java_options)
        if not properties.is_file():
            self.folder.mkdir(mode=0o700, exist_ok=True)
            properties.write_text("".join(f"{name}={value}\n" for name, value in self._settings.items()))
            self._format(properties)
        with self._log_file.open("ab") as log:
            # A session of its own: ctrl-C is for the tests, which stop the broker when they have ended.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, "kafka-watch", str(self._process.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_until_ready(self, *, brokers: int = 1, timeout_s: float = START_TIMEOUT_S) -> None:
        """Block until the broker answers; an error with the end of its log if it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                admin.blocking(self._ready(brokers, min(5.0, max(0.1, deadline - time.monotonic()))))
                return
            except TimeoutError:
                if not self.running:
                    raise RuntimeError(f"Kafka ended by itself:\n{self.log_tail()}") from None
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Kafka isn't ready after {timeout_s:g} s:\n{self.log_tail()}") from None

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM, and wait: the broker hands over what it leads and closes its files.  No error if it doesn't run."""
        self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self._end(signal.SIGKILL, STOP_TIMEOUT_S)

    def restart(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """``stop`` and ``start``."""
        self.stop()
        self.start(timeout_s=timeout_s)

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        # Sent is not stopped: a request could still be answered.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill the broker if it runs, and remove its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> KafkaBroker:
        try:
            return self if self.running else self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ── what it knows ───────────────────────────────────────────────────────────────────────────────────────────────

    def log_tail(self, lines: int = 40) -> str:
        """The end of what the broker said, for the message of a failure."""
        if not self._log_file.is_file():
            return "(the broker has said nothing)"
        return "\n".join(self._log_file.read_text("utf-8", "replace").splitlines()[-lines:])

    def create_topic(
        self, name: str, partitions: int = 1, replication: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        admin.blocking(admin.create_topic(self.client, name, partitions, replication, configs))

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _log_file(self) -> Path:
        return self.folder / "server.log"

    def _own_settings(self) -> dict[str, str]:
        own = f"CONTROLLER://127.0.0.1:{self.controllers[self.node_id]}"
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in sorted(self.controllers.items()))
        return {
            "node.id": str(self.node_id),
            "listeners": f"PLAINTEXT://{self.bootstrap},{own}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.voters": voters,
            "log.dirs": str(self.folder / "data"),
        }

    def _format(self, properties: Path) -> None:
        """What Kafka's own tool makes of a new folder: by the tool once, copied from there on.

        ``meta.properties`` says whose folder it is; ``bootstrap.checkpoint`` holds the first records of a cluster's
        metadata, which depend on the version and on the options alone.
        """
        key = hashlib.sha256("\n".join((library().name, *self._format_options)).encode()).hexdigest()[:16]
        template = CACHE / f"{key}.checkpoint"
        data = self.folder / "data"
        if template.is_file():
            data.mkdir()
            shutil.copyfile(template, data / "bootstrap.checkpoint")
            meta = {"version": 1, "cluster.id": self.cluster_id, "node.id": self.node_id, "directory.id": kafka_uuid()}
            (data / "meta.properties").write_text("".join(f"{name}={value}\n" for name, value in meta.items()))
            return
        self._format_by_tool(properties)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            shutil.copyfile(data / "bootstrap.checkpoint", made := Path(scratch, "made"))
            made.rename(template)

    def _format_by_tool(self, properties: Path) -> None:
        options = ["format", "-t", self.cluster_id, "-c", str(properties), *self._format_options]
        command = java_command("kafka.tools.StorageTool", *options)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=self.folder
        )
        if done.returncode != 0:
            properties.unlink()
            raise RuntimeError(f"Kafka's storage could not be formatted:\n{(done.stdout + done.stderr)[-2000:]}")

    async def _ready(self, brokers: int, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await admin.ready(self.client, brokers)

    def _end(self, how: signal.Signals, timeout_s: float) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                self._reap()
                raise RuntimeError(f"Kafka didn't stop within {timeout_s:g} s:\n{self.log_tail()}") from None
        self._reap()

    def _reap(self) -> None:
        """Forget a process that has ended, and its watch first of all: its number may be given to another one."""
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait()
            stdin: IO[bytes] | None = self._watch.stdin
            if stdin is not None:
                stdin.close()
            self._watch = None
        self._process = None
