"""How a registry is named and logged in to, and how long one that fails is left alone.  Nothing is sent here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient, SchemaRegistryError
from httpx2 import ConnectTimeout

from streams import App
from streams.errors import ConfigurationError, ServiceRefused, ServiceUnavailable
from streams.registry import SchemaRegistry
from streams.registry.connection import Connection, UnknownSchema
from streams.testing.driver import TestDriver


@dataclass
class Order:
    id: int


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "USER", "PASSWORD", "TOKEN", "CA_FILE", "CERT_FILE", "KEY_FILE", "KEY_PASSWORD"):
        monkeypatch.delenv(f"STREAMS_REGISTRY_{name}", raising=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "STREAMS_REGISTRY_URL"),
        ({"url": "registry:8081"}, "write http://host:port"),
        ({"url": "ftp://registry"}, "write http://host:port"),
        ({"url": "http://registry:x"}, "is no address"),
        ({"url": "http://registry?token=hunter2"}, "write http://host:port"),
        ({"url": "http://:hunter2@registry,kafka://b"}, "write http://host:port"),
        ({"url": "http://registry", "user": "shop"}, "belong together"),
        ({"url": "http://registry", "password": "hunter2"}, "belong together"),
        ({"url": "http://registry", "user": "shop", "password": "hunter2", "token": "hunter2"}, "or a token"),
        ({"url": "https://registry", "ca_file": "no-such.pem"}, "ca_file='no-such.pem'"),
        ({"url": "http://registry", "timeout_s": 0}, "timeout_s"),
        ({"url": "http://registry", "subject": "table"}, "'topic', 'record' or 'topic_record'"),
        ({"url": "http://registry", "settings": {"no.such.setting": "hunter2"}}, "no.such.setting"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line_without_secrets(settings: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        SchemaRegistry(**settings)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def login(registry: SchemaRegistry) -> Any:
    config: Any = registry._connection.client.config
    return config()["basic.auth.user.info"]


def test_a_registry_shows_its_address_and_nothing_else() -> None:
    registry = SchemaRegistry("http://shop:hunter%402@one:8081/api/, http://two:8081")
    assert repr(registry) == "SchemaRegistry('http://one:8081/api,http://two:8081')"
    assert login(registry) == "shop:hunter@2"
    assert "hunter" not in repr(registry._connection)


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMS_REGISTRY_URL", "http://elsewhere")
    monkeypatch.setenv("STREAMS_REGISTRY_PASSWORD", "from-environment")
    assert repr(SchemaRegistry(user="shop")) == "SchemaRegistry('http://elsewhere')"
    given = SchemaRegistry("http://here", user="shop", password="given")
    assert repr(given) == "SchemaRegistry('http://here')"
    assert login(given) == "shop:given"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def connection(clock: Clock) -> Connection:
    return Connection({"url": "http://registry"}, timeout_s=3, more={}, clock=clock)


def test_a_registry_that_failed_is_left_alone_for_twice_as_long_as_it_took() -> None:
    clock, asked = Clock(), []
    asking = connection(clock)

    def hangs() -> None:
        asked.append(clock.now)
        clock.now += 3
        raise ConnectTimeout("timed out")

    with pytest.raises(ServiceUnavailable, match="so nothing can be read"):
        asking.ask("nothing can be read", hangs)
    for clock.now in (103.0, 105.0, 108.9):
        with pytest.raises(ServiceUnavailable, match="timed out"):
            asking.ask("nothing can be read", hangs)
    assert asked == [100.0]
    clock.now = 109.0
    assert asking.ask("nothing can be read", lambda: "here it is") == "here it is"
    assert asking.ask("nothing can be read", lambda: "and again") == "and again"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SchemaRegistryError(404, 40403, "Schema not found"), UnknownSchema),
        (SchemaRegistryError(404, -1, "Unknown Schema Registry Error: <html>"), ServiceRefused),
        (SchemaRegistryError(301, -1, "moved"), ServiceRefused),
        (SchemaRegistryError(401, 401, "Unauthorized"), ServiceRefused),
        (SchemaRegistryError(403, 40301, "not for you"), ServiceRefused),
        (SchemaRegistryError(409, 409, "incompatible"), ServiceRefused),
        (SchemaRegistryError(422, 42201, "invalid schema"), ServiceRefused),
        (SchemaRegistryError(408, 408, "too slow"), ServiceUnavailable),
        (SchemaRegistryError(429, 42901, "too many"), ServiceUnavailable),
        (SchemaRegistryError(500, 50001, "store"), ServiceUnavailable),
        (SchemaRegistryError(502, -1, "bad gateway"), ServiceUnavailable),
        (ConnectTimeout("timed out"), ServiceUnavailable),
        (json.JSONDecodeError("no JSON", "<html>", 0), ServiceUnavailable),
    ],
)
def test_each_failure_is_of_one_kind(error: Exception, kind: type[Exception]) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(kind) as raised:
        connection(Clock()).ask("the values of orders can't be read", fails)
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)
    assert "so the values of orders can't be read" in str(raised.value)


def test_a_codec_without_a_topic_says_so() -> None:
    codec = SchemaRegistry("http://registry").avro(Order)
    with pytest.raises(ConfigurationError, match="without a topic"):
        codec.encode(Order(1))
    with pytest.raises(ConfigurationError, match="without a topic"):
        codec.decode(b"")


def test_two_records_of_one_topic_are_told_apart() -> None:
    registry = SchemaRegistry("mock://")
    app = App("shop")
    app.topic("orders", value=registry.avro(Order))
    assert app.topic("orders", value=registry.avro(Order)).name == "orders"
    with pytest.raises(ConfigurationError, match="declared twice"):
        app.topic("orders", value=registry.json_schema(Order))
    with pytest.raises(ConfigurationError, match="declared twice"):
        app.topic("orders", value=registry.avro({"type": "record", "name": "Other", "fields": []}))


def test_a_registry_in_memory_is_enough_for_a_test_of_an_app() -> None:
    registry = SchemaRegistry("mock://")
    app = App("shop")
    orders = app.topic("orders", value=registry.avro(Order))
    app.stream(orders).filter(lambda order: order.id > 1).to(app.topic("big", value=registry.json_schema(Order)))
    with TestDriver(app) as driver:
        driver.send_all(orders, [("a", Order(1)), ("b", Order(2))])
        assert driver.outputs("big") == [("b", Order(2))]


def test_the_core_runs_without_the_extra() -> None:
    program = (
        "import sys; sys.modules['confluent_kafka'] = None\n"
        "import streams, streams.testing, streams.connectors.embedded.log\n"
        "assert not [name for name in sys.modules if name.startswith('httpx2')]\n"
        "try:\n    import streams.registry\n"
        "except streams.errors.ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "pip install 'streams-log[registry]'" in done.stdout, done.stderr


def test_files_and_the_password_of_a_key_reach_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(SchemaRegistryClient, "new_client", given.update)
    SchemaRegistry("https://localhost", ca_file="ca", cert_file="cert", key_file="key", key_password="secret")
    assert {name: value for name, value in given.items() if name.startswith("ssl.")} == {
        "ssl.ca.location": "ca",
        "ssl.certificate.location": "cert",
        "ssl.key.location": "key",
        "ssl.key.password": "secret",
    }
