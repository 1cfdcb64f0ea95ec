"""``process``: the user's function over each record, with state per key and timers.

Timers fire in the order of the log: before a record is handled, everything fires that is due at the watermark to which
the record brings event time.  What one call does (state, timers, emitted values) counts as a whole or, if it raises,
not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streams.core.batch import Batch, Origin, emitted, headers_at
from streams.core.context import Ambient, TaskContext, ambient
from streams.core.duration import Duration, parse_duration_ms, to_epoch_ms
from streams.core.graph import Emit, Processor
from streams.core.state import KeyedState, StateSpec
from streams.errors import TopologyError
from streams.operators.aggregate import drop_keyless
from streams.operators.base import Operator
from streams.operators.timers import Timers, timer_states


class ProcessContext:
    """What a ``process`` function gets as its last argument.  Valid only during the call.

    key: the record's key.  time: its event time in ms, or the timer's.  watermark: how far event time has come.
    """

    __slots__ = ("_decode_key", "_key", "_origin", "_out", "_row", "_timers", "time", "watermark")

    def __init__(self, decode_key: Callable[[bytes], Any]) -> None:
        self._decode_key = decode_key
        self._key = b""
        self._out: list[Any] = []
        self._timers: list[tuple[str, int | None]] = []
        self._origin: Origin | None = None
        self._row = 0
        self.time = 0
        self.watermark = 0

    @property
    def headers(self) -> dict[str, bytes]:
        """The headers of the record, the last one of each name; none in a timer."""
        return dict(headers_at(self._origin, self._row))

    @property
    def key(self) -> Any:
        return self._decode_key(self._key)

    def emit(self, value: Any) -> None:
        """Hand a value downstream, under the record's key and time."""
        self._out.append(value)

    def timer(self, name: str, *, at: Any = None, after: Duration | None = None) -> None:
        """Set the timer ``name`` of this key to an event time (ms, datetime) or to ``after`` this record's time.

        It replaces the one of the same name.  One in the past fires as soon as event time moves on.
        """
        if (at is None) == (after is None):
            raise TypeError(f"timer({name!r}): give either at= or after=")
        due = to_epoch_ms(at) if after is None else self.time + parse_duration_ms(after)
        self._timers.append((name, due))

    def cancel(self, name: str) -> None:
        """Forget the timer ``name`` of this key; nothing happens if there is none."""
        self._timers.append((name, None))


@dataclass(frozen=True, eq=False, kw_only=True)
class Process(Operator):
    """Calls ``fn(value, state, context)`` for each record and ``on_timer[name](state, context)`` for each timer.

    A state that equals a fresh one isn't stored.
    """

    fn: Callable[[Any, Any, ProcessContext], Any]
    on_timer: Mapping[str, Callable[[Any, ProcessContext], Any]]
    state: StateSpec
    initial: Callable[[], Any]
    decode_key: Callable[[bytes], Any]
    tables: Sequence[StateSpec] = ()

    @property
    def states(self) -> Sequence[StateSpec]:
        return (self.state, *timer_states(self.state.name), *self.tables)

    def label(self) -> str:
        return f"process {self.state.name}"

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        return _ProcessWork(self, context, emit)


