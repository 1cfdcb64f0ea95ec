"""Topics at an edge: their names, their journals and outboxes, and what an app in a test makes of them."""

from __future__ import annotations

import pytest

from streams import App, Stream
from streams.core.capability import Capabilities
from streams.core.message import Message
from streams.dsl.foreign import edge_label, split_edge
from streams.errors import ConfigurationError, TopologyError
from streams.runtime.explain import explain
from streams.testing import TestDriver


def plant() -> App:
    app = App("plant", partitions=2)
    readings = app.stream(app.topic("nats://shop:secret@localhost/plant.*.temperature?tls=yes", value=float))
    hot = readings.filter(lambda celsius: celsius > 90)
    hot.to(app.topic("nats://localhost/alerts.{key}", value=float))
    readings.count(name="readings")
    return app


def test_a_subject_becomes_a_name_and_a_journal_of_one_partition() -> None:
    app = plant()
    blueprint = app.build()
    [journal] = blueprint.journals
    assert (journal.topic.name, journal.topic.partitions, journal.topic.kind) == (
        "plant.plant.any.temperature.journal",
        1,
        "journal",
    )
    assert journal.source.address == "plant.*.temperature"
    assert journal.source.location == "nats://shop:secret@localhost?tls=yes"
    assert {spec.name for spec in blueprint.edge_topics} == {"plant.any.temperature", "alerts.key"}
    assert not blueprint.foreign_topics
    assert "plant.plant.any.temperature.journal-0" in blueprint.tasks
    assert blueprint.record.internal_topics["plant.plant.any.temperature.journal"] == 1


@pytest.mark.parametrize(
    ("address", "label"),
    [
        ("a.b", "a.b"),
        ("a.*.>", "a.any.all"),
        ("a/+/#", "a.any.all"),
        ("alerts.{key}", "alerts.key"),
        ("plant/+/heat,lab/#", "plant.any.heat-lab.all"),
        ("$SYS.x y", "SYS.x-y"),
    ],
)
def test_an_address_is_named_by_what_a_name_may_hold(address: str, label: str) -> None:
    assert edge_label(address) == label


def test_an_edge_without_a_subject_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="names no subject"):
        split_edge("nats://user:secret@localhost")
    assert split_edge("kafka://localhost/orders") is None


def test_explain_says_what_an_edge_can_do() -> None:
    log = Capabilities(replayable=True, ordered=True, transactional=True, fences=True)
    plan = explain(plant(), "memory:", lambda _: log)
    edges = {(edge.source, edge.target): edge.guarantee for edge in plan.edges}
    assert (
        edges["nats://shop@localhost/plant.*.temperature?tls=yes", "plant.plant.any.temperature.journal"]
        == "at most once"
    )
    assert edges["plant.plant.any.temperature.journal", "tasks of plant.any.temperature"] == "exactly once"
    assert edges["plant.alerts.key.outbox", "nats://localhost/alerts.{key}"] == "at least once"
    assert "secret" not in str(plan)


def test_a_topic_at_a_broker_says_what_its_quality_of_service_can_do() -> None:
    app = App("plant")
    readings = app.stream(app.topic("mqtt://me:secret@localhost/plant/+/heat,lab/#?qos=2", value=float))
    readings.to(app.topic("mqtt://localhost/alerts/{key}?qos=1", value=float))
    readings.to(app.topic("mqtts://localhost/copies?qos=2", value=float))
    blueprint = app.build()
    [journal] = blueprint.journals
    assert journal.source.address == "plant/+/heat,lab/#"
    log = Capabilities(replayable=True, ordered=True, transactional=True, fences=True)
    plan = explain(app, "memory:", lambda _: log)
    found = {edge.source: edge.guarantee for edge in plan.edges} | {edge.target: edge.guarantee for edge in plan.edges}
    assert found["mqtt://me@localhost/plant/+/heat,lab/#?qos=2"] == "exactly once"
    assert found["mqtt://localhost/alerts/{key}?qos=1"] == "at least once"
    assert found["mqtts://localhost/copies?qos=2"] == "exactly once"
    assert "secret" not in str(plan)


def test_in_a_test_what_is_sent_comes_in_and_what_goes_out_is_kept() -> None:
    app = plant()
    with TestDriver(app) as t:
        t.send("plant.any.temperature", 95.0, key="plant.1.temperature")
        t.send("plant.any.temperature", 20.0, key="plant.2.temperature")
        assert t.outputs("alerts.key") == [("plant.1.temperature", 95.0)]
        assert t.table("readings") == {"plant.1.temperature": 1, "plant.2.temperature": 1}


def test_a_table_can_follow_a_subject() -> None:
    app = App("shop")
    app.table("prices", source=app.topic("nats://localhost/prices.*", key=str, value=int))
    with TestDriver(app) as t:
        t.send("prices.any", 5, key="prices.apple")
        t.send("prices.any", 6, key="prices.apple")
        assert t.table("prices") == {"prices.apple": 6}


