"""What an app's plan and drawing show of the subjects on which its agents answer."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams import App
from streams.connectors.log_sink import LogSink
from streams.connectors.registry import open_log
from streams.errors import ConfigurationError
from streams.runtime.draw import as_mermaid, as_text, draw
from streams.runtime.explain import explain
from streams.runtime.serving import Serving

SHOWN = "nats://host:4222/bank.settle.{key}"


def bank(url: str = "nats://shop:secret@host:4222/bank.settle.{key}?tls=yes") -> App:
    app = App("bank", log="memory:")

    @app.agent("transfers")
    async def settle(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            yield event

    settle.serve(url)
    return app


def test_explain_shows_an_endpoint_and_what_it_promises_without_secrets() -> None:
    plan = explain(bank(), "memory:", lambda url: LogSink(open_log(url)).capabilities)
    found = {each.target: each for each in plan.edges if each.source == SHOWN}
    assert {target: each.guarantee for target, each in found.items()} == {
        "agent settle, asked again under its id": "exactly once",
        "agent settle, asked once": "at most once",
    }
    assert "Nats-Msg-Id" in found["agent settle, asked again under its id"].why
    assert "secret" not in str(plan)


def test_the_drawing_shows_where_an_agent_answers() -> None:
    app = bank()
    assert f"  answer {SHOWN}\n  └─ ask settle\n" in as_text(app)
    drawn = draw(app)
    assert (f"topic:{SHOWN}", "topic:bank.settle.inbox") in drawn.edges
    assert SHOWN in as_mermaid(drawn)
    assert "secret" not in as_text(app) + as_mermaid(drawn)


def test_an_endpoint_changes_nothing_of_what_the_log_holds() -> None:
    plain = App("bank", log="memory:")

    @plain.agent("transfers")
    async def settle(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            yield event

    assert bank().build().record == plain.build().record


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nats://host/bank..settle", "words with dots between them are needed"),
        ("nats://host/bank.>.settle", "words with dots between them are needed"),
        ("nats://host/$JS.settle", "NATS keeps such subjects for itself"),
        ("nats://host/bank.settle?colour=red", "colour is no setting"),
        ("nats://host/bank.settle?creds_file=/nowhere/x.creds", "can't be read"),
        ("kafka://host/bank.settle", "nothing answers on 'kafka://host'"),
    ],
)
def test_what_can_not_be_served_is_said_before_anything_starts(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Serving(bank(url))
    assert words in str(raised.value)


def test_packages_that_are_missing_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_nats(name: str, *rest: Any, **more: Any) -> Any:
        if name == "streams.connectors.nats.services":
            raise ModuleNotFoundError("No module named 'nats'", name="nats")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_nats)
    with pytest.raises(ConfigurationError, match=r"aren't installed \(nats\); .* pip install 'streams-log\[nats\]'"):
        Serving(bank())
