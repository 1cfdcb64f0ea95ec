"""Batches as values, alone: when a list is sent, under which key and time, and what a restart goes on with."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import FOREVER
from streams.operators.batching import Batching, batching_state
from tests.operators.work import Work


def a_batching(count: int, within_ms: int | None = None) -> Work:
    state = batching_state("b", msgspec.msgpack.encode, msgspec.msgpack.decode, "json")
    return Work(Batching(name="b", state=state, count=count, within_ms=within_ms))


@given(st.lists(st.lists(st.integers(0, 99), max_size=7), max_size=6), st.integers(1, 5), st.booleans())
def test_lists_hold_so_many_values_in_order_however_they_come_and_whatever_restarts(
    batches: list[list[int]], count: int, restarts: bool
) -> None:
    work = a_batching(count)
    sent: list[Any] = []
    for batch in batches:
        work.give(*((f"k{value}", value, value) for value in batch))
        sent += work.taken()
        if restarts:
            work.commit_and_restart()
    values = [value for batch in batches for value in batch]
    whole = len(values) // count * count
    lists = [values[i : i + count] for i in range(0, whole, count)]
    assert sent == [(f"k{each[-1]}", each, each[-1]) for each in lists]
    assert [entry[2] for _, entry in work.context.keyed("b").scan()] == values[whole:]


def test_numbers_above_255_keep_their_order_over_a_restart() -> None:
    work = a_batching(300)
    work.give(*(("k", value, value) for value in range(299)))
    work.commit_and_restart()
    work.give(("k", 299, 299))
    assert work.taken() == [("k", list(range(300)), 299)]
    work.give(("k", 300, 300))
    work.commit_and_restart()
    work.give(("k", 301, 301))
    work.commit_and_restart()
    assert [entry[2] for _, entry in work.context.keyed("b").scan()] == [300, 301]


def test_where_values_wait_is_stored_as_eight_bytes_that_sort_as_numbers() -> None:
    """Another form would be another state: what waited before an update would be passed over."""
    work = a_batching(3)
    work.give(("a", 1, 1), ("b", 2, 2), ("c", 3, 3), ("d", 4, 4), ("e", 5, 5))
    assert [key.hex() for key, _ in work.context.keyed("b").scan()] == ["0000000000000003", "0000000000000004"]
    assert work.states["b"].dirty_count == 5
    assert work.node.states[0].fingerprint == "batching/1/json"
    assert not work.node.states[0].of_keys


def test_a_list_takes_nothing_away_but_what_it_held() -> None:
    work = a_batching(3)
    work.give(*(("k", value, value) for value in range(5)))
    work.commit_and_restart()
    work.give(("k", 5, 5))
    assert work.states["b"].dirty_count == 3


def test_a_list_is_sent_once_its_first_value_has_waited_for_the_span() -> None:
    work = a_batching(3, within_ms=10)
    assert not work.processor.tick(100)
    work.give(("a", 1, 5))
    assert not work.processor.tick(200)
    work.give(("b", 2, 4))
    assert not work.processor.tick(209)
    assert work.taken() == []
    assert work.processor.tick(210)
    assert work.taken() == [("b", [1, 2], 4)]
    work.give(("c", 3, 6))
    assert not work.processor.tick(500), "the span begins anew with each list"
    assert not work.processor.tick(509)
    assert work.processor.tick(510)
    assert not work.processor.tick(999)


def test_without_a_span_a_list_waits_for_ever() -> None:
    work = a_batching(3)
    work.give(("a", 1, 5))
    assert not work.processor.tick(0)
    assert not work.processor.tick(2**40)
    assert work.taken() == []


def test_what_waits_for_a_span_holds_event_time_back_at_its_earliest() -> None:
    work = a_batching(4, within_ms=10)
    assert work.processor.holding() == FOREVER
    work.give(("a", 1, 7), ("b", 2, 3), ("c", 3, 9))
    assert work.processor.holding() == 3
    work.give(("d", 4, 1))
    assert work.processor.holding() == FOREVER


def test_what_waits_for_a_number_only_does_not_hold_event_time_back() -> None:
    work = a_batching(4)
    work.give(("a", 1, 7))
    assert work.processor.holding() == FOREVER


def test_records_without_a_key_are_gathered_as_well() -> None:
    work = a_batching(2)
    work.give((None, 1, 7))
    work.commit_and_restart()
    work.give((None, 2, 8))
    assert work.taken() == [(None, [1, 2], 8)]
