"""Restarts: with its stores, without them, with older ones, after compaction; lost records; the weaker guarantee."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streams import App, agg, tumbling
from streams.connectors.memory.log import MemoryTaskWriter
from streams.core.log import Commit
from streams.core.record import Position, Positions, TopicPartition
from streams.errors import LogUnavailable, PositionLost
from streams.testing.driver import TestDriver

HOUR_MS = 3_600_000


def shop(app: App) -> None:
    """Something of everything that keeps state."""
    source = app.stream("in", timestamp=lambda v: v["t"], idle_after=None)
    totals = app.table("totals", value=int, default=int)
    by_user = source.key_by(lambda v: v["user"])

    @app.agent(by_user, sinks=["settled"])
    async def settle(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            totals[event["user"]] += event["n"]
            if event["n"] < 0:
                del totals[event["user"]]
            yield [event["user"], event["n"]]

    by_user.window(tumbling("10ms")).aggregate(n=agg.sum("n")).final().to("finals")
    by_user.count(name="count").to("counts")
    source.dedupe(lambda v: v["n"], within="1s").batch(2).to("pairs")


EVENTS = [
    ("k", {"user": user, "t": n * 7, "n": n if n % 5 else -1})
    for n, user in enumerate("abcabcabcaabbccabcabcbca", start=1)
]
OUTPUTS = ("settled", "finals", "counts", "pairs")


def shows(t: TestDriver) -> dict[str, Any]:
    return {name: t.table(name) for name in ("totals", "count")}


def away(t: TestDriver, app: App, by_ms: int = 0) -> TestDriver:
    later = TestDriver(app, after=t)
    later._clock._start_ms += by_ms
    return later


def kept(before: dict[str, Any], t: TestDriver) -> None: ...


def lost(before: dict[str, Any], t: TestDriver) -> None:
    t._stores.disks.clear()


def one_lost(before: dict[str, Any], t: TestDriver) -> None:
    t._stores.disks.pop(sorted(t._stores.disks)[-1])


def older(before: dict[str, Any], t: TestDriver) -> None:
    t._stores.disks.clear()
    t._stores.disks.update(copy.deepcopy(before))


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("becomes", [kept, lost, one_lost, older], ids=lambda each: str(each.__name__))
@pytest.mark.parametrize("away_ms", [0, 30 * HOUR_MS])
def test_whatever_became_of_the_stores_the_tables_and_results_are_the_same(
    partitions: int, becomes: Callable[[dict[str, Any], TestDriver], None], away_ms: int
) -> None:
    def app() -> App:
        made = App("shop", partitions=partitions)
        shop(made)
        return made

    with TestDriver(app()) as straight:
        straight.send_all("in", EVENTS)
        straight.send_watermark("in", 1000)
        expected = shows(straight), {name: sorted(straight.outputs(name), key=str) for name in OUTPUTS}

    with TestDriver(app()) as t:
        t.send_all("in", EVENTS[:6])
    before = copy.deepcopy(t._stores.disks)
    with away(t, app()) as t:
        t.send_all("in", EVENTS[6:14])
        t.advance("6s")
    # A worker that is away for long finds its changelogs compacted, deletes included.
    with away(t, app(), away_ms) as t:
        t.advance("6s")
    becomes(before, t)
    with away(t, app()) as t:
        t.send_all("in", EVENTS[14:])
        t.send_watermark("in", 1000)
        found = shows(t), {name: sorted(t.outputs(name), key=str) for name in OUTPUTS}
    assert found == expected


def test_a_key_that_was_deleted_and_compacted_away_does_not_come_back_with_an_old_store() -> None:
    def app() -> App:
        made = App("shop")
        table = made.table("t", value=int)

        @made.agent("in")
        async def keep(events: AsyncIterator[Any]) -> None:
            async for event in events:
                if event is False:
                    del table["gone"]
                else:
                    table["gone" if event == 1 else "other"] = event

        return made

    with TestDriver(app()) as t:
        t.send("in", 1, key="k")
    old = copy.deepcopy(t._stores.disks)
    with away(t, app()) as t:
        t.send("in", False, key="k")
        t.send("in", 2, key="k")
    with away(t, app(), 30 * HOUR_MS) as t:
        t.advance("20s")
    older(old, t)
    with away(t, app()) as t:
        assert t.table("t") == {"other": 2}


def test_records_that_were_removed_before_they_were_read_stop_the_app() -> None:
    app = App("a")
    app.stream("in").to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", n) for n in range(4)])
    removed(t, 4, 6)
    with pytest.raises(
        PositionLost, match=r"in\[0\]: the task stands at 4 but the log starts at 6.*on_lost='earliest'"
    ):
        TestDriver(app, after=t).__enter__()


def test_records_of_one_source_that_were_removed_stop_the_app_also_where_another_one_may_lose_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = App("a")
    app.stream("in").merge(app.stream("other", on_lost="earliest")).to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", n) for n in range(4)])
        t.send("other", 0, key="k")
    removed(t, 4, 6)
    until_settled = TestDriver._until_settled
    # As it was, the claim was tried for ever.
    monkeypatch.setattr(TestDriver, "_until_settled", lambda self: asyncio.wait_for(until_settled(self), 60))
    with pytest.raises(PositionLost, match=r"in\[0\]: the task stands at 4 but the log starts at 6"):
        TestDriver(app, after=t).__enter__()


def removed(t: TestDriver, written: int, first: int) -> None:
    """Write on while the app is away, and remove what lies before ``first``."""
    writer = App("writer")
    topic = writer.topic("in")
    with TestDriver(writer, after=t) as away_from_it:
        away_from_it.send_all(topic, [("k", written + n) for n in range(4)])
        away_from_it.run(away_from_it._log.trim({TopicPartition("in", 0): Position.at(first)}))


def test_records_that_were_removed_unread_are_passed_over_by_choice() -> None:
    app = App("a")
    app.stream("in", on_lost="earliest").to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", n) for n in range(4)])
    removed(t, 4, 6)
    with TestDriver(app, after=t) as again:
        assert [value for _, value in again.outputs("out")] == [0, 1, 2, 3, 6, 7]
        assert lost_of(again) == [2.0]


def lost_of(t: TestDriver) -> list[float]:
    """What the metric of lost records says, of each task."""
    families = t._worker.metrics.registry.collect()
    return [one.value for family in families for one in family.samples if one.name == "streams_lost_total"]


@pytest.mark.parametrize("chosen", ["in", "both"])
def test_records_that_may_be_lost_are_passed_over_whatever_another_source_may_lose(chosen: str) -> None:
    app = App("a")
    app.stream("in", on_lost="earliest").merge(
        app.stream("other", on_lost="earliest" if chosen == "both" else "fail")
    ).to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", n) for n in range(4)])
    removed(t, 4, 6)
    with TestDriver(app, after=t) as again:
        assert [value for _, value in again.outputs("out")] == [0, 1, 2, 3, 6, 7]


def test_records_that_were_removed_unread_are_counted_once_when_the_claim_that_passes_them_over_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = App("a")
    app.stream("in", on_lost="earliest").to("out")
    with TestDriver(app) as t:
        t.send_all("in", [("k", n) for n in range(4)])
    removed(t, 4, 6)
    commit = MemoryTaskWriter.commit
    failed: list[str] = []

    async def not_at_first(self: MemoryTaskWriter, commit_: Commit) -> Positions:
        if "a.in" in self._task and not failed:
            failed.append(self._task)
            raise LogUnavailable("the log is away")
        return await commit(self, commit_)

    monkeypatch.setattr(MemoryTaskWriter, "commit", not_at_first)
    with TestDriver(app, after=t) as again:
        assert failed, "the claim was to fail once"
        assert lost_of(again) == [2.0]


@pytest.mark.parametrize("partitions", [1, 3])
def test_at_least_once_gives_the_same_results_while_nothing_fails(partitions: int) -> None:
    found = []
    for guarantee in ("exactly_once", "at_least_once"):
        app = App("shop", partitions=partitions, guarantee=guarantee)
        shop(app)
        with TestDriver(app) as t:
            t.send_all("in", EVENTS)
            t.send_watermark("in", 1000)
            found.append((shows(t), {name: t.outputs(name) for name in OUTPUTS}))
        with TestDriver(app, after=t) as again:
            assert shows(again) == found[-1][0]
            assert [again.outputs(name) for name in OUTPUTS] == [[], [], [], []], "a restart in peace repeats nothing"
    assert found[0] == found[1]


def test_an_unknown_guarantee_is_refused() -> None:
    with pytest.raises(Exception, match="guarantee is 'exactly_once' or 'at_least_once', not 'twice'"):
        App("a", guarantee="twice")  # type: ignore[arg-type]
