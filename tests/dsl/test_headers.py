"""Headers: they reach user code, and go on with what follows from a record."""

from __future__ import annotations

from typing import Any

import pytest

from streams import App, agg, tumbling
from streams.core.capability import Limits
from streams.core.record import Headers, TopicPartition
from streams.errors import ConfigurationError
from streams.testing import TestDriver


def headers_of(t: TestDriver, topic: str) -> list[dict[str, bytes]]:
    """The headers of everything in a topic, by record."""
    found = t._logs[""].broker.partition(TopicPartition(topic, 0)).read(0, 1000)
    headers: list[Headers | None] = (found.records.headers or [None] * len(found)) if found is not None else []
    return [dict(each or ()) for each in headers]


def test_headers_go_along_through_operators_a_key_by_and_an_agent() -> None:
    app = App("shop")

    @app.agent(app.stream("in", value=int).filter(lambda n: n > 0).key_by(str, name="by-text"), name="double")
    async def double(numbers: Any) -> Any:
        async for number in numbers:
            yield number * 2

    double.to("out")
    with TestDriver(app) as t:
        t.send("in", 1, headers={"trace": b"a", "lang": "de"})
        t.send("in", 0, headers={"trace": b"dropped"})
        t.send("in", 2)
        t.send("in", 3, headers={"trace": b"c"})
        assert headers_of(t, "out") == [{"trace": b"a", "lang": b"de"}, {}, {"trace": b"c"}]


def test_a_process_function_sees_the_headers_of_its_record() -> None:
    app = App("shop")
    seen: list[dict[str, bytes]] = []

    @app.stream("in", value=int).process(state=list)
    def look(number: int, state: list[int], ctx: Any) -> None:
        seen.append(ctx.headers)
        ctx.timer("later", after="1s")

    @look.on_timer("later")
    def later(state: list[int], ctx: Any) -> None:
        seen.append({"in a timer": b"", **ctx.headers})

    with TestDriver(app) as t:
        t.send("in", 1, key="a", timestamp=1000, headers={"trace": b"a"})
        t.send("in", 2, key="b", timestamp=9000)
    assert seen == [{"trace": b"a"}, {"in a timer": b""}, {}]


def test_what_no_single_record_stands_behind_has_no_headers() -> None:
    app = App("shop")
    app.stream("in", value=int).window(tumbling("1s")).aggregate(n=agg.count()).final().to("out")
    with TestDriver(app) as t:
        t.send("in", 1, key="a", timestamp=0, headers={"trace": b"a"})
        t.send("in", 1, key="a", timestamp=5000, headers={"trace": b"a"})
        assert headers_of(t, "out") == [{}]


def test_a_record_that_its_headers_make_too_large_meets_the_policy() -> None:
    app = App("shop")
    app.stream("in", value=str, on_error="skip").map(lambda text: text * 50, value=str).to("out")
    with TestDriver(app, limits=Limits(max_record_bytes=200)) as t:
        t.send("in", "a", headers={"trace": b"x" * 180})
        t.send("in", "b")
        assert [value for _, value in t.outputs("out")] == ["b" * 50]


@pytest.mark.parametrize("headers", [{"streams.watermark": b""}, {"n": 1}, {1: b""}])
def test_headers_that_can_t_be_sent_are_named(headers: Any) -> None:
    app = App("shop")
    app.stream("in", value=int).to("out")
    with TestDriver(app) as t, pytest.raises(ConfigurationError, match="topic in: header"):
        t.send("in", 1, headers=headers)
