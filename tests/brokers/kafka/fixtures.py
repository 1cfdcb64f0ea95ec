"""The pytest fixtures of Kafka.  A folder's ``conftest.py`` imports those that its tests use.

=================  ==================================================================================================
``kafka``          one broker for all tests of a run; they use names of their own (``unique``) and leave it running
``kafka_own``      a broker of the test's own, that it may kill, stop, pause and restart
``kafka_cluster``  three brokers of the test's own; everything is replicated three times
``kafka_jars``     no broker, but all that is needed to start one
``kafka_secured``  a broker that wants TLS, a name and a password, and has ACLs; for all tests of a run
=================  ==================================================================================================

Where Kafka can't be had, all tests that use one of these are skipped with one line in all; with ``CI`` set they fail.
That is decided by ``pytest_runtest_setup``, which a ``conftest.py`` imports as well.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Generic, TypeVar

import pytest

from tests.brokers.kafka.archive import make_archive
from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.kafka.cluster import KafkaCluster
from tests.brokers.kafka.jars import program
from tests.brokers.kafka.secured import SecuredKafka
from tests.brokers.unavailable import Unavailable, skip_or_fail

NEEDS_OPENSSL = "kafka_secured"
FIXTURES = {"kafka", "kafka_own", "kafka_cluster", "kafka_jars", NEEDS_OPENSSL}


@cache
def missing(openssl: bool) -> str:
    """What a broker needs and can't have here, in one line; empty if nothing.  Found out once: a fetch that fails is
    not tried again by each test."""
    try:
        program("java")
        make_archive()
        if openssl:
            program("openssl")
    except Unavailable as error:
        return str(error)
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    used = FIXTURES.intersection(getattr(item, "fixturenames", ()))
    if used and (reason := missing(NEEDS_OPENSSL in used)):
        skip_or_fail(reason)


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
            self._broker = self._make()
            self._broker.__enter__()
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


@pytest.fixture(scope="session")
def kafka_jars() -> None:
    """Java and Kafka's jars are there; for a test that starts brokers by itself."""


@pytest.fixture
def kafka_own() -> Iterator[KafkaBroker]:
    """A broker that the test may do anything to."""
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture
def kafka_cluster() -> Iterator[KafkaCluster]:
    """Three brokers that the test may do anything to."""
    with KafkaCluster() as cluster:
        yield cluster


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Names of topics and apps that no other test of this or another run has: ``unique("orders")``."""
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    run = uuid.uuid4().hex[:8]
    return lambda name: f"{name}-{test}-{run}"
