"""URLs are shown without what is secret in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.cli.doctor import _log
from streams.connectors.kafka.log import KafkaLog
from streams.connectors.log_sink import LogSink
from streams.connectors.registry import open_log
from streams.core.secret import Secret
from streams.core.urls import pairs_of, quoted, without_secrets
from streams.dsl.app import App
from streams.errors import ConfigurationError
from streams.runtime.draw import as_text, draw
from streams.runtime.explain import explain


@pytest.mark.parametrize(
    "url",
    [
        "",
        "embedded:./data",
        "embedded:/var/lib/a:b/shop?durable=false",
        "embedded:///var/lib/shop",
        "memory:",
        "kafka://a:9092,[::1]:9092/orders",
        "kafka://ada@a?security=sasl&mechanism=SCRAM-SHA-512&password_file=/run/x.y",
        "nats://a:4222?stream=a.b_c",
        "mqtt://a:1883/plant/+/x:y",
    ],
)
def test_a_url_without_secrets_stays_as_it_is(url: str) -> None:
    assert without_secrets(url) == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("kafka://ada:hunter2@a:1/orders", "kafka://ada@a:1/orders"),
        ("kafka://ada:hunter2@a?password=hunter2&x=1", "kafka://ada@a?x=1"),
        ("nats://:hunter2@a?token=hunter2&key_password=hunter2&api-key=1&apikey=hunter2", "nats://@a?api-key=1"),
        ("kafka:ada:hunter2@a", "kafka:ada@a"),
        ("kafka://ada:hunter2", "kafka://ada:***"),
        ("kafka://ada:hun/ter2@a", "kafka://ada@a"),
        ("kafka://ada:12?hunter2@a", "kafka://ada:***"),
        ("kafka://ada:12/hunter?2@a", "kafka://ada:***"),
    ],
)
def test_a_secret_is_left_out_however_broken_the_url(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@given(st.text(max_size=12), st.text(max_size=12))
def test_any_text_can_be_shown(before: str, after: str) -> None:
    assert "hunter2" not in without_secrets(f"kafka://{before}:hunter2@{after}?password=hunter2")


SECRET = "kafka://ada:hunter2@a?security=sasl&mechanism=PLAIN"


def test_neither_a_plan_nor_a_drawing_shows_a_password() -> None:
    app = App("shop")
    app.stream(f"{SECRET}/orders").to(f"{SECRET}/big")
    plan = explain(app, SECRET, lambda url: LogSink(open_log(url)).capabilities)
    drawn = as_text(app) + repr(draw(app))
    assert "hunter2" not in f"{plan} {drawn}"
    assert "kafka://ada@a/big?security=sasl&mechanism=PLAIN" in drawn


def test_a_check_of_a_log_does_not_show_its_password() -> None:
    (check,) = _log(SECRET.replace("@a?", "@127.0.0.1:1?"))
    assert "127.0.0.1:1" in check.text
    assert "hunter2" not in check.text


def test_an_error_about_a_url_does_not_show_its_password() -> None:
    for wrong in (lambda: open_log("kafak://ada:hunter2@a"), lambda: App("shop").topic("kafka://ada:hunter2@a")):
        with pytest.raises(ConfigurationError) as caught:
            wrong()
        assert "hunter2" not in str(caught.value)


def test_the_url_of_a_log_has_no_password() -> None:
    assert KafkaLog(SECRET).url == "kafka://ada@a:9092?security=sasl&mechanism=PLAIN"


def test_settings_are_read_with_their_plus_and_without_a_value() -> None:
    assert pairs_of("a=1+2&b=&c=x%20y") == [("a", "1+2"), ("b", ""), ("c", "x y")]
    assert quoted("/:.,_-*{}> &") == "/:.,_-*{}>%20%26"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://token@host", "nats://***@host"),
        ("nats://user:password@host", "nats://user@host"),
        ("nats://host", "nats://host"),
        ("mqtt://user@host", "mqtt://user@host"),
    ],
)
def test_a_user_alone_is_a_token_where_it_may_be_one(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_a_secret_is_equal_to_its_like_and_false_when_empty() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert hash(Secret("a")) == hash(Secret("a")) != hash(Secret("b"))
    assert Secret("a")
    assert not Secret("")
    assert Secret("a").reveal() == "a"
