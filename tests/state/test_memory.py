"""The store in memory: the contract, and what a simulated kill may take back."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from streams.core.store import Changes, StoreState, prefix_bytes
from streams.errors import StoreUnavailable
from streams.state.memory import MemoryDisk, MemoryStore
from streams.testing.store_contract import StoreContract, contents

P = prefix_bytes(1)


class TestMemoryStore(StoreContract):
    def setup_method(self) -> None:
        self.disks: defaultdict[Path, MemoryDisk] = defaultdict(MemoryDisk)

    def open_store(self, place: Path) -> MemoryStore:
        return MemoryStore(self.disks[place])


def state(number: int) -> StoreState:
    return StoreState(log_id="log", epoch=1, number=number)


def five_writes(disk: MemoryDisk) -> list[tuple[dict[bytes, bytes], StoreState | None]]:
    """Write five times in all ways there are; what the store held before the first and after each."""
    store = MemoryStore(disk)
    history = [(contents(store), store.state)]

    def remember() -> None:
        history.append((contents(store), store.state))

    store.apply({P: Changes(puts=[(b"a", b"1"), (b"b", b"1"), (b"c", b"1")])}, state(1))
    remember()
    store.apply({P: Changes(puts=[(b"b", b"2")], deletes=[b"c"])}, state(2))
    remember()
    store.apply({P: Changes(puts=[(b"bb", b"3"), (b"c", b"3")], ranges=[(b"a", b"c")])}, state(3))
    remember()
    store.clear()
    remember()
    store.load(P, {b"a": b"5", b"c": None}, state(5))
    remember()
    return history


@pytest.mark.parametrize("keep", range(6))
def test_a_crash_takes_back_whole_writes_from_the_end(keep: int) -> None:
    disk = MemoryDisk(volatile_writes=10)
    history = five_writes(disk)
    disk.crash(keep)
    survivor = MemoryStore(disk)
    assert (contents(survivor), survivor.state) == history[keep]
    survivor.apply({P: Changes(puts=[(b"b", b"new")])}, state(9))
    assert contents(survivor) == {**history[keep][0], P + b"b": b"new"}


def test_a_crash_without_a_number_keeps_all_writes() -> None:
    disk = MemoryDisk(volatile_writes=10)
    history = five_writes(disk)
    disk.crash()
    survivor = MemoryStore(disk)
    assert (contents(survivor), survivor.state) == history[5]


def test_a_crash_never_takes_back_what_was_synced_or_is_older_than_the_volatile_writes() -> None:
    disk = MemoryDisk(volatile_writes=2)
    history = five_writes(disk)
    assert disk.unsynced_writes == 2
    disk.crash(keep=0)
    survivor = MemoryStore(disk)
    assert (contents(survivor), survivor.state) == history[3]
    survivor.apply({}, state(6))
    disk.sync()
    disk.crash(keep=0)
    assert MemoryStore(disk).state == state(6)


def test_a_killed_store_can_neither_read_nor_write_the_disk_of_its_successor() -> None:
    disk = MemoryDisk()
    zombie = MemoryStore(disk)
    disk.crash()
    successor = MemoryStore(disk)
    with pytest.raises(StoreUnavailable, match="closed"):
        zombie.apply({P: Changes(puts=[(b"a", b"1")])}, state(1))
    with pytest.raises(StoreUnavailable, match="closed"):
        zombie.get(P + b"a")
    zombie.close()
    successor.apply({}, state(2))
    assert contents(successor) == {}


def test_a_key_that_was_deleted_and_came_back_is_scanned_once() -> None:
    store = MemoryStore()
    store.apply({P: Changes(puts=[(b"a", b"1"), (b"b", b"1")])}, state(1))
    store.apply({P: Changes(deletes=[b"a"])}, state(2))
    store.apply({P: Changes(puts=[(b"a", b"2")])}, state(3))
    assert list(store.scan(P, P + b"z")) == [(P + b"a", b"2"), (P + b"b", b"1")]
