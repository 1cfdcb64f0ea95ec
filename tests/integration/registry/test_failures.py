"""What goes wrong with a registry, and what becomes of the records: an outage, a login, a schema that is refused."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streams import App
from streams.core.policy import Action
from streams.errors import RecordFailed, ServiceRefused, ServiceUnavailable
from streams.registry import SchemaRegistry
from streams.testing.driver import TestDriver
from tests.brokers.kafka.certificates import Authority
from tests.brokers.unavailable import Unavailable, skip_or_fail
from tests.integration.registry.fake import FakeRegistry, basic

POLICIES: list[Action] = ["fail", "skip", "dead_letter"]


@dataclass
class Order:
    id: int


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def orders(fake: FakeRegistry, numbers: range) -> list[bytes]:
    """Records that another program wrote."""
    codec = SchemaRegistry(fake.url).avro(Order).at("orders")
    return [codec.encode(Order(number)) for number in numbers]


def reading(registry: SchemaRegistry, policy: Action = "fail") -> App:
    app = App("shop", partitions=1)
    app.stream("orders", value=registry.avro(Order), on_error=policy).map(lambda order: order.id).to("ids")
    return app


class Restarts(logging.Handler):
    """Does something when a task has begun again for the third time."""

    def __init__(self, then: Any) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.then = then

    def emit(self, record: logging.LogRecord) -> None:
        if "starts again from its last commit" in record.getMessage():
            self.lines.append(record.getMessage())
            if len(self.lines) == 3:
                self.then()


@pytest.fixture
def driver_log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("streams")
    before, level = logger.handlers.copy(), logger.level
    logger.setLevel(logging.DEBUG)  # what names a task
    yield logger
    logger.handlers = before
    logger.setLevel(level)


@pytest.mark.parametrize("policy", POLICIES)
def test_while_the_registry_is_down_the_task_waits_and_no_record_is_lost(
    fake: FakeRegistry, driver_log: logging.Logger, policy: Action
) -> None:
    raw = orders(fake, range(5))
    fake.stop()
    restarts = Restarts(fake.start)
    driver_log.addHandler(restarts)
    with TestDriver(reading(SchemaRegistry(fake.url), policy)) as driver:
        for each in raw:
            driver.send_bytes("orders", each)
        assert [value for _, value in driver.outputs("ids")] == [0, 1, 2, 3, 4]
        if policy == "dead_letter":
            assert driver.outputs("orders.dead-letters") == []
    assert len(restarts.lines) >= 3
    assert "can't be reached" in restarts.lines[0]
    assert "schema 1 of the values of orders isn't known" in restarts.lines[0]


def test_an_outage_at_the_first_write_is_waited_out_and_writes_once(
    fake: FakeRegistry, driver_log: logging.Logger
) -> None:
    fake.stop()
    restarts = Restarts(fake.start)
    driver_log.addHandler(restarts)
    app = App("shop", partitions=1)
    out = app.topic("out", value=SchemaRegistry(fake.url).avro(Order))
    app.stream("in", value=int, on_error="skip").map(Order).to(out)
    with TestDriver(app) as driver:
        driver.send_all("in", [("a", 1), ("b", 2)])
        assert driver.outputs("out") == [("a", Order(1)), ("b", Order(2))]
    assert len(restarts.lines) >= 3


def test_what_is_known_already_is_read_and_written_through_an_outage(fake: FakeRegistry) -> None:
    codec = SchemaRegistry(fake.url).avro(Order).at("orders")
    assert codec.decode(codec.encode(Order(1))) == Order(1)
    fake.stop()
    assert codec.decode(codec.encode(Order(2))) == Order(2)


@pytest.mark.parametrize(
    "answer",
    [
        (503, {"error_code": 50302, "message": "not the leader"}),
        (500, {"error_code": 50001, "message": "the store is away"}),
        (429, {"error_code": 429, "message": "slow down"}),
        "<html>a proxy's page</html>",
    ],
)
def test_an_answer_that_says_nothing_about_the_schema_is_waited_out(fake: FakeRegistry, answer: Any) -> None:
    raw = orders(fake, range(1))
    fake.answers = [answer, answer]
    with TestDriver(reading(SchemaRegistry(fake.url), "skip")) as driver:
        driver.send_bytes("orders", raw[0])
        assert driver.outputs("ids") == [(None, 0)]
    assert fake.answers == []


def test_a_registry_that_hangs_is_given_up_and_left_alone_for_a_while(fake: FakeRegistry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        registry = SchemaRegistry(f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout_s=0.2)
        codec = registry.avro(Order).at("orders")
        with pytest.raises(ServiceUnavailable, match="ReadTimeout") as first:
            codec.encode(Order(1))
        with pytest.raises(ServiceUnavailable) as second:  # at once: nobody has accepted a second connection
            codec.encode(Order(1))
        assert second.value.__cause__ is None
        assert str(second.value) == str(first.value)


# ── records that are bad ────────────────────────────────────────────────────────────────────────────────────────────

BAD = [
    (b'{"id": 1}', "magic byte"),
    (b"\x00\x00\x00", "length 6"),
    (b"", "length 6"),
    (b"\x00\x00\x00\x00\x63\x02", "Schema 99 not found, so schema 99 of the values of orders isn't known"),
]


@pytest.mark.parametrize(("raw", "reason"), BAD)
def test_a_malformed_record_meets_the_policy(fake: FakeRegistry, raw: bytes, reason: str) -> None:
    good = orders(fake, range(2))
    with TestDriver(reading(SchemaRegistry(fake.url), "dead_letter")) as driver:
        for each in (good[0], raw, good[1]):
            driver.send_bytes("orders", each)
        assert [value for _, value in driver.outputs("ids")] == [0, 1]
        assert [value for _, value in driver.outputs("orders.dead-letters")] == [raw]
    with TestDriver(reading(SchemaRegistry(fake.url))) as driver, pytest.raises(RecordFailed, match=reason) as raised:
        driver.send_bytes("orders", raw)
    assert (raised.value.topic, raised.value.offset) == ("orders", 0)


def test_a_record_without_a_schema_id_asks_nothing(fake: FakeRegistry) -> None:
    codec = SchemaRegistry(fake.url).avro(Order).at("orders")
    with pytest.raises(Exception, match="magic byte"):
        codec.decode(b'{"id": 1}')
    assert fake.log == []


# ── a registry that turns us down ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("policy", POLICIES)
def test_a_wrong_password_stops_the_app_with_one_line_that_keeps_it(
    fake: FakeRegistry, caplog: pytest.LogCaptureFixture, policy: Action
) -> None:
    raw = orders(fake, range(1))
    fake.login = basic("shop", "right:one")
    caplog.set_level(logging.DEBUG)
    registry = SchemaRegistry(fake.url.replace("//", "//shop:hunter2@"))
    with (
        TestDriver(reading(registry, policy)) as driver,
        pytest.raises(ServiceRefused, match="refuses user 'shop': check the password") as raised,
    ):
        driver.send_bytes("orders", raw[0])
    assert "\n" not in str(raised.value)
    for shown in (str(raised.value), repr(registry), caplog.text):
        assert "hunter2" not in shown


def test_the_right_password_or_token_is_let_in(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = orders(fake, range(1))[0]
    fake.login = basic("shop", "right:one")
    assert SchemaRegistry(fake.url, user="shop", password="right:one").avro(Order).at("o").decode(raw) == Order(0)
    monkeypatch.setenv("STREAMS_REGISTRY_URL", fake.url)
    monkeypatch.setenv("STREAMS_REGISTRY_USER", "shop")
    monkeypatch.setenv("STREAMS_REGISTRY_PASSWORD", "right:one")
    assert SchemaRegistry().avro(Order).at("o").decode(raw) == Order(0)
    monkeypatch.delenv("STREAMS_REGISTRY_USER")
    monkeypatch.delenv("STREAMS_REGISTRY_PASSWORD")
    fake.login = "Bearer abc.def"
    assert SchemaRegistry(token="abc.def").avro(Order).at("o").decode(raw) == Order(0)
    with pytest.raises(ServiceRefused, match="refuses the token"):
        SchemaRegistry(token="other").avro(Order).at("o").decode(raw)
    with pytest.raises(ServiceRefused, match="without a login"):
        SchemaRegistry().avro(Order).at("o").decode(raw)


def test_a_schema_that_breaks_the_subject_stops_the_app_with_its_name(fake: FakeRegistry) -> None:
    fake.register("out-value", json.dumps({"type": "record", "name": "Order", "fields": []}))
    app = App("shop", partitions=1)
    out = app.topic("out", value=SchemaRegistry(fake.url).avro(Order))
    app.stream("in", value=int, on_error="skip").map(Order).to(out)
    with TestDriver(app) as driver:
        with pytest.raises(ServiceRefused, match="READER_FIELD_MISSING_DEFAULT_VALUE: id") as raised:
            driver.send("in", 1)
        assert "the values of out can't be written" in str(raised.value)


def test_without_leave_to_register_a_schema_has_to_be_there(fake: FakeRegistry) -> None:
    codec = SchemaRegistry(fake.url, register=False).avro(Order).at("orders")
    with pytest.raises(ServiceRefused, match=r"Subject 'orders-value' not found.*register it"):
        codec.encode(Order(1))
    assert fake.subjects == {}
    SchemaRegistry(fake.url).avro(Order).at("orders").encode(Order(1))
    assert codec.decode(codec.encode(Order(1))) == Order(1)
    protobuf = SchemaRegistry(fake.url, register=False).json_schema(Order).at("others")
    with pytest.raises(ServiceRefused, match="register it"):
        protobuf.encode(Order(1))


def test_another_server_at_the_address_stops_the_app(fake: FakeRegistry) -> None:
    raw = orders(fake, range(1))
    fake.answers = [(404, {"detail": "no such page"})]
    with (
        TestDriver(reading(SchemaRegistry(fake.url + "/wrong/path"), "skip")) as driver,
        pytest.raises(ServiceRefused, match="not as a schema registry does"),
    ):
        driver.send_bytes("orders", raw[0])


def test_a_registry_over_tls_is_trusted_by_its_authority(tmp_path: Path) -> None:
    try:
        authority = Authority(tmp_path / "ca")
    except Unavailable as error:
        skip_or_fail(str(error))
    certificate, key = authority.sign("registry")
    with FakeRegistry(certificate=str(certificate), key=str(key)) as fake:
        trusting = SchemaRegistry(fake.url, ca_file=str(authority.certificate)).avro(Order).at("orders")
        assert trusting.decode(trusting.encode(Order(1))) == Order(1)
        with pytest.raises(ServiceRefused, match="ca_file"):
            SchemaRegistry(fake.url).avro(Order).at("orders").encode(Order(1))
