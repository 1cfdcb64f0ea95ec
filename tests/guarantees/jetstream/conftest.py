"""The servers of these tests; see ``tests/integration/jetstream/conftest.py``."""

from __future__ import annotations

from tests.integration.jetstream.conftest import nats_own, pytest_runtest_setup

__all__ = ["nats_own", "pytest_runtest_setup"]