class _ProcessWork:
    in_order = True

    def __init__(self, node: Process, context: TaskContext, emit: Emit) -> None:
        self._node = node
        self._context = context
        self._emit = emit
        self._delay_ms = context.processor_delay_ms
        self._state: KeyedState[Any] = context.keyed(node.state.name)
        due, index = timer_states(node.state.name)
        self._at_once = context.thresholds.timers_at_once
        self._timers = Timers(context.keyed(due.name), context.keyed(index.name), self._at_once)
        self._fresh = node.initial()
        self._user = ProcessContext(node.decode_key)
        self._here = Ambient(context, node.name) if node.tables else None

    def process(self, batch: Batch) -> None:
        batch = drop_keyless(batch, self._context, self._node)
        node, timers, origin = self._node, self._timers, batch.origin
        keys: list[Any] = batch.keys
        self._state.prepare(keys)
        made: list[tuple[bytes, Any, int, int]] = []
        failed: list[tuple[int, Exception]] = []
        for index, (key, value, time, row) in enumerate(zip(keys, batch.values, batch.times, batch.rows, strict=True)):
            watermark = self._watermark(origin, row)
            if timers.next <= watermark:
                self._flush(made, origin)
                made = []
                while timers.next <= watermark:  # each at its own time: one that it sets may be due before the others
                    self._fire(timers.next, self._at_once)
            if self._here is not None:
                self._here.origin, self._here.row = origin, row
            self._user._origin, self._user._row = origin, row
            try:
                out = self._call(node.fn, (value,), key, time, watermark)
            except Exception as error:
                failed.append((index, error))
            else:
                made.extend((key, each, time, row) for each in out)
        if failed:
            self._context.failures.drop(batch, failed, node.name, node.policy)
        self._flush(made, origin)

    def _watermark(self, origin: Origin | None, row: int) -> int:
        known = self._context.watermark if origin is None else origin.watermark_at(row)
        return known - self._delay_ms

    def _call(self, fn: Callable[..., Any], args: tuple[Any, ...], key: bytes, time: int, watermark: int) -> list[Any]:
        """One call of user code; raises with the state as it was before."""
        state, user = self._state, self._user
        current = state.get(key)
        before = None
        absent = current is None
        if absent:
            current = self._node.initial()
        elif self._node.policy.action != "fail":
            before = self._node.state.encode(current)
        user._key, user._out, user._timers = key, [], []
        user.time, user.watermark = time, watermark
        try:
            if self._here is None:
                fn(*args, current, user)
            else:
                self._call_with_tables(self._here, fn, (*args, current, user))
        except Exception:
            state.values[key] = None if before is None else self._node.state.decode(before)
            raise
        if current != self._fresh:
            state.put(key, current)
        elif not absent:
            state.delete(key)
        for name, at in user._timers:
            if at is None:
                self._timers.cancel(key, name)
            else:
                self._timers.set(key, name, at, watermark)
        return user._out

    def _call_with_tables(self, here: Ambient, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """The call with its tables at hand; what it wrote to them is taken back if it raises."""
        here.journal = []
        token = ambient.set(here)
        try:
            fn(*args)
        except Exception:
            here.undo()
            raise
        finally:
            ambient.reset(token)

    def _flush(self, made: list[tuple[bytes, Any, int, int]], origin: Origin | None) -> None:
        if made:
            keys, values, times, rows = zip(*made, strict=True)
            self._emit(Batch(list(keys), list(values), list(times), rows, origin))

    def deadline(self) -> int:
        return self._timers.next

    def advance(self, watermark: int) -> bool:
        outputs = self._context.outputs
        while self._timers.next <= watermark:
            if outputs.full:
                return False
            room = outputs.room
            if self._fire(watermark, min(self._at_once, room)) >= room:
                return False
        return True

    def _fire(self, watermark: int, count: int) -> int:
        """Fire up to ``count`` of the timers that are due at ``watermark``; returns how many fired."""
        if self._here is not None:
            self._here.origin = None
        self._user._origin = None
        due = self._timers.take(watermark, count)
        keys: list[bytes | None] = []
        values: list[Any] = []
        times: list[int] = []
        for at, key, name in due:
            handler = self._node.on_timer.get(name)
            if handler is None:
                raise TopologyError(
                    f"{self._node.name}: the timer {name!r} is due and nothing handles it; add an on_timer({name!r})"
                )
            try:
                made = self._call(handler, (), key, at, watermark)
            except Exception as error:
                self._context.failures.handle(
                    None, 0, error, f"{self._node.name}: on_timer({name!r})", self._node.policy, key, at
                )
                continue
            for value in made:
                keys.append(key)
                values.append(value)
                times.append(at)
        if values:
            self._emit(emitted(keys, values, times))
        return len(due)