def test_a_function_finds_the_key_of_what_a_transport_brings() -> None:
    app = App("plant")
    readings = app.topic(
        "mqtt://localhost/plant/+/temperature", qos=2, value=float, key=lambda m: m.topic.split("/")[1]
    )
    app.stream(readings).count(name="readings")
    with TestDriver(app) as t:
        t.send("plant.any.temperature", 95.0, key="plant/oven/temperature")
        t.send("plant.any.temperature", 90.0, key="plant/oven/temperature", headers={"Mqtt-Topic": "plant/hall/x"})
        assert t.table("readings") == {"oven": 1, "hall": 1}
    assert readings.spec.location == "mqtt://localhost?qos=2"


def test_a_function_for_the_key_gives_its_type_by_its_annotation() -> None:
    def sensor(message: Message) -> int:
        return int(message.topic.rpartition("/")[2])

    app = App("plant")
    app.table("latest", source=app.topic("mqtt://localhost/plant/+", value=float, key=sensor))
    with TestDriver(app) as t:
        t.send_bytes("plant.any", b"1.5", key=b"plant/7")
        assert t.table("latest") == {7: 1.5}


def test_a_message_whose_key_isn_t_found_meets_the_policy() -> None:
    app = App("plant")
    readings = app.topic("mqtt://localhost/plant/+", value=float, key=lambda m: m.topic.split("/")[5])
    app.stream(readings, on_error="dead_letter").to("kept")
    with TestDriver(app) as t:
        t.send_bytes("plant.any", b"1.5", key=b"plant/7")
        assert t.outputs("kept") == []
        assert t.outputs("plant.any.dead-letters") == [(b"plant/7", b"1.5")]


def test_a_function_as_key_is_refused_on_a_log() -> None:
    with pytest.raises(ConfigurationError, match=r"orders: a function as key is for topics of a transport"):
        App("shop").topic("orders", key=lambda m: m.topic, value=int)


def test_settings_of_mqtt_may_be_given_by_name() -> None:
    app = App("plant")
    topic = app.topic("mqtt://localhost/alerts/{key}?version=3.1.1", qos=1, retain=True)
    assert topic.spec.location == "mqtt://localhost?version=3.1.1&qos=1&retain=true"
    with pytest.raises(ConfigurationError, match=r"kafka://localhost/orders: qos=1 is a setting of topics of MQTT"):
        app.topic("kafka://localhost/orders", qos=1)


def test_two_addresses_that_come_to_one_name_get_two_by_a_label() -> None:
    app = App("plant")
    app.topic("mqtt://north/heat")
    with pytest.raises(ConfigurationError, match=r"'heat'.*mqtt://north and mqtt://south.*label='heat-2'"):
        app.topic("mqtt://south/heat")
    assert app.topic("mqtt://south/heat", label="south-heat").name == "south-heat"


def test_values_are_written_under_a_key_that_a_function_finds() -> None:
    app = App("plant")
    orders = app.stream("orders")
    orders.to("by-customer", key=lambda order: order["customer"])
    orders.to(app.topic("mqtt://localhost/{key}", qos=1), key=lambda order: f"shops/{order['shop']}/sold")
    with TestDriver(app) as t:
        t.send("orders", {"customer": "ada", "shop": 3}, key="1")
        assert t.outputs("by-customer") == [("ada", {"customer": "ada", "shop": 3})]
        assert t.outputs("key") == [("shops/3/sold", {"customer": "ada", "shop": 3})]


def test_a_value_without_the_key_that_it_is_written_under_meets_the_policy() -> None:
    app = App("plant")
    app.stream("orders", on_error="dead_letter").to("by-customer", key=lambda order: order["customer"])
    with TestDriver(app) as t:
        t.send("orders", {"shop": 3}, key="1")
        assert t.outputs("by-customer") == []
        assert [value for _, value in t.outputs("orders.dead-letters")] == [b'{"shop":3}']


def test_records_that_a_transport_shares_out_need_a_key_by_in_front_of_state() -> None:
    def plant() -> tuple[App, Stream[str, float]]:
        app = App("plant")
        return app, app.stream(app.topic("mqtt://localhost/plant/+", value=float, partitions=4))

    app, readings = plant()
    readings.count(name="readings")
    with pytest.raises(TopologyError, match=r"readings: what comes to plant.plant.any.journal .* put a key_by"):
        app.build()
    app, readings = plant()
    app.table("latest", source="mqtt://localhost/lab/+", value=float)
    readings.key_by(lambda celsius: "all").count(name="readings")
    readings.batch(10).to("batches")
    app.build()


def test_an_agent_without_tables_may_have_what_a_transport_shares_out() -> None:
    app = App("plant")

    @app.agent(app.stream(app.topic("mqtt://localhost/plant/+", value=float, partitions=4)))
    async def look(readings):  # type: ignore[no-untyped-def]
        async for _ in readings:
            pass

    app.build()
