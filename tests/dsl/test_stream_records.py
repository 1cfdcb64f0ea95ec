"""Streams, one record at a time: map, filter, flat_map, peek, items, key_by, branch, merge, named, to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from streams import App, tumbling
from streams.errors import ConfigurationError, RecordFailed, TopologyError
from streams.testing.driver import TestDriver


@dataclass
class Point:
    x: int
    y: int


def by_key(pairs: list[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """The values of each key, in order."""
    grouped: dict[Any, list[Any]] = {}
    for key, value in pairs:
        grouped.setdefault(key, []).append(value)
    return grouped


def test_map_filter_and_flat_map_keep_key_time_and_order() -> None:
    app = App("a")
    source = app.stream("in")
    source.map(lambda v: v * 2).filter(lambda v: v > 2).flat_map(lambda v: [v, -v] if v < 10 else ()).to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", 1), ("j", 2), ("k", 3), ("k", 30)], timestamp=5)
        assert t.records("out") == [("j", 4, 5), ("j", -4, 5), ("k", 6, 5), ("k", -6, 5)]


def test_peek_sees_every_value_and_changes_nothing() -> None:
    app = App("a")
    seen: list[int] = []
    app.stream("in").peek(seen.append).to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", 1), ("k", 2)])
        assert seen == [1, 2]
        assert t.outputs("out") == [("k", 1), ("k", 2)]


def test_items_pairs_keys_with_values_in_their_own_types() -> None:
    app = App("a")
    app.stream(app.topic("in", key=int)).items().map(lambda item: {"key": item[0], "value": item[1]}).to("out")
    with TestDriver(app) as t:
        t.send("in", "v", key=-7)
        assert t.outputs("out") == [(-7, {"key": -7, "value": "v"})]


def test_a_record_without_a_key_has_the_key_none_in_items() -> None:
    app = App("a")
    app.stream("in").items().map(lambda item: item[0] is None).to("out")
    with TestDriver(app) as t:
        t.send("in", "v")
        assert t.outputs("out") == [(None, True)]


def test_two_branches_of_one_stream_each_see_every_record() -> None:
    app = App("a")
    source = app.stream("in")
    source.map(lambda v: v + 1).to("plus")
    source.filter(lambda v: v > 1).to("large")
    source.to("same")
    with TestDriver(app) as t:
        t.send_all("in", [("k", 1), ("k", 2)])
        assert t.outputs("plus") == [("k", 2), ("k", 3)]
        assert t.outputs("large") == [("k", 2)]
        assert t.outputs("same") == [("k", 1), ("k", 2)]


def test_key_by_brings_values_of_one_key_together_in_order_whatever_partition_they_came_from() -> None:
    app = App("a", partitions=4)
    app.stream("in").key_by(lambda v: v["user"]).reduce(lambda a, b: {"user": a["user"], "n": a["n"] + b["n"]}).to(
        "out"
    )
    with TestDriver(app) as t:
        for n in range(20):
            t.send("in", {"user": f"u{n % 3}", "n": n}, key=f"other-{n}")
        last = {key: value["n"] for key, value in t.outputs("out")}
        assert last == {f"u{r}": sum(n for n in range(20) if n % 3 == r) for r in range(3)}


def test_key_by_carries_typed_values_and_typed_keys() -> None:
    app = App("a", partitions=2)
    source = app.stream("in", value=Point)

    def row(point: Point) -> int:
        return point.y

    rows = source.key_by(row)
    rows.map(lambda p: {"type": type(p).__name__, "x": p.x}).to("out")
    with TestDriver(app) as t:
        t.send("in", Point(1, -2))
        assert t.outputs("out") == [(-2, {"type": "Point", "x": 1})]


def test_key_by_knows_the_type_that_the_function_before_it_is_annotated_with() -> None:
    app = App("a")

    def point(value: dict[str, int]) -> Point:
        return Point(value["x"], 0)

    app.stream("in").map(point).key_by(lambda p: str(p.x)).map(lambda p: isinstance(p, Point)).to("out")
    with TestDriver(app) as t:
        t.send("in", {"x": 4})
        assert t.outputs("out") == [("4", True)]


def test_key_by_of_an_undeclared_type_says_which_and_what_to_declare() -> None:
    app = App("a")
    app.stream("in").map(lambda v: Point(v, v)).key_by(lambda p: str(p.x)).to("out")
    with (
        TestDriver(app) as t,
        pytest.raises(RecordFailed, match=r"key_by on in: a Point .*declare the type with value="),
    ):
        t.send("in", 4)


def test_key_by_refuses_a_key_of_another_type_and_names_both() -> None:
    app = App("a")
    app.stream("in").key_by(lambda v: v).to("out")
    with TestDriver(app) as t, pytest.raises(RecordFailed, match="key=str: got int 4"):
        t.send("in", 4)


def test_a_key_by_twice_on_the_same_function_wants_a_name_and_gets_along_with_one() -> None:
    app = App("a")
    source = app.stream("in")
    source.key_by(lambda v: v["user"]).to("one")
    with pytest.raises(TopologyError, match=r"in.by-user.*give one of them a name="):
        source.key_by(lambda v: v["user"])
    source.key_by(lambda v: v["user"], name="again").to("two")
    with TestDriver(app) as t:
        t.send("in", {"user": "u"})
        assert t.outputs("one") == t.outputs("two") == [("u", {"user": "u"})]


def test_branch_gives_each_value_to_the_first_predicate_that_takes_it() -> None:
    app = App("a")
    calls: list[int] = []

    def large(value: int) -> bool:
        calls.append(value)
        return value > 10

    branches = app.stream("in").branch(large=large, even=lambda v: v % 2 == 0)
    assert list(branches) == ["large", "even", "rest"]
    for name, branch in branches.items():
        branch.to(name)
    with TestDriver(app) as t:
        t.send_all("in", [("k", n) for n in (1, 2, 11, 12, 3)])
        assert t.outputs("large") == [("k", 11), ("k", 12)]
        assert t.outputs("even") == [("k", 2)]
        assert t.outputs("rest") == [("k", 1), ("k", 3)]
        assert calls == [1, 2, 11, 12, 3], "a predicate is called once for each value"


def test_a_value_that_a_predicate_refuses_meets_the_policy_once() -> None:
    app = App("a")
    branches = app.stream("in", on_error="dead_letter").branch(big=lambda v: v > 10, even=lambda v: v % 2 == 0)
    for name, branch in branches.items():
        branch.to(name)
    with TestDriver(app) as t:
        t.send_all("in", [("k", 1), ("k", "word"), ("k", 12)])
        assert len(t.outputs("in.dead-letters")) == 1
        assert [t.outputs(name) for name in branches] == [[("k", 12)], [], [("k", 1)]]


def test_a_branch_named_rest_is_refused() -> None:
    app = App("a")
    with pytest.raises(ConfigurationError, match="'rest' is the branch of what no predicate takes"):
        app.stream("in").branch(rest=bool)


def test_branches_that_merge_again_keep_the_order_of_the_log() -> None:
    app = App("a")
    branches = app.stream("in").branch(odd=lambda v: v % 2)
    branches["odd"].map(lambda v: v * 10).merge(branches["rest"]).to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", n) for n in range(6)])
        assert t.outputs("out") == [("k", n) for n in (0, 10, 2, 30, 4, 50)]


def test_merge_takes_the_record_with_the_lowest_timestamp_first() -> None:
    app = App("a")
    app.stream("left", timestamp=lambda v: v).merge(app.stream("right", timestamp=lambda v: v)).to("out")
    with TestDriver(app) as t:

        async def both_at_once() -> None:
            await app.topics["left"].send_many([("k", time) for time in (1, 5, 9)])
            await app.topics["right"].send_many([("k", time) for time in (2, 3, 10)])

        t.run(both_at_once())
        t.advance("1s")
        assert [value for _, value in t.outputs("out")] == [1, 2, 3, 5, 9, 10]


def test_merge_of_streams_that_are_not_partitioned_alike_names_both() -> None:
    app = App("a")
    few, many = app.stream(app.topic("few", partitions=2)), app.stream(app.topic("many", partitions=3))
    numbered = app.stream(app.topic("numbered", key=int, partitions=2))
    with pytest.raises(TopologyError, match="few is keyed by str and numbered by int"):
        few.merge(numbered)
    few.merge(many)
    with pytest.raises(TopologyError, match=r"few has 2 partitions and many has 3, but both feed .* put a key_by"):
        app.build()


def test_a_stream_merged_with_itself_is_refused() -> None:
    app = App("a")
    source = app.stream("in")
    with pytest.raises(TopologyError, match="merged with itself"):
        source.merge(source)


def test_named_decides_the_names_of_what_follows() -> None:
    app = App("a")
    source = app.stream("in")
    assert source.named("orders").count().state.name == "orders.count"
    assert source.count().state.name == "in.count"


def test_to_writes_none_as_a_tombstone() -> None:
    app = App("a")
    app.stream("in").map(lambda v: None if v == 0 else v).to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", 1), ("k", 0)])
        assert t.outputs("out") == [("k", 1), ("k", None)]


def test_a_tombstone_that_a_stream_reads_is_left_out_and_counted() -> None:
    app = App("a")
    app.stream("in").map(lambda v: v + 1).to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", 1), ("k", None), ("k", 2)])
        assert t.outputs("out") == [("k", 2), ("k", 3)]


def test_to_spreads_records_by_key_over_the_partitions_of_its_topic() -> None:
    app = App("a")
    app.stream("in").to(app.topic("out", partitions=5))
    app.stream(app.topic("direct", partitions=5)).to("copy")
    with TestDriver(app) as t:
        pairs = [(f"k{n}", n) for n in range(30)]
        t.send_all("in", pairs)
        t.send_all("direct", pairs)
        written, direct = t.outputs("out"), t.outputs("direct")
        assert sorted(written) == sorted(pairs)
        assert written == direct, "the same key stands in the same partition, whoever wrote it"


def test_to_converts_keys_into_those_of_its_topic_and_refuses_what_has_no_other_form() -> None:
    app = App("a")
    source = app.stream(app.topic("in", key=int), on_error="dead_letter")
    source.to(app.topic("out", key=float))
    source.to(app.topic("words", key=str))
    with TestDriver(app) as t:
        t.send("in", "v", key=3)
        assert t.outputs("out") == [(3.0, "v")]
        assert t.outputs("words") == []
        assert len(t.outputs("in.dead-letters")) == 1


def test_reading_a_topic_twice_gives_the_same_stream_and_other_settings_are_refused() -> None:
    app = App("a")
    assert app.stream("in") is app.stream("in")
    with pytest.raises(TopologyError, match="'in' is read twice with different settings"):
        app.stream("in", idle_after="5s")


def test_a_topic_declared_twice_with_other_settings_is_refused() -> None:
    app = App("a")
    app.topic("t", value=int)
    with pytest.raises(ConfigurationError, match="'t' is declared twice with different settings"):
        app.topic("t", value=str)
    with pytest.raises(ConfigurationError, match="'t' is declared twice with different settings"):
        app.topic("t", value=int, partitions=3)


@pytest.mark.parametrize("name", ["", "a/b", "with space", ".dot", "x" * 300])
def test_a_name_that_not_every_log_takes_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't name"):
        App("a").topic(name)


def test_two_operators_that_would_keep_the_same_state_want_names() -> None:
    app = App("a")
    source = app.stream("in")
    source.count()
    with pytest.raises(TopologyError, match=r"'in.count'.*give one of them a name="):
        source.count()
    source.window(tumbling("1h")).count()
    with pytest.raises(TopologyError, match=r"'in.1h'.*give one of them a name="):
        source.window(tumbling("1h")).count()
    app.table("seen")
    with pytest.raises(TopologyError, match="'seen'"):
        source.dedupe(within="1m", name="seen")
    with pytest.raises(TopologyError, match="'seen'"):
        app.table("seen")


def test_a_window_whose_results_nobody_takes_is_refused_when_the_app_is_built() -> None:
    app = App("a")
    app.stream("in").window(tumbling("1h")).count()
    with pytest.raises(TopologyError, match=r"nobody takes the window's results; add .final\(\) or .updates\(\)"):
        TestDriver(app)


def test_nothing_can_be_declared_once_the_app_is_built() -> None:
    app = App("a")
    source = app.stream("in")
    source.to("out")
    with TestDriver(app), pytest.raises(TopologyError, match="already running"):
        source.to("more")


def test_a_duration_that_cannot_be_read_names_the_setting() -> None:
    app = App("a")
    with pytest.raises(ConfigurationError, match="out_of_orderness"):
        app.stream("in", out_of_orderness="ten minutes")


async def later(value: Any) -> Any:
    return value


@pytest.mark.parametrize("operator", ["map", "filter", "flat_map", "peek", "key_by"])
def test_an_async_function_is_refused_where_nobody_would_await_it(operator: str) -> None:
    source = App("a").stream("in")
    with pytest.raises(ConfigurationError, match="is async; operators call plain functions: use an agent"):
        getattr(source, operator)(later)
    with pytest.raises(ConfigurationError, match="branch late is async"):
        source.branch(late=later)


def test_a_topic_that_has_the_name_of_an_internal_one_is_refused() -> None:
    app = App("a")
    app.stream("a.by.repartition").key_by(str, name="by").to("out")
    with pytest.raises(TopologyError, match=r"a\.by\.repartition is used as a \w+ topic and as a"):
        app.build()
