"""Edits of an app between two runs on one log: what rolls, what is refused in which words, what a version accepts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from streams import App, ProcessContext, State, agg, tumbling
from streams.errors import StreamsError, TopologyChanged
from streams.testing.driver import TestDriver

Declare = Callable[[App], Any]
Events = AsyncIterator[Any]


def run(
    declare: Declare, *, after: TestDriver | None = None, version: int = 1, partitions: int = 2, send: int = 4
) -> TestDriver:
    """Run the app once, sending a few records; the driver has ended when it is returned."""
    app = App("edited", version=version, partitions=partitions)
    declare(app)
    with TestDriver(app, after=after) as t:
        t.send_all("in", [(f"k{n}", {"user": f"u{n % 3}", "t": n, "n": 1}) for n in range(send)])
    return t


def simple(app: App) -> None:
    app.stream("in").key_by(lambda v: v["user"]).count().to("counts")


def counts(t: TestDriver) -> dict[str, int]:
    return dict(t.outputs("counts"))


# ── what rolls ──────────────────────────────────────────────────────────────────────────────────────────────────────


def with_a_filter(app: App) -> None:
    source = app.stream("in").filter(lambda v: True).peek(lambda v: None)
    source.key_by(lambda v: v["user"], name="in.by-user").count(name="in.by-user.count").to("counts")


def with_an_agent(app: App) -> None:
    source = app.stream("in")
    seen = app.table("a-table", value=int, default=int)

    @app.agent(source, name="aaa")
    async def look(events: Events) -> None:
        async for _ in events:
            assert seen.name

    source.key_by(lambda v: v["user"]).count().to("counts")


def with_a_join(app: App) -> None:
    source = app.stream("in")
    names = app.table("aaa", value=str, source="aaa-names")
    source.join(names, how="left").map(list).to("joined")
    source.key_by(lambda v: v["user"]).count().to("counts")


def with_more_of_everything(app: App) -> None:
    source = app.stream("in")
    source.key_by(lambda v: v["n"], key=int).count().to("more")
    app.stream("another").map(lambda v: v).to("copy")

    @app.timer("1h", name="tick")
    async def tick() -> None: ...

    source.key_by(lambda v: v["user"]).count().to("counts")


@pytest.mark.parametrize("edited", [simple, with_a_filter, with_an_agent, with_a_join, with_more_of_everything])
def test_what_is_added_rolls_and_nothing_is_processed_again(edited: Declare) -> None:
    first = run(simple)
    second = run(edited, after=first)
    assert counts(second) == {"u0": 4, "u1": 2, "u2": 2}
    third = run(simple if edited in (simple, with_a_filter) else edited, after=second)
    assert counts(third) == {"u0": 6, "u1": 3, "u2": 3}


def merged_with_another(app: App) -> None:
    app.stream("in").merge(app.stream("earlier")).to("copy")


def test_a_topic_that_moves_to_other_tasks_is_not_read_again_in_silence() -> None:
    def copied(app: App) -> None:
        app.stream("in").to("copy")

    first = run(copied)
    with pytest.raises(TopologyChanged, match=r"\bin\b"):
        run(merged_with_another, after=first, send=0)


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def renamed(app: App) -> None:
    app.stream("in").key_by(lambda v: v["user"]).count(name="users").to("counts")


def removed(app: App) -> None:
    app.stream("in").key_by(lambda v: v["user"]).to("copy")


def repartitioned_otherwise(app: App) -> None:
    app.stream("in").key_by(lambda v: v["user"], name="people").count(name="in.by-user.count").to("counts")


def of_another_kind(app: App) -> None:
    totals = app.stream("in").key_by(lambda v: v["user"])
    totals.aggregate(name="in.by-user.count", total=agg.sum("n")).to("counts")


@pytest.mark.parametrize(
    ("edited", "told"),
    [
        (renamed, "the store in.by-user.count is gone"),
        (removed, "the store in.by-user.count is gone"),
        (repartitioned_otherwise, "the internal topic edited.in.by-user.repartition is gone"),
        (of_another_kind, "the store in.by-user.count held"),
    ],
)
def test_what_would_lose_something_is_refused_with_the_change_and_the_choices(edited: Declare, told: str) -> None:
    first = run(simple)
    with pytest.raises(TopologyChanged) as caught:
        run(edited, after=first)
    message = str(caught.value)
    assert told in message
    for choice in ("name=", "streams reset", "App(version=2)"):
        assert choice in message
    assert "\n" not in message
    assert counts(run(simple, after=first)) == {"u0": 4, "u1": 2, "u2": 2}, "what was refused has changed nothing"


def test_another_number_of_partitions_is_refused_and_a_version_accepts_it() -> None:
    first = run(lambda app: simple_over(app, 2))
    with pytest.raises(TopologyChanged, match=r"edited.in.by-user.repartition had 2 partitions and would have 3"):
        run(lambda app: simple_over(app, 3), after=first)
    second = run(lambda app: simple_over(app, 3), after=first, version=2)
    assert counts(second), "the new version runs on what was sent to it"


def simple_over(app: App, partitions: int) -> None:
    app.stream(app.topic("in", partitions=2)).key_by(lambda v: v["user"], partitions=partitions).count().to("counts")


def windowed(size: str) -> Declare:
    def declare(app: App) -> None:
        source = app.stream("in", timestamp=lambda v: v["t"])
        source.window(tumbling(size)).count(name="windows").final().to("finals")

    return declare


def test_another_size_of_windows_is_refused_with_both_sizes() -> None:
    first = run(windowed("10ms"))
    with pytest.raises(TopologyChanged, match=r"the store windows held \S*10\S* and would hold \S*20"):
        run(windowed("20ms"), after=first)
    run(windowed("20ms"), after=first, version=2)


# ── types of values ─────────────────────────────────────────────────────────────────────────────────────────────────


def table_of(fields: dict[str, Any], name: str = "Row") -> Declare:
    kind = msgspec.defstruct(
        name, [(key, *(each if isinstance(each, tuple) else (each,))) for key, each in fields.items()]
    )

    def declare(app: App) -> None:
        rows = app.table("rows", value=kind)

        @app.agent("in", sinks=["out"])
        async def keep(events: Events) -> Events:
            async for event in events:
                if "k" in rows:
                    yield msgspec.to_builtins(rows["k"])
                rows["k"] = kind(**dict.fromkeys(fields, event["n"]))

        app.tables["rows"] = rows

    return declare


def test_a_value_type_with_one_more_optional_field_rolls() -> None:
    first = run(table_of({"n": int}), send=1, partitions=1)
    second = run(table_of({"n": int, "more": (int, 7)}), after=first, send=1, partitions=1)
    assert [value for _, value in second.outputs("out")] == [{"n": 1, "more": 7}]


@pytest.mark.parametrize("fields", [{"n": str}, {"n": int, "needed": int}, {"other": int}])
def test_a_value_type_that_cannot_read_what_is_stored_is_refused(fields: dict[str, Any]) -> None:
    first = run(table_of({"n": int}), send=1, partitions=1)
    with pytest.raises(TopologyChanged, match="the values of store rows changed: "):
        run(table_of(fields), after=first, send=0, partitions=1)


class Small(State):
    n: int = 0


class Grown(State):
    n: int = 0
    more: str = "new"


def processed(kind: type[State]) -> Declare:
    def declare(app: App) -> None:
        @app.stream("in").process(state=kind, name="count")
        def count(value: Any, state: Any, ctx: ProcessContext) -> None:
            state.n += 1
            ctx.emit(msgspec.to_builtins(state))

        count.to("out")

    return declare


def test_the_state_of_a_process_may_grow_and_not_shrink_into_another_type() -> None:
    first = run(processed(Small), send=1, partitions=1)
    second = run(processed(Grown), after=first, send=1, partitions=1)
    assert [value for _, value in second.outputs("out")] == [{"n": 1}, {"n": 2, "more": "new"}]

    class Other(State):
        n: list[int] = msgspec.field(default_factory=list)

    with pytest.raises(TopologyChanged, match="the values of store count changed: "):
        run(processed(Other), after=second, send=0, partitions=1)


# ── versions ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("edited", [renamed, removed, repartitioned_otherwise, of_another_kind])
def test_a_higher_version_accepts_what_is_lost_and_keeps_the_rest(edited: Declare) -> None:
    first = run(simple)
    second = run(edited, after=first, version=2)
    third = run(edited, after=second, version=2)
    assert third.records("copy" if edited is removed else "counts")


def test_a_version_starts_the_dropped_store_from_nothing_and_goes_on_reading_where_it_was() -> None:
    first = run(simple)
    second = run(renamed, after=first, version=2)
    assert counts(second) == {"u0": 2, "u1": 1, "u2": 1}


def test_an_older_version_is_refused_and_told_what_to_do() -> None:
    second = run(simple, version=2)
    with pytest.raises(TopologyChanged, match=r"is version 1, but version 2 has already run.*version=3"):
        run(simple, after=second, version=1)


def test_a_version_without_any_change_rolls() -> None:
    first = run(simple)
    assert counts(run(simple, after=first, version=2)) == {"u0": 4, "u1": 2, "u2": 2}


def test_two_apps_on_one_log_do_not_meet() -> None:
    first = run(simple)
    app = App("another", partitions=2)
    app.stream("in").key_by(lambda v: v["user"]).count(name="mine").to("others")
    with TestDriver(app, after=first) as t:
        assert dict(t.outputs("others")) == {"u0": 2, "u1": 1, "u2": 1}


def test_a_topic_with_other_settings_than_declared_is_refused() -> None:
    first = run(simple)
    app = App("another", partitions=2)
    app.stream(app.topic("in", partitions=5)).to("out")
    with pytest.raises(StreamsError, match=r"in.*2.*5|in.*5.*2"):
        TestDriver(app, after=first).__enter__()
