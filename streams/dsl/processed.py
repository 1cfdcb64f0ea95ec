"""``stream.process``: the decorator, and what it leaves in the graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from streams.core.state import StateSpec
from streams.dsl.codec import Codec, value_codec
from streams.dsl.naming import check_plain
from streams.dsl.topic import Topic
from streams.errors import ConfigurationError
from streams.operators.process import Process, ProcessContext

if TYPE_CHECKING:
    from streams.dsl.stream import Stream

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")
S = TypeVar("S")


class ProcessDecorator(Generic[K, V, S]):
    """``stream.process(state=…)``: decorates the function."""

    def __init__(self, source: Stream[K, V], state: Callable[[], S], name: str, value: Any) -> None:
        self._source = source
        self._state = state
        self._name = name
        self._value = value

    def __call__(self, fn: Callable[[V, S, ProcessContext], Any]) -> Processed[K, S]:
        source = self._source
        check_plain(fn, f"process {fn.__name__}", generator=False)
        values: Codec[S] = value_codec(_state_type(self._state, fn.__name__))
        state_name = source.app.state_name(self._name or fn.__name__)
        handlers: dict[str, Callable[[S, ProcessContext], Any]] = {}
        tables = source.app.tables_of(fn)
        node = Process(
            name=state_name,
            upstream=(source.node,),
            policy=source.policy,
            fn=fn,
            on_timer=handlers,
            state=StateSpec(
                state_name, "keyed", values.encode, values.decode, f"process/1/{values.name}", values.schema
            ),
            initial=self._state,
            decode_key=source.keys.decode,
            tables=tables,
        )
        return Processed(source._then(node, type=self._value, label=state_name, key_fn=None), handlers, tables)


class Processed(Generic[K, S]):
    """A ``process`` function in the graph.  ``stream`` carries what it emits."""

    def __init__(
        self,
        stream: Stream[K, Any],
        handlers: dict[str, Callable[[S, ProcessContext], Any]],
        tables: list[StateSpec],
    ) -> None:
        self.stream = stream
        self._handlers = handlers
        self._tables = tables

    def on_timer(self, name: str) -> Callable[[Callable[[S, ProcessContext], R]], Callable[[S, ProcessContext], R]]:
        """Decorate ``fn(state, ctx)``, called when the timer ``name`` of a key is due."""

        def decorate(fn: Callable[[S, ProcessContext], R]) -> Callable[[S, ProcessContext], R]:
            check_plain(fn, f"on_timer({name!r})", generator=False)
            self._handlers[name] = fn
            self._tables.extend(table for table in self.stream.app.tables_of(fn) if table not in self._tables)
            return fn

        return decorate

    def to(self, topic: Topic[Any, Any] | str) -> None:
        """Write what is emitted to a topic."""
        self.stream.to(topic)


def _state_type(state: Callable[[], S] | type[S], process: str) -> Any:
    """The type of a process's state: as declared, or of what the function makes that was given instead."""
    try:
        made = state()
    except TypeError as error:
        raise ConfigurationError(
            f"process {process}: its state can't be made without arguments ({error}); give each field a default"
        ) from error
    return type(made) if inspect.isfunction(state) else state
