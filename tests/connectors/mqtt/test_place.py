"""Locations, filters and templates of topics at a broker."""

from __future__ import annotations

import pytest

from streams.connectors.mqtt.edge import MqttEdge
from streams.connectors.mqtt.packets import MQTT_3_1_1, Will
from streams.connectors.mqtt.place import check_filters, check_template, fill, parse_location
from streams.core.capability import Guarantee
from streams.core.log import TopicSpec
from streams.errors import ConfigurationError
from streams.runtime.metrics import Metrics, edge_counters


def test_settings_of_the_topic_and_of_the_connection_stand_side_by_side() -> None:
    place = parse_location("mqtts://me:secret@broker?qos=2&retain=yes&keep_alive_s=5&client_id=line-1&version=3.1.1")
    assert (place.qos, place.retain, place.client_id) == (2, True, "line-1")
    assert (place.config.keep_alive_s, place.config.version, place.config.port) == (5, MQTT_3_1_1, 8883)
    plain = parse_location("mqtt://broker")
    assert (plain.qos, plain.retain, plain.client_id) == (1, False, "")


def test_a_will_is_a_setting_of_the_topic() -> None:
    place = parse_location("mqtt://b?will_topic=plant/state&will_payload=gone%20away&will_qos=1&will_retain=yes")
    assert place.will == Will("plant/state", b"gone away", 1, True)
    assert parse_location("mqtt://b?will_topic=x").will == Will("x")
    assert parse_location("mqtt://b").will is None


@pytest.mark.parametrize(
    "settings",
    ["qos=3", "retain=perhaps", "qos=1&speed=9", "will_topic=a/%23", "will_topic=a&will_qos=3", "will_payload=gone"],
)
def test_a_setting_that_is_none_is_refused_without_secrets(settings: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_location(f"mqtt://me:secret@broker?{settings}")
    assert "secret" not in str(caught.value)


def test_several_filters_have_a_comma_between_them() -> None:
    assert check_filters("plant/+/heat, lab/#,$SYS/x") == ["plant/+/heat", "lab/#", "$SYS/x"]


@pytest.mark.parametrize("address", ["a/#/b", "a+/b", "a/b#", "a,,b", "", "alerts/{key}"])
def test_a_filter_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="topic filter"):
        MqttEdge("mqtt://broker").check(TopicSpec("in", address=address), written=False)


OVERLAPPING = [
    ("a/+", "a/#"),
    ("a", "a/#"),
    ("a/b", "a/+"),
    ("+/b", "a/+"),
    ("a/+/c/#", "+/b/c"),
    ("#", "a/b"),
    ("+", "a"),
    ("a/b", "a/b"),
    ("$SYS/#", "$SYS/+"),
]
APART = [
    ("a/+", "a/b/c"),
    ("a/b/#", "a/c/#"),
    ("a/+", "a"),
    ("a/b", "a/bc"),
    ("+/+", "+"),
    ("#", "$SYS/x"),
    ("+/x", "$SYS/x"),
    ("a/", "a"),
]


@pytest.mark.parametrize(("one", "other"), OVERLAPPING)
def test_filters_that_a_topic_may_both_match_are_refused_since_it_would_come_twice(one: str, other: str) -> None:
    for pair in ((one, other), (other, one)):
        with pytest.raises(ConfigurationError, match="overlap: what both match may come for each"):
            check_filters("x/y," + ",".join(pair))


@pytest.mark.parametrize(("one", "other"), APART)
def test_filters_that_no_topic_both_matches_may_stand_side_by_side(one: str, other: str) -> None:
    assert check_filters(f"{one},{other}") == [one, other]
    assert check_filters(f"{other},{one}") == [other, one]


@pytest.mark.parametrize("address", ["alerts/+", "alerts/#", "alerts/{customer}"])
def test_a_template_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="topic 'alerts/"):
        check_template(address)


def test_what_can_t_stand_in_a_topic_is_escaped() -> None:
    assert fill("alerts/{key}/hot", b"a/1") == "alerts/a/1/hot"
    assert fill("alerts/{key}", b"a+b#\0c") == "alerts/a=2Bb=23=00c"
    assert fill("alerts/{key}", b"\xc3\xa4\xff\xe4") == "alerts/ä=FF=E4"
    assert fill("alerts", b"a") == "alerts"
    assert fill("alerts/{key}", None) == "alerts/"


@pytest.mark.parametrize(
    ("qos", "read", "written"),
    [
        (0, Guarantee.AT_MOST_ONCE, Guarantee.AT_MOST_ONCE),
        (1, Guarantee.EXACTLY_ONCE, Guarantee.AT_LEAST_ONCE),
        (2, Guarantee.EXACTLY_ONCE, Guarantee.EXACTLY_ONCE),
    ],
)
def test_what_is_promised_follows_from_the_quality_of_service(qos: int, read: Guarantee, written: Guarantee) -> None:
    edge = MqttEdge(f"mqtt://broker?qos={qos}")
    found = edge.guarantee(written=False), edge.guarantee(written=True)
    assert (found[0].guarantee, found[1].guarantee) == (read, written)
    assert all(f"QoS {qos}" in each.why for each in found)
    if read is Guarantee.EXACTLY_ONCE:
        assert "as long as" in found[0].why, "a lost session ends it"


def test_lost_sessions_are_a_metric_of_the_worker_over_all_its_brokers() -> None:
    edges = [MqttEdge("mqtt://here"), MqttEdge("mqtt://there")]
    edges[0].sessions_lost, edges[1].sessions_lost = 2, 1
    metrics = Metrics("plant")
    metrics.told.append(edge_counters(lambda: [*edges, edges[0]]))  # two topics at one broker
    assert metrics.registry.get_sample_value("streams_mqtt_sessions_lost_total", {"app": "plant"}) == 3
