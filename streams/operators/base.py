"""What the descriptions of all operators have in common.

What must live here: the fields that the graph asks of every node.  What must not: any operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streams.core.graph import Node
from streams.core.log import TopicSpec
from streams.core.policy import FAIL, ErrorPolicy
from streams.core.state import StateSpec


@dataclass(frozen=True, eq=False, kw_only=True)
class Operator:
    """A node: its name, what is upstream of it, and the policy of the stream that it works on."""

    name: str
    upstream: Sequence[Node] = ()
    policy: ErrorPolicy = FAIL

    @property
    def states(self) -> Sequence[StateSpec]:
        return ()

    @property
    def reads(self) -> TopicSpec | None:
        return None

    @property
    def writes(self) -> Sequence[TopicSpec]:
        return ()

    @property
    def holds_ms(self) -> int:
        return 0

    def label(self) -> str:
        return self.name
