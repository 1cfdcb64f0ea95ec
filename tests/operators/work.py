"""An operator at work on a store in memory, outside of any task.

What must live here: the context that an operator is built with, batches to give it, and what it emitted.  What must
not: any one operator.  A task around it would choose the batches and the watermark; here a test does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streams.core.batch import Batch, Origin
from streams.core.capability import Limits
from streams.core.context import TaskContext
from streams.core.outputs import Outputs
from streams.core.policy import ErrorPolicy, Failures
from streams.core.record import Fetched, Headers, Records, TopicPartition
from streams.core.state import CacheBudget, KeyedState, State, WindowedState
from streams.core.store import Changes, StoreState, StoreView, prefix_bytes
from streams.core.thresholds import PRODUCTION
from streams.state.memory import MemoryDisk, MemoryStore

SKIP = ErrorPolicy("skip")


class Work:
    """``emitted``: the batches that came out.  ``restart`` builds the operator anew, on what was committed."""

    def __init__(
        self,
        node: Any,
        *,
        limits: Limits | None = None,
        delay_ms: int = 0,
        partitions: Mapping[str, int] | None = None,
    ) -> None:
        self.node = node
        self.disk = MemoryDisk()
        self.emitted: list[Batch] = []
        self._limits = limits or Limits()
        self._delay_ms = delay_ms
        self._partitions = partitions or {}
        self._number = 0
        self.restart()

    def restart(self) -> None:
        self.store = MemoryStore(self.disk)
        self.states = {spec.name: self._open(i + 1, spec.name) for i, spec in enumerate(self.node.states)}
        self.outputs = Outputs(self._limits)
        self.failures = Failures(self.outputs, "0_0")
        self.context = TaskContext(
            "0_0",
            0,
            outputs=self.outputs,
            failures=self.failures,
            states=self.states,
            siblings=1,
            partitions=self._partitions,
            partitioner=lambda key, count: key[0] % count,
            spreads={},
            thresholds=PRODUCTION,
        )
        self.context.watermark = 0
        self.context.processor_delay_ms = self._delay_ms
        self.processor: Any = self.node.build(self.context, self.emitted.append)

    def _open(self, number: int, name: str) -> State:
        spec = next(each for each in self.node.states if each.name == name)
        view, budget = StoreView(self.store, prefix_bytes(number)), CacheBudget(1_000_000)
        if spec.kind == "windowed":
            return WindowedState(view, self.store, spec.encode, spec.decode, budget=budget)
        return KeyedState(view, spec.encode, spec.decode, budget=budget)

    def commit_and_restart(self) -> None:
        changes: dict[bytes, Changes] = {}
        for i, state in enumerate(self.states.values()):
            changes |= {prefix_bytes(i + 1) + sub: each for sub, each in state.take_changes()}
        self._number += 1
        self.store.apply(changes, StoreState("log", 1, self._number))
        self.store.close()
        self.restart()

    def give(self, *elements: tuple[Any, Any, int], origin: Origin | None = None) -> None:
        """Hands (key, value, time) to it, as one batch."""
        keys = [key.encode() if isinstance(key, str) else key for key, _, _ in elements]
        values, times = [value for _, value, _ in elements], [time for _, _, time in elements]
        self.processor.process(Batch(keys, values, times, range(len(elements)), origin))

    def taken(self) -> list[tuple[Any, Any, int]]:
        """What came out since the last call, as (key, value, time)."""
        found = [
            (key.decode() if key is not None else None, value, time)
            for batch in self.emitted
            for key, value, time in zip(batch.keys, batch.values, batch.times, strict=True)
        ]
        self.emitted.clear()
        return found


def read_at(
    times: Sequence[int],
    *,
    before: int,
    after: int,
    ceiling: int = 2**62,
    slack_ms: int = 0,
    headers: list[Headers | None] | None = None,
    first: int = 0,
) -> Origin:
    """Rows from ``first`` on, read with these times while the watermark went from ``before`` to ``after``."""
    count = first + len(times)
    records = Records([None] * count, [b"raw"] * count, [0] * first + list(times), headers)
    fetched = Fetched(TopicPartition("in", 0), range(count), records, count)
    return Origin(fetched, first, times, before=before, after=after, ceiling=ceiling, slack_ms=slack_ms)
