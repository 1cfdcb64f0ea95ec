"""Event time across inputs and tasks: idleness, promises of producers, marks through repartition topics."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streams import App, tumbling
from streams.testing.driver import TestDriver


def keyed(app: App, *, partitions: int = 2, idle_after: Any = None, grace: str = "0ms") -> None:
    """Windows of 10 ms behind a key_by: what they see of time comes in-band from the tasks upstream."""
    source = app.stream(
        app.topic("in", partitions=partitions),
        timestamp=lambda v: v["t"],
        out_of_orderness="5ms",
        idle_after=idle_after,
    )
    counted = source.key_by(lambda v: v["user"]).window(tumbling("10ms"), grace=grace).count(name="w")
    counted.final().map(lambda v: [v["window_start"], v["count"]]).to("finals")
    counted.late.to("late")


def keys_of_each_partition(t: TestDriver, count: int) -> list[str]:
    """For each partition a key that goes there."""
    found: dict[int, str] = {}
    for n in range(1000):
        found.setdefault(t._log.partition_for(f"k{n}".encode(), count), f"k{n}")
    return [found[partition] for partition in range(count)]


def send(t: TestDriver, key: str, time: int, user: str = "u") -> None:
    t.send("in", {"t": time, "user": user}, key=key)


def test_a_silent_upstream_task_holds_the_windows_back_until_it_is_idle() -> None:
    app = App("a")
    keyed(app, idle_after="30s")
    with TestDriver(app) as t:
        busy, _ = keys_of_each_partition(t, 2)
        send(t, busy, 1)
        send(t, busy, 100)
        t.advance("10s")
        assert t.outputs("finals") == [], "the other partition might still hold earlier records"
        for time in range(101, 140, 3):
            t.advance("3s")
            send(t, busy, time)
        assert [value for _, value in t.outputs("finals")][:1] == [[0, 1]]


def test_without_an_idle_time_out_a_silent_task_holds_the_windows_back_for_good() -> None:
    app = App("a")
    keyed(app)
    with TestDriver(app) as t:
        busy, silent = keys_of_each_partition(t, 2)
        send(t, busy, 1)
        send(t, busy, 100)
        t.advance("1h")
        assert t.outputs("finals") == []
        send(t, silent, 50)
        assert [value for _, value in t.outputs("finals")] == [[0, 1]]


def test_a_slow_upstream_task_does_not_make_its_records_late() -> None:
    app = App("a")
    keyed(app, idle_after="1h")
    with TestDriver(app) as t:
        fast, slow = keys_of_each_partition(t, 2)
        for time in range(0, 1000, 10):
            send(t, fast, time)
        for time in range(0, 1000, 10):
            send(t, slow, time)
        t.send_watermark("in", 10_000)
        assert t.outputs("late") == []
        assert [value for _, value in t.outputs("finals")] == [[start, 2] for start in range(0, 1000, 10)]


def test_a_promise_of_a_producer_closes_windows_across_a_repartition() -> None:
    app = App("a", partitions=3)
    keyed(app, partitions=2)
    with TestDriver(app) as t:
        one, two = keys_of_each_partition(t, 2)
        send(t, one, 3, "x")
        send(t, two, 7, "y")
        t.send_watermark("in", 9)
        assert t.outputs("finals") == []
        t.send_watermark("in", 10)
        assert sorted(t.outputs("finals")) == [("x", [0, 1]), ("y", [0, 1])]


def test_a_watermark_never_moves_back() -> None:
    app = App("a")
    source = app.stream("in", timestamp=lambda v: v, idle_after=None)
    source.window(tumbling("10ms")).count().final().map(lambda v: v["window_start"]).to("finals")
    with TestDriver(app) as t:
        t.send_watermark("in", 100)
        t.send_watermark("in", 5)
        t.send("in", 3, key="k")
        t.send_watermark("in", 50)
        t.send("in", 105, key="k")
        t.send_watermark("in", 110)
        assert [value for _, value in t.outputs("finals")] == [100]


def test_records_after_an_idle_time_count_and_idleness_ends_with_them() -> None:
    app = App("a")
    keyed(app, idle_after="10s")
    with TestDriver(app) as t:
        one, two = keys_of_each_partition(t, 2)
        send(t, two, 0)
        t.advance("30s")
        send(t, one, 21)
        assert [value for _, value in t.outputs("finals")] == [[0, 1]], "two is idle, so it isn't waited for"
        send(t, two, 22)
        send(t, one, 100)
        assert t.outputs("finals") == [], "two is back, and stands at 17"
        send(t, two, 100)
        assert [value for _, value in t.outputs("finals")] == [[20, 2]]


def test_marks_and_watermarks_survive_a_restart() -> None:
    app = App("a")
    keyed(app)
    with TestDriver(app) as t:
        one, two = keys_of_each_partition(t, 2)
        send(t, one, 3)
        send(t, one, 100)
        send(t, two, 12)
    with TestDriver(app, after=t) as again:
        assert again.outputs("finals") == []
        send(again, two, 15)
        assert [value for _, value in again.outputs("finals")] == [[0, 1]]
        send(again, two, 4)
        assert len(again.outputs("late")) == 1


def test_finals_that_cross_a_repartition_are_on_time_in_the_windows_behind_it() -> None:
    app = App("a", partitions=2)
    source = app.stream("in", timestamp=lambda v: v["t"], idle_after=None)
    finals = source.window(tumbling("10ms"), grace="25ms").count(name="first").final()
    second = finals.key_by(lambda v: "all", name="all").window(tumbling("20ms")).count(name="second")
    second.final().map(lambda v: [v["window_start"], v["count"]]).to("out")
    second.late.to("late")
    with TestDriver(app) as t:
        for key in keys_of_each_partition(t, 2):
            for time in range(0, 100, 5):
                t.send("in", {"t": time}, key=key)
        t.send_watermark("in", 1000)
        assert t.outputs("late") == []
        assert [value for _, value in t.outputs("out")] == [[start, 4] for start in range(0, 100, 20)]


def test_two_inputs_hold_the_watermark_at_the_slower_one() -> None:
    app = App("a")
    merged = app.stream("left", timestamp=lambda v: v, idle_after=None).merge(
        app.stream("right", timestamp=lambda v: v, idle_after=None)
    )
    counted = merged.window(tumbling("10ms")).count()
    counted.final().map(lambda v: [v["window_start"], v["count"]]).to("finals")
    counted.late.to("late")
    with TestDriver(app) as t:
        t.send_all("left", [("k", time) for time in (1, 15, 40)])
        assert t.outputs("finals") == []
        t.send("right", 2, key="k")
        t.send("right", 11, key="k")
        assert t.outputs("finals") == [("k", [0, 2])]
        t.send("right", 60, key="k")
        assert t.outputs("finals") == [("k", [10, 2])]
        assert t.outputs("late") == []


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100), st.sampled_from("xyz")), max_size=25),
    st.integers(0, 2),
)
def test_in_order_inputs_lose_nothing_across_tasks_whatever_their_pace(
    events: list[tuple[int, int, str]], grace: int
) -> None:
    app = App("a", partitions=3)
    source = app.stream(app.topic("in", partitions=4), timestamp=lambda v: v["t"], idle_after=None)
    counted = source.key_by(lambda v: v["user"]).window(tumbling("10ms"), grace=f"{grace}ms").count(name="w")
    counted.final().to("finals")
    counted.late.to("late")
    expected: dict[tuple[str, int], int] = {}
    last = [0, 0, 0, 0]
    with TestDriver(app) as t:
        keys = keys_of_each_partition(t, 4)
        for partition, time, user in events:
            last[partition] = max(last[partition], time)
            send(t, keys[partition], last[partition], user)
            window = (user, last[partition] // 10 * 10)
            expected[window] = expected.get(window, 0) + 1
        t.send_watermark("in", 10_000)
        assert t.outputs("late") == []
        assert {(key, v["window_start"]): v["count"] for key, v in t.outputs("finals")} == expected
