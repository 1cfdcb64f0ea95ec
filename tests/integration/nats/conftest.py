"""The servers of these tests; see ``tests/brokers/nats/fixtures.py``."""

from __future__ import annotations

import pytest

from tests.brokers.nats.fixtures import nats, nats_own, skip_without_nats, unique

__all__ = ["nats", "nats_own", "unique"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    skip_without_nats()
