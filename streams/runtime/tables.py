"""Tables as they are read from outside: by a key in text, or row by row.

What must live here: from the text of a key to the committed value, over whichever tasks hold the table.  What must not:
HTTP (``runtime.web``), who opened the stores (a worker, or a tool while no worker runs).

A key is written as on a topic: text for str, decimal digits for int, a JSON array for a tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any

import msgspec

from streams.core.state import KeyedState
from streams.core.store import after_prefix
from streams.dsl.app import App, TableView
from streams.dsl.codec import enc_hook
from streams.errors import RequestError

__all__ = ["BadRequest", "NoSuchKey", "NoSuchTable", "Page", "Row", "TableReader", "encode_json"]

ROWS_MAX = 1000
"""Rows of one page at most: a page is read in one go, between two steps of the tasks."""

Held = Callable[[str, str], KeyedState[Any]]
"""(task id, state name) to the state; raises LogUnavailable where the task isn't open here."""


class NoSuchTable(RequestError):
    """The app has no table of that name."""


class NoSuchKey(RequestError):
    """The table has no such key."""


class BadRequest(RequestError):
    """The request can't be understood."""


@dataclass(frozen=True, slots=True)
class Row:
    """One entry: the key in text, and the value as the app's users see it."""

    key: str
    value: Any


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in order of their keys.  ``after``: the key to go on after, None at the end."""

    rows: list[Row]
    after: str | None


def encode_json(value: Any) -> bytes:
    """Any value that a table can hold, as JSON."""
    return msgspec.json.encode(value, enc_hook=enc_hook)


class TableReader:
    """Reads the committed contents of an app's tables."""

    def __init__(self, app: App, partition_for: Callable[[bytes, int], int], held: Held) -> None:
        self._app = app
        self._partition_for = partition_for
        self._held = held

    def names(self) -> list[str]:
        return sorted(self._app.views)

    def get(self, name: str, key: str) -> Any:
        """The committed value of a key.  Raises NoSuchTable, NoSuchKey, BadRequest, LogUnavailable."""
        view, tasks = self._view(name)
        decoded = self._key(name, view, key)
        wire = view.wire_keys.encode(decoded)
        task = tasks[self._partition_for(wire, len(tasks))]
        value = self._held(task, view.state.name).committed(view.keys.encode(decoded))
        if value is None:
            raise NoSuchKey(f"table {name}: there is no key {key!r}")
        return view.result(value)

    def page(self, name: str, *, prefix: str = "", limit: int = 100, after: str | None = None) -> Page:
        """Up to ``limit`` rows whose keys begin with ``prefix``, behind the key ``after``.  Errors as ``get``."""
        if not 1 <= limit <= ROWS_MAX:
            raise BadRequest(f"table {name}: limit={limit}; give 1 to {ROWS_MAX}")
        view, tasks = self._view(name)
        first, end = self._bounds(name, view, prefix)
        if after is not None:
            first = max(first, view.keys.encode(self._key(name, view, after)) + b"\x00")
        scans = [self._held(task, view.state.name).committed_scan(first, end) for task in tasks]
        try:
            found = list(islice(merge(*scans, key=_key_of), limit + 1))
        finally:
            for scan in scans:
                _close(scan)
        rows = [Row(self._text(view, key), view.result(value)) for key, value in found[:limit]]
        return Page(rows, rows[-1].key if len(found) > limit else None)

    def _view(self, name: str) -> tuple[TableView, list[str]]:
        view = self._app.views.get(name)
        if view is None:
            known = ", ".join(self.names()) or "none"
            raise NoSuchTable(f"app {self._app.name} has no table {name!r}; its tables: {known}")
        subtopology = next(each for each in self._app.build().subtopologies if view.state.name in each.states)
        return view, subtopology.task_ids

    @staticmethod
    def _key(name: str, view: TableView, text: str) -> Any:
        try:
            return view.wire_keys.decode(text.encode())
        except (ValueError, TypeError) as error:
            raise BadRequest(f"table {name}: {text!r} is no key of type {view.keys.name}: {error}") from error

    @staticmethod
    def _text(view: TableView, key: bytes) -> str:
        return view.wire_keys.encode(view.keys.decode(key)).decode(errors="replace")

    @staticmethod
    def _bounds(name: str, view: TableView, prefix: str) -> tuple[bytes, bytes | None]:
        if not prefix:
            return b"", None
        if view.keys.name not in ("str", "bytes"):
            raise BadRequest(f"table {name}: its keys are of type {view.keys.name}; a prefix is for keys of text")
        first = prefix.encode()
        return first, after_prefix(first)


def _key_of(entry: tuple[bytes, Any]) -> bytes:
    return entry[0]


def _close(scan: Iterator[Any]) -> None:
    # A store's iterator that stays open would hold its files.
    close = getattr(scan, "close", None)
    if close is not None:
        close()
