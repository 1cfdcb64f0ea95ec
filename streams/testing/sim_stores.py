"""The disks of a simulated machine, and the check that no store is ever ahead of the log.

What must live here: disks by task, which outlive the processes of their machine.  What must not: contents (``state``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from streams.core.store import Changes, Store, StoreState
from streams.state.memory import MemoryDisk, MemoryStore
from streams.testing.sim_server import Broken, Server

__all__ = ["SimStores"]

VOLATILE_WRITES = 6


class SimStores:
    """Where the tasks of one machine keep their stores (``runtime.stores.Stores``)."""

    def __init__(self, server: Server) -> None:
        self.disks: dict[str, MemoryDisk] = {}
        self._server = server

    def open(self, task: str) -> Store:
        disk = self.disks.setdefault(task, MemoryDisk(volatile_writes=VOLATILE_WRITES))
        return _CheckedStore(task, MemoryStore(disk), self._server)

    def set_aside(self, task: str) -> None:
        self.disks.pop(task, None)

    def crash(self, random: Random, torn: bool) -> None:
        """The process that had them open was killed; ``torn``: and the machine with it, so the last writes may go."""
        for disk in self.disks.values():
            disk.crash(random.randint(0, disk.unsynced_writes) if torn else None)


class _CheckedStore:
    """A store that looks at the log before each write."""

    def __init__(self, task: str, inner: MemoryStore, server: Server) -> None:
        self._task = task
        self._inner = inner
        self._server = server

    @property
    def state(self) -> StoreState | None:
        return self._inner.state

    def get(self, key: bytes) -> bytes | None:
        return self._inner.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._inner.multi_get(keys)

    def scan(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._inner.scan(first, end, reverse=reverse)

    def apply(self, changes: Mapping[bytes, Changes], state: StoreState) -> None:
        self._check(state)
        self._inner.apply(changes, state)

    def load(self, prefix: bytes, entries: Mapping[bytes, bytes | None], state: StoreState) -> None:
        self._check(state)
        self._inner.load(prefix, entries, state)

    def _check(self, state: StoreState) -> None:
        if not self._server.check:
            return
        made = self._server.made(self._task)
        if made is None or (state.epoch, state.number) > (made.epoch, made.number):
            on_log = "nothing" if made is None else f"commit {made.number} of epoch {made.epoch}"
            raise Broken(
                f"task {self._task}: its store would stand at commit {state.number} of epoch {state.epoch}, ahead of "
                f"the log, which has {on_log}"
            )

    def clear(self) -> None:
        self._inner.clear()

    def close(self) -> None:
        self._inner.close()
