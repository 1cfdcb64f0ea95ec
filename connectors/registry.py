"""From a URL to a log."""

from __future__ import annotations

from streams.core.log import Log
from streams.errors import ConfigurationError


def open_log(url: str) -> Log:
    """The log that a URL names, not yet opened.  Raises ConfigurationError for one that names none."""
    scheme = url.partition(":")[0]
    if scheme == "embedded":
        from streams.connectors.embedded.log import EmbeddedLog

        return EmbeddedLog(url)
    if scheme == "memory":
        from streams.connectors.memory.log import MemoryLog

        return MemoryLog()
    raise ConfigurationError(
        f"log {url!r}: nothing is known about {scheme!r}; use embedded:<folder>, as in --log embedded:./data"
    )
