"""The graph of an app: what falls into one task, what its tasks are called, and which order they owe."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streams import App, tumbling
from streams.core.graph import Graph, Node, needs_record_order
from streams.core.log import TopicKind, TopicSpec
from streams.core.state import StateSpec
from streams.dsl.blueprint import Blueprint
from streams.errors import TopologyError
from streams.operators.branch import Merge
from streams.operators.source import Source
from streams.operators.table import TableWriter


def drawn(declare: Callable[[App], Any], **settings: Any) -> Blueprint:
    app = App("shop", **settings)
    declare(app)
    return app.build()


def names(blueprint: Blueprint) -> list[str]:
    return [each.name for each in blueprint.subtopologies]


def one_stream(app: App) -> None:
    app.stream("orders").to("out")


def a_key_by(app: App) -> None:
    app.stream("orders").key_by(lambda v: v["user"]).count().to("out")


def a_join(app: App) -> None:
    table = app.table("accounts", value=str, source="accounts-topic")
    app.stream("orders").join(table).map(list).to("out")


def an_agent(app: App) -> None:
    @app.agent("orders", name="aaa")
    async def look(events: AsyncIterator[Any]) -> None:
        async for _ in events:
            ...


def test_tasks_are_named_by_app_and_stream_and_not_by_what_is_added_to_them() -> None:
    assert names(drawn(one_stream)) == names(drawn(a_join)) == names(drawn(an_agent)) == ["shop.orders"]


def test_a_topic_cuts_the_graph() -> None:
    blueprint = drawn(a_key_by, partitions=3)
    assert names(blueprint) == ["shop.orders", "shop.orders.by-user"]
    assert blueprint.upstream_tasks == {
        "shop.orders.by-user.repartition": ["shop.orders-0", "shop.orders-1", "shop.orders-2"]
    }
    assert blueprint.topics["shop.orders.by-user.count.changelog"].compact


def test_names_do_not_depend_on_the_order_in_which_an_app_was_written() -> None:
    def turned(app: App) -> None:
        app.stream("zebras").to("copy")
        a_key_by(app)

    def straight(app: App) -> None:
        a_key_by(app)
        app.stream("zebras").to("copy")

    assert drawn(turned).record == drawn(straight).record


def test_two_streams_that_share_nothing_are_tasks_of_their_own() -> None:
    def declare(app: App) -> None:
        app.stream("a").to("out")
        app.stream("b").to("out")

    assert names(drawn(declare)) == ["shop.a", "shop.b"]


def test_inputs_of_one_task_with_different_partitions_are_named() -> None:
    app = App("shop")
    table = app.table("t", value=int, source=app.topic("rows", partitions=4, value=int))
    app.stream(app.topic("orders", partitions=2)).join(table).to("out")
    with pytest.raises(TopologyError, match=r"orders has 2 partitions and rows has 4, but both feed .*t"):
        app.build()


def branch_and_merge(app: App) -> None:
    branches = app.stream("in").branch(a=bool)
    branches["a"].merge(branches["rest"]).to("out")


def table_and_join(app: App) -> None:
    table = app.table("t", value=int)
    source = app.stream("in", value=int)
    source.to_table(table)
    source.join(table).map(list).to("out")


def two_sinks(app: App) -> None:
    source = app.stream("in")
    source.map(lambda v: v).to("one")
    source.filter(bool).to("two")


def merged_topics(app: App) -> None:
    app.stream("in").merge(app.stream("other")).window(tumbling("1s")).count().final().to("out")


@pytest.mark.parametrize(
    ("declare", "expected"),
    [(branch_and_merge, True), (table_and_join, True), (two_sinks, False), (merged_topics, False), (a_join, False)],
)
def test_records_are_taken_one_by_one_only_where_two_ways_meet(declare: Callable[[App], Any], expected: bool) -> None:
    [subtopology] = drawn(declare).subtopologies
    assert needs_record_order(subtopology.nodes) is expected


def drawn_of(*nodes: Node) -> Graph:
    graph = Graph("shop")
    for node in nodes:
        graph.add(node)
    return graph


def reading(name: str, partitions: int = 1, kind: TopicKind = "user") -> Source:
    return Source(name=name, topic=TopicSpec(name, partitions, kind), decode=bytes)


def keeping(*upstream: Node, of_keys: bool = True) -> TableWriter:
    return TableWriter(
        name="kept", state=StateSpec("rows", "keyed", bytes, bytes, "f", of_keys=of_keys), upstream=upstream
    )


def test_what_is_shared_out_whatever_its_key_cannot_feed_what_is_kept_by_key() -> None:
    journal = reading("j", 2, "journal")
    with pytest.raises(TopologyError, match="rows: what comes to j is shared out among its 2 partitions"):
        drawn_of(journal, keeping(journal)).subtopologies()
    for source, kept in ((reading("j", 1, "journal"), True), (reading("j", 2), True), (journal, False)):
        assert drawn_of(source, keeping(source, of_keys=kept)).subtopologies()
    assert drawn_of(journal).subtopologies()


def test_topics_with_different_partitions_are_told_with_what_they_would_feed() -> None:
    one, two = reading("one", 1), reading("two", 2)
    with pytest.raises(TopologyError, match="one has 1 partitions and two has 2, but both feed rows:"):
        drawn_of(one, two, keeping(one, two)).subtopologies()
    with pytest.raises(TopologyError, match="but both feed one task:"):
        drawn_of(one, two, Merge(name="m", upstream=[one, two])).subtopologies()


def test_two_ways_are_found_from_whichever_source_they_lead_and_where_one_of_them_is_direct() -> None:
    one, two = reading("one"), reading("two")
    way = Merge(name="way", upstream=[two])
    assert not needs_record_order([one, Merge(name="m", upstream=[one]), two, way])
    assert needs_record_order([one, Merge(name="m", upstream=[one]), two, way, Merge(name="e", upstream=[two, way])])
