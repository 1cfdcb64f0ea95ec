"""The edges of a state: what a range holds, what is committed, and what a drain leaves."""

from __future__ import annotations

from streams.core.state import CacheBudget, KeyedState, WindowedState
from streams.core.store import Changes, StoreState, StoreView, prefix_bytes
from streams.state.memory import MemoryDisk, MemoryStore

PREFIX = prefix_bytes(1)


class World:
    """A keyed state over a store; ``commit`` writes what changed."""

    def __init__(self) -> None:
        self.store = MemoryStore(MemoryDisk())
        self.number = 0
        self.state = self.opened()

    def opened(self) -> KeyedState[int]:
        return KeyedState(StoreView(self.store, PREFIX), lambda value: b"%d" % value, int, budget=CacheBudget(10**6))

    def commit(self) -> list[Changes]:
        taken = self.state.take_changes()
        self.number += 1
        self.store.apply({PREFIX + sub: each for sub, each in taken}, StoreState("log", 1, self.number))
        self.state.applied()
        return [each for _, each in taken]


def test_a_range_holds_its_first_key_and_not_its_end_changed_or_not() -> None:
    world = World()
    for key in (b"a", b"b", b"c", b"d"):
        world.state.put(key, key[0])
    for _ in range(2):
        assert [key for key, _ in world.state.scan(b"b", b"d")] == [b"b", b"c"]
        assert [key for key, _ in world.state.scan(b"b")] == [b"b", b"c", b"d"]
        world.commit()
    assert list(world.state.committed_scan(b"b", b"d")) == [(b"b", 98), (b"c", 99)]
    world.state.put(b"b", 1)
    assert world.state.committed(b"b") == 98
    assert world.state.committed(b"x") is None
    assert list(world.state.scan(b"b", b"c")) == [(b"b", 1)], "what was changed hides what is stored"


def test_a_drain_of_a_range_takes_so_many_and_none_beyond_its_end() -> None:
    for stored in (False, True):
        world = World()
        for key in (b"a", b"b", b"c", b"d"):
            world.state.put(key, key[0])
        if stored:
            world.commit()
            world.state = world.opened()
        assert world.state.drain(2, b"d") == [(b"a", 97), (b"b", 98)]
        assert world.state.drain(2, b"d") == [(b"c", 99)]
        assert world.state.drain(2, b"d") == []
        [changes] = world.commit()
        assert list(world.state.scan()) == [(b"d", 100)]
        assert changes.ranges[0][0] == b""


def test_a_drain_leaves_a_key_that_begins_with_the_last_one_taken() -> None:
    world = World()
    for key in (b"a", b"aA", b"a\x00"):
        world.state.put(key, 1)
    world.commit()
    world.state = world.opened()
    assert world.state.drain(1) == [(b"a", 1)]
    assert world.state.get(b"a\x00") == 1
    assert world.state.get(b"aA") == 1
    world.commit()
    assert [key for key, _ in world.opened().scan()] == [b"a\x00", b"aA"]


def test_windows_that_begin_a_millisecond_apart_are_all_found_again_and_those_that_close_are_forgotten() -> None:
    store = MemoryStore(MemoryDisk())
    budget = CacheBudget(10**6)

    def opened() -> WindowedState[int]:
        return WindowedState(StoreView(store, PREFIX), store, lambda value: b"%d" % value, int, budget=budget)

    state = opened()
    for start in (-(2**62), 5, 6, 7):
        state.segment(start).put(b"k", start)
    store.apply({PREFIX + sub: each for sub, each in state.take_changes()}, StoreState("log", 1, 1))
    state.applied()
    assert budget.sharers == 4
    state = opened()
    assert state.open == {-(2**62), 5, 6, 7}
    state.drain(5, 9)
    kept = state.segment(6)
    state.applied()
    assert state.segment(6) is kept
    assert budget.sharers == 1
