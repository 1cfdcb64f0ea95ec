"""The pytest fixtures of Kafka.  A folder's ``conftest.py`` imports those that its tests use.

=================  ==================================================================================================
``kafka``          one broker for all tests of a run; they use names of their own (``unique``) and leave it running
``kafka_own``      a broker of the test's own, that it may kill, stop, pause and restart
``kafka_cluster``  three brokers of the test's own; everything is replicated three times
``kafka_secured``  a broker that wants TLS, a name and a password, and has ACLs; for all tests of a run
=================  ==================================================================================================

Where Kafka can't be had, each test says so in one skip line; with ``CI`` set it fails.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import pytest

from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.kafka.cluster import KafkaCluster
from tests.brokers.kafka.secured import SecuredKafka
from tests.brokers.unavailable import skipped_if_unavailable

Broker = TypeVar("Broker", bound=KafkaBroker)


class Shared(Generic[Broker]):
    """A broker for a whole run.  Each folder that imports its fixture has the fixture once: the first starts it, the
    last one ends it."""

    def __init__(self, make: Callable[[], Broker]) -> None:
        self._make = make
        self._broker: Broker | None = None
        self._users = 0

    @contextmanager
    def used(self) -> Iterator[Broker]:
        if self._broker is None:
            with skipped_if_unavailable():
                broker = self._make()
                broker.__enter__()
            self._broker = broker
        self._users += 1
        try:
            yield self._broker
        finally:
            self._users -= 1
            if self._users == 0:
                self._broker.close()
                self._broker = None


_open = Shared(KafkaBroker)
_secured = Shared(SecuredKafka)


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaBroker]:
    """The broker of this run, without security."""
    with _open.used() as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_secured() -> Iterator[SecuredKafka]:
    """The secured broker of this run."""
    with _secured.used() as broker:
        yield broker


@pytest.fixture
def kafka_own() -> Iterator[KafkaBroker]:
    """A broker that the test may do anything to."""
    with skipped_if_unavailable():
        broker = KafkaBroker().__enter__()
    with broker:
        yield broker


@pytest.fixture
def kafka_cluster() -> Iterator[KafkaCluster]:
    """Three brokers that the test may do anything to."""
    with skipped_if_unavailable():
        cluster = KafkaCluster().__enter__()
    yield cluster
    cluster.close()


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Names of topics and apps that no other test of this or another run has: ``unique("orders")``."""
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    run = uuid.uuid4().hex[:8]
    return lambda name: f"{name}-{test}-{run}"
