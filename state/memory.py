"""A store in memory, and the "disk" under it that survives a simulated kill.

What must live here: the reference implementation of ``Store``, which is also what the simulator runs on.  What
must not: files, RocksDB.

The contents belong to a ``MemoryDisk``; a ``MemoryStore`` is the handle of one process on it.  The disk remembers
how to undo its last writes, so that a crash can take any number of them back, each as a whole:

    store.apply ×5 ──▶ disk: w1 w2 w3 w4 w5          disk.sync() after w2: w1 w2 are safe
    disk.crash(keep=1) ──▶ disk: w1 w2 w3            the store that had it open is dead, another can open it
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from streams.core.store import Changes, StoreState
from streams.errors import StoreLocked, StoreUnavailable

__all__ = ["MemoryDisk", "MemoryStore"]

_Undo = tuple[dict[bytes, bytes | None], StoreState | None]


class MemoryDisk:
    """What one store holds.

    volatile_writes: how many of the last writes a crash may take back at most; older ones count as synced.
    data, state, owner: the contents, what they stand for, and the store that has the disk open.
    """

    __slots__ = ("_keys", "_sorted", "_stale", "_undo", "data", "owner", "state")

    def __init__(self, *, volatile_writes: int = 0) -> None:
        self.data: dict[bytes, bytes] = {}
        self.state: StoreState | None = None
        self._undo: deque[_Undo] = deque(maxlen=volatile_writes)
        self.owner: MemoryStore | None = None
        self._keys: list[bytes] = []
        self._sorted = True
        self._stale = False

    @property
    def unsynced_writes(self) -> int:
        """How many writes a crash could take back now."""
        return len(self._undo)

    def sync(self) -> None:
        """Make all that was written so far survive a crash."""
        self._undo.clear()

    def crash(self, keep: int | None = None) -> None:
        """Kill the store that has the disk open.  Of the unsynced writes the first ``keep`` survive; None: all."""
        self.owner = None
        while keep is not None and len(self._undo) > keep:
            contents, state = self._undo.pop()
            self._set(contents)
            self.state = state

    def write(self, contents: Mapping[bytes, bytes | None], state: StoreState | None) -> None:
        """One write of the store: all of it or, after a crash, nothing.  None deletes."""
        if self._undo.maxlen:
            self._undo.append(({key: self.data.get(key) for key in contents}, self.state))
        self._set(contents)
        self.state = state

    def _set(self, contents: Mapping[bytes, bytes | None]) -> None:
        data = self.data
        for key, value in contents.items():
            if value is None:
                if data.pop(key, None) is not None:
                    self._stale = True
            else:
                if key not in data:
                    self._keys.append(key)
                    self._sorted = False
                data[key] = value

    def between(self, first: bytes, end: bytes) -> list[bytes]:
        """The keys with first <= key < end, sorted."""
        if self._stale:
            # A deleted key is still listed, twice if it came back: begin anew.
            self._keys = list(self.data)
        if self._stale or not self._sorted:
            self._keys.sort()
            self._sorted, self._stale = True, False
        return self._keys[bisect_left(self._keys, first) : bisect_left(self._keys, end)]


class MemoryStore:
    """The ``Store`` of a task in memory.  Without a disk of its own it is gone when it is closed."""

    __slots__ = ("__weakref__", "_disk")

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self._disk = disk or MemoryDisk()
        if self._disk.owner is not None:
            raise StoreLocked("the store in memory is already open; close the other handle first")
        self._disk.owner = self

    def _open_disk(self) -> MemoryDisk:
        # Else the handle of a killed process would write to the disk of its successor.
        if self._disk.owner is not self:
            raise StoreUnavailable("the store in memory is closed; open it again")
        return self._disk

    @property
    def state(self) -> StoreState | None:
        return self._disk.state

    def get(self, key: bytes) -> bytes | None:
        return self._open_disk().data.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return list(map(self._open_disk().data.get, keys))

    def scan(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        disk = self._open_disk()
        keys = disk.between(first, end)
        return ((key, disk.data[key]) for key in (reversed(keys) if reverse else keys))

    def apply(self, changes: Mapping[bytes, Changes], state: StoreState) -> None:
        disk = self._open_disk()
        contents: dict[bytes, bytes | None] = {}
        for prefix, change in changes.items():
            for first, end in change.ranges:
                contents.update(dict.fromkeys(disk.between(prefix + first, prefix + end)))
            for key in change.deletes:
                contents[prefix + key] = None
            for key, value in change.puts:
                contents[prefix + key] = value
        disk.write(contents, state)

    def load(self, prefix: bytes, entries: Mapping[bytes, bytes | None], state: StoreState) -> None:
        self._open_disk().write({prefix + key: value for key, value in entries.items()}, state)

    def clear(self) -> None:
        disk = self._open_disk()
        disk.write(dict.fromkeys(disk.data), None)

    def close(self) -> None:
        if self._disk.owner is self:
            self._disk.owner = None
