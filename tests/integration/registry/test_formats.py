"""The three formats: the bytes that the specification asks for, other programs' bytes, classes, evolution.

Golden bytes are written by hand from Confluent's wire format: magic byte 0, the id in 4 bytes, for Protobuf the path of
the message (zigzag varints, a single 0 for the first message), the value.
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, assert_type
from uuid import UUID

import msgspec
import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient, topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from pydantic import BaseModel

from streams import App, Codec
from streams.dsl.schema import wire_schema
from streams.errors import ConfigurationError, StreamsError
from streams.registry import SchemaRegistry
from streams.testing.driver import TestDriver
from tests.integration.registry.fake import FakeRegistry

ORDER = {
    "type": "record",
    "name": "Order",
    "fields": [{"name": "id", "type": "long"}, {"name": "item", "type": "string"}],
}


@dataclass
class Order:
    id: int
    item: str


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def registry(fake: FakeRegistry) -> SchemaRegistry:
    return SchemaRegistry(fake.url)


# ── Avro ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("given", [ORDER, json.dumps(ORDER), Schema(json.dumps(ORDER), "AVRO")])
def test_avro_is_written_as_the_specification_says(fake: FakeRegistry, registry: SchemaRegistry, given: Any) -> None:
    fake.register("others", '"int"')
    codec = registry.avro(given).at("orders")
    golden = b"\x00" + b"\x00\x00\x00\x02" + b"\x02" + b"\x06abc"
    assert codec.encode({"id": 1, "item": "abc"}) == golden
    assert codec.decode(golden) == {"id": 1, "item": "abc"}
    assert json.loads(fake.schemas[fake.subjects["orders-value"][0]]["schema"]) == ORDER


def test_a_schema_is_asked_for_once_however_many_records_there_are(fake: FakeRegistry) -> None:
    writing, reading = (SchemaRegistry(fake.url).avro(Order).at("orders") for _ in range(2))
    raw = [writing.encode(Order(number, "tea")) for number in range(100)]
    assert [reading.decode(each) for each in raw] == [Order(number, "tea") for number in range(100)]
    assert fake.log == ["POST /subjects/orders-value/versions", "GET /schemas/ids/1"]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Part:
    name: str
    parts: list[Part] = field(default_factory=list)


class Everything(msgspec.Struct, rename="camel"):
    count: int
    share: float
    sure: bool
    text: str
    raw: bytes
    at_time: datetime
    day: date
    ident: UUID
    colour: Colour
    part: Part
    spare: Part | None = None
    tags: list[str] = []
    rates: dict[str, float] = {}
    pair: tuple[int, ...] = (1, 2)
    note: str | None = "none"


def test_a_class_is_enough_for_a_schema_and_comes_back_equal(fake: FakeRegistry, registry: SchemaRegistry) -> None:
    value = Everything(
        *(1, 0.5, True, "ü", b"\x00\xff", datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), date(2026, 1, 2), UUID(int=7)),
        *(Colour.BLUE, Part("a", [Part("b")])),
        rates={"x": 1.5},
    )
    codec = registry.avro(Everything).at("things")
    assert_type(codec, Codec[Everything])
    assert codec.decode(codec.encode(value)) == value
    schema = json.loads(fake.schemas[1]["schema"])
    fields = {each["name"]: each for each in schema["fields"]}
    assert schema["name"] == "Everything"
    assert fields["atTime"]["type"] == {"type": "long", "logicalType": "timestamp-micros"}
    assert fields["colour"]["type"] == {"type": "enum", "name": "Colour", "symbols": ["red", "blue"]}
    assert fields["part"]["type"]["fields"][1] == {
        "name": "parts",
        "type": {"type": "array", "items": "Part"},
        "default": [],
    }
    assert (fields["spare"]["type"], fields["spare"]["default"]) == (["null", "Part"], None)
    assert (fields["note"]["type"], fields["note"]["default"]) == (["string", "null"], "none")


class Price(BaseModel):
    amount: Decimal


def test_a_schema_of_ones_own_goes_with_a_class_that_has_none(registry: SchemaRegistry) -> None:
    schema = {
        "type": "record",
        "name": "Price",
        "fields": [{"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}],
    }
    codec = registry.avro(schema, type=Price).at("prices")
    assert_type(codec, Codec[Price])
    assert codec.decode(codec.encode(Price(amount=Decimal("1.25")))) == Price(amount=Decimal("1.25"))


@dataclass
class Exact:
    amount: Decimal


@dataclass
class Either:
    one: Order | Part


@pytest.mark.parametrize(
    ("cls", "place"), [(Exact, "field amount is Decimal"), (Either, "more than one dataclass"), (Price, "pydantic")]
)
def test_a_class_that_avro_cannot_tell_is_refused_with_its_field(
    registry: SchemaRegistry, cls: type, place: str
) -> None:
    with pytest.raises(ConfigurationError, match=place) as raised:
        registry.avro(cls)
    assert "avro(schema, type=" in str(raised.value)


@pytest.mark.parametrize("schema", ["{", '{"type": "record"}', {"type": "recrod"}, "no-such-type"])
def test_a_schema_that_is_none_is_refused_while_the_app_is_declared(registry: SchemaRegistry, schema: Any) -> None:
    with pytest.raises(ConfigurationError, match="schema"):
        registry.avro(schema)


@pytest.mark.parametrize(
    "value", [{"id": "x", "item": "a"}, {"id": 1}, {"id": 1, "item": "a", "colour": "red"}, 7, Order(1, "a")]
)
def test_a_value_that_the_schema_does_not_hold_is_refused(registry: SchemaRegistry, value: Any) -> None:
    with pytest.raises(TypeError, match="doesn't fit the schema"):
        registry.avro(ORDER).at("orders").encode(value)


def test_without_a_schema_values_are_read_as_written_and_written_as_the_latest(fake: FakeRegistry) -> None:
    SchemaRegistry(fake.url).avro(Order).at("orders").encode(Order(1, "tea"))
    codec = SchemaRegistry(fake.url).avro().at("orders")
    raw = codec.encode({"id": 2, "item": "milk"})
    assert raw[:5] == b"\x00\x00\x00\x00\x01"
    assert codec.decode(raw) == {"id": 2, "item": "milk"}


def test_primitives_are_schemas_too(registry: SchemaRegistry) -> None:
    codec = registry.avro("string").at("names", "key")
    assert codec.decode(codec.encode("Åsa")) == "Åsa"


def test_a_schema_may_refer_to_another_subject(fake: FakeRegistry) -> None:
    fake.register(
        "customer", json.dumps({"type": "record", "name": "Customer", "fields": [{"name": "n", "type": "int"}]})
    )
    order = {"type": "record", "name": "Order", "fields": [{"name": "customer", "type": "Customer"}]}
    schema = Schema(json.dumps(order), "AVRO", [SchemaReference("Customer", "customer", 1)])
    codec = SchemaRegistry(fake.url).avro(schema).at("orders")
    raw = codec.encode({"customer": {"n": 1}})
    assert SchemaRegistry(fake.url).avro().at("orders").decode(raw) == {"customer": {"n": 1}}


def test_other_programs_read_and_write_the_same(fake: FakeRegistry, registry: SchemaRegistry) -> None:
    client = SchemaRegistryClient({"url": fake.url})
    conf = {"subject.name.strategy": topic_subject_name_strategy}
    theirs = AvroSerializer(client, json.dumps(ORDER), conf=conf)
    context = SerializationContext("orders", MessageField.VALUE)
    codec = registry.avro(Order).at("orders")
    raw = theirs({"id": 1, "item": "tea"}, context)
    assert raw is not None
    assert codec.decode(raw) == Order(1, "tea")
    assert AvroDeserializer(client, conf=conf)(codec.encode(Order(1, "tea")), context) == {"id": 1, "item": "tea"}


@dataclass
class NewOrder:
    id: int
    item: str
    colour: str = "white"


def test_readers_and_writers_may_be_of_different_versions(fake: FakeRegistry) -> None:
    new = {**ORDER, "fields": [*ORDER["fields"], {"name": "colour", "type": "string", "default": "white"}]}
    old_codec = SchemaRegistry(fake.url).avro(ORDER, type=Order).at("orders")
    new_codec = SchemaRegistry(fake.url).avro(new, type=NewOrder).at("orders")
    old_raw, new_raw = old_codec.encode(Order(1, "tea")), new_codec.encode(NewOrder(2, "milk", "blue"))
    assert (old_raw[4], new_raw[4]) == (1, 2)
    assert [new_codec.decode(raw) for raw in (old_raw, new_raw)] == [
        NewOrder(1, "tea", "white"),
        NewOrder(2, "milk", "blue"),
    ]
    assert [old_codec.decode(raw) for raw in (old_raw, new_raw)] == [Order(1, "tea"), Order(2, "milk")]
    assert fake.subjects == {"orders-value": [1, 2]}


# ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_json_is_written_as_the_specification_says(fake: FakeRegistry, registry: SchemaRegistry) -> None:
    codec = registry.json_schema(Order).at("orders")
    assert_type(codec, Codec[Order])
    raw = codec.encode(Order(1, "tea"))
    assert raw[:5] == b"\x00\x00\x00\x00\x01"
    assert json.loads(raw[5:]) == {"id": 1, "item": "tea"}
    assert codec.decode(b'\x00\x00\x00\x00\x09{"id": 1, "item": "tea"}') == Order(1, "tea")
    assert fake.log == ["POST /subjects/orders-value/versions"], "reading asks nothing"
    schema = json.loads(fake.schemas[1]["schema"])
    assert (fake.schemas[1]["schemaType"], schema["title"], schema["required"]) == ("JSON", "Order", ["id", "item"])


def test_classes_come_back_from_json_as_well(registry: SchemaRegistry) -> None:
    value = Everything(
        *(1, 0.5, True, "ü", b"\x00\xff", datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), date(2026, 1, 2), UUID(int=7)),
        *(Colour.BLUE, Part("a", [Part("b")])),
    )
    codec = registry.json_schema(Everything).at("things")
    assert codec.decode(codec.encode(value)) == value
    prices = registry.json_schema(Price).at("prices")
    assert prices.decode(prices.encode(Price(amount=Decimal("1.25")))) == Price(amount=Decimal("1.25"))


def test_json_is_checked_against_its_schema_unless_that_is_not_wanted(registry: SchemaRegistry) -> None:
    schema = {"title": "Order", "type": "object", "properties": {"id": {"type": "integer", "minimum": 1}}}
    bad = b'\x00\x00\x00\x00\x01{"id": 0}'
    strict = registry.json_schema(schema).at("orders")
    with pytest.raises(TypeError, match="0 is less than the minimum of 1"):
        strict.encode({"id": 0})
    with pytest.raises(Exception, match="0 is less than the minimum of 1"):
        strict.decode(bad)
    trusting = registry.json_schema(schema, validate=False).at("orders")
    assert trusting.decode(trusting.encode({"id": 0})) == trusting.decode(bad) == {"id": 0}


# ── Protobuf ────────────────────────────────────────────────────────────────────────────────────────────────────────


def shop() -> dict[str, Any]:
    """The classes of shop.proto, as protoc would generate them: two messages, one nested, one import."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    text = descriptor_pb2.FieldDescriptorProto
    customer = descriptor_pb2.FileDescriptorProto(name="customer.proto", package="shop", syntax="proto3")
    message = customer.message_type.add(name="Customer")
    message.field.add(name="name", number=1, type=text.TYPE_STRING, label=text.LABEL_OPTIONAL)
    pool.Add(customer)
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    file.dependency.append("customer.proto")
    order = file.message_type.add(name="Order")
    order.field.add(name="id", number=1, type=text.TYPE_INT64, label=text.LABEL_OPTIONAL)
    order.field.add(
        name="customer", number=2, type=text.TYPE_MESSAGE, type_name=".shop.Customer", label=text.LABEL_OPTIONAL
    )
    refund = file.message_type.add(name="Refund")
    line = refund.nested_type.add(name="Line")
    for each in (refund, line):
        each.field.add(name="id", number=1, type=text.TYPE_INT64, label=text.LABEL_OPTIONAL)
    pool.Add(file)
    names = ["shop.Order", "shop.Customer", "shop.Refund", "shop.Refund.Line"]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names}


