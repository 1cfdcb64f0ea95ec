"""Topics of other logs, as users write them."""

from __future__ import annotations

import pytest

from streams import App
from streams.dsl.foreign import split_location
from streams.errors import ConfigurationError


@pytest.mark.parametrize(
    ("name", "location", "topic"),
    [
        ("orders", "", "orders"),
        ("embedded:./plant/readings", "embedded:./plant", "readings"),
        ("embedded:./plant?durable=false/readings", "embedded:./plant?durable=false", "readings"),
        ("embedded:///var/plant?durable=false/readings", "embedded:///var/plant?durable=false", "readings"),
        ("kafka://a:1,b:2/orders", "kafka://a:1,b:2", "orders"),
        ("kafka://a/orders?config=/etc/k.toml", "kafka://a?config=/etc/k.toml", "orders"),
        ("kafka://a?config=/etc/k.toml/orders", "kafka://a?config=/etc/k.toml", "orders"),
    ],
)
def test_a_foreign_topic_is_named_by_its_log_and_its_name(name: str, location: str, topic: str) -> None:
    assert split_location(name) == (location, topic)


@pytest.mark.parametrize(
    "name", ["kafka://a", "kafka://a/", "kafka://a/?security=tls", "embedded:", "embedded:./plant/"]
)
def test_a_log_without_a_topic_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="names no topic"):
        split_location(name)


def test_one_name_on_two_logs_is_refused_with_both_places() -> None:
    app = App("bridge")
    app.topic("orders")
    with pytest.raises(ConfigurationError, match="is declared on the app's own log and kafka://u@b:9092; an app"):
        app.topic("kafka://u:secret@b:9092/orders")
