"""The brokers of these tests: Mosquitto, one of a test's own, nats-server and Kafka."""

from __future__ import annotations

import pytest

from tests.brokers.kafka.fixtures import kafka
from tests.brokers.kafka.fixtures import pytest_runtest_setup as needs_kafka
from tests.brokers.nats.fixtures import nats, skip_without_nats
from tests.integration.mqtt.conftest import mosquitto, own_mosquitto
from tests.integration.mqtt.conftest import pytest_runtest_setup as needs_mosquitto

__all__ = ["kafka", "mosquitto", "nats", "own_mosquitto", "pytest_runtest_setup"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    needs_mosquitto(item)
    needs_kafka(item)
    skip_without_nats()
