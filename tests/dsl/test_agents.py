"""Agents: what they yield, ask and cast, effects that are taken back, order, concurrency, and the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from streams import App
from streams.core.log import Append
from streams.core.record import Records, TopicPartition
from streams.errors import (
    AgentFailed,
    AgentStuck,
    AskCycle,
    AskTimeout,
    ConfigurationError,
    LogUnavailable,
    RecordFailed,
    StreamsError,
    TopologyError,
    WrongPartition,
)
from streams.operators.agent import REQUEST_HEADER, Request, encode_request
from streams.testing.driver import TestDriver

Events = AsyncIterator[Any]


class Transfer(msgspec.Struct):
    account: str
    amount: int


def bank(app: App, **settings: Any) -> Any:
    """An agent that adds up amounts by account and answers with the balance; it refuses 13."""
    balances = app.table("balances", value=int, default=int)
    source = app.stream("transfers", value=Transfer, on_error=settings.pop("on_error", "fail"))

    @app.agent(source.key_by(lambda t: t.account), name="settle", sinks=["out"], **settings)
    async def settle(events: AsyncIterator[Transfer]) -> Events:
        async for transfer in events:
            balances[transfer.account] += transfer.amount
            yield balances[transfer.account]
            if transfer.amount == 13:
                raise ValueError("no 13")

    return settle


def requests(t: TestDriver, inbox: str, *made: tuple[Request, bytes]) -> None:
    """Requests as records of an inbox, in one batch."""
    headers = [((REQUEST_HEADER, encode_request(request)),) for request, _ in made]
    values: list[bytes | None] = [value for _, value in made]
    records = Records([b"k"] * len(made), values, [1] * len(made), list(headers))
    t.run(t._log.append([Append(TopicPartition(inbox, 0), records)]))
    t.advance("1s")


# ── results, ask and cast ───────────────────────────────────────────────────────────────────────────────────────────


def test_what_an_agent_yields_goes_to_its_sinks_under_the_event_s_key() -> None:
    app = App("a", partitions=3)
    bank(app)
    with TestDriver(app) as t:
        t.send_all("transfers", [(None, Transfer(name, 5)) for name in ("x", "y", "x")])
        assert sorted(t.outputs("out")) == [("x", 5), ("x", 10), ("y", 5)]
        assert t.table("balances") == {"x": 10, "y": 5}


def test_an_ask_is_answered_with_what_the_agent_yields_and_goes_to_the_sinks_as_well() -> None:
    app = App("a", partitions=3)
    settle = bank(app)
    with TestDriver(app) as t:
        assert t.run(settle.ask(Transfer("x", 5))) == 5
        assert t.run(settle.ask(Transfer("x", 7))) == 12
        assert t.outputs("out") == [("x", 5), ("x", 12)]


def test_an_answer_leaves_after_the_commit_of_its_effects() -> None:
    app = App("a", commit_interval="10s")
    settle = bank(app)
    with TestDriver(app) as t:

        async def ask_and_look() -> tuple[int, dict[str, int]]:
            answer = await settle.ask(Transfer("x", 5))
            return answer, t.table("balances")

        assert t.run(ask_and_look()) == (5, {"x": 5})


def test_an_agent_that_yields_nothing_answers_none_and_several_values_as_a_list() -> None:
    app = App("a")

    @app.agent("in")
    async def echo(events: Events) -> Events:
        async for event in events:
            for _ in range(event):
                yield event

    with TestDriver(app) as t:
        assert t.run(echo.ask(0, key="k")) is None
        assert t.run(echo.ask(1, key="k")) == 1
        assert t.run(echo.ask(2, key="k")) == [2, 2]


def test_an_agent_that_is_a_coroutine_is_asked_like_any_other() -> None:
    app = App("a")
    seen: list[int] = []

    @app.agent("in")
    async def note(events: Events) -> None:
        async for event in events:
            seen.append(event)

    with TestDriver(app) as t:
        t.send("in", 1, key="k")
        assert t.run(note.ask(2, key="k")) is None
        assert seen == [1, 2]


def test_a_cast_returns_before_it_is_handled_and_is_handled_once() -> None:
    app = App("a")
    settle = bank(app)
    with TestDriver(app) as t:
        assert t.run(settle.cast(Transfer("x", 5))) is None
        t.advance("1s")
        assert t.table("balances") == {"x": 5}


def test_an_agent_over_a_plain_stream_is_asked_with_a_key() -> None:
    app = App("a", partitions=4)

    @app.agent(app.stream(app.topic("in", key=int)))
    async def double(events: Events) -> Events:
        async for event in events:
            yield event * 2

    with TestDriver(app) as t:
        assert t.run(double.ask(4, key=-9)) == 8
        with pytest.raises(ConfigurationError, match="agent double: give ask and cast a key="):
            t.run(double.ask(4))


def test_an_answer_that_cannot_be_sent_is_an_error_of_the_request_only() -> None:
    app = App("a")

    @app.agent("in")
    async def odd(events: Events) -> Events:
        async for _ in events:
            yield object()

    with TestDriver(app) as t:
        with pytest.raises(AgentFailed, match="the reply can't be sent"):
            t.run(odd.ask(1, key="k"))
        with pytest.raises(AgentFailed, match="the reply can't be sent"):
            t.run(odd.ask(1, key="k"))


# ── failures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_ask_that_raises_is_taken_back_and_the_task_goes_on() -> None:
    app = App("a")
    settle = bank(app)
    with TestDriver(app) as t:
        t.run(settle.ask(Transfer("x", 5)))
        with pytest.raises(AgentFailed, match="agent settle: ValueError: no 13"):
            t.run(settle.ask(Transfer("x", 13)))
        assert t.run(settle.ask(Transfer("x", 1))) == 6
        assert t.outputs("out") == [("x", 5), ("x", 6)], "what it yielded before it raised is taken back as well"


def test_an_event_that_raises_stops_the_task_with_its_position() -> None:
    app = App("a")
    bank(app)
    with TestDriver(app) as t:
        t.send("transfers", Transfer("x", 5))
        with pytest.raises(
            RecordFailed, match=r"a\.transfers\.by-account\.repartition\[0\]@\d+: agent settle: ValueError"
        ):
            t.send("transfers", Transfer("x", 13))
        assert t.outputs("out") == [("x", 5)]


def test_an_event_that_raises_is_taken_back_under_another_policy() -> None:
    app = App("a")
    bank(app, on_error="dead_letter")
    with TestDriver(app) as t:
        t.send_all("transfers", [(None, Transfer("x", amount)) for amount in (5, 13, 1)])
        assert t.outputs("out") == [("x", 5), ("x", 6)]
        assert len(t.outputs("transfers.dead-letters")) == 1
        assert t.table("balances") == {"x": 6}


def test_an_agent_that_returns_early_is_told_to_loop_and_its_event_is_not_lost() -> None:
    app = App("a")

    @app.agent("in", sinks=["out"])
    async def first_only(events: Events) -> Events:
        async for event in events:
            yield event
            return

    with TestDriver(app) as t, pytest.raises(StreamsError, match="returned before its events were done; loop"):
        t.send_all("in", [("k", 1), ("k", 2)])


def test_an_agent_that_never_takes_an_event_is_told_to_loop() -> None:
    app = App("a")

    @app.agent("in")
    async def lazy(events: Events) -> None:
        return

    with TestDriver(app) as t, pytest.raises(StreamsError, match="agent lazy returned; loop over its events"):
        t.send("in", 1, key="k")


def test_agents_that_are_not_async_are_refused_where_they_are_declared() -> None:
    app = App("a")
    with pytest.raises(ConfigurationError, match="agent plain: write it as `async def`"):

        @app.agent("in")
        def plain(events: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="concurrency is at least 1"):
        app.agent("in", concurrency=0)


def test_two_agents_of_one_name_are_refused() -> None:
    app = App("a")

    @app.agent("in")
    async def same(events: Events) -> None:
        async for _ in events:
            ...

    with pytest.raises(TopologyError, match=r"'same.inbox'.*give one of them a name="):

        @app.agent("in", name="same")
        async def other(events: Events) -> None:
            async for _ in events:
                ...


def test_asking_when_the_app_does_not_run_says_so() -> None:
    app = App("a")
    settle = bank(app)
    with pytest.raises(RuntimeError, match="app 'a' isn't running"):
        asyncio.run(settle.ask(Transfer("x", 1)))


# ── requests that come again ────────────────────────────────────────────────────────────────────────────────────────


def counter(app: App) -> Any:
    table = app.table("t", value=int, default=int)

    @app.agent("in", name="add", sinks=["out"])
    async def add(events: Events) -> Events:
        async for event in events:
            table["k"] += event
            yield table["k"]

    return table


def test_a_request_that_comes_again_is_answered_from_memory() -> None:
    app = App("a")
    counter(app)
    with TestDriver(app) as t:
        requests(t, "a.add.inbox", (Request("same"), b"5"))
        requests(t, "a.add.inbox", (Request("same"), b"5"), (Request("other"), b"1"))
        assert t.table("t") == {"k": 6}
        assert t.outputs("out") == [("k", 5), ("k", 6)]


def test_a_request_that_stands_twice_in_one_batch_is_carried_out_once() -> None:
    app = App("a")
    counter(app)
    with TestDriver(app) as t:
        requests(t, "a.add.inbox", (Request("same"), b"5"), (Request("x"), b"1"), (Request("same"), b"5"))
        assert t.table("t") == {"k": 6}


def test_the_memory_of_requests_survives_a_restart() -> None:
    app = App("a")
    counter(app)
    with TestDriver(app) as t:
        requests(t, "a.add.inbox", (Request("same"), b"5"))
    with TestDriver(app, after=t) as again:
        requests(again, "a.add.inbox", (Request("same"), b"5"))
        assert again.table("t") == {"k": 5}


# ── order and concurrency ───────────────────────────────────────────────────────────────────────────────────────────


def watched(app: App, concurrency: int) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """An agent that waits in each event; what began and ended, and the most that were in flight at once."""
    log: list[tuple[str, str]] = []
    most = {"at once": 0}
    running: set[str] = set()

    @app.agent("in", concurrency=concurrency, sinks=["out"])
    async def slow(events: Events) -> Events:
        async for event in events:
            key = event["key"]
            assert key not in running, "events of one key never overlap"
            running.add(key)
            most["at once"] = max(most["at once"], len(running))
            log.append(("begin", event["name"]))
            await asyncio.sleep(event["wait"])
            log.append(("end", event["name"]))
            running.discard(key)
            yield event["name"]

    return log, most


def test_events_of_one_key_never_overlap_and_keep_their_order_while_others_run_side_by_side() -> None:
    app = App("a")
    log, most = watched(app, concurrency=8)
    events = [
        (f"k{n % 4}", {"key": f"k{n % 4}", "name": f"k{n % 4}/{n // 4}", "wait": 0.3 if n % 2 else 0.1})
        for n in range(16)
    ]
    with TestDriver(app) as t:
        t.send_all("in", events)
        out = t.outputs("out")
    assert most["at once"] > 1
    for key in ("k0", "k1", "k2", "k3"):
        assert [value for each, value in out if each == key] == [f"{key}/{n}" for n in range(4)]
        assert [name for what, name in log if what == "begin" and name.startswith(key)] == [
            f"{key}/{n}" for n in range(4)
        ]


def test_without_concurrency_one_event_is_handled_after_the_other() -> None:
    app = App("a")
    _, most = watched(app, concurrency=1)
    with TestDriver(app) as t:
        t.send_all("in", [(f"k{n}", {"key": f"k{n}", "name": str(n), "wait": 0.1}) for n in range(4)])
        assert [value for _, value in t.outputs("out")] == ["0", "1", "2", "3"]
    assert most["at once"] == 1


def test_a_failed_event_among_concurrent_ones_is_taken_back_alone() -> None:
    app = App("a")
    table = app.table("t", value=int, default=int)
    source = app.stream("in", on_error="skip")

    @app.agent(source, concurrency=4)
    async def add(events: Events) -> None:
        async for event in events:
            table[event["key"]] += event["n"]
            await asyncio.sleep(0.1)
            if event["n"] == 13:
                raise ValueError("no 13")

    with TestDriver(app) as t:
        t.send_all(
            "in", [(f"k{i % 3}", {"key": f"k{i % 3}", "n": n}) for i, n in enumerate((1, 2, 3, 13, 5, 6, 7, 13, 9))]
        )
        assert t.table("t") == {"k0": 8, "k1": 7, "k2": 18}


# ── asking from inside ──────────────────────────────────────────────────────────────────────────────────────────────


def test_an_agent_asks_another_and_a_cast_from_inside_takes_effect_once() -> None:
    app = App("a", partitions=2)
    stock = app.table("stock", value=int, default=lambda: 10)

    @app.agent(app.stream("takes").key_by(lambda v: v["item"]), sinks=["taken"])
    async def take(events: Events) -> Events:
        async for event in events:
            stock[event["item"]] -= event["n"]
            yield stock[event["item"]]

    @app.agent("orders", sinks=["done"])
    async def order(events: Events) -> Events:
        async for event in events:
            yield {"left": await take.ask({"item": event["item"], "n": 1})}
            await take.cast({"item": event["item"], "n": 2})

    with TestDriver(app) as t:
        t.send("orders", {"item": "apple"}, key="o-1")
        assert t.outputs("done") == [("o-1", {"left": 9})]
        assert t.table("stock") == {"apple": 7}


def test_an_agent_that_asks_itself_is_told_at_once() -> None:
    app = App("a")

    @app.agent("in", name="narcissus")
    async def narcissus(events: Events) -> Events:
        async for event in events:
            yield await narcissus.ask(event, key="k")

    with TestDriver(app) as t:
        before = t.now_ms()
        with pytest.raises(AgentFailed, match=r"AskCycle: agent narcissus: task \S+ is asked while it waits"):
            t.run(narcissus.ask(1, key="k"))
        assert t.now_ms() - before < 5_000
        with pytest.raises((RecordFailed, AskCycle), match="is asked while it waits in the same chain of calls"):
            t.send("in", 1, key="k")


def test_two_agents_that_ask_each_other_are_told_at_once() -> None:
    app = App("a")

    @app.agent("left-in", name="left")
    async def left(events: Events) -> Events:
        async for event in events:
            yield await right.ask(event, key="k")

    @app.agent("right-in", name="right")
    async def right(events: Events) -> Events:
        async for event in events:
            yield await left.ask(event, key="k")

    with TestDriver(app) as t:
        before = t.now_ms()
        with pytest.raises(AgentFailed, match="AskCycle"):
            t.run(left.ask(1, key="k"))
        assert t.now_ms() - before < 5_000


def test_two_agents_that_start_to_ask_each_other_at_once_end_in_an_error_within_the_deadline() -> None:
    app = App("a", barrier_timeout="5s")

    @app.agent("left-in", name="left")
    async def left(events: Events) -> Events:
        async for event in events:
            yield await right.ask(event, key="k") if event == "ask" else event

    @app.agent("right-in", name="right")
    async def right(events: Events) -> Events:
        async for event in events:
            yield await left.ask(event, key="k") if event == "ask" else event

    with TestDriver(app) as t:

        async def both_at_once() -> None:
            await app.topics["left-in"].send("ask", key="k")
            await app.topics["right-in"].send("ask", key="k")

        t.run(both_at_once())
        with pytest.raises((AgentStuck, RecordFailed)):
            t.advance("2m")


def test_an_agent_may_ask_another_after_it_was_asked_by_it() -> None:
    app = App("a")

    @app.agent("left-in", name="left", sinks=["left-out"])
    async def left(events: Events) -> Events:
        async for event in events:
            yield await right.ask("hello", key="k") if event == "ask" else f"left heard {event}"

    @app.agent("right-in", name="right", sinks=["right-out"])
    async def right(events: Events) -> Events:
        async for event in events:
            yield await left.ask("hello", key="k") if event == "ask" else f"right heard {event}"

    with TestDriver(app) as t:
        t.send("right-in", "ask", key="k")
        t.send("left-in", "ask", key="k")
        assert t.outputs("right-out") == [("k", "left heard hello"), ("k", "right heard hello")]


# ── the barrier ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_agent_that_never_returns_is_named_with_key_and_position_within_the_deadline() -> None:
    app = App("a", barrier_timeout="5s")

    @app.agent("in")
    async def stuck(events: Events) -> None:
        async for event in events:
            if event == "wait":
                await asyncio.Event().wait()

    with TestDriver(app) as t:
        t.send("in", "fine", key="k")
        before = t.now_ms()
        with pytest.raises(
            AgentStuck, match=r"agent stuck didn't return from its event with key 'k' at in\[0\]@1 within 5 s"
        ):
            t.send("in", "wait", key="k")
        assert t.now_ms() - before < 60_000


def test_an_ask_that_nobody_answers_in_time_ends_in_a_timeout() -> None:
    app = App("a", barrier_timeout="30s")

    @app.agent("in")
    async def slow(events: Events) -> Events:
        async for event in events:
            await asyncio.sleep(5)
            yield event

    with TestDriver(app) as t:
        before = t.now_ms()
        with pytest.raises(
            AskTimeout, match=r"agent slow: no reply within 2\w* ?\w+; the request may still be carried out"
        ):
            t.run(slow.ask(1, key="k", timeout="2s"))
        assert 2_000 <= t.now_ms() - before < 3_000
        t.advance("10s")


def test_what_a_stuck_agent_did_before_is_not_committed() -> None:
    app = App("a", barrier_timeout="5s")
    table = app.table("t", value=int, default=int)
    waiting = True

    @app.agent("in", sinks=["out"])
    async def stuck(events: Events) -> Events:
        async for event in events:
            table["k"] += event
            yield table["k"]
            if event == 2 and waiting:
                await asyncio.Event().wait()

    with TestDriver(app) as t:
        t.send("in", 1, key="k")
        with pytest.raises(AgentStuck):
            t.send("in", 2, key="k")
        assert t.outputs("out") == [("k", 1)]
    waiting = False
    with TestDriver(app, after=t) as again:
        assert again.outputs("out") == [("k", 3)]
        assert again.table("t") == {"k": 3}


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_an_agent_that_fails_while_it_is_cancelled_does_not_keep_the_task_from_letting_go(on_error: Any) -> None:
    app = App("a", barrier_timeout="5s")

    @app.agent(app.stream("in", on_error=on_error))
    async def rude(events: Events) -> None:
        async for _ in events:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("on the way out")

    with TestDriver(app) as t, pytest.raises(AgentStuck, match="agent rude"):
        t.send("in", 1, key="k")


# ── tables of an agent ──────────────────────────────────────────────────────────────────────────────────────────────


def test_an_agent_that_writes_another_task_s_key_is_told_which_and_what_is_missing() -> None:
    app = App("a", partitions=8)
    table = app.table("t", value=int, default=int)

    @app.agent("in")
    async def careless(events: Events) -> None:
        async for event in events:
            for n in range(20):
                table[f"{event}-{n}"] += 1

    with (
        TestDriver(app) as t,
        pytest.raises(WrongPartition, match=r"table t: the key 'x-\d+' belongs to another task.*key_by"),
    ):
        t.send("in", "x", key="k")


def test_an_outage_is_no_answer_the_request_is_handled_again_once_it_is_over() -> None:
    app = App("a")
    outages = [LogUnavailable("the table's task moves"), LogUnavailable("and moves")]
    counts = app.table("counts", value=int, default=int)

    @app.agent(app.stream("events", value=str).key_by(str))
    async def look(events: AsyncIterator[str]) -> Events:
        async for event in events:
            counts[event] += 1
            if outages:
                raise outages.pop()
            yield counts[event]

    with TestDriver(app) as t:
        assert t.run(look.ask("x")) == 1, "answered once it can be, with what was undone not counted"
        assert outages == []