SHOP = shop()


@pytest.mark.parametrize(
    ("name", "path"), [("shop.Order", b"\x00"), ("shop.Refund", b"\x02\x02"), ("shop.Refund.Line", b"\x04\x02\x00")]
)
def test_protobuf_is_written_as_the_specification_says(
    fake: FakeRegistry, registry: SchemaRegistry, name: str, path: bytes
) -> None:
    cls = SHOP[name]
    codec = registry.protobuf(cls).at("orders")
    number = bytes([0, 0, 0, 0, 2])  # 1 is the file that is imported
    golden = number + path + b"\x08\x05"
    assert codec.encode(cls(id=5)) == golden
    assert codec.decode(golden) == cls(id=5)
    assert fake.schemas[2]["schemaType"] == "PROTOBUF"
    assert [each["subject"] for each in fake.schemas[2]["references"]] == ["customer.proto"]


def test_a_protobuf_message_with_an_imported_one_comes_back(registry: SchemaRegistry) -> None:
    codec = registry.protobuf(SHOP["shop.Order"]).at("orders")
    order = SHOP["shop.Order"](id=1, customer=SHOP["shop.Customer"](name="Åsa"))
    assert codec.decode(codec.encode(order)) == order


def test_a_message_of_another_class_is_refused(registry: SchemaRegistry) -> None:
    with pytest.raises(TypeError, match="must be of type"):
        registry.protobuf(SHOP["shop.Order"]).at("orders").encode(SHOP["shop.Customer"](name="x"))


