"""Tables: like a dict inside a task, by ``await`` from outside, fed by agents, processes, streams and topics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streams import App, Table, agg
from streams.errors import ConfigurationError, RecordFailed, TopologyError
from streams.testing.driver import TestDriver

Events = AsyncIterator[Any]


def within(
    app: App, *tables: Table[Any, Any], partitions_key: str = "k"
) -> Callable[[TestDriver, Callable[[], Any]], Any]:
    """An agent that calls what it is sent inside of a task; the way to use a table as an agent does."""
    calls: list[Callable[[], Any]] = []

    @app.agent("calls", name="caller", tables=tables)
    async def caller(events: Events) -> Events:
        async for number in events:
            yield calls[number]()

    def call(t: TestDriver, fn: Callable[[], Any]) -> Any:
        calls.append(fn)
        return t.run(caller.ask(len(calls) - 1, key=partitions_key))

    return call


def test_a_table_is_used_like_a_dict_inside_a_task() -> None:
    app = App("a")
    table = app.table("t", value=int)
    inside = within(app, table)

    def use() -> list[Any]:
        table["a"] = 1
        table["b"] = 2
        table["a"] += 10
        found: list[Any] = [table["a"], "a" in table, "z" in table, table.pop("b"), "b" in table]
        del table["a"]
        found.append("a" in table)
        table["c"] = 3
        return found

    with TestDriver(app) as t:
        assert inside(t, use) == [11, True, False, 2, False, False]
        assert t.table("t") == {"c": 3}
        assert inside(t, lambda: dict(table.items())) == {"c": 3}


def test_what_is_not_there_is_a_key_error_or_the_default() -> None:
    app = App("a")
    bare, counting = app.table("bare", value=int), app.table("counting", value=int, default=int)
    inside = within(app, bare, counting)

    def missing() -> list[str]:
        found = []
        uses: dict[str, Callable[[], Any]] = {
            "get": lambda: bare["x"],
            "pop": lambda: bare.pop("x"),
            "delete": lambda: bare.__delitem__("x"),
            "delete with a default": lambda: counting.__delitem__("x"),
        }
        for name, use in uses.items():
            try:
                use()
            except KeyError as error:
                found.append(f"{name} {error}")
        return found

    with TestDriver(app) as t:
        assert inside(t, missing) == ["get 'x'", "pop 'x'", "delete 'x'", "delete with a default 'x'"]
        assert inside(t, lambda: [counting["x"], counting.pop("x"), "x" in counting]) == [0, 0, False]
        assert t.table("counting") == {}


def test_none_is_no_value_of_a_table() -> None:
    app = App("a")
    table = app.table("t", value=int)
    inside = within(app, table)

    def store_none() -> str:
        with pytest.raises(TypeError, match="table t: None can't be stored; delete the key instead"):
            table["a"] = None  # type: ignore[assignment]
        return "refused"

    with TestDriver(app) as t:
        assert inside(t, store_none) == "refused"


@pytest.mark.parametrize("committed", [True, False])
def test_items_and_ranges_come_in_order_of_the_keys_negative_numbers_before_positive_ones(committed: bool) -> None:
    app = App("a")
    table = app.table("t", key=int, value=int)
    inside = within(app, table)
    keys = [10, -1, 9, 0, -300, 2**40, 3]

    def fill() -> None:
        for key in keys:
            table[key] = key

    def look() -> list[list[int]]:
        del table[9]
        table[4] = 4
        return [[k for k, _ in table.items()], [k for k, _ in table.range(-1, 10)]]

    def fill_and_look() -> list[list[int]]:
        fill()
        return look()

    with TestDriver(app) as t:
        if committed:
            inside(t, fill)
            assert inside(t, look) == [[-300, -1, 0, 3, 4, 10, 2**40], [-1, 0, 3, 4]]
        else:
            assert inside(t, fill_and_look) == [[-300, -1, 0, 3, 4, 10, 2**40], [-1, 0, 3, 4]]


def test_a_table_from_a_topic_has_its_ranges_in_order_as_well() -> None:
    app = App("a")
    table = app.table("t", key=int, value=int, source="rows")
    inside = within(app, table)
    with TestDriver(app) as t:
        t.send_all("rows", [(key, key) for key in (10, -2, 9, -10, 1)])
        assert inside(t, lambda: [k for k, _ in table.range(-2, 10)]) == [-2, 1, 9]


def test_from_outside_a_table_is_read_as_committed_wherever_its_task_is() -> None:
    app = App("a", partitions=5)
    totals = app.table("totals", value=int)
    counting = app.table("counting", value=int, default=lambda: 7)

    @app.agent("in", tables=[counting])
    async def add(events: Events) -> None:
        async for key in events:
            totals[key] = len(key)

    with TestDriver(app) as t:
        t.send_all("in", [(name, name) for name in ("a", "bb", "ccc", "dddd")])
        assert [t.run(totals.get(name)) for name in ("a", "bb", "ccc", "dddd")] == [1, 2, 3, 4]
        assert t.run(totals.get("nobody")) is None
        assert t.run(totals.get("nobody", 0)) == 0
        assert t.run(counting.get("nobody")) == 7


def test_outside_of_a_task_a_table_says_how_to_read_and_change_it() -> None:
    app = App("a")
    table = app.table("t", value=int)
    app.stream("in").map(lambda v: table["a"]).to("out")
    with pytest.raises(RuntimeError, match=r"'t' is used outside.*await t.get\(key\)"):
        table["a"] = 1
    with pytest.raises(RuntimeError, match="app 'a' isn't running"):
        asyncio.run(table.get("a"))


def test_a_table_that_a_task_does_not_hold_says_how_to_pass_it() -> None:
    app = App("a")
    hidden = {"table": app.table("t", value=int)}

    @app.agent("in")
    async def sneaky(events: Events) -> None:
        async for _ in events:
            hidden["table"]["k"] = 1

    with TestDriver(app) as t, pytest.raises(RecordFailed, match=r"doesn't hold the table 't'.*tables=\[…\]"):
        t.send("in", 1, key="k")


def test_tables_are_found_in_helpers_comprehensions_and_agents_that_name_one_another() -> None:
    app = App("a")
    one, two, three = (app.table(name, value=int, default=int) for name in ("one", "two", "three"))

    def helper(key: str) -> int:
        two[key] += 1
        return two[key]

    @app.agent("left")
    async def left(events: Events) -> Events:
        async for key in events:
            one[key] += 1
            yield [helper(key), sum(three[each] for each in [key]), right.name]

    @app.agent("right")
    async def right(events: Events) -> Events:
        async for _ in events:
            yield left.name

    with TestDriver(app) as t:
        assert t.run(left.ask("k", key="k")) == [1, 0, "right"]
        assert t.run(right.ask("k", key="k")) == "left"


def test_a_table_from_a_topic_follows_it_tombstones_included() -> None:
    app = App("a", partitions=3)
    app.table("users", value=dict, source="users-topic")
    with TestDriver(app) as t:
        t.send_all("users-topic", [("a", {"n": 1}), ("b", {"n": 2}), ("a", {"n": 3})])
        t.send("users-topic", None, key="b")
        assert t.table("users") == {"a": {"n": 3}}
    with TestDriver(app, after=t) as again:
        again.send("users-topic", {"n": 4}, key="c")
        assert again.table("users") == {"a": {"n": 3}, "c": {"n": 4}}


@pytest.mark.parametrize("key", [None, int])
def test_a_stream_is_kept_in_a_table_and_its_changes_go_on(key: Any) -> None:
    app = App("a", partitions=3)
    table = app.table("latest", key=key, value=int)
    source = app.stream(app.topic("in", key=key, value=int))
    source.map(lambda v: None if v == 0 else v).to_table(table).to("changes")
    one, two = ("one", "two") if key is None else (-1, 2)
    with TestDriver(app) as t:
        t.send_all("in", [(one, 1), (two, 2), (one, 5), (two, 0)])
        assert t.table("latest") == {one: 5}
        assert len(t.outputs("changes")) == 4
        assert t.run(table.get(one)) == 5


def test_a_join_pairs_each_value_with_the_row_as_it_stands_and_inner_leaves_out_what_has_none() -> None:
    app = App("a", partitions=2)
    names = app.table("names", value=str, source="names-topic")
    source = app.stream("in")
    source.join(names).map(list).to("pairs")
    source.join(names, lambda v, name: f"{v}:{name}").to("inner")
    source.named("left").join(names, lambda v, name: f"{v}:{name}", how="left").to("left")
    with TestDriver(app) as t:
        t.send("names-topic", "Ann", key="a")
        t.send_all("in", [("a", 1), ("b", 2)])
        t.send("names-topic", "Bob", key="b")
        t.send("names-topic", None, key="a")
        t.send_all("in", [("a", 3), ("b", 4)])
        assert sorted(t.outputs("inner")) == [("a", "1:Ann"), ("b", "4:Bob")]
        assert sorted(t.outputs("left")) == [("a", "1:Ann"), ("a", "3:None"), ("b", "2:None"), ("b", "4:Bob")]
        assert sorted(t.outputs("pairs")) == [("a", [1, "Ann"]), ("b", [4, "Bob"])]


def test_a_join_reads_the_row_that_stood_at_the_record_s_time_when_both_are_read_from_their_start() -> None:
    app = App("a")
    prices = app.table("prices", value=int, source="prices-topic")
    app.stream("orders").join(prices, lambda order, price: [order, price], how="left").to("out")
    first = TestDriver(app)
    with first:
        pass

    async def fill(t: TestDriver) -> None:
        for time, price in ((10, 1), (30, 3), (50, 5)):
            await app.topics["prices-topic"].send(price, key="k", timestamp=time)
        for time in (5, 20, 40, 60):
            await app.topics["orders"].send(time, key="k", timestamp=time)

    with TestDriver(app, after=first) as t:
        t.run(fill(t))
        t.advance("1s")
        assert [value for _, value in t.outputs("out")] == [[5, None], [20, 1], [40, 3], [60, 5]]


def test_agents_that_share_a_table_are_in_one_task_and_see_one_another() -> None:
    app = App("a", partitions=2)
    shared = app.table("shared", value=int, default=int)

    @app.agent("ups")
    async def up(events: Events) -> None:
        async for key in events:
            shared[key] += 1

    @app.agent("downs")
    async def down(events: Events) -> None:
        async for key in events:
            shared[key] -= 1

    [subtopology] = app.build().subtopologies
    assert {node.name for node in subtopology.nodes if node.name in ("up", "down")} == {"up", "down"}
    with TestDriver(app) as t:
        t.send_all("ups", [("a", "a"), ("a", "a"), ("b", "b")])
        t.send_all("downs", [("a", "a"), ("b", "b")])
        assert t.table("shared") == {"a": 1, "b": 0}


def two_agents(app: App) -> None:
    shared = app.table("shared", value=int, default=int)

    @app.agent(app.topic("few", partitions=2))
    async def one(events: Events) -> None:
        async for key in events:
            shared[key] += 1

    @app.agent(app.topic("many", partitions=3))
    async def two(events: Events) -> None:
        async for key in events:
            shared[key] += 1


def a_join(app: App) -> None:
    shared = app.table("shared", value=int, source=app.topic("few", partitions=2, value=int))
    app.stream(app.topic("many", partitions=3)).join(shared).to("out")


@pytest.mark.parametrize("declare", [two_agents, a_join])
def test_inputs_of_a_table_that_are_not_partitioned_alike_are_named(declare: Callable[[App], None]) -> None:
    app = App("a")
    declare(app)
    with pytest.raises(TopologyError, match=r"\d partitions and \w+ has \d, but both feed .*shared") as caught:
        app.build()
    assert "few" in str(caught.value)
    assert "many" in str(caught.value)


def test_a_table_keyed_otherwise_than_the_stream_is_refused_with_both_types() -> None:
    app = App("a")
    numbered = app.table("numbered", key=int, value=int)
    source = app.stream("in", value=int)
    with pytest.raises(TopologyError, match="has keys as str and table numbered as int"):
        source.join(numbered)  # type: ignore[arg-type]
    with pytest.raises(TopologyError, match="has keys as str and table numbered as int"):
        source.to_table(numbered)  # type: ignore[arg-type]


def test_a_topic_that_feeds_a_table_and_a_stream_points_to_to_table() -> None:
    app = App("a")
    rows = app.topic("rows", value=int)
    app.stream(rows)
    with pytest.raises(TopologyError, match=r"use stream.to_table\(table\)"):
        app.table("t", source=rows)


def test_a_table_survives_a_restart_with_its_store_and_without() -> None:
    app = App("a", partitions=2)
    table = app.table("t", value=int, default=int)

    @app.agent("in")
    async def add(events: Events) -> None:
        async for key in events:
            if key.startswith("-"):
                table.pop(key[1:])
            else:
                table[key] += 1

    with TestDriver(app) as t:
        t.send_all("in", [(key.strip("-"), key) for key in ("a", "b", "a", "c", "-c")])
        assert t.table("t") == {"a": 2, "b": 1}
    with TestDriver(app, after=t) as kept:
        assert kept.table("t") == {"a": 2, "b": 1}
        kept.send("in", "a", key="a")
    kept._stores.disks.clear()
    with TestDriver(app, after=kept) as rebuilt:
        assert rebuilt.table("t") == {"a": 3, "b": 1}


def test_the_table_of_an_aggregate_shows_results_wherever_it_is_read_and_nobody_else_writes_it() -> None:
    app = App("a", partitions=2)
    source = app.stream("in", on_error="skip")
    view = source.aggregate(n=agg.count(), mean=agg.mean("v")).table()
    source.named("joined").join(view, how="left").map(lambda pair: pair[1]).to("joined-out")

    @app.agent(source, sinks=["out"])
    async def look(events: Events) -> Events:
        async for event in events:
            if event["v"] == 0:
                view["k"] = {}
            if event["v"] == 1:
                del view["k"]
            yield [view["k"], dict(view.items()), "k" in view]

    with TestDriver(app) as t:
        t.send_all("in", [("k", {"v": 4}), ("k", {"v": 0}), ("k", {"v": 1}), ("k", {"v": 3})])
        first, last = {"n": 1, "mean": 4.0}, {"n": 4, "mean": 2.0}
        assert t.outputs("out") == [("k", [first, {"k": first}, True]), ("k", [last, {"k": last}, True])]
        assert [value["n"] for _, value in t.outputs("joined-out")] == [1, 2, 3, 4]
        assert t.table("in.aggregate") == {"k": last}
        assert t.run(view.get("k")) == last
    with pytest.raises(TopologyError, match="shows the results of an aggregate"):
        source.to_table(view)


def test_a_topic_has_at_least_one_partition() -> None:
    app = App("a")
    for wrong in (0, -1):
        with pytest.raises(ConfigurationError, match="it has at least one"):
            app.topic("t", partitions=wrong)
        with pytest.raises(ConfigurationError, match="it has at least one"):
            app.stream("in").key_by(str, partitions=wrong, name=f"by{wrong + 5}")
