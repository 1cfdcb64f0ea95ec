"""streams: stream processing on a unified log.

The public names.  Everything else may change between minor versions.

Each name is imported when it is first asked for: ``streams --help`` and the tools need none of them, and ``streams``
is imported before any module of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {"agg": "streams.dsl.agg", "errors": "streams.errors"}
_HOMES = {
    "Agent": "streams.dsl.agent",
    "App": "streams.dsl.app",
    "Codec": "streams.dsl.codec",
    "ProcessContext": "streams.operators.process",
    "State": "streams.dsl.state",
    "Stream": "streams.dsl.stream",
    "Table": "streams.dsl.table",
    "Topic": "streams.dsl.topic",
    "hopping": "streams.core.window",
    "tumbling": "streams.core.window",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found: Any = import_module(_MODULES[name])
    elif name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found  # the next look finds it without a call
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
