"""What codecs may ask of the engine: to be told their topic, and to be waited for when their service is away.

No registry here: a codec of a few lines stands for any that needs a service beside the log.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import pytest

from streams import App, Codec
from streams.core.policy import Action
from streams.errors import ServiceRefused, ServiceUnavailable
from streams.testing.driver import TestDriver


def named(places: list[tuple[str, str]]) -> Codec[Any]:
    """A codec that writes down which topics it is asked to serve."""

    def unbound(_: Any) -> Any:
        raise AssertionError("used without a topic")

    def bind(topic: str, part: Literal["key", "value"]) -> Codec[Any]:
        places.append((topic, part))
        return Codec("told", decode=json.loads, encode=lambda value: json.dumps(value).encode())

    return Codec("told", decode=unbound, encode=unbound, bind=bind)


def decoding(decode: Callable[[bytes], Any]) -> Codec[Any]:
    return Codec("fragile", decode=decode, encode=lambda value: json.dumps(value).encode())


def test_a_codec_is_told_the_topic_and_the_part_wherever_it_is_used() -> None:
    places: list[tuple[str, str]] = []
    codec = named(places)
    app = App("shop", partitions=1)
    orders = app.topic("orders", key=codec, value=codec)
    stream = app.stream(orders)
    stream.key_by(lambda order: order["customer"], key=codec).to("by-customer")
    stream.batch(2).to(app.topic("pairs", key=codec))
    stream.dedupe(within="1h").to("once")
    app.table("rates", key=codec, value=codec)
    app.table("seen", source=app.topic("seen-orders", key=codec, value=codec))

    @app.agent(stream)
    async def watch(events: Any) -> Any:
        async for _ in events:
            pass

    told = set(places)
    assert {(topic, part) for topic, part in told if not topic.startswith("shop.")} == {
        ("orders", "key"),
        ("orders", "value"),
        ("by-customer", "value"),
        ("once", "value"),
        ("pairs", "key"),
        ("seen-orders", "key"),
        ("seen-orders", "value"),
        ("rates", "key"),
        ("rates", "value"),
        ("orders.batch", "value"),
        ("orders.dedupe", "value"),
    }
    internal = {(topic.split(".", 1)[1], part) for topic, part in told if topic.startswith("shop.")}
    assert internal == {
        ("orders.by-customer.repartition", "key"),
        ("orders.by-customer.repartition", "value"),
        ("watch.inbox", "value"),
    }
    with TestDriver(app) as driver:
        driver.send("orders", {"customer": "a"}, key=1)
        assert driver.outputs("by-customer") == [("a", {"customer": "a"})]


class Service:
    """Away for its first requests."""

    def __init__(self, away: int) -> None:
        self.away = away

    def decode(self, raw: bytes) -> Any:
        if self.away:
            self.away -= 1
            raise ServiceUnavailable("the registry can't be reached")
        return json.loads(raw)


@pytest.mark.parametrize("policy", ["fail", "skip", "dead_letter"])
def test_an_outage_of_a_service_is_waited_out_whatever_the_policy(policy: Action) -> None:
    service = Service(away=40)  # more often than a task is restarted for a fault of its own
    app = App("shop", partitions=1)
    app.stream("orders", value=decoding(service.decode), on_error=policy).to("out")
    with TestDriver(app) as driver:
        driver.send_all("orders", [("a", 1), ("b", 2)])
        assert service.away == 0
        assert driver.outputs("out") == [("a", 1), ("b", 2)]
        if policy == "dead_letter":
            assert driver.outputs("orders.dead-letters") == []


def test_an_outage_while_a_result_is_written_is_waited_out() -> None:
    service = Service(away=3)
    app = App("shop", partitions=1)
    out = app.topic(
        "out", value=Codec("fragile", decode=json.loads, encode=lambda v: service.decode(b"1") and b"%d" % v)
    )
    app.stream("orders", value=int, on_error="skip").map(lambda v: v + 1).to(out)
    with TestDriver(app) as driver:
        driver.send("orders", 1, key="a")
        assert driver.outputs("out") == [("a", 2)]


@pytest.mark.parametrize("policy", ["fail", "skip", "dead_letter"])
def test_a_service_that_turns_us_down_stops_the_app_whatever_the_policy(policy: Action) -> None:
    def refused(raw: bytes) -> Any:
        raise ServiceRefused("the registry refuses the password")

    app = App("shop", partitions=1)
    app.stream("orders", value=decoding(refused), on_error=policy).to("out")
    with TestDriver(app) as driver, pytest.raises(ServiceRefused, match=r"^the registry refuses the password$"):
        driver.send("orders", 1)
