"""Topics by pattern: which they are is found out when the app starts.

What must live here: the node that stands for all of them.  What must not: looking at a log, or which names match
(``dsl.settle``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streams.core.graph import Node
from streams.core.log import TopicSpec
from streams.operators.branch import Merge
from streams.operators.source import Source

__all__ = ["Matching"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Matching(Merge):
    """Everything of the topics whose whole names match ``pattern``, as far as known in ``found``.

    The sources of all of them bear the name of this node: so the tasks are named by the pattern, and the topics come
    and go without renaming them.
    """

    pattern: re.Pattern[str]
    make: Callable[[TopicSpec], Source]
    found: list[Source]
    upstream: Sequence[Node] = ()

    def expand(self, specs: Sequence[TopicSpec]) -> Sequence[Source]:
        """Read these topics from now on; the nodes that do, to stand before this one in the graph."""
        self.found[:] = [self.make(spec) for spec in specs]
        return self.found

    def label(self) -> str:
        return f"topics {self.pattern.pattern}"
