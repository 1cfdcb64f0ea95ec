"""What can go wrong with the files of a log, and RocksDB's words for it.

What must live here: the one place that reads messages of RocksDB and of the file system.  What must not: deciding
what to do about one (``engine``).

rocksdict raises a bare ``Exception`` whose text starts with RocksDB's status, so the text is all there is to tell
the causes apart:

    disk full, quota                      -> LogUnavailable      lock held                 -> LogLocked
    no permission, no directory           -> ConfigurationError  checksum, a file missing  -> LogCorrupt
    closed, anything else of the disk     -> LogUnavailable
"""

from __future__ import annotations

from types import TracebackType

from rocksdict import DbClosedError

from streams.errors import ConfigurationError, LogCorrupt, LogLocked, LogUnavailable, StreamsError

__all__ = ["Faults"]

_FULL = ("No space left on device", "File too large", "Disk quota exceeded")
_LOCKED = ("lock hold by current process", "While lock file")
_UNUSABLE = (
    "Permission denied",
    "Operation not permitted",
    "Read-only file system",
    "Not a directory",
    "Is a directory",
    "File exists",
)
_DAMAGED = ("Corruption", "Invalid argument", "IO error: No such file or directory", "Not implemented")


def _translate(url: str, error: Exception) -> StreamsError:
    words = " ".join(str(error).split())
    if isinstance(error, DbClosedError):
        return LogUnavailable(f"{url}: the log is closed; open it again")
    # A corruption may quote any words, and a full disk may be what left a file too short: this order.
    if any(sign in words for sign in _FULL):
        return LogUnavailable(f"{url}: the disk is full ({words}); free space, then the log takes writes again")
    if words.startswith(_DAMAGED):
        return LogCorrupt(
            f"{url}: the log doesn't read back ({words}); restore its directory from a backup, or move the directory "
            f"away to start anew"
        )
    if any(sign in words for sign in _LOCKED):
        return LogLocked(f"{url}: another program has the log's database open ({words}); stop it")
    if any(sign in words for sign in _UNUSABLE):
        return ConfigurationError(f"{url}: a log can't be kept there ({words}); choose a directory that can be written")
    return LogUnavailable(f"{url}: the log can't be used now ({words}); see to the disk, then start again")


class Faults:
    """Turns what rocksdict and the file system raise inside a ``with`` into errors of ours; the rest passes.

    One instance serves all calls: entering costs a tenth of what ``contextlib`` takes.
    """

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A subclass is somebody's bug (TypeError of raw mode, say), not a state of the disk.
        if kind is Exception or isinstance(error, (DbClosedError, OSError)):
            assert isinstance(error, Exception)
            raise _translate(self._url, error) from error
