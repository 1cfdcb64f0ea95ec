"""The brokers of these tests; see ``tests/brokers/kafka/fixtures.py``.  Beside them: a broker behind a bad network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers.kafka.fixtures import (
    kafka,
    kafka_cluster,
    kafka_jars,
    kafka_own,
    kafka_secured,
    pytest_runtest_setup,
    unique,
)
from tests.brokers.kafka.proxied import ProxiedKafka

__all__ = [
    "kafka",
    "kafka_cluster",
    "kafka_jars",
    "kafka_own",
    "kafka_proxied",
    "kafka_secured",
    "pytest_runtest_setup",
    "unique",
]


@pytest.fixture
def kafka_proxied(kafka_jars: None) -> Iterator[ProxiedKafka]:
    """A broker of the test's own that is also reached through a port where a ``Proxy`` is to stand."""
    broker = ProxiedKafka()
    with broker:
        yield broker
