"""Tables as they are read from outside: by a key in text, or row by row.

What must live here: from the text of a key to the committed value, over whichever tasks hold the table.  What must not:
HTTP (``runtime.web``), where the tasks are (``runtime.peers``; a tool opens their stores while no worker runs).

A key is written as on a topic: text for str, decimal digits for int, a JSON array for a tuple.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any, Protocol

import msgspec

from streams.core.state import KeyedState
from streams.core.store import after_prefix
from streams.dsl.app import App, TableView
from streams.dsl.codec import enc_hook
from streams.errors import RequestError
from streams.runtime.peers import scan_state

__all__ = ["BadRequest", "NoSuchKey", "NoSuchTable", "OpenReads", "Page", "Reads", "Row", "TableReader", "encode_json"]

ROWS_MAX = 1000
"""Rows of one page at most: a page is read in one go, between two steps of the tasks."""


class Reads(Protocol):
    """Committed state by task and name of the state.  Raises LogUnavailable where the task can't be reached now."""

    async def read(self, task: str, state: str, key: bytes) -> Any: ...
    async def scan(
        self, task: str, state: str, first: bytes, end: bytes | None, limit: int
    ) -> Sequence[tuple[bytes, Any]]: ...


class OpenReads:
    """``Reads`` of states that are open in this process."""

    def __init__(self, held: Callable[[str, str], KeyedState[Any]]) -> None:
        self._held = held

    async def read(self, task: str, state: str, key: bytes) -> Any:
        return self._held(task, state).committed(key)

    async def scan(
        self, task: str, state: str, first: bytes, end: bytes | None, limit: int
    ) -> Sequence[tuple[bytes, Any]]:
        return scan_state(self._held(task, state), first, end, limit)


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

    def __init__(self, app: App, partition_for: Callable[[bytes, int], int], reads: Reads) -> None:
        self._app = app
        self._partition_for = partition_for
        self._reads = reads

    def names(self) -> list[str]:
        return sorted(self._app.views)

    async def get(self, name: str, key: str) -> Any:
        """The committed value of a key.  Raises NoSuchTable, NoSuchKey, BadRequest, LogUnavailable."""
        view, tasks = self._view(name)
        decoded = self._key(name, view, key)
        wire = view.wire_keys.encode(decoded)
        task = tasks[self._partition_for(wire, len(tasks))]
        value = await self._reads.read(task, view.state.name, view.keys.encode(decoded))
        if value is None:
            raise NoSuchKey(f"table {name}: there is no key {key!r}")
        return view.result(value)

    async def page(self, name: str, *, prefix: str = "", limit: int = 100, after: str | None = None) -> Page:
        """Up to ``limit`` rows whose keys begin with ``prefix``, behind the key ``after``.  Errors as ``get``."""
        if not 1 <= limit <= ROWS_MAX:
            raise BadRequest(f"table {name}: limit={limit}; give 1 to {ROWS_MAX}")
        view, tasks = self._view(name)
        first, end = self._bounds(name, view, prefix)
        if after is not None:
            first = max(first, view.keys.encode(self._key(name, view, after)) + b"\x00")
        # One row more than asked for tells whether there are more.
        reads = self._reads
        scans = await asyncio.gather(*(reads.scan(task, view.state.name, first, end, limit + 1) for task in tasks))
        found = list(islice(merge(*scans, key=_key_of), limit + 1))
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
