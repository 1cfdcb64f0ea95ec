"""The bridge as an app of its file, without a broker."""

from __future__ import annotations

import tomllib

import msgspec
import pytest

from streams.apps.bridge import app as bridge
from streams.apps.bridge.routes import Out
from streams.dsl.app import App
from streams.errors import ConfigurationError, TopologyError
from streams.testing import TestDriver


def made(text: str) -> App:
    return bridge(tomllib.loads(text))


def test_what_comes_from_a_broker_goes_to_a_log_as_it_is() -> None:
    app = made("""
        [[routes]]
        from = "mqtt://localhost/plant/#?qos=2"
        to = "kafka://localhost/readings"
    """)
    with TestDriver(app) as t:
        t.send_bytes("plant.all", b"\x00 no json", key=b"plant/1/heat")
        t.send_bytes("plant.all", None, key=b"plant/2/heat")
        assert t.outputs("readings") == [(b"plant/1/heat", b"\x00 no json"), (b"plant/2/heat", None)]


def test_topics_are_chosen_keyed_and_their_payloads_converted() -> None:
    app = made("""
        [[routes]]
        from = "mqtt://localhost/plant/#"
        to = ["kafka://localhost/readings", "nats://localhost/readings.{key}"]
        include = ["plant/+/heat"]
        exclude = ["plant/0/#"]
        key = "{topic[1]}.{value.unit}"
        decode = "json"
        encode = "msgpack"
    """)
    with TestDriver(app) as t:
        for topic in ("plant/0/heat", "plant/1/heat", "plant/1/light"):
            t.send_bytes("plant.all", b'{"unit":"C","n":20}', key=topic.encode())
        [(key, body)] = t.outputs("readings")
        assert (key, msgspec.msgpack.decode(body)) == (b"1.C", {"unit": "C", "n": 20})
        assert t.outputs("readings.key") == [(b"1.C", body)]


def test_what_can_t_be_converted_is_a_dead_letter_as_it_came() -> None:
    app = made("""
        [[routes]]
        from = "orders"
        to = "mqtt://localhost/orders/{key}?qos=1"
        key = "{value.shop}"
        dead_letters = "rejected"
    """)
    with TestDriver(app) as t:
        for body in (b'{"shop":7}', b"no json", b'{"shop":[]}', b'{"shop":8}'):
            t.send_bytes("orders", body, key=b"k")
        t.send_bytes("orders", None, key=b"k")
        assert t.outputs("orders.key") == [(b"7", b'{"shop":7}'), (b"8", b'{"shop":8}')]
        assert t.outputs("rejected") == [(b"k", b"no json"), (b"k", b'{"shop":[]}'), (b"k", None)]


def test_timestamps_go_along() -> None:
    app = made('routes = [{from = "nats://localhost/a.>", to = "kafka://localhost/copies"}]')
    with TestDriver(app) as t:
        t.send("a.all", Out(None, b"1"), key=b"a.b", timestamp=5)
        assert t.records("copies") == [(b"a.b", b"1", 5)]


def test_a_topic_may_be_in_several_routes_on_either_side() -> None:
    app = made("""
        [[routes]]
        from = "first"
        to = "second"
        [[routes]]
        from = "second"
        to = ["third", {topic = "kafka://localhost/third", label = "third-there"}]
    """)
    with TestDriver(app) as t:
        t.send_bytes("first", b"1", key=b"a")
        t.send_bytes("first", b"2")
        assert t.outputs("third") == [(b"a", b"1"), (None, b"2")]
        assert t.outputs("third-there") == [(b"a", b"1"), (None, b"2")]


def test_each_route_says_at_the_start_what_it_promises(caplog: pytest.LogCaptureFixture) -> None:
    app = made("""
        [[routes]]
        from = "nats://localhost/a.>"
        to = "copies"
        [[routes]]
        from = "kafka://localhost/orders"
        to = "copies"
    """)
    with caplog.at_level("INFO", "streams"), TestDriver(app):
        said = [line for line in caplog.messages if "route" in line]
    assert said[0].startswith("app bridge: route 1: nats://localhost/a.> to copies: in at most once (")
    assert ", out exactly once (" in said[0]
    assert said[1].startswith("app bridge: route 2: kafka://localhost/orders to copies: exactly once (")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("routes = []", "a bridge needs a route"),
        ("[[routes]]\nto = 'a'", "missing required field `from`: in `routes[0]`"),
        ("[[routes]]\nfrom = 'a'\nto = 'b'\nfitler = []", "unknown field `fitler`: in `routes[0]`"),
        ("[[routes]]\nfrom = 'a'\nto = 'b'\ndecode = 'xml'", "Invalid enum value 'xml': in `routes[0].decode`"),
        ("[[routes]]\nfrom = 'a'\nto = 'b'\nkey = '{oops}'", "route 1: key '{oops}'"),
        ("[[routes]]\nfrom = 'mqtt://h'\nto = 'b'", "route 1: 'mqtt://h' names no subject or topic"),
        ("[[routes]]\nfrom = 'kafka://h/b'\nto = 'b'", "route 1: topic 'b' is declared on"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        made(text)
    assert words in str(caught.value)


def test_one_source_with_two_policies_is_refused() -> None:
    with pytest.raises((ConfigurationError, TopologyError), match="read twice with different settings"):
        made('routes = [{from = "a", to = "b"}, {from = "a", to = "c", on_error = "skip"}]')
