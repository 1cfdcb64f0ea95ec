"""The contract of a store, as tests that the author of one subclasses.

What must live here: what every ``Store`` promises, checked from outside through the protocol only.  What must not:
anything that is true of one implementation.  Needs pytest and Hypothesis.

    class TestMyStore(StoreContract):
        def open_store(self, place: Path) -> Store:
            return MyStore(place / "store")

``place`` is an empty folder of the test's own; opening the same place again must show what was written before.
A store that keeps nothing in files maps ``place`` to whatever it keeps its contents in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from streams.core.record import Position
from streams.core.store import Changes, Store, StoreState, StoreView, after_prefix, prefix_bytes
from streams.errors import ConfigurationError

__all__ = ["OpenStore", "StoreContract", "contents", "store_machine"]

OpenStore = Callable[[Path], Store]

ONE, TWO, LAST = prefix_bytes(1), prefix_bytes(2), prefix_bytes(0x01FF)
_EVERYTHING = (prefix_bytes(1), b"\xff\xff")


def _state(number: int) -> StoreState:
    return StoreState(
        log_id="log-1",
        epoch=3,
        number=number,
        changelogs={"counts": Position({0: number * 10, 2: 2**40})},
        prefixes={"counts": 1, "windows": 2},
    )


def contents(store: Store) -> dict[bytes, bytes]:
    """All keys of all named states, with their prefixes."""
    return dict(store.scan(*_EVERYTHING))


class StoreContract:
    """Subclass it, implement ``open_store``; pytest does the rest."""

    def open_store(self, place: Path) -> Store:
        """Open the store that is kept at ``place``, new or as the last one that was closed there left it."""
        raise NotImplementedError

    @contextmanager
    def opened(self, place: Path) -> Generator[Store, None, None]:
        store = self.open_store(place)
        try:
            yield store
        finally:
            store.close()

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        with self.opened(tmp_path) as store:
            yield store

    # -- new, closed, opened again --

    def test_a_new_store_is_empty_and_stands_for_nothing(self, store: Store) -> None:
        assert store.state is None
        assert contents(store) == {}
        assert store.get(ONE + b"a") is None

    def test_contents_and_state_are_there_after_opening_again(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.apply({ONE: Changes(puts=[(b"a", b"1"), (b"b", b"2")])}, _state(7))
            assert store.state == _state(7)
        with self.opened(tmp_path) as store:
            assert store.state == _state(7)
            assert contents(store) == {ONE + b"a": b"1", ONE + b"b": b"2"}

    def test_a_state_without_changes_is_written(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.apply({}, _state(1))
            store.apply({ONE: Changes()}, _state(2))
        with self.opened(tmp_path) as store:
            assert store.state == _state(2)
            assert contents(store) == {}

    def test_closing_twice_is_closing_once(self, tmp_path: Path) -> None:
        store = self.open_store(tmp_path)
        store.close()
        store.close()

    def test_a_scan_that_was_left_open_does_not_keep_the_store_from_being_opened_again(self, tmp_path: Path) -> None:
        store = self.open_store(tmp_path)
        store.apply({ONE: Changes(puts=[(b"a", b"1"), (b"b", b"2")])}, _state(1))
        started = store.scan(*_EVERYTHING)
        untouched = store.scan(*_EVERYTHING)
        assert next(started) == (ONE + b"a", b"1")
        store.close()
        with self.opened(tmp_path) as again:
            assert len(contents(again)) == 2
        del started, untouched

    def test_a_second_handle_is_refused_while_the_first_is_open(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            with pytest.raises(ConfigurationError, match="already open"):
                self.open_store(tmp_path)
            store.apply({ONE: Changes(puts=[(b"a", b"1")])}, _state(1))
            assert store.get(ONE + b"a") == b"1"

    # -- reading --

    def test_multi_get_keeps_order_and_repeats_and_marks_what_is_missing(self, store: Store) -> None:
        store.apply({ONE: Changes(puts=[(b"a", b"1"), (b"b", b"2")])}, _state(1))
        wanted = [ONE + b"b", ONE + b"x", ONE + b"a", ONE + b"b", TWO + b"a"]
        assert store.multi_get(wanted) == [b"2", None, b"1", b"2", None]
        assert store.multi_get(tuple(wanted)) == [b"2", None, b"1", b"2", None]
        assert store.multi_get([]) == []

    def test_an_empty_key_and_an_empty_value_are_like_any_other(self, store: Store) -> None:
        store.apply({ONE: Changes(puts=[(b"", b""), (b"\x00", b"0"), (b"\xff\xff\xff", b"")])}, _state(1))
        assert store.get(ONE) == b""
        assert list(store.scan(ONE, after_prefix(ONE))) == [
            (ONE, b""),
            (ONE + b"\x00", b"0"),
            (ONE + b"\xff\xff\xff", b""),
        ]

    def test_a_scan_takes_in_its_first_key_and_leaves_out_its_end(self, store: Store) -> None:
        store.apply({ONE: Changes(puts=[(bytes([letter]), b"v") for letter in b"abcd"])}, _state(1))

        def scanned(first: bytes, end: bytes, *, reverse: bool = False) -> bytes:
            return b"".join(key[2:] for key, _ in store.scan(ONE + first, ONE + end, reverse=reverse))

        assert scanned(b"b", b"d") == b"bc"
        assert scanned(b"b", b"d", reverse=True) == b"cb"
        assert scanned(b"aa", b"bb") == b"b"
        assert scanned(b"aa", b"bb", reverse=True) == b"b"
        assert scanned(b"b", b"b") == b"" == scanned(b"c", b"b") == scanned(b"c", b"b", reverse=True)

    def test_a_scan_of_one_state_does_not_reach_into_its_neighbours(self, store: Store) -> None:
        for number, prefix in enumerate((ONE, TWO, LAST), 1):
            store.apply({prefix: Changes(puts=[(b"\x00", b"lo"), (b"\xff\xff", b"hi")])}, _state(number))
        for prefix in (ONE, TWO, LAST):
            view = StoreView(store, prefix)
            assert list(view.scan()) == [(b"\x00", b"lo"), (b"\xff\xff", b"hi")]
            assert list(view.scan(reverse=True)) == [(b"\xff\xff", b"hi"), (b"\x00", b"lo")]

    def test_large_values_come_back_whole(self, tmp_path: Path) -> None:
        large = bytes(range(256)) * 2**16  # 16 MiB
        with self.opened(tmp_path) as store:
            store.apply({ONE: Changes(puts=[(b"a", large), (b"b", b"small")])}, _state(1))
        with self.opened(tmp_path) as store:
            assert store.multi_get([ONE + b"a", ONE + b"b"]) == [large, b"small"]

    # -- writing --

    def test_puts_survive_a_range_of_the_same_change_set(self, store: Store) -> None:
        store.apply({ONE: Changes(puts=[(b"a", b"1"), (b"b", b"1"), (b"c", b"1"), (b"d", b"1")])}, _state(1))
        store.apply({ONE: Changes(puts=[(b"c", b"2"), (b"cc", b"2")], ranges=[(b"b", b"d")])}, _state(2))
        assert contents(store) == {ONE + b"a": b"1", ONE + b"c": b"2", ONE + b"cc": b"2", ONE + b"d": b"1"}

    def test_ranges_clear_their_first_key_and_leave_their_end(self, store: Store) -> None:
        letters = [(bytes([letter]), b"v") for letter in b"abcdefg"]
        store.apply({ONE: Changes(puts=letters), TWO: Changes(puts=letters)}, _state(1))
        ranges = [(b"b", b"d"), (b"c", b"e"), (b"f", b"f"), (b"g", b"a")]
        store.apply({ONE: Changes(ranges=ranges, deletes=[b"c", b"d", b"g"])}, _state(2))
        assert b"".join(key for key, _ in StoreView(store, ONE).scan()) == b"aef"
        assert list(StoreView(store, TWO).scan()) == letters

    def test_deletes_of_keys_that_are_not_there_change_nothing(self, store: Store) -> None:
        store.apply({ONE: Changes(puts=[(b"a", b"1")])}, _state(1))
        store.apply({ONE: Changes(deletes=[b"x", b"", b"aa"]), TWO: Changes(deletes=[b"a"])}, _state(2))
        assert contents(store) == {ONE + b"a": b"1"}

    @pytest.mark.parametrize("count", [10, 100_000])
    def test_a_change_set_of_any_size_is_applied(self, store: Store, count: int) -> None:
        keys = [b"%08d" % number for number in range(count)]
        store.apply({ONE: Changes(puts=[(key, b"old") for key in keys])}, _state(1))
        store.apply(
            {
                TWO: Changes(puts=[(keys[0], b"two")]),
                ONE: Changes(puts=[(key, b"new") for key in keys[::2]], deletes=keys[:1:-2]),
            },
            _state(2),
        )
        expected = [(key, b"new") for key in keys[::2]]
        expected.insert(1, (keys[1], b"old"))
        assert list(StoreView(store, ONE).scan()) == expected
        assert list(StoreView(store, TWO).scan()) == [(keys[0], b"two")]

    @pytest.mark.parametrize("count", [10, 20_000])
    def test_load_puts_and_deletes_beside_what_was_there(self, tmp_path: Path, count: int) -> None:
        with self.opened(tmp_path) as store:
            old = [(b"kept", b"1"), (b"lost", b"1")]
            store.apply({ONE: Changes(puts=old), TWO: Changes(puts=old)}, _state(1))
            entries: dict[bytes, bytes | None] = {b"%08d" % (number * 7919 % count): b"v" for number in range(count)}
            store.load(ONE, {**entries, b"lost": None, b"never": None}, _state(2))
        with self.opened(tmp_path) as store:
            assert store.state == _state(2)
            assert list(StoreView(store, ONE).scan()) == [
                *((b"%08d" % number, b"v") for number in range(count)),
                (b"kept", b"1"),
            ]
            assert list(StoreView(store, TWO).scan()) == old

    def test_clear_leaves_a_new_store(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.apply({ONE: Changes(puts=[(b"a", b"1")]), LAST: Changes(puts=[(b"\xff" * 9, b"1")])}, _state(1))
            store.clear()
            assert store.state is None
            assert contents(store) == {}
        with self.opened(tmp_path) as store:
            assert store.state is None
            store.apply({ONE: Changes(puts=[(b"b", b"2")])}, _state(2))
            assert contents(store) == {ONE + b"b": b"2"}

    # -- any history --

    def test_any_history_reads_like_a_dict(self) -> None:
        run_state_machine_as_test(store_machine(self.open_store), settings=self.history_settings())

    def history_settings(self) -> settings:
        """How many histories are tried; a slow store may override it."""
        return settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        )


# Few bytes and short keys, so that histories meet the same keys again and ranges have keys at their edges.
_keys = st.lists(st.sampled_from([0x00, 0x01, 0x61, 0xFF]), max_size=3).map(bytes)
_values = st.binary(max_size=4)
_prefixes = st.sampled_from([ONE, TWO, prefix_bytes(0xFF), prefix_bytes(0x100), LAST])


@st.composite
def _changes(draw: st.DrawFn) -> Changes:
    puts = draw(st.dictionaries(_keys, _values, max_size=6))
    deletes = draw(st.lists(_keys.filter(lambda key: key not in puts), max_size=4))
    ranges = draw(st.lists(st.tuples(_keys, _keys), max_size=2))
    return Changes(puts=sorted(puts.items()), deletes=deletes, ranges=ranges)


def store_machine(open_store: OpenStore) -> type[RuleBasedStateMachine]:
    """A Hypothesis state machine that checks the stores which ``open_store`` opens against a dict."""

    class StoreMachine(RuleBasedStateMachine):
        @initialize()
        def start(self) -> None:
            self.folder = tempfile.TemporaryDirectory()
            self.model: dict[bytes, bytes] = {}
            self.model_state: StoreState | None = None
            self.number = 0
            self.store = open_store(Path(self.folder.name))

        def next_state(self) -> StoreState:
            self.number += 1
            self.model_state = _state(self.number)
            return self.model_state

        @rule(changes=st.dictionaries(_prefixes, _changes(), max_size=3))
        def apply(self, changes: dict[bytes, Changes]) -> None:
            self.store.apply(changes, self.next_state())
            for prefix, change in changes.items():
                for first, end in change.ranges:
                    for key in [key for key in self.model if prefix + first <= key < prefix + end]:
                        del self.model[key]
                for key in change.deletes:
                    self.model.pop(prefix + key, None)
                self.model.update((prefix + key, value) for key, value in change.puts)

        @rule(prefix=_prefixes, entries=st.dictionaries(_keys, st.none() | _values, max_size=8))
        def load(self, prefix: bytes, entries: dict[bytes, bytes | None]) -> None:
            self.store.load(prefix, entries, self.next_state())
            for key, value in entries.items():
                self.model.pop(prefix + key, None)
                if value is not None:
                    self.model[prefix + key] = value

        @rule(prefix=_prefixes, key=_keys)
        def get(self, prefix: bytes, key: bytes) -> None:
            assert self.store.get(prefix + key) == self.model.get(prefix + key)

        @rule(wanted=st.lists(st.tuples(_prefixes, _keys).map(b"".join), max_size=8))
        def multi_get(self, wanted: list[bytes]) -> None:
            assert self.store.multi_get(wanted) == [self.model.get(key) for key in wanted]

        @rule(
            first=st.tuples(_prefixes, _keys).map(b"".join),
            end=st.tuples(_prefixes, _keys).map(b"".join),
            reverse=st.booleans(),
        )
        def scan(self, first: bytes, end: bytes, reverse: bool) -> None:
            expected = sorted(((key, self.model[key]) for key in self.model if first <= key < end), reverse=reverse)
            assert list(self.store.scan(first, end, reverse=reverse)) == expected

        @rule()
        def close_and_open(self) -> None:
            self.store.close()
            self.store = open_store(Path(self.folder.name))

        @rule()
        def clear(self) -> None:
            self.store.clear()
            self.model.clear()
            self.model_state = None

        @invariant()
        def the_store_equals_the_dict(self) -> None:
            assert contents(self.store) == self.model
            assert self.store.state == self.model_state

        def teardown(self) -> None:
            if hasattr(self, "store"):
                self.store.close()
                self.folder.cleanup()

    return StoreMachine
