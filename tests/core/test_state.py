"""State of a task against a dict: overlay, cache, drains, commits, and what a lost process leaves in the store."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streams.core.state import CacheBudget, KeyedState, StateSpec, UnencodableState, WindowedState
from streams.core.store import Changes, StoreState, StoreView, prefix_bytes
from streams.state.memory import MemoryDisk, MemoryStore

PREFIX = prefix_bytes(1)

keys_st = st.sampled_from([bytes([n]) * size for n in (0, 1, 7, 255) for size in (1, 2)])
values_st = st.integers(-5, 5)


def encode(value: int) -> bytes:
    return str(value).encode()


class KeyedMachine(RuleBasedStateMachine):
    """A keyed state over a memory store; ``now`` is what it must show, ``committed`` what a crash leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.store = MemoryStore(self.disk)
        self.now: dict[bytes, int] = {}
        self.committed: dict[bytes, int] = {}
        self.number = 0
        self.open()

    def open(self) -> None:
        # A budget of a few entries: what isn't used is dropped all the time.
        budget = CacheBudget(3_000)
        self.state: KeyedState[int] = KeyedState(StoreView(self.store, PREFIX), encode, int, budget=budget)

    @rule(key=keys_st, value=values_st)
    def put(self, key: bytes, value: int) -> None:
        self.state.put(key, value)
        self.now[key] = value

    @rule(key=keys_st)
    def delete(self, key: bytes) -> None:
        self.state.delete(key)
        self.now.pop(key, None)

    @rule(key=keys_st)
    def get(self, key: bytes) -> None:
        assert self.state.get(key) == self.now.get(key)

    @rule(keys=st.lists(keys_st))
    def prepare(self, keys: list[bytes]) -> None:
        found = self.state.prepare(keys)
        assert [found[key] for key in keys] == [self.now.get(key) for key in keys]

    @rule(first=keys_st, end=st.none() | keys_st)
    def scan(self, first: bytes, end: bytes | None) -> None:
        expected = sorted((k, v) for k, v in self.now.items() if k >= first and (end is None or k < end))
        assert list(self.state.scan(first, end)) == expected

    @rule(count=st.integers(1, 3), end=st.none() | keys_st)
    def drain(self, count: int, end: bytes | None) -> None:
        due = sorted((k, v) for k, v in self.now.items() if end is None or k < end)[:count]
        assert self.state.drain(count, end) == due
        for key, _ in due:
            del self.now[key]

    @rule()
    def commit(self) -> None:
        taken = self.state.take_changes()
        self.number += 1
        changes: dict[bytes, Changes] = {PREFIX + sub: each for sub, each in taken}
        if changes:
            self.store.apply(changes, StoreState("log", 1, self.number))
        self.state.applied()
        self.committed = dict(self.now)

    @rule()
    def crash(self) -> None:
        self.store.close()
        self.store = MemoryStore(self.disk)
        self.now = dict(self.committed)
        self.open()

    @invariant()
    def the_store_holds_what_was_committed(self) -> None:
        assert dict(self.state.committed_scan()) == self.committed


TestKeyedState = KeyedMachine.TestCase
TestKeyedState.settings = settings(max_examples=80, stateful_step_count=30)


class WindowedMachine(RuleBasedStateMachine):
    """A windowed state: each window a dict of its own, closed by draining it."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.store = MemoryStore(self.disk)
        self.now: dict[int, dict[bytes, int]] = {}
        self.committed: dict[int, dict[bytes, int]] = {}
        self.number = 0
        self.closing: int | None = None
        self.open()

    def open(self) -> None:
        view = StoreView(self.store, PREFIX)
        self.state: WindowedState[int] = WindowedState(view, self.store, encode, int, budget=CacheBudget(3_000))

    @precondition(lambda self: self.closing is None)
    @rule(start=st.sampled_from([-20, -10, 0, 10]), key=keys_st, value=values_st)
    def put(self, start: int, key: bytes, value: int) -> None:
        self.state.segment(start).put(key, value)
        self.now.setdefault(start, {})[key] = value

    @rule(count=st.integers(1, 3))
    def drain_the_earliest(self, count: int) -> None:
        earliest = self.state.earliest()
        assert earliest == min(self.now, default=None)
        if earliest is None:
            return
        due = sorted(self.now[earliest].items())[:count]
        assert self.state.drain(earliest, count) == due
        for key, _ in due:
            del self.now[earliest][key]
        if len(due) < count:
            del self.now[earliest]
            self.closing = None
        else:
            self.closing = earliest

    @rule()
    def commit(self) -> None:
        taken = self.state.take_changes()
        self.number += 1
        changes: dict[bytes, Changes] = {PREFIX + sub: each for sub, each in taken}
        if changes:
            self.store.apply(changes, StoreState("log", 1, self.number))
        self.state.applied()
        self.committed = {start: dict(window) for start, window in self.now.items()}

    @rule()
    def crash(self) -> None:
        self.store.close()
        self.store = MemoryStore(self.disk)
        self.now = {start: dict(window) for start, window in self.committed.items() if window}
        self.closing = None
        self.open()

    @invariant()
    def the_open_windows_are_known(self) -> None:
        assert set(self.now) == self.state.open


TestWindowedState = WindowedMachine.TestCase
TestWindowedState.settings = settings(max_examples=80, stateful_step_count=30)


def test_a_value_that_cannot_be_encoded_is_named_with_its_key() -> None:
    spec: Any = StateSpec("s", "keyed", lambda value: value + b"", bytes, "f")
    store = MemoryStore(MemoryDisk())
    state: KeyedState[Any] = KeyedState(StoreView(store, PREFIX), spec.encode, spec.decode, budget=CacheBudget(9_999))
    state.put(b"key", 5)
    try:
        state.take_changes()
    except UnencodableState as error:
        assert "b'key'" in str(error)  # noqa: PT017 - the class is not for pytest.raises alone: it must be this one
    else:
        raise AssertionError("a value that can't be encoded was taken")
    store.close()


def test_a_snapshot_does_not_follow_what_user_code_does_to_the_object() -> None:
    import msgspec

    store = MemoryStore(MemoryDisk())
    state: KeyedState[list[int]] = KeyedState(
        StoreView(store, PREFIX), msgspec.json.encode, msgspec.json.decode, budget=CacheBudget(9_999)
    )
    held = [1, 2]
    before = state.snapshot(held)
    held.append(3)
    assert before() == [1, 2]
    store.close()
