"""The brokers of these tests: one for a module, one of its own for a test that kills it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

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


_numbers = itertools.count(1)


@pytest.fixture
def unique() -> Callable[[str], str]:
    """A name that no other test has."""
    return lambda name: f"{name}-{next(_numbers)}"