def test_reading_protobuf_asks_nothing_and_writing_keeps_to_the_settings(fake: FakeRegistry) -> None:
    cls = SHOP["shop.Refund"]
    reading = SchemaRegistry(fake.url).protobuf(cls).at("refunds")
    assert reading.decode(b"\x00\x00\x00\x00\x09\x02\x02\x08\x05") == cls(id=5)
    assert fake.log == []
    with pytest.raises(StreamsError, match="register=True"):
        SchemaRegistry(fake.url, register=False).protobuf(cls).at("refunds").encode(cls(id=5))
    assert fake.subjects == {}
    SchemaRegistry(fake.url, subject="record").protobuf(cls).at("refunds").encode(cls(id=5))
    assert "shop.Refund" in fake.subjects


# ── what they share ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_codec_is_known_by_its_format_and_the_name_of_its_record(registry: SchemaRegistry) -> None:
    for codec, wire, record in (
        (registry.avro(ORDER), "avro", "Order"),
        (registry.avro({**ORDER, "namespace": "shop"}), "avro", "shop.Order"),
        (registry.avro("string"), "avro", ""),
        (registry.avro('["null", "string"]'), "avro", ""),
        (registry.avro(), "avro", ""),
        (registry.json_schema(Order), "json-schema", "Order"),
        (registry.json_schema(), "json-schema", ""),
        (registry.protobuf(SHOP["shop.Refund.Line"]), "protobuf", "shop.Refund.Line"),
    ):
        for each in (codec, codec.at("orders")):
            assert (each.name, each.schema) == (wire, wire_schema(f"registry:{wire}:{record}"))


