"""What a task offers to the processors that it is made of.

What must live here: the object that nodes are built with.  What must not: the task's own loop (``core.task``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from streams.core.batch import NEVER, Origin
from streams.core.outputs import Outputs
from streams.core.policy import Failures
from streams.core.record import Headers, TopicPartition
from streams.core.spread import BY_KEY, How, Spread
from streams.core.state import KeyedState, State, WindowedState
from streams.core.thresholds import Thresholds
from streams.errors import TopologyError


class Ambient:
    """What user code runs for at the moment: set by the runtime around agents and operators.

    operator: the name of the agent or operator whose code it is.
    journal: (state, key, what makes the value before) of what the current event read and changed, for undoing it;
    None where a failure stops the task anyhow.  origin and row: the record in hand.  calls: asks and casts made for it
    so far.  chain: the tasks that wait for this one.
    """

    __slots__ = ("called", "calls", "chain", "context", "journal", "operator", "origin", "row")

    def __init__(self, context: TaskContext, operator: str) -> None:
        self.context = context
        self.operator = operator
        self.journal: list[tuple[KeyedState[Any], bytes, Callable[[], Any]]] | None = None
        self.origin: Origin | None = None
        self.row = 0
        self.calls = 0
        self.called: tuple[Origin | None, int] = (None, 0)
        self.chain: tuple[str, ...] = ()

    def undo(self) -> None:
        """Take back what the current event changed."""
        for state, key, before in reversed(self.journal or ()):
            state.values[key] = before()
        if self.journal is not None:
            self.journal.clear()


ambient: ContextVar[Ambient | None] = ContextVar("streams.ambient", default=None)

Partitioner = Callable[[bytes, int], int]


class TaskContext:
    """Belongs to one task.

    siblings: tasks of the same subtopology; keys are spread over them.
    watermark: how far event time has come; while closings are under way, as it stood before them.
    processor_delay_ms: while a node is built, how far behind the watermark its input may be (windows upstream).
    counters: what operators count for the metrics, by name.  spreads: how topics are spread that aren't by key.
    """

    def __init__(
        self,
        task_id: str,
        partition: int,
        *,
        outputs: Outputs,
        failures: Failures,
        states: Mapping[str, State],
        siblings: int,
        partitions: Mapping[str, int],
        partitioner: Partitioner,
        spreads: Mapping[str, How],
        thresholds: Thresholds,
    ) -> None:
        self.task_id = task_id
        self.partition = partition
        self.outputs = outputs
        self.failures = failures
        self.states = states
        self.tables = {name: state for name, state in states.items() if isinstance(state, KeyedState)}
        self.watermark: int = NEVER
        self.processor_delay_ms = 0
        self.counters: dict[str, int] = {}
        self.thresholds = thresholds
        self._siblings = siblings
        self._partitions = partitions
        self._partitioner = partitioner
        self._hows = spreads
        self._spreads: dict[str, Spread] = {}

    def keyed(self, name: str) -> KeyedState[Any]:
        state = self.tables.get(name)
        if state is None:
            raise TopologyError(
                f"task {self.task_id} doesn't hold the table {name!r}: pass it as tables=[…] to the agent or operator "
                f"that uses it, or read it with `await table.get(key)`"
            )
        return state

    def windowed(self, name: str) -> WindowedState[Any]:
        state = self.states[name]
        assert isinstance(state, WindowedState), f"{name} is not windowed"
        return state

    def count(self, name: str, by: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by

    def partition_of(self, topic: str, key: bytes | None) -> TopicPartition:
        """Where a single record goes."""
        count = self._partitions[topic]
        return TopicPartition(topic, 0 if count == 1 else self._spread(topic, count).choose([key], count)[0])

    def _spread(self, topic: str, count: int) -> Spread:
        spread = self._spreads.get(topic)
        if spread is None:
            # Where each task has a partition of its own, what has no key keeps its order.
            home = self.partition if count == self._siblings else None
            how = self._hows.get(topic, BY_KEY)
            spread = self._spreads[topic] = Spread(topic, how, self._partitioner, self.task_id, home)
        return spread

    def send(
        self,
        topic: str,
        keys: list[bytes | None],
        values: list[bytes | None],
        times: list[int],
        headers: list[Headers | None] | None = None,
    ) -> None:
        """Add encoded columns to the outputs, each record to its partition.

        Raises RecordTooLarge, before anything is added, for the first value that the log wouldn't take.
        """
        outputs = self.outputs
        size = outputs.check_sizes(keys, values, headers)
        count = self._partitions[topic]
        if count == 1:
            outputs.add(TopicPartition(topic, 0), keys, values, times, headers, size_bytes=size)
            return
        chosen = self._spread(topic, count).choose(keys, count)
        if chosen and chosen.count(chosen[0]) == len(chosen):  # as always where the key stays the same
            outputs.add(TopicPartition(topic, chosen[0]), keys, values, times, headers, size_bytes=size)
            return
        for partition in sorted(set(chosen)):
            rows = [row for row, of in enumerate(chosen) if of == partition]
            outputs.add(
                TopicPartition(topic, partition),
                [keys[row] for row in rows],
                [values[row] for row in rows],
                [times[row] for row in rows],
                None if headers is None else [headers[row] for row in rows],
            )
        outputs.size_bytes += size

    def own_key(self, key: bytes) -> bool:
        """True when this task is the one that holds ``key``'s state."""
        return self._siblings == 1 or self._partitioner(key, self._siblings) == self.partition
