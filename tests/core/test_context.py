"""Where a task sends its records, and what its parts find in it."""

from __future__ import annotations

from typing import Any

import pytest

from streams.core.capability import Limits
from streams.core.context import Ambient, TaskContext
from streams.core.outputs import Outputs, RecordTooLarge
from streams.core.plan import Plan, assign_prefixes, changelog_records
from streams.core.policy import Failures
from streams.core.record import Headers, TopicPartition
from streams.core.spread import How
from streams.core.state import CacheBudget, KeyedState, State, StateSpec, WindowedState
from streams.core.store import Changes, StoreState, StoreView, prefix_bytes
from streams.core.thresholds import PRODUCTION
from streams.errors import TopologyError
from streams.state.memory import MemoryDisk, MemoryStore


def by_last_byte(key: bytes, count: int) -> int:
    return key[-1] % count


def a_context(
    partition: int = 0,
    *,
    siblings: int = 1,
    partitions: dict[str, int] | None = None,
    spreads: dict[str, How] | None = None,
    states: dict[str, State] | None = None,
) -> TaskContext:
    outputs = Outputs(Limits(max_record_bytes=10))
    return TaskContext(
        "a.in-0",
        partition,
        outputs=outputs,
        failures=Failures(outputs, "a.in-0"),
        states=states or {},
        siblings=siblings,
        partitions=partitions or {"one": 1, "two": 2, "four": 4},
        partitioner=by_last_byte,
        spreads=spreads or {},
        thresholds=PRODUCTION,
    )


def sent(context: TaskContext) -> dict[TopicPartition, Any]:
    return {
        append.partition: (
            append.records.keys,
            append.records.values,
            append.records.timestamps,
            append.records.headers,
        )
        for append in context.outputs.take()
    }


HEADERS: list[Headers | None] = [(("h", b"1"),), None, (("h", b"3"),)]


def test_each_record_goes_to_the_partition_of_its_key_with_its_value_time_and_headers() -> None:
    context = a_context()
    context.send("four", [b"\x01", b"\x07", b"\x05"], [b"a", b"bc", b"d"], [1, 2, 3], HEADERS)
    assert context.outputs.size_bytes == 7
    assert context.outputs.count == 3
    assert sent(context) == {
        ("four", 1): ([b"\x01", b"\x05"], [b"a", b"d"], [1, 3], [HEADERS[0], HEADERS[2]]),
        ("four", 3): ([b"\x07"], [b"bc"], [2], [None]),
    }
    for _ in range(2):
        context.send("two", [b"\x01", b"\x02"], [b"a", b"b"], [1, 2])
    assert context.outputs.size_bytes == 8
    assert sent(context) == {
        ("two", 0): ([b"\x02"] * 2, [b"b"] * 2, [2] * 2, None),
        ("two", 1): ([b"\x01"] * 2, [b"a"] * 2, [1] * 2, None),
    }
    context.send("four", [b"\x03"], [b"a"], [1])
    assert sent(context) == {("four", 3): ([b"\x03"], [b"a"], [1], None)}


@pytest.mark.parametrize("topic", ["one", "four"])
def test_what_goes_to_one_partition_goes_as_it_is(topic: str) -> None:
    context = a_context()
    context.send(topic, [b"\x02", b"\x06", b"\x02"], [b"a", None, b"d"], [1, 2, 3], HEADERS)
    assert context.outputs.size_bytes == 5
    target = (topic, 2 if topic == "four" else 0)
    assert sent(context) == {target: ([b"\x02", b"\x06", b"\x02"], [b"a", None, b"d"], [1, 2, 3], HEADERS)}
    context.send(topic, [], [], [])
    assert context.outputs.count == 0


@pytest.mark.parametrize("topic", ["one", "four"])
def test_nothing_is_added_of_a_batch_with_a_record_that_is_too_large(topic: str) -> None:
    context = a_context()
    large: list[Headers | None] = [None, (("h", b"123456789"),)]
    for headers in (None, large):
        with pytest.raises(RecordTooLarge) as caught:
            context.send(topic, [b"\x01", b"\x02"], [b"a", b"" if headers else b"0123456789"], [1, 2], headers)
        assert caught.value.index == 1
        assert (context.outputs.count, context.outputs.size_bytes) == (0, 0)


def test_a_single_record_goes_where_a_batch_of_it_would() -> None:
    context = a_context()
    assert context.partition_of("four", b"\x07") == TopicPartition("four", 3)
    assert context.partition_of("one", b"\x07") == TopicPartition("one", 0)
    assert context.partition_of("two", b"\x07") == TopicPartition("two", 1)
    assert context.processor_delay_ms == 0


