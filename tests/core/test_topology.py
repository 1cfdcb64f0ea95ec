"""Whether an app may go on with what a former one left on the log: every kind of difference."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streams.core.membership import TaskRef
from streams.core.topology import StoreRecord, TopologyRecord, control_ref, resolve_topology, task_refs
from streams.errors import TopologyChanged

BEFORE = TopologyRecord(
    app="shop",
    version=3,
    partitions={"shop.orders": 2, "shop.by-user": 4},
    stores={"totals": StoreRecord("shop.by-user", "aggregate/1/count()", "int")},
    internal_topics={"shop.by-user.repartition": 4},
    slots=["shop.orders-0", "shop.orders-1", "gone-0"],
    sources={"orders": "shop.orders"},
)


def changed(**changes: Any) -> TopologyRecord:
    return msgspec.structs.replace(BEFORE, **changes)


def incompatibility(old: str, new: str) -> str | None:
    return None if (old, new) == ("int", "int|None") else f"{old} isn't {new}"


def test_a_first_run_and_the_same_again_are_accepted() -> None:
    assert resolve_topology(None, BEFORE, incompatibility).record == BEFORE
    start = resolve_topology(BEFORE, BEFORE, incompatibility)
    assert (start.record, list(start.changes), list(start.fence)) == (BEFORE, [], [])


def test_what_is_added_is_told_and_accepted() -> None:
    stores = {**BEFORE.stores, "new": StoreRecord("shop.more", "table/1/str")}
    start = resolve_topology(
        BEFORE, changed(partitions={**BEFORE.partitions, "shop.more": 1}, stores=stores), incompatibility
    )
    assert list(start.changes) == ["new tasks of shop.more", "new store new"]
    assert not start.removed_stores


def test_slots_are_only_ever_appended() -> None:
    start = resolve_topology(BEFORE, changed(slots=["shop.more-0", "shop.orders-1"]), incompatibility)
    assert start.record.slots == ["shop.orders-0", "shop.orders-1", "gone-0", "shop.more-0"]
    before, after = task_refs(BEFORE), task_refs(start.record)
    assert all(after[name] == ref for name, ref in before.items())
    assert len(set(after.values())) == len(after)


def test_a_value_type_that_can_read_the_old_one_is_accepted() -> None:
    wider = {"totals": StoreRecord("shop.by-user", "aggregate/1/count()", "int|None")}
    assert resolve_topology(BEFORE, changed(stores=wider), incompatibility).record.stores == wider


REFUSED = {
    "other partitions": (changed(partitions={"shop.orders": 3, "shop.by-user": 4}), "the tasks of shop.orders were 2"),
    "a store gone": (changed(stores={}), "the store totals is gone"),
    "another operator": (
        changed(stores={"totals": StoreRecord("shop.by-user", "table/1/str", "int")}),
        "the store totals held aggregate/1/count() and would hold table/1/str",
    ),
    "a store moved": (
        changed(stores={"totals": StoreRecord("shop.orders", "aggregate/1/count()", "int")}),
        "the store totals moved from the tasks of shop.by-user to shop.orders",
    ),
    "another type": (
        changed(stores={"totals": StoreRecord("shop.by-user", "aggregate/1/count()", "str")}),
        "the values of store totals changed: int isn't str",
    ),
    "an internal topic gone": (changed(internal_topics={}), "the internal topic shop.by-user.repartition is gone"),
    "an internal topic widened": (
        changed(internal_topics={"shop.by-user.repartition": 8}),
        "shop.by-user.repartition had 4 partitions and would have 8",
    ),
    "a topic read by others": (
        changed(sources={"orders": "shop.by-user"}),
        "the topic orders was read by the tasks of",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_lose_or_misread_something_is_refused_with_the_choices(case: str) -> None:
    current, told = REFUSED[case]
    with pytest.raises(TopologyChanged) as caught:
        resolve_topology(BEFORE, current, incompatibility)
    for words in (told, "'shop'", "name=", "streams reset", "App(version=4)"):
        assert words in str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
def test_a_higher_version_accepts_it_and_fences_every_former_task(case: str) -> None:
    current, told = REFUSED[case]
    start = resolve_topology(BEFORE, msgspec.structs.replace(current, version=4), incompatibility)
    assert any(told in change for change in start.changes)
    assert set(start.fence) >= {"shop.orders-0", "shop.orders-1"}
    if "store" in told:
        assert list(start.removed_stores) == ["totals"]
    if "internal topic" in told:
        assert list(start.removed_topics) == ["shop.by-user.repartition"]


def test_every_conflict_is_told_at_once() -> None:
    with pytest.raises(TopologyChanged, match=r"totals is gone; .*repartition is gone"):
        resolve_topology(BEFORE, changed(stores={}, internal_topics={}), incompatibility)


def test_an_older_version_is_refused() -> None:
    with pytest.raises(TopologyChanged, match=r"is version 2, but version 3 has already run .* version=4"):
        resolve_topology(BEFORE, changed(version=2), incompatibility)


def test_the_fingerprint_follows_the_shape_and_not_the_order() -> None:
    turned = changed(partitions=dict(reversed(BEFORE.partitions.items())))
    assert turned.fingerprint == BEFORE.fingerprint
    assert changed(stores={}).fingerprint != BEFORE.fingerprint


def test_a_topic_that_is_no_longer_read_is_remembered_with_its_reader() -> None:
    """Read again one day by other tasks, it would be read from its start."""
    start = resolve_topology(BEFORE, changed(sources={"more": "shop.by-user"}), incompatibility)
    assert start.record.sources == {"orders": "shop.orders", "more": "shop.by-user"}
    assert list(start.changes) == []


def test_another_number_of_tasks_drops_the_stores_of_these_tasks_and_no_others() -> None:
    stores = {**BEFORE.stores, "orders": StoreRecord("shop.orders", "table/1/str")}
    before = changed(stores=stores)
    after = changed(stores=stores, version=4, partitions={"shop.orders": 3, "shop.by-user": 4})
    assert list(resolve_topology(before, after, incompatibility).removed_stores) == ["orders"]


def test_the_control_task_has_the_first_slot_and_the_tasks_those_behind_it() -> None:
    assert control_ref("shop") == TaskRef("shop", 0, "shop.control")
    assert list(task_refs(BEFORE).values()) == [
        TaskRef("shop", 1, "shop.orders-0"),
        TaskRef("shop", 2, "shop.orders-1"),
        TaskRef("shop", 3, "gone-0"),
    ]
