"""streams: stream processing on a unified log.

The public names.  Everything else may change between minor versions.
"""

from __future__ import annotations

from streams import errors
from streams.core.window import hopping, tumbling
from streams.dsl import agg
from streams.dsl.agent import Agent
from streams.dsl.app import App
from streams.dsl.codec import Codec
from streams.dsl.state import State
from streams.dsl.stream import Stream
from streams.dsl.table import Table
from streams.dsl.topic import Topic
from streams.operators.process import ProcessContext

__all__ = [
    "Agent",
    "App",
    "Codec",
    "ProcessContext",
    "State",
    "Stream",
    "Table",
    "Topic",
    "agg",
    "errors",
    "hopping",
    "tumbling",
]
