"""Streams with state: aggregate, count, reduce, window, dedupe, batch, process with timers, and views of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streams import App, ProcessContext, State, agg, hopping, tumbling
from streams.errors import ConfigurationError, DataError, RecordFailed, TopologyError
from streams.testing.driver import TestDriver


class Point(msgspec.Struct):
    x: int


class Counter(State):
    n: int = 0
    words: list[str] = msgspec.field(default_factory=list)


# ── aggregates by key ───────────────────────────────────────────────────────────────────────────────────────────────


def test_aggregate_emits_the_result_after_each_record_and_shows_it_as_a_table() -> None:
    app = App("a", partitions=3)
    totals = app.stream("in").aggregate(n=agg.count(), worst=agg.max("delay"), mean=agg.mean("delay"))
    totals.to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("a", {"delay": 4}), ("b", {"delay": 1}), ("a", {"delay": 2})])
        a = [value for key, value in t.outputs("out") if key == "a"]
        assert a == [{"n": 1, "worst": 4, "mean": 4.0}, {"n": 2, "worst": 4, "mean": 3.0}]
        assert (
            t.table("in.aggregate")
            == {
                "a": {"n": 2, "worst": 4, "mean": 3.0},
                "b": {"n": 1, "worst": 1, "mean": 1.0},
            }
            or totals.table()
        )
        view = totals.table()
        assert t.run(view.get("b")) == {"n": 1, "worst": 1, "mean": 1.0}
        assert t.run(view.get("nobody")) is None


def test_a_reduced_value_keeps_its_type() -> None:
    app = App("a")
    source = app.stream("in", value=Point)
    largest = source.reduce(lambda a, b: max(a, b, key=lambda point: point.x))
    largest.updates().key_by(lambda p: str(p.x)).map(lambda p: type(p).__name__).to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", Point(1)), ("k", Point(5)), ("k", Point(3))])
        assert t.outputs("out") == [("1", "Point"), ("5", "Point"), ("5", "Point")]
        assert t.table("in.reduce") == {"k": Point(5)}


def test_count_and_reduce_fold_by_key() -> None:
    app = App("a")
    source = app.stream("in")
    source.count().to("counts")
    source.reduce(lambda so_far, value: so_far + value, name="sums").to("sums-out")
    with TestDriver(app) as t:
        t.send_all("in", [("a", 1), ("b", 10), ("a", 2)])
        assert t.outputs("counts") == [("a", 1), ("b", 1), ("a", 2)]
        assert t.outputs("sums-out") == [("a", 1), ("b", 10), ("a", 3)]


def test_a_record_without_a_key_cannot_be_grouped_and_the_error_names_key_by() -> None:
    app = App("a")
    app.stream("in").count().to("out")
    with TestDriver(app) as t, pytest.raises(RecordFailed, match="no key to group by; put a key_by in front"):
        t.send("in", 1)


def test_a_value_that_has_no_mean_is_refused_alone() -> None:
    app = App("a")
    source = app.stream("in", on_error="skip", timestamp=lambda v: v["t"])
    source.aggregate(mean=agg.mean("v")).to("out")
    source.window(tumbling("10ms")).aggregate(mean=agg.mean("v")).final().map(lambda v: v["mean"]).to("final")
    with TestDriver(app) as t:
        t.send("in", {"t": 0, "v": "word"}, key="k")
        t.send("in", {"t": 1, "v": 3}, key="k")
        t.send_watermark("in", 100)
        assert t.outputs("out") == [("k", {"mean": 3.0})]
        assert t.outputs("final") == [("k", 3.0)]


# ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_window_is_final_when_the_watermark_has_passed_its_end_and_its_grace() -> None:
    app = App("a")
    source = app.stream("in", timestamp=lambda v: v, out_of_orderness="5ms")
    counted = source.window(tumbling("10ms"), grace="3ms").count()
    counted.final().to("final")
    counted.late.to("late")
    with TestDriver(app) as t:
        t.send("in", 2, key="k")
        t.send("in", 17, key="k")  # the watermark stands at 12
        t.send("in", 9, key="k")
        assert t.outputs("final") == []
        t.send("in", 18, key="k")  # the watermark stands at 13: the end of the first window and its grace
        assert t.records("final") == [("k", {"count": 2, "window_start": 0, "window_end": 10}, 9)]
        t.send("in", 9, key="k")
        assert t.outputs("late") == [("k", 9)]
        assert t.outputs("final") == []


def test_windows_are_per_key_and_per_partition_and_close_on_each() -> None:
    app = App("a", partitions=4)
    source = app.stream("in", timestamp=lambda v: v)
    source.window(tumbling("10ms")).count().final().to("final")
    with TestDriver(app) as t:
        t.send_all("in", [(f"k{n}", n % 10) for n in range(40)])
        t.send_watermark("in", 10)
        finals = t.outputs("final")
        assert sorted(key for key, _ in finals) == sorted(f"k{n}" for n in range(40))
        assert {value["count"] for _, value in finals} == {1}


def test_a_record_that_is_late_for_several_hopping_windows_is_late_once() -> None:
    app = App("a")
    counted = app.stream("in", timestamp=lambda v: v).window(hopping("30ms", "10ms")).count()
    counted.late.to("late")
    counted.final().to("final")
    with TestDriver(app) as t:
        t.send_all("in", [("k", 100), ("k", 1)])
        assert t.outputs("late") == [("k", 1)]


def test_a_record_that_a_fold_refuses_meets_the_policy_once_in_however_many_windows_it_is() -> None:
    app = App("a")
    source = app.stream("in", timestamp=lambda v: v["t"], on_error="dead_letter")
    source.window(hopping("30ms", "10ms")).aggregate(total=agg.sum("v")).final().to("final")
    with TestDriver(app) as t:
        t.send_all("in", [("k", {"t": 20, "v": 1}), ("k", {"t": 21, "v": "word"}), ("k", {"t": 22, "v": 2})])
        t.send_watermark("in", 1000)
        assert len(t.outputs("in.dead-letters")) == 1
        assert [value["total"] for _, value in t.outputs("final")] == [3, 3, 3]


def test_updates_come_in_the_order_of_the_records() -> None:
    app = App("a")
    source = app.stream("in", timestamp=lambda v: v, out_of_orderness="1s")
    source.window(tumbling("10ms")).count().updates().map(lambda v: [v["window_start"], v["count"]]).to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", 1), ("k", 11), ("k", 2), ("k", 12)])
        assert [value for _, value in t.outputs("out")] == [[0, 1], [10, 1], [0, 2], [10, 2]]


def test_an_event_time_that_is_no_point_in_time_meets_the_policy() -> None:
    app = App("a")
    times = {"huge": 10**30, "microseconds": 1_700_000_000_000_000, "nan": float("nan"), "text": "now", "fine": 5}
    source = app.stream("in", timestamp=lambda v: times[v], on_error="dead_letter")
    source.window(tumbling("10ms")).count().final().to("final")
    with TestDriver(app) as t:
        for name in times:
            t.send("in", name, key="k")
        t.send_watermark("in", 10)
        assert len(t.outputs("in.dead-letters")) == 4
        assert [value["count"] for _, value in t.outputs("final")] == [1]


# ── dedupe ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_dedupe_lets_the_first_of_each_identity_pass_within_its_span() -> None:
    app = App("a")
    source = app.stream("in", timestamp=lambda v: v["t"], out_of_orderness="1m")
    source.dedupe(lambda v: v["id"], within="100ms").map(lambda v: v["t"]).to("out")
    with TestDriver(app) as t:
        for time, identity in [(0, "x"), (99, "x"), (100, "x"), (50, "y"), (150, "x"), (-99, "x"), (-100, "x")]:
            t.send("in", {"t": time, "id": identity}, key="k")
        assert [value for _, value in t.outputs("out")] == [0, 100, 50, -100]


def test_dedupe_without_a_key_compares_whole_values() -> None:
    app = App("a")
    app.stream("in").dedupe(within="1h").to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", {"a": 1}), ("k", {"a": 1}), ("k", {"a": 2})], timestamp=0)
        assert t.outputs("out") == [("k", {"a": 1}), ("k", {"a": 2})]


def test_dedupe_remembers_over_a_restart() -> None:
    app = App("a")
    app.stream("in").dedupe(within="1h").to("out")
    with TestDriver(app) as t:
        t.send("in", 1, key="k")
    with TestDriver(app, after=t) as again:
        again.send("in", 1, key="k")
        again.send("in", 2, key="k")
        assert again.outputs("out") == [("k", 1), ("k", 2)]


# ── batch ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_batch_gathers_values_by_number_and_waits_no_longer_than_its_span() -> None:
    app = App("a")
    app.stream("in").batch(3, within="10s").to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("a", 1), ("b", 2), ("c", 3), ("d", 4)])
        assert t.outputs("out") == [("c", [1, 2, 3])]
        t.advance("8s")
        assert t.outputs("out") == []
        t.advance("3s")
        assert t.outputs("out") == [("d", [4])]


def test_values_that_wait_for_their_batch_survive_a_restart() -> None:
    app = App("a")
    app.stream("in").batch(3).to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("a", 1), ("a", 2)])
    with TestDriver(app, after=t) as again:
        again.send("in", 3, key="a")
        assert again.outputs("out") == [("a", [1, 2, 3])]


def test_a_batch_holds_at_least_one_value() -> None:
    with pytest.raises(ConfigurationError, match="a batch holds at least one value"):
        App("a").stream("in").batch(0)


# ── process ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def counting(app: App) -> None:
    """A process that counts words by key, says so 10 ms of event time after the last one, and forgets."""
    source = app.stream("in", timestamp=lambda v: v["t"], on_error="skip")

    @source.process(state=Counter)
    def count(value: Any, state: Counter, ctx: ProcessContext) -> None:
        state.n += 1
        state.words.append(value["word"])
        ctx.timer("quiet", after="10ms")
        if value["word"] == "stop":
            ctx.cancel("quiet")
        if value["word"] == "bad":
            ctx.emit("never seen")
            raise ValueError("bad word")

    @count.on_timer("quiet")
    def quiet(state: Counter, ctx: ProcessContext) -> None:
        ctx.emit({"key": ctx.key, "n": state.n, "words": list(state.words), "at": ctx.time})
        state.clear()

    count.to("out")


def test_process_keeps_state_by_key_and_fires_timers_by_event_time() -> None:
    app = App("a")
    counting(app)
    with TestDriver(app) as t:
        for time, key, word in [(0, "a", "x"), (5, "b", "y"), (8, "a", "z"), (17, "c", "w")]:
            t.send("in", {"t": time, "word": word}, key=key)
        assert t.outputs("out") == [("b", {"key": "b", "n": 1, "words": ["y"], "at": 15})]
        t.send_watermark("in", 100)
        assert [value for _, value in t.outputs("out")] == [
            {"key": "a", "n": 2, "words": ["x", "z"], "at": 18},
            {"key": "c", "n": 1, "words": ["w"], "at": 27},
        ]


def test_a_cleared_state_is_no_longer_stored() -> None:
    app = App("a")
    counting(app)
    with TestDriver(app) as t:
        t.send("in", {"t": 0, "word": "x"}, key="a")
        t.send_watermark("in", 100)
        t.send("in", {"t": 100, "word": "y"}, key="a")
        t.send_watermark("in", 200)
        assert [value["words"] for _, value in t.outputs("out")] == [["x"], ["y"]]
    with TestDriver(app, after=t) as again:
        driver = again._worker.drivers["a.in-0"]
        assert driver.task is not None
        assert list(driver.task.context.keyed("count").committed_scan()) == []


def test_what_a_call_did_before_it_raised_is_taken_back() -> None:
    app = App("a")
    counting(app)
    with TestDriver(app) as t:
        t.send("in", {"t": 0, "word": "x"}, key="a")
        t.send_all("in", [("a", {"t": 1, "word": "bad"}), ("new", {"t": 2, "word": "bad"})])
        t.send("in", {"t": 3, "word": "y"}, key="a")
        t.send_watermark("in", 100)
        assert t.outputs("out") == [("a", {"key": "a", "n": 2, "words": ["x", "y"], "at": 13})]


def test_a_timer_that_was_cancelled_does_not_fire() -> None:
    app = App("a")
    counting(app)
    with TestDriver(app) as t:
        t.send_all("in", [("a", {"t": 0, "word": "x"}), ("a", {"t": 1, "word": "stop"})])
        t.send_watermark("in", 100)
        assert t.outputs("out") == []


def test_timers_and_state_survive_a_restart() -> None:
    app = App("a")
    counting(app)
    with TestDriver(app) as t:
        t.send("in", {"t": 0, "word": "x"}, key="a")
    with TestDriver(app, after=t) as again:
        again.send_watermark("in", 10)
        assert [value["words"] for _, value in again.outputs("out")] == [["x"]]


def scheduling(app: App) -> None:
    """A process that sets the timer that each value names, and says when it fires."""
    source = app.stream("in", timestamp=lambda v: v["t"])

    @source.process(state=Counter)
    def plan(value: Any, state: Counter, ctx: ProcessContext) -> None:
        for name, at in value.get("timers", {}).items():
            ctx.timer(name, at=at)

    @plan.on_timer("x")
    def fire_x(state: Counter, ctx: ProcessContext) -> None:
        ctx.emit(["x", ctx.time])

    @plan.on_timer("y")
    def fire_y(state: Counter, ctx: ProcessContext) -> None:
        ctx.emit(["y", ctx.time])
        if ctx.time < 50:
            ctx.timer("y", after="30ms")

    plan.to("out")


def test_a_timer_moved_to_a_later_time_still_fires_once_in_its_turn() -> None:
    app = App("a")
    scheduling(app)
    with TestDriver(app) as t:
        t.send_all(
            "in",
            [
                ("a", {"t": 1, "timers": {"x": 10}}),
                ("a", {"t": 2, "timers": {"x": 15}}),
                ("b", {"t": 3, "timers": {"x": 20}}),
                ("c", {"t": 4, "timers": {"x": 12}}),
            ],
        )
        t.send_watermark("in", 100)
        assert t.outputs("out") == [("c", ["x", 12]), ("a", ["x", 15]), ("b", ["x", 20])]


def test_a_timer_moved_to_an_earlier_time_fires_then_and_not_again() -> None:
    app = App("a")
    scheduling(app)
    with TestDriver(app) as t:
        t.send_all("in", [("a", {"t": 1, "timers": {"x": 30}}), ("a", {"t": 2, "timers": {"x": 10}})])
        t.send_watermark("in", 20)
        assert t.outputs("out") == [("a", ["x", 10])]
        t.send_watermark("in", 100)
        assert t.outputs("out") == []


def test_a_timer_set_by_a_timer_fires_in_the_same_advance_when_it_is_due() -> None:
    app = App("a")
    scheduling(app)
    with TestDriver(app) as t:
        t.send("in", {"t": 0, "timers": {"y": 10, "x": 45}}, key="a")
        t.send_watermark("in", 1000)
        assert t.outputs("out") == [("a", ["y", 10]), ("a", ["y", 40]), ("a", ["x", 45]), ("a", ["y", 70])]


def test_a_timer_in_the_past_fires_as_soon_as_event_time_moves_on() -> None:
    app = App("a")
    scheduling(app)
    with TestDriver(app) as t:
        t.send("in", {"t": 100}, key="a")
        t.send("in", {"t": 100, "timers": {"x": 5}}, key="a")
        t.send("in", {"t": 150}, key="b")
        assert len(t.outputs("out")) == 1


def test_a_timer_that_nothing_handles_is_named() -> None:
    app = App("a")
    source = app.stream("in", timestamp=lambda v: v)

    @source.process(state=Counter)
    def plan(value: int, state: Counter, ctx: ProcessContext) -> None:
        ctx.timer("forgotten", at=value)

    plan.to("out")
    with TestDriver(app) as t:
        t.send("in", 10, key="k")
        with pytest.raises(TopologyError, match="the timer 'forgotten' is due and nothing handles it"):
            t.send_watermark("in", 100)


def test_a_process_reads_and_writes_tables_and_what_it_wrote_is_taken_back_when_it_raises() -> None:
    app = App("a", partitions=2)
    totals = app.table("totals", value=list, default=list)
    source = app.stream("in", on_error="skip", timestamp=lambda v: v)

    @source.process(state=Counter)
    def add(value: int, state: Counter, ctx: ProcessContext) -> None:
        row = totals[ctx.key]
        row.append(value)
        totals[ctx.key] = row
        ctx.timer("sum", at=50)
        if value == 13:
            raise ValueError("no 13")

    @add.on_timer("sum")
    def total(state: Counter, ctx: ProcessContext) -> None:
        ctx.emit(sum(totals[ctx.key]))

    add.to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("a", 1), ("b", 2), ("a", 13), ("a", 4)])
        assert t.table("totals") == {"a": [1, 4], "b": [2]}
        t.send_watermark("in", 100)
        assert sorted(t.outputs("out")) == [("a", 5), ("b", 2)]


def test_a_state_that_cannot_be_written_is_named_with_its_key() -> None:
    app = App("a")

    class Odd(State):
        value: Any = None

    @app.stream("in").process(state=Odd)
    def keep(value: int, state: Odd, ctx: ProcessContext) -> None:
        state.value = object()

    keep.to("out")
    with TestDriver(app) as t, pytest.raises(DataError, match="the state of key b'k' can't be written"):
        t.send("in", 1, key="k")


@pytest.mark.parametrize("kind", [dict, lambda: {"n": 0}])
def test_the_state_of_a_process_may_be_a_plain_dict_or_what_a_function_makes(kind: Any) -> None:
    app = App("a")

    @app.stream("in").process(state=kind)
    def count(value: Any, state: Any, ctx: ProcessContext) -> None:
        state["n"] = state.get("n", 0) + 1
        ctx.emit(state["n"])

    count.to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", 1), ("k", 2)])
    with TestDriver(app, after=t) as again:
        again.send("in", 3, key="k")
        assert [value for _, value in again.outputs("out")] == [1, 2, 3]


def test_a_process_that_would_never_run_is_refused() -> None:
    app = App("a")
    source = app.stream("in")
    with pytest.raises(ConfigurationError, match="process waiting is async"):

        @source.process(state=Counter)
        async def waiting(value: Any, state: Counter, ctx: ProcessContext) -> None: ...

    with pytest.raises(ConfigurationError, match=r"process giving yields; hand values on with ctx.emit"):

        @source.process(state=Counter)
        def giving(value: Any, state: Counter, ctx: ProcessContext) -> Any:
            yield value

    class Needy(State):
        n: int

    with pytest.raises(ConfigurationError, match="process lacking: its state can't be made without arguments"):

        @source.process(state=Needy)
        def lacking(value: Any, state: Needy, ctx: ProcessContext) -> None: ...
