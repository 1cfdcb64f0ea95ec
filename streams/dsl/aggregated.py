"""What comes out of ``stream.aggregate`` and ``stream.window``: results by key, as streams and as tables."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from streams.core.state import StateSpec
from streams.core.window import Windows
from streams.dsl.agg import Aggregation, count
from streams.dsl.aggregator import Aggregator, with_window
from streams.dsl.table import Table
from streams.dsl.topic import Topic
from streams.dsl.types import Unknown
from streams.operators.aggregate import WindowAggregate, WindowPort

if TYPE_CHECKING:
    from streams.dsl.stream import Stream

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, eq=False)
class Aggregated(Generic[K, R]):
    """What an aggregate knows by key.  Take it as a stream of ``updates``, or read it as a ``table``."""

    source: Stream[K, Any]
    stream: Stream[K, R]
    state: StateSpec
    fold: Any

    def updates(self) -> Stream[K, R]:
        """The key's result after each record."""
        return self.stream

    def to(self, topic: Topic[Any, Any] | str) -> None:
        """``updates().to(topic)``."""
        self.stream.to(topic)

    def table(self) -> Table[K, R]:
        """The results by key, to be read from outside with ``await``."""
        return self.source.app.view(self.state, self.source.keys, self.fold.result)


@dataclasses.dataclass(frozen=True, eq=False)
class Windowed(Generic[K, V]):
    """A stream with windows, waiting for its aggregate."""

    source: Stream[K, V]
    windows: Windows
    grace_ms: int

    def aggregate(self, *, name: str = "", **aggregations: Aggregation[Any]) -> WindowedAggregated[K, V]:
        """Fold the values of each key in each window; the results are dicts with window_start and window_end (ms)."""
        source = self.source
        fold = Aggregator(aggregations, source._value_type())
        state_name = source.app.state_name(name or f"{source.label}.{self.windows.label}")
        fingerprint = f"window/1/{self.windows.size_ms}/{self.windows.step_ms}/{fold.name}"
        node = WindowAggregate(
            name=state_name,
            upstream=(source.node,),
            policy=source.policy,
            state=StateSpec(state_name, "windowed", fold.encode, fold.decode, fingerprint),
            fold=fold,
            windows=self.windows,
            grace_ms=self.grace_ms,
            wrap=with_window,
            finish=fold.in_window,
            ports=set(),
        )
        source.app.add(node)
        return WindowedAggregated(source, node, state_name)

    def count(self, *, name: str = "") -> WindowedAggregated[K, V]:
        """How many values each key had in each window, as ``count``."""
        return self.aggregate(name=name, count=count())


@dataclasses.dataclass(frozen=True, eq=False)
class WindowedAggregated(Generic[K, V]):
    """A windowed aggregate.  Take ``final()``, ``updates()``, or both; and ``late`` for what came too late."""

    source: Stream[K, V]
    node: WindowAggregate
    label: str

    def final(self) -> Stream[K, dict[str, Any]]:
        """Each window's result once, when it closes."""
        return self._port("final", Unknown)

    def updates(self) -> Stream[K, dict[str, Any]]:
        """The window's result after each record."""
        return self._port("updates", Unknown)

    @property
    def late(self) -> Stream[K, V]:
        """The values that came after their window, or one of their windows, had closed; each once."""
        return self._port("late", self.source.type)

    def _port(self, kind: str, value_type: Any) -> Stream[K, Any]:
        self.node.ports.add(kind)
        node = WindowPort(name=f"{self.label}: {kind}", upstream=(self.node,), policy=self.source.policy, kind=kind)
        self.source.app.add(node)
        label = self.label if kind != "late" else f"{self.label}.late"
        return dataclasses.replace(self.source, node=node, label=label, type=value_type, key_fn=None)
