"""Who holds the log: one process at a time, and every other one can read who it is.

What must live here: the lock file.  What must not: what the holder does with the log.

The lock is ``flock`` on ``<directory>/log.lock``: the kernel drops it when the process ends, however it ends, so a
file that a dead process left behind is no obstacle.  The file holds the holder as JSON, padded to one fixed
size and written in place: whoever reads it never sees an old tail behind a new head.  Only its owner can read it,
since it may carry the token of the holder's control port.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from streams.errors import ConfigurationError, LogLocked, LogUnavailable

__all__ = ["FILE_NAME", "DirectoryLock", "Holder", "read_holder"]

FILE_NAME = "log.lock"
_SIZE_BYTES = 4096
_COMMAND_CHARACTERS = 500


class Holder(msgspec.Struct, frozen=True):
    """The process that has the log open.

    started: UTC, ISO 8601.  port, token: its control port on this machine and what it asks of callers, once set.
    """

    pid: int
    host: str
    command: str
    started: str
    port: int | None = None
    token: str | None = None

    def describe(self) -> str:
        """In words, without the token."""
        return f"pid {self.pid} on {self.host} ({self.command}), since {self.started}"


_decode = msgspec.json.Decoder(Holder).decode


def _read(descriptor: int) -> Holder | None:
    content = os.pread(descriptor, _SIZE_BYTES, 0).strip(b" \n\0")
    try:
        return _decode(content)
    except msgspec.MsgspecError:
        return None  # it has just been taken and not been written yet


class DirectoryLock:
    """The exclusive hold of one directory, from ``acquire`` to ``release``."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, FILE_NAME)
        self._descriptor: int | None = None
        self._holder: Holder | None = None

    def acquire(self) -> bool:
        """Try to take the lock, without waiting; False while somebody has it (it may be one who only looks).

        Raises ConfigurationError where the file can't be written, LogUnavailable on a full disk.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"{self._path}: the lock can't be written ({error.strerror}); choose a directory that can be written"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        command = " ".join(sys.argv)[:_COMMAND_CHARACTERS]
        started = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            os.fchmod(descriptor, 0o600)
            self._write(Holder(os.getpid(), socket.gethostname(), command, started))
        except OSError as error:
            self.release()
            raise LogUnavailable(f"{self._path}: the lock can't be written ({error.strerror}); free space") from error
        return True

    def refuse(self, url: str) -> LogLocked:
        """The error for one who can't have the lock; names the holder."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            holder = None
        else:
            holder = _read(descriptor)
            os.close(descriptor)
        who = holder.describe() if holder is not None else "another process that is just starting"
        reach = f" (its control port is {holder.port})" if holder is not None and holder.port is not None else ""
        return LogLocked(
            f"{url}: the log is held by {who}{reach}; stop that process, or give this one another directory: an "
            f"embedded log serves one process at a time"
        )

    def publish_endpoint(self, port: int, token: str) -> None:
        """Let others read where the holder can be reached."""
        assert self._holder is not None, "the lock isn't held"
        holder = self._holder
        self._write(Holder(holder.pid, holder.host, holder.command, holder.started, port, token))

    def _write(self, holder: Holder) -> None:
        assert self._descriptor is not None
        os.pwrite(self._descriptor, msgspec.json.encode(holder).ljust(_SIZE_BYTES - 1) + b"\n", 0)
        self._holder = holder

    def release(self) -> None:
        """Give the lock up.  The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_holder(directory: str | os.PathLike[str]) -> Holder | None:
    """The process that has the log in ``directory`` open, or None.  For other processes; blocks for a moment.

    Raises ConfigurationError where the file may not be read (it belongs to another user).
    """
    path = Path(directory) / FILE_NAME
    for _ in range(20):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return None
        except OSError as error:
            raise ConfigurationError(
                f"{path}: can't be read ({error.strerror}); run as the user whose process holds the log"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(descriptor)
            if holder is not None:
                return holder
            time.sleep(0.01)
        else:
            return None
        finally:
            os.close(descriptor)
    return None
