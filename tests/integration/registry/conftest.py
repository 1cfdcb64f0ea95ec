"""The broker of the test that has one; see ``tests/brokers/kafka/fixtures.py``."""

from __future__ import annotations

from tests.brokers.kafka.fixtures import kafka, pytest_runtest_setup

__all__ = ["kafka", "pytest_runtest_setup"]
