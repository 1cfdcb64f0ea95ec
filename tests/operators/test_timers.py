"""Timers, alone, against a dict of what is set: what fires, in which order, once, and over restarts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streams.core.batch import FOREVER
from streams.core.state import CacheBudget, KeyedState
from streams.core.store import StoreState, StoreView, prefix_bytes
from streams.core.thresholds import PRODUCTION
from streams.core.window import decode_start
from streams.operators.timers import Timers, timer_states
from streams.state.memory import MemoryDisk, MemoryStore

DUE, INDEX = timer_states("op")


class World:
    """Timers on a store, which can be committed and opened again."""

    def __init__(self, at_once: int = PRODUCTION.timers_at_once) -> None:
        self.at_once = at_once
        self.store = MemoryStore(MemoryDisk())
        self.number = 0
        self.open()

    def open(self) -> None:
        self.due, self.index = (
            KeyedState[Any](
                StoreView(self.store, prefix_bytes(i + 1)), spec.encode, spec.decode, budget=CacheBudget(10**6)
            )
            for i, spec in enumerate((DUE, INDEX))
        )
        self.timers = Timers(self.due, self.index, self.at_once)

    def restart(self) -> None:
        changes = {}
        for i, state in enumerate((self.due, self.index)):
            changes.update({prefix_bytes(i + 1): each for _, each in state.take_changes()})
        self.number += 1
        self.store.apply(changes, StoreState("log", 1, self.number))
        self.open()


KEYS = st.sampled_from([b"", b"A", b"AA", b"AB", b"A\xff"])


class TimersMachine(RuleBasedStateMachine):
    """``set`` holds (key, name) → the time at which it fires.

    So few are read at once that the store is read often, and keys begin with one another, as their entries do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World(at_once=2)
        self.set: dict[tuple[bytes, str], int] = {}
        self.watermark = -50

    @rule(key=KEYS, name=st.sampled_from(["t", "än"]), at=st.integers(-55, -30))
    def set_one(self, key: bytes, name: str, at: int) -> None:
        self.world.timers.set(key, name, at, self.watermark)
        self.set[key, name] = max(at, self.watermark + 1)

    @rule(key=KEYS, name=st.sampled_from(["t", "än"]))
    def cancel(self, key: bytes, name: str) -> None:
        self.world.timers.cancel(key, name)
        self.set.pop((key, name), None)

    @rule(by=st.integers(0, 4), count=st.integers(1, 3))
    def event_time_moves(self, by: int, count: int) -> None:
        self.watermark += by
        fired: list[tuple[int, bytes, str]] = []
        while some := self.world.timers.take(self.watermark, count):
            assert len(some) <= count
            fired += some
        due = {each: at for each, at in self.set.items() if at <= self.watermark}
        assert sorted((at, key, name) for (key, name), at in due.items()) == sorted(fired)
        assert [at for at, _, _ in fired] == sorted(at for at, _, _ in fired)
        for each in due:
            del self.set[each]

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @invariant()
    def the_next_is_never_later_than_what_is_set(self) -> None:
        assert self.world.timers.next <= min(self.set.values(), default=FOREVER)
        assert self.set or self.world.timers.next == FOREVER or self.world.due.dirty_count or self.leftovers()

    def leftovers(self) -> bool:
        """Entries that find out that they aren't due any more when they come up."""
        return next(self.world.due.scan(), None) is not None


TestTimers = TimersMachine.TestCase
TestTimers.settings = settings(max_examples=60, stateful_step_count=20)


def times_of(world: World) -> list[int]:
    return [decode_start(entry[:8]) for entry, _ in world.due.scan()]


def test_nothing_is_left_in_the_state_of_timers_that_fired() -> None:
    world = World()
    world.timers.set(b"a", "t", 5, 0)
    world.timers.set(b"a", "t", 9, 0)
    assert world.timers.take(9, 10) == [(9, b"a", "t")]
    assert world.timers.next == FOREVER
    assert list(world.due.scan()) == list(world.index.scan()) == []


def test_moving_a_timer_to_a_later_time_or_to_the_same_adds_no_entry() -> None:
    world = World()
    world.timers.set(b"a", "t", 5, 0)
    world.timers.set(b"a", "t", 9, 0)
    world.timers.set(b"a", "t", 9, 0)
    assert times_of(world) == [5]
    world.timers.set(b"a", "t", 3, 0)
    assert times_of(world) == [3, 5]


@pytest.mark.parametrize("restarts", [False, True])
def test_entries_beyond_those_that_are_read_at_once_are_read_when_their_time_comes(restarts: bool) -> None:
    world = World(at_once=3)
    for at in range(1, 40):
        world.timers.set(str(at).encode(), "t", at, 0)
    # More than four times as many as are read at once: the later ones are forgotten, and only so many kept.
    assert len(world.timers._near) <= 12
    if restarts:
        world.restart()
        assert len(world.timers._near) == 3
    world.timers.set(b"between", "t", 2, 0)
    fired = []
    while some := world.timers.take(100, 4):
        fired += some
    assert [at for at, _, _ in fired] == sorted([*range(1, 40), 2])


def test_exactly_as_many_entries_as_are_read_at_once_all_fire() -> None:
    world = World(at_once=3)
    for at in (1, 2, 3):
        world.timers.set(b"k", str(at), at, 0)
    world.restart()
    assert [at for at, _, _ in world.timers.take(9, 9)] == [1, 2, 3]
    assert world.timers.take(9, 9) == []


@pytest.mark.parametrize("restarts", [False, True])
def test_timers_of_keys_that_begin_with_one_another_all_fire(restarts: bool) -> None:
    world = World(at_once=1)
    keys = [b"A" * n for n in range(8)]
    for key in reversed(keys):
        world.timers.set(key, "t", 5, 0)
    if restarts:
        world.restart()
    fired = []
    while some := world.timers.take(5, 3):
        fired += some
    assert [key for _, key, _ in fired] == keys


def test_the_states_of_timers_are_told_from_others_and_an_entry_has_no_value() -> None:
    due, index = timer_states("op")
    assert (due.name, due.kind, due.fingerprint, due.encode(True)) == ("op.timers-due", "keyed", "timers-due/1", b"")
    assert (index.name, index.kind, index.fingerprint) == ("op.timers", "keyed", "timers/1")


def test_a_timer_that_was_cancelled_does_not_keep_the_next_one_from_firing() -> None:
    world = World()
    for name, at in (("gone", 1), ("stays", 2)):
        world.timers.set(b"a", name, at, 0)
    world.timers.cancel(b"a", "gone")
    assert world.timers.take(5, 1) == [(2, b"a", "stays")]
