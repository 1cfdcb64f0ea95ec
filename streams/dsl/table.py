"""Tables: what an app knows by key, sharded over its tasks.

Inside the code of an agent or operator a table is used like a dict and stands for the part that the task holds, with
its uncommitted changes.  From outside, ``await table.get(key)`` asks the owner for what is committed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from streams.core.context import Ambient, ambient
from streams.core.state import KeyedState, StateSpec
from streams.dsl.codec import Codec
from streams.dsl.naming import named_values
from streams.errors import TopologyError, WrongPartition

if TYPE_CHECKING:
    from streams.dsl.app import App

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class Table(Generic[K, V]):
    """A table.  Made by ``App.table``.

    Values are copied to the log at each commit: change one in place and assign it again
    (``t[k].append(x)`` alone is not noticed).
    """

    read_only = False

    def __init__(
        self,
        app: App,
        name: str,
        state: StateSpec,
        key_codec: Codec[K],
        wire_key: Codec[K],
        default: Callable[[], V] | None,
    ) -> None:
        self.app = app
        self.name = name
        self.state = state
        self.key_codec = key_codec
        self.wire_key = wire_key
        self._encode = key_codec.encode
        # The common kind of key, without a call of our own.
        self._quick: Callable[[Any], bytes] = str.encode if key_codec.name == "str" else key_codec.encode
        self._name = state.name
        self._default = default

    def __repr__(self) -> str:
        return f"Table({self.name!r})"

    def recode_from(self, keys: Codec[Any], what: str) -> Callable[[bytes], bytes] | None:
        """From the key bytes of a stream with ``keys`` to those of the table; None where they are the same.

        Raises TopologyError where equal keys would be written, and so spread over the tasks, in different ways.
        """
        if self.wire_key.schema != keys.schema:
            raise TopologyError(
                f"{what}: the stream has keys as {keys.name} and table {self.name} as {self.wire_key.name}; put a "
                f".key_by(…) with the table's type of key in front"
            )
        if self.key_codec.schema == keys.schema:
            return None
        decode, encode = keys.decode, self._encode

        def recode(key: bytes) -> bytes:
            return encode(decode(key))

        return recode

    # ── inside a task ─────────────────────────────────────────────────────────────────────────────────────────────

    def __getitem__(self, key: K) -> V:
        """The value, or the default.  Raises KeyError without either, WrongPartition for another task's key."""
        here = ambient.get()
        if here is not None and here.journal is None:  # the common case, without calls
            try:
                value: V | None = here.context.tables[self._name].values[self._quick(key)]
            except (KeyError, TypeError):
                value = self._held(here, key)
        else:
            value = self._held(self._here(), key)
        if value is not None:
            return value
        if self._default is None:
            raise KeyError(key)
        return self._default()

    def __setitem__(self, key: K, value: V) -> None:
        """Raises WrongPartition for another task's key."""
        if value is None:
            raise TypeError(f"table {self.name}: None can't be stored; delete the key instead")
        here = ambient.get()
        if here is not None and here.journal is None:
            try:
                encoded = self._quick(key)
            except TypeError:
                encoded = self._encode(key)  # says what is wrong with the key
            state = here.context.tables.get(self._name)
            if state is not None and encoded in state.values:
                state.values[encoded] = value
                state.dirty.add(encoded)
                return
        self._write(key, value)

    def __delitem__(self, key: K) -> None:
        """Raises KeyError when the key isn't there."""
        if self._held(self._here(), key) is None:
            raise KeyError(key)
        self._write(key, None)

    def __contains__(self, key: K) -> bool:
        return self._held(self._here(), key) is not None

    def pop(self, key: K) -> V:
        """Remove a key and return its value, or the default; raises KeyError without either."""
        value = self[key]
        if key in self:
            del self[key]
        return value

    def items(self) -> Iterator[tuple[K, V]]:
        """The task's entries, ordered by key (as their bytes sort); read as they are taken."""
        here = self._here()
        decode, state = self.key_codec.decode, self._state(here)
        for key, value in state.scan():
            yield decode(key), _lent(here, state, key, value)

    def range(self, first: K, end: K) -> Iterator[tuple[K, V]]:
        """The task's entries with first <= key < end, in order."""
        here = self._here()
        decode, state = self.key_codec.decode, self._state(here)
        for key, value in state.scan(self._encode(first), self._encode(end)):
            yield decode(key), _lent(here, state, key, value)

    def _here(self) -> Ambient:
        here = ambient.get()
        if here is None:
            raise RuntimeError(
                f"table {self.name!r} is used outside of an agent or a process function; there, read it with "
                f"`await {self.name}.get(key)` and change it by sending to the stream of the agent that owns it"
            )
        return here

    def _state(self, here: Ambient) -> KeyedState[V]:
        return here.context.keyed(self.state.name)

    def _held(self, here: Ambient, key: K) -> V | None:
        encoded = self._encode(key)
        state = self._state(here)
        try:
            value = state.values[encoded]
        except KeyError:
            self._check_owner(here, key)
            value = state.get(encoded)
        return value if value is None else _lent(here, state, encoded, value)

    def _write(self, key: K, value: V | None) -> None:
        here = self._here()
        encoded = self._encode(key)
        state = self._state(here)
        if encoded not in state.values:
            self._check_owner(here, key)
            state.get(encoded)
        if here.journal is not None:
            before = state.values[encoded]
            here.journal.append((state, encoded, lambda: before))
        state.values[encoded] = value
        state.dirty.add(encoded)

    def _check_owner(self, here: Ambient, key: K) -> None:
        context = here.context
        if not context.own_key(self.wire_key.encode(key)):
            origin = here.origin
            current = None if origin is None else origin.fetched.records.keys[here.row]
            raise WrongPartition(
                f"table {self.name}: the key {key!r} belongs to another task than {context.task_id} (partition "
                f"{context.partition}), which is handling a record with the key {current!r}; put "
                f".key_by(…), by the table's key, in front of the agent or operator"
            )

    # ── from outside ──────────────────────────────────────────────────────────────────────────────────────────────

    @overload
    async def get(self, key: K) -> V | None: ...
    @overload
    async def get(self, key: K, default: D) -> V | D: ...
    async def get(self, key: K, default: Any = None) -> Any:
        """The committed value of ``key``, wherever its task runs; else the table's default, else ``default``.

        Raises RuntimeError when the app isn't running.
        """
        value = await self.app.running.read_table(self.name, self.wire_key.encode(key), self._encode(key))
        if value is not None:
            return value
        return self._default() if self._default is not None and default is None else default


def tables_named_by(fn: Callable[..., Any]) -> list[Table[Any, Any]]:
    """The tables that a function names: as globals or in its closure, and those of plain functions it calls."""
    found: dict[str, Table[Any, Any]] = {}
    seen: set[int] = set()

    def look(candidate: Any) -> None:
        if isinstance(candidate, Table):
            found[candidate.name] = candidate
        elif inspect.isfunction(candidate) and id(candidate) not in seen:
            seen.add(id(candidate))
            for value in named_values(candidate):
                look(value)

    look(fn)
    return list(found.values())


_UNCHANGEABLE = frozenset({bool, int, float, str, bytes})


def _lent(here: Ambient, state: KeyedState[V], key: bytes, value: V) -> V:
    """``value``, about to be handed to user code, which may change it in place: an undo needs it as it was before."""
    if here.journal is not None and type(value) not in _UNCHANGEABLE:
        here.journal.append((state, key, state.snapshot(value)))
    return value
