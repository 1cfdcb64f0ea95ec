"""A look at one key costs as much as that key, however many the state remembers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streams.core.state import CacheBudget, KeyedState
from streams.core.store import StoreView, prefix_bytes
from streams.state.memory import MemoryDisk, MemoryStore


class NotWalked(dict[bytes, Any]):
    """A dict that is only to be asked for keys."""

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("all remembered keys were walked over to find one")


def test_a_key_is_found_among_those_kept_longer_without_walking_over_them() -> None:
    view = StoreView(MemoryStore(MemoryDisk()), prefix_bytes(1))
    state: KeyedState[bytes] = KeyedState(view, bytes, bytes, budget=CacheBudget(1_000_000))
    state._older = NotWalked({b"a": b"1", b"b": b"2"})
    assert state.get(b"a") == b"1"
    assert state.get(b"nobody") is None
    assert set(state._older.keys()) == {b"b"}
