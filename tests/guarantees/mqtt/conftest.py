"""The brokers of these tests; see ``tests/integration/mqtt/conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers.mqtt.server import Mosquitto
from tests.integration.mqtt.conftest import own_mosquitto, pytest_runtest_setup

__all__ = ["own_mosquitto", "pytest_runtest_setup", "quick_mosquitto"]


@pytest.fixture
def quick_mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """One that isn't killed itself, and so needn't write its sessions at each change."""
    broker = Mosquitto(tmp_path_factory.mktemp("mqtt"), lines=["autosave_on_changes false", "autosave_interval 3600"])
    broker.start()
    yield broker
    broker.kill()