def test_records_without_a_key_stay_in_the_task_s_own_partition_where_each_task_has_one() -> None:
    context = a_context(3, siblings=4)
    assert {context.partition_of("four", None).partition for _ in range(8)} == {3}
    spread = a_context(3, siblings=2)
    assert len({spread.partition_of("four", None).partition for _ in range(32)}) > 1


def test_a_topic_may_be_spread_otherwise_than_by_key() -> None:
    context = a_context(spreads={"four": lambda key, count: count - 1})
    assert context.partition_of("four", b"\x00") == TopicPartition("four", 3)
    rounds = a_context(spreads={"four": "round_robin"})
    assert sorted(rounds.partition_of("four", b"\x00").partition for _ in range(4)) == [0, 1, 2, 3], (
        "it keeps its place"
    )


def test_a_key_belongs_to_the_task_of_its_partition() -> None:
    assert a_context().own_key(b"\x07")
    assert [a_context(n, siblings=4).own_key(b"\x07") for n in range(4)] == [False, False, False, True]
    assert [a_context(n, siblings=2).own_key(b"\x07") for n in range(2)] == [False, True]


def a_state(store: MemoryStore) -> KeyedState[int]:
    view = StoreView(store, prefix_bytes(1))
    return KeyedState(view, lambda value: str(value).encode(), int, budget=CacheBudget(10_000))


def test_states_are_found_by_name_and_kind() -> None:
    store = MemoryStore(MemoryDisk())
    keyed = a_state(store)
    windowed: WindowedState[int] = WindowedState(
        StoreView(store, prefix_bytes(2)), store, lambda value: b"", int, budget=CacheBudget(10_000)
    )
    context = a_context(states={"k": keyed, "w": windowed})
    assert context.keyed("k") is keyed
    assert context.windowed("w") is windowed
    with pytest.raises(TopologyError, match=r"a\.in-0 doesn't hold the table 'w'"):
        context.keyed("w")
    with pytest.raises(AssertionError, match="k is not windowed"):
        context.windowed("k")


def test_what_operators_count_adds_up_by_name() -> None:
    context = a_context()
    context.count("late")
    context.count("late", 2)
    context.count("other", 0)
    assert context.counters == {"late": 3, "other": 0}


def test_undoing_goes_back_to_before_the_first_change_and_once() -> None:
    store = MemoryStore(MemoryDisk())
    state = a_state(store)
    here = Ambient(a_context(states={"k": state}), "op")
    assert (here.operator, here.journal, here.row, here.calls, here.called, here.chain) == (
        "op",
        None,
        0,
        0,
        (None, 0),
        (),
    )
    here.undo()
    assert here.journal is None
    here.journal = []
    for before, after in ((1, 2), (2, 3)):
        here.journal.append((state, b"k", lambda before=before: before))  # type: ignore[misc]
        state.put(b"k", after)
    here.undo()
    assert state.get(b"k") == 1
    assert here.journal == []
    state.put(b"k", 9)
    here.undo()
    assert state.get(b"k") == 9


# ── plan ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_state_keeps_its_number_in_the_store_and_a_new_one_gets_the_next() -> None:
    specs = {name: StateSpec(name, "keyed", bytes, bytes, "f") for name in ("a", "b", "c")}
    assert assign_prefixes(None, specs) == {"a": 1, "b": 2, "c": 3}
    stored = StoreState("log", 1, 1, prefixes={"b": 4, "gone": 7})
    assert assign_prefixes(stored, specs) == {"a": 8, "b": 4, "c": 9, "gone": 7}
    assert stored.prefixes == {"b": 4, "gone": 7}


def test_changes_stand_on_the_changelog_under_their_whole_keys_deletes_first() -> None:
    plain = Changes([(b"p", b"1"), (b"q", b"2")], [b"d"], [(b"", b"x")])
    window = Changes([(b"p", b"3")], [b"e", b"f"])
    records = changelog_records([(b"", plain), (b"w", window)], 7)
    assert records.keys == [b"d", b"p", b"q", b"we", b"wf", b"wp"]
    assert records.values == [None, b"1", b"2", None, None, b"3"]
    assert records.timestamps == [7] * 6


def test_the_changelog_of_a_state_is_named_by_app_and_state() -> None:
    plan = Plan("app", Limits(), {}, by_last_byte, {})
    assert plan.changelog("rows") == "app.rows.changelog"
