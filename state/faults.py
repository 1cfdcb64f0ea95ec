"""What can go wrong with a store on disk, and RocksDB's words for it.

What must live here: the one place that reads RocksDB's messages.  What must not: the
decision what to do about one (``runtime``).

rocksdict raises a bare ``Exception`` whose text starts with RocksDB's status code, so the text is all there is to
tell the causes apart:

    while opening                                            at any time
    lock held                    -> StoreLocked              Corruption             -> StoreCorrupt
    no permission, no directory  -> ConfigurationError       anything else, closed  -> StoreUnavailable
    a file is missing            -> StoreCorrupt
"""

from __future__ import annotations

from types import TracebackType

from rocksdict import DbClosedError

from streams.errors import ConfigurationError, StoreCorrupt, StoreLocked, StoreUnavailable, StreamsError

__all__ = ["StoreFaults"]


_LOCKED = ("lock hold by current process", "While lock file")
_MISSING = ("IO error: No such file or directory",)
_UNUSABLE = (
    "Permission denied",
    "Read-only file system",
    "Not a directory",
    "Is a directory",
    "File exists",
    "No such file or directory (os error",
)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())


def _while_open(path: str, error: Exception) -> StreamsError:
    words = _words(error)
    if isinstance(error, DbClosedError):
        return StoreUnavailable(f"{path}: the store is closed; open it again")
    if words.startswith("Corruption"):
        return StoreCorrupt(f"{path}: the store doesn't read back ({words}); it has to be rebuilt from the changelog")
    return StoreUnavailable(
        f"{path}: the store can't be used now ({words}); see to disk space and permissions, the task starts again "
        f"from its last commit"
    )


def _while_opening(path: str, error: Exception) -> StreamsError:
    words = _words(error)
    if any(sign in words for sign in _LOCKED):
        return StoreLocked(
            f"{path}: the store is already open in this or another process; stop the other worker, or give each a "
            f"state directory of its own"
        )
    if words.startswith(_MISSING):
        return StoreCorrupt(f"{path}: a file of the store is gone ({words}); it has to be rebuilt from the changelog")
    if any(sign in words for sign in _UNUSABLE) and not words.startswith("Corruption"):
        return ConfigurationError(f"{path}: can't keep a store here ({words}); choose a directory that can be written")
    return _while_open(path, error)


class StoreFaults:
    """Turns what rocksdict and the file system raise inside a ``with`` into errors of ours; the rest passes.

    One instance per store serves all its calls: entering costs a tenth of what ``contextlib`` takes, which would
    be half of a read.
    """

    __slots__ = ("_opening", "_path")

    def __init__(self, path: str, *, opening: bool = False) -> None:
        self._path = path
        self._opening = opening

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A subclass is somebody's bug (TypeError, KeyError of raw mode), not a state of the disk.
        if kind is Exception or isinstance(error, (DbClosedError, OSError)):
            assert isinstance(error, Exception)
            raise (_while_opening if self._opening else _while_open)(self._path, error) from error
