"""What an app and the worker that runs it have to do with one another.

What must live here: what a running worker offers to topics, tables and agents, and how a state is shown.  What must
not: the worker (``streams.runtime``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from streams.core.capability import Derived
from streams.core.log import TopicSpec
from streams.core.record import Records
from streams.core.state import StateSpec
from streams.dsl.codec import Codec

if TYPE_CHECKING:
    from streams.dsl.agent import Agent


class Running(Protocol):
    """What a running worker offers to topics, tables and agents."""

    def now_ms(self) -> int: ...
    async def produce(self, topic: TopicSpec, records: Records) -> None: ...
    async def produce_marks(self, topic: TopicSpec, mark: Records) -> None: ...
    async def read_table(self, table: str, wire_key: bytes, state_key: bytes) -> Any: ...
    async def ask(self, agent: Agent[Any, Any], key: bytes, value: bytes, timeout_ms: int) -> Any: ...
    def promised(self, topic: TopicSpec, *, written: bool) -> Derived:
        """What holds for what comes from a topic, or goes to it: up to the commit, or from it on."""
        ...

    async def cast(self, agent: Agent[Any, Any], key: bytes, value: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class TableView:
    """How a state is shown from outside: its codec of keys, and what becomes of its values."""

    state: StateSpec
    keys: Codec[Any]
    wire_keys: Codec[Any]
    result: Callable[[Any], Any]
