"""Where tasks get their stores from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from streams.core.store import Store
from streams.state.rocksdb import RocksStore, set_aside

ASIDE = ".aside-"
"""In the names of folders that were set aside (``state.rocksdb``)."""


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

    def stored(self) -> frozenset[str]:
        """The tasks whose stores lie here, from this life or a former one."""
        if not self._directory.is_dir():
            return frozenset()
        return frozenset(each.name for each in self._directory.iterdir() if each.is_dir() and ASIDE not in each.name)

    def open(self, task: str) -> Store:
        return RocksStore(self._directory / task)

    def set_aside(self, task: str) -> None:
        set_aside(self._directory / task)
