"""The part of a store under a prefix, and what counts as a change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.core.state import CacheBudget
from streams.core.store import Changes, StoreState, StoreView, after_prefix, prefix_bytes
from streams.state.memory import MemoryDisk, MemoryStore

prefixes_st = st.lists(st.sampled_from([0, 1, 88, 254, 255]), min_size=1, max_size=3).map(bytes)


@given(prefixes_st.filter(lambda prefix: prefix.strip(b"\xff") != b""), st.binary(max_size=3))
def test_the_first_key_behind_a_prefix_is_above_all_that_begin_with_it_and_above_nothing_else(
    prefix: bytes, rest: bytes
) -> None:
    end = after_prefix(prefix)
    assert prefix + rest < end
    assert len(end) <= len(prefix)
    # Nothing lies between: one less in its last byte begins like the prefix does.
    assert prefix.startswith(end[:-1] + bytes([end[-1] - 1]))


def test_a_view_shows_what_lies_under_its_prefix_with_the_prefix_taken_off() -> None:
    store = MemoryStore(MemoryDisk())
    changes = {
        prefix_bytes(number): Changes([(b"a", b"%d" % number), (b"b", b""), (b"c", b"3"), (b"\xff\xff", b"4")])
        for number in (1, 2, 256)
    }
    store.apply(changes, StoreState("log", 1, 1))
    assert prefix_bytes(258) == b"\x01\x02"
    for number in (1, 2, 256):
        view = StoreView(store, prefix_bytes(number))
        whole = [(b"a", b"%d" % number), (b"b", b""), (b"c", b"3"), (b"\xff\xff", b"4")]
        assert list(view.scan()) == whole
        assert list(view.scan(reverse=True)) == whole[::-1]
        assert list(view.scan(b"b", b"c")) == whole[1:2]
        assert list(view.scan(b"b")) == whole[1:]
        assert view.get(b"a") == b"%d" % number
        assert view.multi_get([b"c", b"x", b"a"]) == [b"3", None, b"%d" % number]


def test_changes_are_something_when_there_is_anything_to_write() -> None:
    assert not Changes()
    assert Changes(puts=[(b"a", b"1")])
    assert Changes(deletes=[b"a"])
    assert Changes(ranges=[(b"", b"a")])


def test_how_many_values_a_cache_keeps_follows_what_they_weigh_up_at_once_and_down_slowly() -> None:
    """Two generations of 1,000,000 bytes each."""
    budget = CacheBudget(2_000_000)
    assert budget.entries == 1_000
    budget.weigh([])
    assert budget.entries == 1_000
    budget.weigh([b"x" * 700, b"x" * 1_200])
    assert budget.entries == 1_000_000 // (200 + 4 * 950)
    budget.weigh([b""])
    assert budget.entries == 1_000_000 // (4_000 * 7 // 8)
    for _ in range(100):
        budget.weigh([b""])
    assert budget.entries == 1_000_000 // 200
    budget.sharers = 4
    assert budget.entries == 1_000_000 // 800
