"""The brokers of these tests: one for a module, one of its own for a test that kills it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.brokers.kafka.certificates import Authority
from tests.brokers.mqtt.server import NEEDED, Mosquitto, ready
from tests.brokers.unavailable import skip_or_fail


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not ready():
        skip_or_fail(NEEDED)


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("mqtt"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def own_mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("mqtt"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Mosquitto]:
    """Asks for a password everywhere, and on its port for TLS for a certificate too."""
    broker = Mosquitto(
        tmp_path_factory.mktemp("mqtt"),
        certificate=authority.sign("broker"),
        authority=authority.certificate,
        users={"shop": "s3cret"},
    )
    broker.start()
    yield broker
    broker.kill()


_numbers = itertools.count(1)


@pytest.fixture
def unique() -> Callable[[str], str]:
    """A name that no other test has."""
    return lambda name: f"{name}-{next(_numbers)}"
