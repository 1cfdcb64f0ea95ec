"""What a state gives back after its values were evicted: the store's, and never nothing.

A cache that holds no entry at all drops at each commit what wasn't used since the last but one, so that every way from
the memory to the store is taken within a few commits.
"""

from __future__ import annotations

import random

import pytest

from streams.core.state import CacheBudget, KeyedState, WindowedState
from streams.core.store import StoreState, StoreView, prefix_bytes
from streams.state.memory import MemoryDisk, MemoryStore

PREFIX = prefix_bytes(1)
NO_ROOM = 0


def encode(value: int) -> bytes:
    return str(value).encode()


class Kept:
    """A keyed state, begun empty, and its commits."""

    def __init__(self, cache_bytes: int) -> None:
        self.store = MemoryStore(MemoryDisk())
        view = StoreView(self.store, PREFIX)
        self.state: KeyedState[int] = KeyedState(view, encode, int, budget=CacheBudget(cache_bytes))
        self.number = 0

    def commit(self) -> None:
        changes = {PREFIX + sub: each for sub, each in self.state.take_changes()}
        self.number += 1
        if changes:
            self.store.apply(changes, StoreState("log", 1, self.number))
        self.state.applied()


def test_a_stored_key_is_found_again_after_both_generations_of_the_cache_have_passed() -> None:
    # Taken for absent, it would be counted from nothing, and the next commit would write that over what was stored.
    kept = Kept(NO_ROOM)
    kept.state.put(b"first", 1)
    kept.commit()
    kept.state.put(b"second", 2)
    kept.commit()
    kept.state.put(b"third", 3)
    kept.commit()
    assert kept.state.get(b"first") == 1
    assert kept.state.prepare([b"second", b"nobody"])[b"second"] == 2
    assert kept.state.get(b"nobody") is None


@pytest.mark.parametrize("cache_bytes", [NO_ROOM, 2_000, 20_000])
@pytest.mark.parametrize("seed", range(5))
def test_a_state_with_far_more_keys_than_its_cache_holds_is_the_dict_that_it_should_be(
    cache_bytes: int, seed: int
) -> None:
    chance = random.Random(seed)
    keys = [b"key %d" % number for number in range(200)]
    kept, should = Kept(cache_bytes), dict[bytes, int]()
    for _ in range(40):
        for key in chance.sample(keys, 12):
            found = kept.state.get(key)
            assert found == should.get(key)
            if chance.random() < 0.2:
                kept.state.delete(key)
                should.pop(key, None)
            else:
                kept.state.put(key, (found or 0) + 1)
                should[key] = (found or 0) + 1
        kept.commit()
    assert dict(kept.state.scan()) == should
    assert len(kept.state.values) < len(keys), "nothing was evicted, so nothing was tried"


def test_a_window_whose_values_were_evicted_still_closes_with_all_of_them() -> None:
    store = MemoryStore(MemoryDisk())
    state: WindowedState[int] = WindowedState(StoreView(store, PREFIX), store, encode, int, budget=CacheBudget(NO_ROOM))
    for number in range(50):
        state.segment(0).put(b"key %d" % (number % 10), number)
        changes = {PREFIX + sub: each for sub, each in state.take_changes()}
        store.apply(changes, StoreState("log", 1, number))
        state.applied()
        assert state.segment(0).get(b"key %d" % (number // 2 % 10)) is not None
    assert state.drain(0, 100) == [(b"key %d" % number, 40 + number) for number in range(10)]
