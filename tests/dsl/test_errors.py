"""Error policies: what becomes of a record that can't be processed, wherever in a pipeline it fails.

For each place: ``fail`` names topic, partition, offset and operator and commits nothing; ``dead_letter`` moves the
original bytes with cause and position in the same commit; ``skip`` counts.  Records beside it go through.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streams import App, ProcessContext, State, Stream, agg, tumbling
from streams.core.capability import Limits
from streams.core.log import Append
from streams.core.record import Headers, Records, TopicPartition
from streams.errors import ConfigurationError, DataError, RecordFailed
from streams.testing.driver import TestDriver

GOOD, BAD = b"1", b'"bad"'


class Seen(State):
    n: int = 0


def refuse_text(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"no {value}")
    return value


def decode(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    source(value=int).to("out")


def timestamp(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    source(timestamp=refuse_text).to("out")


def in_map(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    source().map(refuse_text).to("out")


def in_filter(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    source().filter(lambda v: refuse_text(v) or True).to("out")


def in_flat_map(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    def generate(value: Any) -> Any:
        yield value
        refuse_text(value)

    source().flat_map(generate).to("out")


def in_peek(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    source().peek(refuse_text).to("out")


def in_branch(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    source().branch(good=lambda v: refuse_text(v) or True)["good"].to("out")


def in_items(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    source().items().map(lambda item: refuse_text(item[1])).to("out")


def in_key_by(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    source().key_by(refuse_text, key=int).to("out")


def in_aggregate(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    last = source().aggregate(last=agg.reduce(lambda acc, value: refuse_text(value), 0))
    last.updates().map(lambda v: v["last"]).to("out")


def in_dedupe(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    # Not `id(v)`: a later value may lie where a former one did, and would pass for it.
    each_its_own = itertools.count()
    source().dedupe(lambda v: refuse_text(v) and next(each_its_own), within="1s").to("out")


def in_process(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    @source().process(state=Seen)
    def count(value: Any, state: Seen, ctx: ProcessContext) -> None:
        state.n += 1
        ctx.emit(refuse_text(value))

    count.to("out")


def in_agent(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    table = app.table("t", value=int, default=int)

    @app.agent(source(), sinks=["out"])
    async def settle(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            table["k"] += 1
            yield refuse_text(event)


def in_join(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    table = app.table("t", value=int)
    source().join(table, lambda v, row: refuse_text(v), how="left").to("out")


def in_sink(app: App, source: Callable[..., Stream[Any, Any]]) -> None:
    source().map(lambda v: v if v == 1 else object()).to("out")


PLACES = [
    decode,
    timestamp,
    in_map,
    in_filter,
    in_flat_map,
    in_peek,
    in_branch,
    in_items,
    in_key_by,
    in_aggregate,
    in_dedupe,
    in_process,
    in_agent,
    in_join,
    in_sink,
]


def name_of(place: Callable[..., Any]) -> str:
    return place.__name__


def raw(t: TestDriver, topic: str) -> list[tuple[bytes | None, bytes | None, Headers]]:
    """Keys, values and headers of a topic as they stand on the log."""
    found: list[tuple[bytes | None, bytes | None, Headers]] = []
    for number in range(t.app.topics[topic].spec.partitions):
        batch = t._log.broker.partition(TopicPartition(topic, number)).read(0, 1000)
        if batch is not None:
            records = batch.records
            headers = records.headers or [None] * len(records)
            found += [(k, v, h or ()) for k, v, h in zip(records.keys, records.values, headers, strict=True)]
    return found


def append(t: TestDriver, values: list[bytes], headers: list[Headers | None] | None = None) -> None:
    """One batch into partition 0 of the topic in."""
    records = Records([b"k"] * len(values), list(values), [1_000] * len(values), headers)
    t.run(t._log.append([Append(TopicPartition("in", 0), records)]))
    t.advance("1s")


def counted(t: TestDriver, counter: str) -> float:
    """The sum of a counter over all tasks."""
    return sum(
        sample.value
        for family in t._worker.metrics.registry.collect()
        for sample in family.samples
        if sample.name == f"streams_{counter}_total"
    )


@pytest.mark.parametrize("place", PLACES, ids=name_of)
def test_fail_names_the_record_and_commits_nothing_of_it(place: Callable[..., None]) -> None:
    app = App("a")
    place(app, lambda **more: app.stream("in", **more))
    with TestDriver(app) as t:
        append(t, [GOOD])
        assert [value for _, value in t.outputs("out")] == [1]
        with pytest.raises(RecordFailed) as caught:
            append(t, [BAD])
        error = caught.value
        assert (error.topic, error.partition, error.offset) == ("in", 0, 1)
        assert "in[0]@1: " in str(error)
        assert error.operator
        assert str(error).count("\n") == 0
        assert t.outputs("out") == []


@pytest.mark.parametrize("place", PLACES, ids=name_of)
def test_dead_letter_moves_the_original_bytes_with_cause_and_position(place: Callable[..., None]) -> None:
    app = App("a")
    place(app, lambda **more: app.stream("in", on_error="dead_letter", **more))
    with TestDriver(app) as t:
        append(t, [GOOD, BAD, GOOD], [None, (("trace", b"7"),), None])
        assert [value for _, value in t.outputs("out")] == [1, 1]
        assert len(raw(t, "in.dead-letters")) == 1
        key, value, headers = raw(t, "in.dead-letters")[0]
        assert (key, value) == (b"k", BAD)
        told = dict(headers)
        assert told["trace"] == b"7", "the record's own headers are kept"
        assert (told["streams.topic"], told["streams.partition"], told["streams.offset"]) == (b"in", b"0", b"1")
        assert told["streams.operator"]
        assert told["streams.error"]
        assert counted(t, "dead_lettered") == 1


@pytest.mark.parametrize("place", PLACES, ids=name_of)
def test_skip_passes_the_record_over_and_counts_it(place: Callable[..., None]) -> None:
    app = App("a")
    place(app, lambda **more: app.stream("in", on_error="skip", **more))
    with TestDriver(app) as t:
        append(t, [BAD, GOOD, BAD, GOOD, BAD])
        assert [value for _, value in t.outputs("out")] == [1, 1]
        assert counted(t, "skipped") == 3


@pytest.mark.parametrize("place", PLACES, ids=name_of)
def test_a_record_that_failed_is_dead_lettered_once_over_a_restart(place: Callable[..., None]) -> None:
    app = App("a")
    place(app, lambda **more: app.stream("in", on_error="dead_letter", **more))
    with TestDriver(app) as t:
        append(t, [GOOD, BAD])
    with TestDriver(app, after=t) as again:
        append(again, [GOOD])
        assert len(raw(again, "in.dead-letters")) == 1
        assert [value for _, value in again.outputs("out")] == [1, 1]


def test_what_a_failed_call_did_to_state_and_tables_is_taken_back() -> None:
    app = App("a")
    source = app.stream("in", on_error="skip")
    rows = app.table("rows", value=dict, default=dict)

    @source.process(state=Seen)
    def count(value: Any, state: Seen, ctx: ProcessContext) -> None:
        state.n += 1
        refuse_text(value)

    count.to("out")

    @app.agent(source)
    async def gather(events: AsyncIterator[Any]) -> None:
        async for event in events:
            row = rows["k"]
            row[str(len(row))] = event
            rows["k"] = row
            rows.pop("other")
            rows["other"] = {"n": 1}
            refuse_text(event)
            del rows["other"]
            rows["other"] = {"n": 2}

    with TestDriver(app) as t:
        append(t, [GOOD])
        append(t, [BAD, GOOD, BAD])
        assert t.table("rows") == {"k": {"0": 1, "1": 1}, "other": {"n": 2}}
        driver = t._worker.drivers["a.in-0"]
        assert driver.task is not None
        assert [state.n for _, state in driver.task.context.keyed("count").committed_scan()] == [2]


def test_a_dead_letter_goes_to_the_topic_that_was_named() -> None:
    app = App("a")
    app.stream("in", on_error="dead_letter", dead_letters="graveyard").map(refuse_text).to("out")
    with TestDriver(app) as t:
        append(t, [BAD])
        assert t.outputs("graveyard") == [(b"k", BAD)]


def test_the_policy_holds_behind_a_key_by_where_the_position_is_that_of_the_internal_topic() -> None:
    app = App("a", partitions=3)
    source = app.stream("in", on_error="dead_letter")
    source.key_by(lambda v: "key", name="by").map(refuse_text).to("out")
    with TestDriver(app) as t:
        append(t, [GOOD, BAD, GOOD])
        assert [value for _, value in t.outputs("out")] == [1, 1]
        [(key, value, headers)] = raw(t, "in.dead-letters")
        assert (key, value) == (b"key", BAD)
        assert dict(headers)["streams.topic"] == b"a.by.repartition"


@pytest.mark.parametrize("action", ["skip", "dead_letter"])
def test_the_policy_holds_for_values_that_no_single_record_stands_behind(action: Any) -> None:
    app = App("a")
    source = app.stream("in", on_error=action, timestamp=lambda v: v)
    source.batch(2).map(lambda values: 1 // (values[0] - 1)).to("batches")
    source.window(tumbling("10ms")).count().final().map(lambda v: 1 // v["window_start"]).to("finals")

    @source.process(state=Seen)
    def plan(value: int, state: Seen, ctx: ProcessContext) -> None:
        state.n += 1
        ctx.timer("due", at=value + 5)

    @plan.on_timer("due")
    def due(state: Seen, ctx: ProcessContext) -> None:
        ctx.emit(ctx.time)
        state.n = -100
        if ctx.time < 10:
            raise ValueError("too early")
        ctx.emit(ctx.time)

    plan.to("timers")
    with TestDriver(app) as t:
        t.send_all("in", [("k", 1), ("k", 2)])
        t.send_all("in", [("k", 11), ("k", 12)])
        t.send_watermark("in", 100)
        assert t.outputs("batches") == [("k", 0)]
        assert t.outputs("finals") == [("k", 0)]
        assert t.outputs("timers") == [("k", 17), ("k", 17)]
        assert counted(t, "skipped" if action == "skip" else "dead_lettered") == 3


def test_a_record_above_the_log_s_limit_is_refused_with_the_setting_named() -> None:
    app = App("a")
    app.stream("in").map(lambda v: "x" * 600 if v == 2 else v).to("out")
    with TestDriver(app, limits=Limits(max_record_bytes=500)) as t:
        append(t, [GOOD])
        with pytest.raises(RecordFailed, match="max_record_bytes") as caught:
            append(t, [b"2"])
        assert caught.value.offset == 1


def large_value(app: App, source: Stream[Any, Any]) -> None:
    source.map(lambda v: "x" * 600 if v == 2 else v).to("out")


def large_value_in_between(app: App, source: Stream[Any, Any]) -> None:
    source.map(lambda v: "x" * 600 if v == 2 else v).key_by(lambda v: "k", name="by").to("out")


def large_key_in_between(app: App, source: Stream[Any, Any]) -> None:
    source.key_by(lambda v: "x" * 600 if v == 2 else "k", name="by").to("out")


def large_result(app: App, source: Stream[Any, Any]) -> None:
    @app.agent(source, sinks=["out"])
    async def grow(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            yield "x" * 600 if event == 2 else event


@pytest.mark.parametrize(
    "place", [large_value, large_value_in_between, large_key_in_between, large_result], ids=name_of
)
def test_a_record_above_the_log_s_limit_meets_the_policy(place: Callable[..., None]) -> None:
    app = App("a", partitions=2)
    place(app, app.stream("in", on_error="dead_letter"))
    with TestDriver(app, limits=Limits(max_record_bytes=500)) as t:
        append(t, [GOOD, b"2", GOOD])
        assert [value for _, value in t.outputs("out")] == [1, 1]
        assert [value for _, value, _ in raw(t, "in.dead-letters")] == [b"2"]


def test_an_error_with_a_huge_text_still_makes_a_dead_letter() -> None:
    app = App("a")

    def shout(value: Any) -> Any:
        raise ValueError("x" * 10_000)

    app.stream("in", on_error="dead_letter").map(shout).to("out")
    with TestDriver(app, limits=Limits(max_record_bytes=5_000)) as t:
        append(t, [BAD])
        assert len(raw(t, "in.dead-letters")) == 1


def test_a_record_that_only_looks_like_a_watermark_is_a_record() -> None:
    app = App("a")
    app.stream("in", on_error="dead_letter").to("out")
    with TestDriver(app) as t:
        append(t, [b"\xff", GOOD], [(("streams.watermark", b""),), None])
        assert t.outputs("out") == [("k", 1)]
        assert len(raw(t, "in.dead-letters")) == 1


def test_a_key_that_does_not_decode_meets_the_policy_where_it_is_needed() -> None:
    app = App("a")
    source = app.stream(app.topic("in", key=int), on_error="dead_letter")
    table = app.table("t", key=int, value=int)
    source.join(table, lambda v, row: v, how="left").to(app.topic("joined", key=int))
    source.to_table(table)
    source.items().to("items")
    source.to(app.topic("copy", key=float))
    with TestDriver(app) as t:
        append(t, [GOOD])  # its key is the letter k
        assert len(raw(t, "in.dead-letters")) == 4, "once for each operator that looks at the key"
        t.send("in", 5, key=3)
        assert t.outputs("joined") == [(3, 5)]
        assert t.table("t") == {3: 5}


def test_an_aggregate_that_grows_beyond_the_log_s_limit_names_the_setting() -> None:
    app = App("a")
    app.stream("in").aggregate(all=agg.collect("v", limit=1000)).updates().map(lambda v: len(v["all"])).to("out")
    with TestDriver(app, limits=Limits(max_record_bytes=500)) as t:
        t.send_all("in", [("k", {"v": "x" * 100})] * 3)
        with pytest.raises(DataError, match="max_record_bytes"):
            t.send_all("in", [("k", {"v": "x" * 100})] * 3)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="on_error is 'fail', 'dead_letter' or 'skip', not 'ignore'"):
        App("a").stream("in", on_error="ignore")  # type: ignore[call-overload]
