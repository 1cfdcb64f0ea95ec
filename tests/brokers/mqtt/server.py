"""Mosquitto for a test, on free ports of the loopback, that can be killed, stopped, paused and started again.

What must live here: the process, and getting it.  What must not: fixtures (``tests/integration/mqtt/conftest.py``).

It is set up as the documentation recommends, so that its sessions outlive it: mosquitto by default loses them when it
is killed.  Debian has it as a package: ``apt-get install mosquitto``.  In CI it is installed when it is missing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.brokers.leash import Leash
from tests.brokers.ports import free_port

PATIENCE_S = 60.0
NEEDED = "needs mosquitto: apt-get install mosquitto"


def binary() -> str | None:
    """Where mosquitto is; None if it isn't.  Debian puts it where only root's PATH leads."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def version() -> str:
    """As the broker says it."""
    said = subprocess.run([binary() or "mosquitto", "-h"], capture_output=True, text=True, check=False).stdout
    return said.partition("\n")[0].removeprefix("mosquitto version ")


def install() -> bool:
    """Install it from the system's packages, if that is possible; whether it is there now.

    One process at a time: apt-get ends with an error when another one is at work, and the tests would be skipped.
    """
    with Path(tempfile.gettempdir(), f"streams-tests-apt-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        apt = shutil.which("apt-get")
        if binary() is None and apt is not None and os.geteuid() == 0:
            # A run level of 1 keeps the package from starting a broker of its own.
            quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
            for command in ([apt, "update"], [apt, "install", "--yes", "--no-install-recommends", "mosquitto"]):
                subprocess.run(
                    command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=300
                )
        return binary() is not None


def ready() -> bool:
    """Whether the tests can have it; in CI it is installed if need be."""
    return binary() is not None or (bool(os.environ.get("CI")) and install())


class Mosquitto:
    """A broker in ``folder``.

    certificate, with its key: listeners for TLS too.  authority: the one over TCP asks for a certificate of its.
    users, with passwords: nobody else gets in.  lines: of its configuration, besides.
    """

    def __init__(
        self,
        folder: Path,
        *,
        certificate: tuple[Path, Path] | None = None,
        authority: Path | None = None,
        users: dict[str, str] | None = None,
        lines: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self.port, self.tls_port, self.websocket_port, self.secure_websocket_port = (free_port() for _ in range(4))
        folder.mkdir(parents=True, exist_ok=True)
        config = [
            "user root",  # else it can't write where a test's files are
            "per_listener_settings false",
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            "max_queued_messages 100000",
            f"log_dest file {folder}/log",
            "log_type error",
            "log_type warning",
            "log_type notice",
            f"allow_anonymous {'false' if users else 'true'}",
            *lines,
            f"listener {self.port} 127.0.0.1",
            f"listener {self.websocket_port} 127.0.0.1",
            "protocol websockets",
        ]
        if users:
            passwords = folder / "passwords"
            passwords.write_text("".join(f"{user}:{password}\n" for user, password in users.items()))
            subprocess.run(["mosquitto_passwd", "-U", passwords], check=True)
            config.insert(0, f"password_file {passwords}")
        if certificate is not None:
            files = [f"certfile {certificate[0]}", f"keyfile {certificate[1]}"]
            config += [f"listener {self.secure_websocket_port} 127.0.0.1", *files, "protocol websockets"]
            config += [f"listener {self.tls_port} 127.0.0.1", *files]
            if authority is not None:
                config += [f"cafile {authority}", "require_certificate true"]
        (folder / "mosquitto.conf").write_text("\n".join(config) + "\n")
        secure = [self.tls_port, self.secure_websocket_port] if certificate is not None else []
        self._ports = [self.port, self.websocket_port, *secure]
        self._process: subprocess.Popen[bytes] | None = None
        self._leash: Leash | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        path = self._folder / "log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        program = binary()
        assert program is not None
        assert self._process is None
        self._process = subprocess.Popen(
            [program, "-c", str(self._folder / "mosquitto.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._leash = Leash(self._process.pid)
        deadline = time.monotonic() + PATIENCE_S
        for port in self._ports:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert self._process.poll() is None, self.log()
                    assert time.monotonic() < deadline, "mosquitto doesn't start"
                    time.sleep(0.01)

    def _end(self, which: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(which)
            self._process.wait(PATIENCE_S)
            self._process = None
        if self._leash is not None:
            self._leash.let_go()
            self._leash = None

    def stop(self) -> None:
        """As an administrator would; it writes its sessions."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As by kill -9; what it hasn't written is lost."""
        self._end(signal.SIGKILL)

    def forget(self) -> None:
        """Remove what it has on disk, sessions too; while it doesn't run."""
        assert self._process is None
        (self._folder / "mosquitto.db").unlink(missing_ok=True)

    def pause(self) -> None:
        """It answers nothing, and its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