@pytest.mark.parametrize("schema", ['"string"', ' \n["null", "string"]', "  string ", ' {"type": "string"}'])
def test_a_schema_is_text_or_the_name_of_a_type(fake: FakeRegistry, schema: str) -> None:
    codec = SchemaRegistry(fake.url).avro(schema).at("names", "key")
    assert codec.decode(codec.encode("Åsa")) == "Åsa"
    assert list(fake.subjects) == ["names-key"]


def test_a_json_schema_of_ones_own_goes_with_a_class_and_without_one_the_registry_is_asked(fake: FakeRegistry) -> None:
    schema = {"title": "Order", "type": "object", "properties": {"id": {"type": "integer"}}}
    own = SchemaRegistry(fake.url).json_schema(schema, type=Order).at("orders")
    raw = own.encode(Order(1, "tea"))
    assert own.decode(raw) == Order(1, "tea")
    asking = SchemaRegistry(fake.url).json_schema().at("orders")
    assert asking.decode(raw) == {"id": 1, "item": "tea"}
    assert asking.encode({"id": 2}) == b'\x00\x00\x00\x00\x01{"id":2}'
    with pytest.raises(TypeError, match=r"doesn't fit the schema: .*'x' is not of type 'integer'"):
        asking.encode({"id": "x"})


