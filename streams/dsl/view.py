"""Views: the results of an aggregate by key, used like a table that nobody but the aggregate writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from streams.core.state import StateSpec
from streams.dsl.codec import Codec
from streams.dsl.table import Table

if TYPE_CHECKING:
    from streams.dsl.app import App

K = TypeVar("K")
V = TypeVar("V")


class View(Table[K, V]):
    """The state of an aggregate, with ``result`` of each accumulator as its value.  Made by ``Aggregated.table``."""

    read_only = True

    def __init__(self, app: App, name: str, state: StateSpec, keys: Codec[K], result: Callable[[Any], V]) -> None:
        super().__init__(app, name, state, keys, keys, None)
        self.result = result

    def __getitem__(self, key: K) -> V:
        accumulator = self._held(self._here(), key)
        if accumulator is None:
            raise KeyError(key)
        return self.result(accumulator)

    def __setitem__(self, key: K, value: V) -> NoReturn:
        self._refuse()

    def __delitem__(self, key: K) -> NoReturn:
        self._refuse()

    def pop(self, key: K) -> NoReturn:
        self._refuse()

    def items(self) -> Iterator[tuple[K, V]]:
        for key, accumulator in super().items():
            yield key, self.result(accumulator)

    def range(self, first: K, end: K) -> Iterator[tuple[K, V]]:
        for key, accumulator in super().range(first, end):
            yield key, self.result(accumulator)

    def _refuse(self) -> NoReturn:
        raise TypeError(f"table {self.name} shows the results of an aggregate, which alone changes it; it is read-only")
