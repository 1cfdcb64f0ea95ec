"""For tests: an app without a broker, the simulator, and the contracts that connectors and stores pass."""

from __future__ import annotations

from streams.testing.driver import TestDriver

__all__ = ["TestDriver"]
