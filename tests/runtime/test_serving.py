"""What becomes of a request from outside: answers, refusals, ids, bounds, and a worker that stops.

The transport is one in memory, which notes what each call is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from streams import App
from streams.core.endpoint import Endpoint, Take
from streams.errors import ConfigurationError, LogUnavailable, RetryableError, TopologyError
from streams.runtime.serving import Serving, body_of
from streams.testing.driver import TestDriver

Events = AsyncIterator[Any]


class Transfer(msgspec.Struct):
    account: str
    amount: int


class FakeCall:
    """A request, and what it is told."""

    def __init__(self, payload: Any, *, address: str = "bank.settle", waited_for: bool = True, **headers: str) -> None:
        self.payload = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        self.address = address
        self.waited_for = waited_for
        self.headers = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        self.told: list[bytes | tuple[int, str]] = []
        self.done = asyncio.Event()

    def header(self, name: str) -> str | None:
        return self.headers.get(name.lower())

    def answer(self, body: bytes) -> None:
        self.told.append(body)
        self.done.set()

    def refuse(self, code: int, why: str) -> None:
        self.told.append((code, why))
        self.done.set()

    @property
    def code(self) -> int:
        (told,) = self.told
        assert isinstance(told, tuple), told
        return told[0]

    @property
    def why(self) -> str:
        (told,) = self.told
        assert isinstance(told, tuple), told
        return told[1]

    @property
    def body(self) -> bytes:
        (told,) = self.told
        assert isinstance(told, bytes), told
        return told


class FakeService:
    """A ``Service`` that refuses to open as often as it is told to."""

    def __init__(self, outages: Sequence[Exception] = ()) -> None:
        self.url = "fake://here"
        self.slow = 0
        self.outages = list(outages)
        self.endpoints: Sequence[Endpoint] = []
        self.listens = self.closed = False
        self._take: Take | None = None

    async def open(self, endpoints: Sequence[Endpoint], take: Take) -> None:
        if self.outages:
            raise self.outages.pop(0)
        self.endpoints, self._take, self.listens = endpoints, take, True

    async def end(self) -> None:
        self.listens = False

    async def close(self) -> None:
        self.closed = True

    def receive(self, call: FakeCall) -> FakeCall:
        assert self.listens
        assert self._take is not None
        self._take(self.endpoints[0], call)
        return call


def bank(*, address: str = "bank.settle", commit_interval: str = "100ms", **settings: Any) -> App:
    """An agent that adds up amounts by account and answers with the balance; it refuses 13, and sleeps over 99."""
    app = App("a", partitions=3, commit_interval=commit_interval)
    balances = app.table("balances", value=int, default=int)

    @app.agent(app.stream("transfers", value=Transfer, on_error="skip").key_by(lambda t: t.account))
    async def settle(events: AsyncIterator[Transfer]) -> Events:
        async for transfer in events:
            if transfer.amount == 99:
                await asyncio.sleep(20)
            balances[transfer.account] += transfer.amount
            yield balances[transfer.account]
            if transfer.amount == 13:
                raise ValueError("no 13")

    settle.serve(f"fake://here/{address}", **settings)
    return app


class Bench:
    """An app at work, and the service through which it is asked."""

    def __init__(self, t: TestDriver, serving: Serving, service: FakeService) -> None:
        self.t, self.serving, self.service = t, serving, service

    def ask(self, *calls: FakeCall) -> None:
        """Requests that come together; returns when each has been told something."""

        async def all_done() -> None:
            for call in calls:
                self.service.receive(call)
            for call in calls:
                await call.done.wait()

        self.t.run(all_done())

    def cast(self, call: FakeCall) -> None:
        async def receive() -> None:
            self.service.receive(call)

        self.t.run(receive())
        self.t.advance("1s")

    def count(self, outcome: str) -> float:
        labels = {"app": "a", "agent": "settle", "outcome": outcome}
        return self.t._worker.metrics.registry.get_sample_value("streams_requests_total", labels) or 0.0


@contextmanager
def served(app: App, *outages: Exception) -> Iterator[Bench]:
    service = FakeService(outages)
    serving = Serving(app, connect=lambda url, name, version, endpoints: service)
    with TestDriver(app) as t:

        async def start() -> None:
            serving.start(t._worker)

        t.run(start())
        t.advance("10s")
        yield Bench(t, serving, service)
        t.run(serving.end(patient=True))
        t.run(serving.close())


def transfer(amount: int, account: str = "x") -> Transfer:
    return Transfer(account, amount)


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_is_answered_with_what_the_agent_yields_once_that_is_committed() -> None:
    with served(bank()) as bench:
        first, second = FakeCall(transfer(5)), FakeCall(transfer(7))
        bench.ask(first)
        assert bench.t.table("balances") == {"x": 5}
        bench.ask(second)
        assert (first.body, second.body) == (b"5", b"12")
        assert bench.count("answered") == 2


def test_an_answer_is_json_but_bytes_are_as_they_are() -> None:
    assert body_of([]) == b""
    assert body_of([None]) == b"null"
    assert body_of([{"a": 1}]) == b'{"a":1}'
    assert body_of(["text"]) == b'"text"'
    assert body_of([b"\x00raw"]) == b"\x00raw"
    assert body_of([1, "b"]) == b'[1,"b"]'


def keyed(address: str) -> App:
    """An agent that passes on what it gets, under the key that it came with."""
    app = App("a", partitions=3)

    @app.agent(app.stream("in", value=Transfer).key_by(lambda t: t.account), name="settle", sinks=["out"])
    async def settle(events: AsyncIterator[Transfer]) -> Events:
        async for event in events:
            yield event.amount

    settle.serve(f"fake://here/{address}")
    return app


def test_the_key_is_taken_from_the_address_before_all_else() -> None:
    with served(keyed("bank.{key}.settle")) as bench:
        bench.ask(FakeCall(transfer(1, "computed"), address="bank.there.settle", streams_key="header"))
        assert bench.t.outputs("out") == [("there", 1)]


def test_a_key_in_a_header_goes_before_one_that_is_computed() -> None:
    with served(keyed("bank.settle")) as bench:
        bench.ask(FakeCall(transfer(1, "computed"), streams_key="header"))
        bench.ask(FakeCall(transfer(1, "computed")))
        assert sorted(bench.t.outputs("out")) == [("computed", 1), ("header", 1)]


def test_a_key_in_a_header_decides_where_no_other_is_given() -> None:
    app = App("a", partitions=5)

    @app.agent(app.stream(app.topic("in", key=int, value=int)), name="settle")
    async def settle(events: AsyncIterator[int]) -> Events:
        async for number in events:
            yield number

    settle.serve("fake://here/bank.settle")
    with served(app) as bench:
        good, none, bad = FakeCall(1, streams_key="7"), FakeCall(2), FakeCall(3, streams_key="seven")
        bench.ask(good, none, bad)
        assert good.body == b"1"
        assert (none.code, bad.code) == (400, 400)
        assert "send the header Streams-Key" in none.why
        assert bench.count("unfit") == 2


# ── ids ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("header", ["nats-msg-id", "streams-request-id"])
def test_who_asks_again_under_the_same_id_gets_the_same_answer_and_no_second_effect(header: str) -> None:
    with served(bank()) as bench:
        *calls, other = [FakeCall(transfer(5)) for _ in range(4)]
        for call in calls:
            call.headers[header] = "a"
        other.headers[header] = "b"
        for call in (*calls, other):
            bench.ask(call)
        assert [call.body for call in calls] == [b"5"] * 3
        assert other.body == b"10"


def test_who_asks_again_while_the_first_is_under_way_is_answered_as_well() -> None:
    with served(bank(commit_interval="5s")) as bench:
        calls = [FakeCall(transfer(5), nats_msg_id="a") for _ in range(3)]
        bench.ask(*calls)
        assert [call.body for call in calls] == [b"5"] * 3
        assert bench.t.table("balances") == {"x": 5}


def test_an_error_is_remembered_under_its_id_too() -> None:
    with served(bank()) as bench:
        calls = [FakeCall(transfer(13), nats_msg_id="a") for _ in range(2)]
        for call in calls:
            bench.ask(call)
        assert [call.code for call in calls] == [500, 500]


def test_the_ids_of_a_restarted_app_are_still_known() -> None:
    app, first, again = bank(), FakeCall(transfer(5), nats_msg_id="a"), FakeCall(transfer(5), nats_msg_id="a")
    with served(app) as bench:
        bench.ask(first)
        before = bench.t
    service = FakeService()
    later = bank()
    serving = Serving(later, connect=lambda url, name, version, endpoints: service)
    with TestDriver(later, after=before) as t:

        async def start() -> None:
            serving.start(t._worker)

        t.run(start())
        t.advance("1s")
        Bench(t, serving, service).ask(again)
        assert t.table("balances") == {"x": 5}
        t.run(serving.close())
    assert first.body == again.body == b"5"


def test_an_id_as_long_as_a_book_is_refused() -> None:
    with served(bank()) as bench:
        call = FakeCall(transfer(5), nats_msg_id="x" * 1000)
        bench.ask(call)
        assert call.code == 400


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_agent_that_raises_is_an_error_for_who_asked_and_its_effects_are_taken_back() -> None:
    with served(bank()) as bench:
        call = FakeCall(transfer(13))
        bench.ask(call)
        assert call.code == 500
        assert "ValueError: no 13" in call.why
        assert bench.t.table("balances") == {}
        assert bench.count("failed") == 1


@pytest.mark.parametrize("payload", [b"", b"{", b'{"account":"x"}', b'{"account":"x","amount":"much"}'])
def test_what_does_not_decode_is_refused_and_never_reaches_the_inbox(payload: bytes) -> None:
    with served(bank()) as bench:
        bad, good = FakeCall(payload), FakeCall(transfer(1))
        bench.ask(bad, good)
        assert bad.code == 400
        assert "doesn't fit agent settle" in bad.why
        assert good.body == b"1"


def test_a_request_that_is_not_answered_in_time_is_told_so() -> None:
    with served(bank(timeout="2s")) as bench:
        call = FakeCall(transfer(99))
        bench.ask(call)
        assert call.code == 504
        assert "may still be carried out" in call.why
        assert bench.count("late") == 1
        bench.t.advance("30s")
        assert bench.t.table("balances") == {"x": 99}


def test_more_requests_than_may_be_pending_are_turned_down_at_once_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with served(bank(pending=2)) as bench:
        calls = [FakeCall(transfer(1)) for _ in range(5)]
        with caplog.at_level(logging.WARNING, "streams"):
            bench.ask(*calls)
        assert [call.body for call in calls[:2]] == [b"1", b"2"]
        assert [call.code for call in calls[2:]] == [429] * 3
        assert bench.count("busy") == 3
        assert len([each for each in caplog.records if "turned down" in each.getMessage()]) == 1
        later = FakeCall(transfer(1))
        bench.ask(later)
        assert later.body == b"3"


def test_a_log_that_cannot_take_a_request_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(bank()) as bench:
        with monkeypatch.context() as patch:
            patch.setattr(bench.t._log, "append", away(always=True))
            call = FakeCall(transfer(1))
            bench.ask(call)
        assert call.code == 503
        assert "the log is away" in call.why


def away(*, always: bool = False, then: Callable[..., Any] | None = None, times: int = 0) -> Callable[..., Any]:
    left = [times]

    async def append(appends: Any) -> Any:
        if always or left[0]:
            left[0] -= 1
            raise LogUnavailable("the log is away")
        assert then is not None
        return await then(appends)

    return append


# ── casts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_that_nobody_waits_for_is_a_cast() -> None:
    with served(bank()) as bench:
        call = FakeCall(transfer(5), waited_for=False)
        bench.cast(call)
        assert call.told == []
        assert bench.t.table("balances") == {"x": 5}
        assert bench.count("cast") == 1


def test_a_cast_under_an_id_takes_effect_once() -> None:
    with served(bank()) as bench:
        for _ in range(3):
            bench.cast(FakeCall(transfer(5), waited_for=False, nats_msg_id="a"))
        assert bench.t.table("balances") == {"x": 5}


def test_a_cast_is_tried_again_while_the_log_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(bank()) as bench:
        monkeypatch.setattr(bench.t._log, "append", away(then=bench.t._log.append, times=3))
        bench.cast(FakeCall(transfer(5), waited_for=False))
        bench.t.advance("10s")
        assert bench.t.table("balances") == {"x": 5}


def test_a_cast_that_is_lost_is_said_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with served(bank(timeout="3s")) as bench:
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "streams"):
            patch.setattr(bench.t._log, "append", away(always=True))
            bench.cast(FakeCall(transfer(5), waited_for=False))
            bench.t.run(asyncio.sleep(10))
        assert bench.count("lost") == 1
        assert "the log is away" in caplog.text


def test_a_cast_that_does_not_decode_is_said_since_nobody_else_hears_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with served(bank()) as bench, caplog.at_level(logging.WARNING, "streams"):
        bench.cast(FakeCall(b"{", waited_for=False))
        assert "agent settle: requests on fake://here/bank.settle are turned down" in caplog.text
        assert bench.count("unfit") == 1


# ── the life of a worker ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_server_that_is_away_at_the_start_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "streams"), served(bank(), *[LogUnavailable("no server")] * 3) as bench:
        assert caplog.text.count("no server; agents can't be asked there until then") == 3
        call = FakeCall(transfer(5))
        bench.ask(call)
        assert call.body == b"5"


def test_what_is_under_way_and_how_often_reading_was_too_slow_is_measured() -> None:
    with served(bank(timeout="1m")) as bench:
        registry = bench.t._worker.metrics.registry
        bench.service.slow = 3
        assert registry.get_sample_value("streams_slow_consumer", {"app": "a", "server": "fake://here"}) == 3
        seen: list[float | None] = []

        async def look() -> None:
            call = bench.service.receive(FakeCall(transfer(99)))
            await asyncio.sleep(1)
            seen.append(registry.get_sample_value("streams_requests_under_way", {"app": "a", "agent": "settle"}))
            await call.done.wait()
            await asyncio.sleep(0)
            seen.append(registry.get_sample_value("streams_requests_under_way", {"app": "a", "agent": "settle"}))

        bench.t.run(look())
        assert seen == [1, 0]


def test_a_server_that_will_never_have_us_fails_the_worker() -> None:
    with served(bank(), ConfigurationError("wrong password")) as bench:
        with pytest.raises(ConfigurationError, match="wrong password"):
            bench.serving.check()
        bench.serving._opening.clear()


def test_a_worker_that_stops_listens_no_more_and_answers_what_is_under_way() -> None:
    with served(bank(commit_interval="1s")) as bench:

        async def stop() -> FakeCall:
            call = bench.service.receive(FakeCall(transfer(5)))
            await bench.serving.end(patient=True)
            assert not bench.service.listens
            return call

        assert bench.t.run(stop()).body == b"5"


def test_what_a_stopping_worker_cannot_answer_is_refused_with_the_advice_to_ask_again() -> None:
    with served(bank()) as bench:

        async def stop() -> FakeCall:
            call = bench.service.receive(FakeCall(transfer(99)))
            await bench.serving.end(patient=True)
            assert call.told == []
            await bench.serving.close()
            return call

        call = bench.t.run(stop())
        assert call.code == 503
        assert "asked for again" in call.why
        assert bench.service.closed


def test_a_worker_that_has_failed_waits_for_nothing() -> None:
    with served(bank()) as bench:

        async def stop() -> float:
            loop = asyncio.get_running_loop()
            began = loop.time()
            bench.service.receive(FakeCall(transfer(99)))
            await bench.serving.end(patient=False)
            return loop.time() - began

        assert bench.t.run(stop()) == 0


# ── declaring ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_agents_cannot_answer_at_one_place() -> None:
    app = bank()

    @app.agent("other")
    async def other(events: Events) -> Events:
        async for event in events:
            yield event

    with pytest.raises(
        ConfigurationError, match=r"agents settle and other would both answer at fake://here/bank.settle"
    ):
        other.serve("fake://here/bank.settle")
    other.serve("fake://here/bank.other")


def test_an_agent_is_served_before_the_app_starts() -> None:
    app = bank()
    app.build()
    with pytest.raises(TopologyError, match="declare everything before it starts"):
        app.agents["settle"].serve("fake://here/bank.late")


def test_a_transport_that_nobody_knows_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigurationError, match=r"agent settle: nothing answers on 'fake://here'; write nats://"):
        Serving(bank())


def test_an_app_without_endpoints_opens_nothing() -> None:
    app = App("a")
    app.stream("in").to("out")
    serving = Serving(app)
    with TestDriver(app) as t:

        async def life() -> None:
            serving.start(t._worker)
            serving.check()
            await serving.end(patient=True)
            await serving.close()

        t.run(life())


def test_an_outage_of_a_service_that_decoding_needs_is_told_as_one() -> None:
    class Away(RetryableError):
        """A registry that can't be reached."""

    app = bank()
    agent = app.agents["settle"]

    def decode(raw: bytes) -> Any:
        raise Away("the registry is away")

    agent.values = replace(agent.values, decode=decode)
    with served(app) as bench:
        call = FakeCall(transfer(1))
        bench.ask(call)
        assert (call.code, call.why) == (503, "the registry is away")