def test_a_schema_that_is_only_formatted_anew_is_the_same_to_the_registry(fake: FakeRegistry) -> None:
    SchemaRegistry(fake.url).avro(ORDER).at("orders").encode({"id": 1, "item": "tea"})
    SchemaRegistry(fake.url).protobuf(SHOP["shop.Customer"]).at("more").encode(SHOP["shop.Customer"](name="Åsa"))
    assert len(fake.queries) == 2
    assert all("normalize=true" in query.lower() for query in fake.queries)


def test_bytes_that_no_registry_stands_behind_are_not_asked_for(fake: FakeRegistry, registry: SchemaRegistry) -> None:
    codec = registry.avro(ORDER).at("orders")
    for raw in (b"\x01\x00\x00\x00\x01\x02", b"\x00\x00\x00\x01", b""):
        with pytest.raises(Exception, match=r"(?i)magic|small|short|bytes"):
            codec.decode(raw)
    assert fake.log == []


def test_the_registry_is_waited_for_until_the_schema_is_known_and_not_after(
    registry: SchemaRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = registry._connection.ask

    def counted(purpose: str, request: Any) -> Any:
        asked.append(purpose)
        return ask(purpose, request)

    monkeypatch.setattr(registry._connection, "ask", counted)
    codec = registry.avro(ORDER).at("orders")
    for number in range(3):
        codec.encode({"id": number, "item": "tea"})
    assert asked == ["the values of orders can't be written"]


def test_what_is_said_of_a_bad_value_names_its_error_in_a_line_of_bounded_length(registry: SchemaRegistry) -> None:
    with pytest.raises(TypeError, match=r"doesn't fit the schema: \w*(Error|Exception): ") as raised:
        registry.json_schema({"type": "object", "enum": ["x" * 999]}).at("orders").encode({"id": 1})
    said = str(raised.value).partition("schema: ")[2]
    assert len(said) == 300
    assert "\n" not in said


# ── in an app ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_topic_and_state_has_a_subject_of_its_own(fake: FakeRegistry, registry: SchemaRegistry) -> None:
    fake.register("orders-value", json.dumps(ORDER))
    app = App("shop", partitions=2)
    values = registry.avro({**ORDER, "fields": ORDER["fields"][:1]})  # it reads only a part
    orders = app.stream(app.topic("orders", key=registry.avro("long"), value=values))
    by_id = orders.key_by(lambda order: order["id"], key=int)
    by_id.to(
        app.topic("ids", key=int, value=registry.avro({"type": "record", "name": "Id", "fields": ORDER["fields"][:1]}))
    )
    raw = SchemaRegistry(fake.url).avro(ORDER).at("orders").encode({"id": 7, "item": "tea"})
    with TestDriver(app) as driver:
        driver.send_bytes("orders", raw)
        assert driver.outputs("ids") == [(7, {"id": 7})]
    assert sorted(fake.subjects) == ["ids-value", "orders-value", "shop.orders.by-id.repartition-value"]
    assert len(fake.subjects["orders-value"]) == 1, "a reader's schema is no version of what it reads"


@pytest.mark.parametrize(
    ("naming", "subject"), [("topic", "orders-value"), ("record", "Order"), ("topic_record", "orders-Order")]
)
def test_subjects_are_named_as_asked(fake: FakeRegistry, naming: Any, subject: str) -> None:
    codec = SchemaRegistry(fake.url, subject=naming).avro(ORDER).at("orders")
    assert codec.decode(codec.encode({"id": 1, "item": "tea"})) == {"id": 1, "item": "tea"}
    assert list(fake.subjects) == [subject]


def test_keys_tables_and_restarts_work_with_records_of_the_registry(registry: SchemaRegistry) -> None:
    def app() -> App:
        made = App("shop", partitions=2)
        orders = made.topic("orders", key=registry.avro("long"), value=registry.avro(Order))
        made.table("last", source=orders)
        made.stream("more", value=registry.json_schema(Order)).batch(2).map(len).to("pairs")
        return made

    with TestDriver(app()) as first:
        first.send("orders", Order(1, "tea"), key=1)
        first.send("orders", Order(2, "milk"), key=1)
        first.send("more", Order(1, "tea"), key="a")
    with TestDriver(app(), after=first) as second:
        assert second.table("last") == {1: Order(2, "milk")}
        second.send("more", Order(2, "milk"), key="a")
        assert second.outputs("pairs") == [("a", 2)]
