"""The log in memory: for tests and the simulator; nothing survives the process."""

from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog

__all__ = ["MemoryBroker", "MemoryLog"]
