"""The embedded log: a durable log in a directory of this machine, for one process at a time."""

from streams.connectors.embedded.config import EmbeddedConfig, parse_url
from streams.connectors.embedded.lock import Holder, read_holder
from streams.connectors.embedded.log import EmbeddedLog

__all__ = ["EmbeddedConfig", "EmbeddedLog", "Holder", "parse_url", "read_holder"]
