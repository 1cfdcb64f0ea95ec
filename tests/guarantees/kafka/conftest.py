"""The brokers of these tests; see ``tests/brokers/kafka/fixtures.py``."""

from __future__ import annotations

from tests.brokers.kafka.fixtures import (
    kafka,
    kafka_cluster,
    kafka_jars,
    kafka_own,
    kafka_secured,
    pytest_runtest_setup,
    unique,
)

__all__ = ["kafka", "kafka_cluster", "kafka_jars", "kafka_own", "kafka_secured", "pytest_runtest_setup", "unique"]
