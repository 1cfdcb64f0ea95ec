"""Where tasks get their stores from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from streams.core.store import Store
from streams.state.rocksdb import RocksStore, set_aside


class Stores(Protocol):
    """Opens the store of a task.  One owner at a time; it is closed before the task is released."""

    def open(self, task: str) -> Store: ...

    def set_aside(self, task: str) -> None:
        """Move away the contents of a closed store, so that it opens empty."""
        ...


class RocksStores:
    """A RocksDB a task, in folders below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, task: str) -> Store:
        return RocksStore(self._directory / task)

    def set_aside(self, task: str) -> None:
        set_aside(self._directory / task)
