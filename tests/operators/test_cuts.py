"""What comes out doesn't depend on how the records came in: one by one, all at once, or cut anywhere; with or without
restarts between.

Every operator that looks at order or at time is in one of the pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import App, ProcessContext, State, agg, hopping, tumbling
from streams.core.capability import Limits
from streams.testing.driver import TestDriver

FAR = 100_000

Record = tuple[str, dict[str, Any]]


class Seen(State):
    n: int = 0
    last: int = 0


def windows(app: App) -> None:
    source = app.stream("in", timestamp=lambda v: v["t"], out_of_orderness="5ms", idle_after=None)
    first = source.window(tumbling("20ms"), grace="7ms").aggregate(n=agg.count(), ids=agg.collect("id", limit=99))
    first.final().to("final")
    first.late.to("late")
    first.final().window(hopping("80ms", "40ms")).aggregate(total=agg.sum("n")).final().to("chained")


def deduped(app: App) -> None:
    source = app.stream("in", timestamp=lambda v: v["t"], out_of_orderness="5ms", idle_after=None)
    source.dedupe(lambda v: v["id"], within="15ms").to("out")


def timers(app: App) -> None:
    source = app.stream("in", timestamp=lambda v: v["t"], out_of_orderness="5ms", idle_after=None)

    @source.process(state=Seen)
    def watch(value: Any, state: Seen, ctx: ProcessContext) -> None:
        state.n += 1
        state.last = ctx.time
        ctx.timer("quiet", after="12ms")
        if value["id"] == 2:
            ctx.timer("early", at=ctx.time - 3)
        if value["id"] == 3:
            ctx.cancel("quiet")
        ctx.emit(["saw", value["id"], state.n, ctx.watermark])

    @watch.on_timer("quiet")
    def quiet(state: Seen, ctx: ProcessContext) -> None:
        ctx.emit(["quiet", ctx.time, state.n])
        state.clear()

    @watch.on_timer("early")
    def early(state: Seen, ctx: ProcessContext) -> None:
        state.n += 10
        ctx.emit(["early", ctx.time, state.n])
        if state.n < 30:
            ctx.timer("early", after="4ms")

    watch.to("out")


def windows_into_timers(app: App) -> None:
    source = app.stream("in", timestamp=lambda v: v["t"], idle_after=None)
    finals = source.window(tumbling("10ms"), grace="3ms").count().final()

    @finals.process(state=Seen)
    def gaps(value: Any, state: Seen, ctx: ProcessContext) -> None:
        state.n += value["count"]
        ctx.timer("gap", after="15ms")
        ctx.emit(["window", value["window_start"], state.n])

    @gaps.on_timer("gap")
    def gap(state: Seen, ctx: ProcessContext) -> None:
        ctx.emit(["gap", ctx.time, state.n])
        state.clear()

    gaps.to("out")


def crossing(app: App) -> None:
    latest = app.table("latest", value=dict)
    source = app.stream("in", timestamp=lambda v: v["t"], idle_after=None)
    source.filter(lambda v: v["id"] % 2).to_table(latest)
    source.join(latest, lambda v, row: [v["t"], row and row["t"]], how="left").to("joined")
    branches = source.branch(odd=lambda v: v["id"] % 2)
    branches["odd"].map(lambda v: v["id"]).merge(branches["rest"].map(lambda v: -v["id"])).batch(3).to("batches")
    branches["rest"].named("rest").reduce(lambda a, b: {**b, "id": a["id"] * 2 + b["id"]}).to("reduced")


PIPELINES = [windows, deduped, timers, windows_into_timers, crossing]


def results(
    declare: Callable[[App], None], batches: list[list[Record]], limits: Limits | None = None
) -> dict[str, Any]:
    app = App("cuts")
    declare(app)
    with TestDriver(app, limits=limits) as t:
        for batch in batches:
            t.send_all("in", batch)
        t.send_watermark("in", FAR)
        return outputs(t)


def outputs(t: TestDriver) -> dict[str, Any]:
    return {name: t.records(name) for name in sorted(t.app.topics) if name != "in"}


def cut(records: list[Record], cuts: list[bool]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record, begins in zip(records, cuts, strict=False):
        if begins and batch:
            yield batch
            batch = []
        batch.append(record)
    if batch:
        yield batch


records_st = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 120), st.integers(0, 5)).map(
        lambda each: (each[0], {"t": each[1], "id": each[2]})
    ),
    max_size=20,
)
cuts_st = st.lists(st.booleans(), min_size=20, max_size=20)


@pytest.mark.parametrize("declare", PIPELINES, ids=lambda declare: str(declare.__name__))
@settings(max_examples=60)
@given(records=records_st, cuts=cuts_st)
def test_results_do_not_depend_on_where_batches_are_cut(
    declare: Callable[[App], None], records: list[Record], cuts: list[bool]
) -> None:
    one_by_one = results(declare, [[record] for record in records])
    assert results(declare, [records] if records else []) == one_by_one
    assert results(declare, list(cut(records, cuts))) == one_by_one


@pytest.mark.parametrize("declare", PIPELINES, ids=lambda declare: str(declare.__name__))
@settings(max_examples=25)
@given(records=records_st, limit=st.integers(1, 6))
def test_results_do_not_depend_on_how_much_a_commit_may_hold(
    declare: Callable[[App], None], records: list[Record], limit: int
) -> None:
    one_by_one = [[record] for record in records]
    assert results(declare, one_by_one, Limits(max_commit_records=limit)) == results(declare, one_by_one)


@pytest.mark.parametrize("declare", PIPELINES, ids=lambda declare: str(declare.__name__))
@settings(max_examples=25)
@given(records=records_st, cuts=cuts_st)
def test_results_do_not_depend_on_restarts(
    declare: Callable[[App], None], records: list[Record], cuts: list[bool]
) -> None:
    app = App("cuts")
    declare(app)
    driver = TestDriver(app)
    with driver:
        pass
    for batch in cut(records, cuts):
        with TestDriver(app, after=driver) as driver:
            driver.send_all("in", batch)
    with TestDriver(app, after=driver) as driver:
        driver.send_watermark("in", FAR)
        restarted = outputs(driver)
    assert restarted == results(declare, [records] if records else [])
