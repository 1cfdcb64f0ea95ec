"""State of a task: an overlay of decoded, uncommitted values over the committed bytes of a store.

What must live here: the overlay, its cache, and the collection of what a commit changes.  What must not: what the
values mean (operators), how bytes are kept (``state/``).

    values   decoded values by key, changed and clean; None says that the key is known to be absent
    dirty    keys changed since the last commit
    store    what is committed; written only after the commit, so a store is never ahead of the log

``prepare`` reads all the keys that a batch needs with one multi-get; after that an operator works on the plain dict
that it returns.  Between commits nothing is evicted; after one, the cache keeps two generations: what wasn't used
while a generation filled up is dropped with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import filterfalse, islice
from types import NoneType
from typing import Any, Generic, Literal, Protocol, TypeVar

from streams.core.mapping import map_batch
from streams.core.store import Changes, Store, StoreView
from streams.core.window import decode_start, encode_start
from streams.errors import DataError

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class StateSpec:
    """A named state of a subtopology.

    fingerprint: the kind of operator that keeps it and what it is set to; another one can't use its bytes.
    schema: of the values, where they are the user's own; compared for compatibility.
    of_keys: what is kept under a key is about all records of that key, so that they have to meet in one task.
    """

    name: str
    kind: Literal["keyed", "windowed"]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    fingerprint: str
    schema: str = ""
    of_keys: bool = True


class UnencodableState(DataError):
    """A value that the user's code left in a state can't be encoded."""


class State(Protocol):
    """What the task asks of each of its states at a commit."""

    def take_changes(self) -> list[tuple[bytes, Changes]]:
        """What changed since the last call, by sub-prefix: encoded, sorted, and no longer dirty."""
        ...

    def applied(self) -> None:
        """A commit has succeeded and the changes taken for it are in the store: the time to evict."""
        ...

    @property
    def dirty_count(self) -> int: ...


class CacheBudget:
    """How many decoded values a state may keep: its share of the memory, over what one is seen to weigh.

    sample: how many values of a batch are weighed.
    """

    def __init__(self, cache_bytes: int, sample: int = 32) -> None:
        self.sample = sample
        self._cache_bytes = cache_bytes
        self._entry_bytes = 1_000
        self.sharers = 1

    def weigh(self, encoded: Sequence[bytes]) -> None:
        """Learn from encoded values; a decoded one with its key takes about 200 bytes and four times its encoding."""
        if encoded:
            seen = 200 + 4 * sum(map(len, encoded)) // len(encoded)
            self._entry_bytes = max(seen, self._entry_bytes * 7 // 8)

    @property
    def entries(self) -> int:
        """Of one generation of one sharer: there are two generations."""
        return self._cache_bytes // (2 * self._entry_bytes * self.sharers)


class KeyedState(Generic[V]):
    """One value a key."""

    def __init__(
        self, view: StoreView, encode: Callable[[V], bytes], decode: Callable[[bytes], V], *, budget: CacheBudget
    ) -> None:
        self._view = view
        self._encode = encode
        self._decode = decode
        self._budget = budget
        self.values: dict[bytes, V | None] = {}
        self._older: dict[bytes, V | None] = {}
        self.dirty: set[bytes] = set()
        self._drained: list[bytes] = []
        self._floor = b""
        # Nothing stored and nothing evicted: what isn't in memory isn't there, and a new window reads nothing.
        self._whole = next(view.scan(), None) is None
        self._order: list[bytes] | None = None

    @property
    def dirty_count(self) -> int:
        return len(self.dirty) + len(self._drained)

    def prepare(self, keys: Iterable[bytes]) -> dict[bytes, V | None]:
        """Read what isn't cached of ``keys`` in one go.  In the dict returned each key has its value, or None."""
        values = self.values
        missing = set(filterfalse(values.__contains__, keys))
        if missing:
            if self._older:
                found = set(filter(self._older.__contains__, missing))  # intersection() walks over the whole dict
                values.update(zip(found, map(self._older.pop, found)))
                missing -= found
            if self._whole:
                values.update(dict.fromkeys(missing))
            elif missing:
                self._read(sorted(missing))
            self._order = None
        return values

    def _read(self, keys: list[bytes]) -> None:
        decode, found = self._decode, self._view.multi_get(keys)
        self._budget.weigh([stored for stored in found[: self._budget.sample] if stored is not None])
        floor = self._floor
        values = [None if stored is None or key < floor else decode(stored) for key, stored in zip(keys, found)]
        self.values.update(zip(keys, values))

    def get(self, key: bytes) -> V | None:
        try:
            return self.values[key]
        except KeyError:
            return self.prepare((key,))[key]

    def put(self, key: bytes, value: V) -> None:
        self.values[key] = value
        self.dirty.add(key)
        self._order = None

    def delete(self, key: bytes) -> None:
        self.values[key] = None
        self.dirty.add(key)

    def snapshot(self, value: V) -> Callable[[], V]:
        """Makes ``value`` again as it is now, whatever becomes of the object that user code has in hand."""
        encoded, decode = self._encode(value), self._decode
        return lambda: decode(encoded)

    def committed(self, key: bytes) -> V | None:
        """The value as of the last commit: what others may see."""
        stored = self._view.get(key)
        return None if stored is None else self._decode(stored)

    def committed_scan(self, first: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, V]]:
        for key, stored in self._view.scan(first, end):
            yield key, self._decode(stored)

    def scan(self, first: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, V]]:
        """Entries with first <= key < end in order of keys, uncommitted changes included."""
        changed = sorted(key for key in self.dirty if key >= first and (end is None or key < end))
        stored = ((key, value, 1) for key, value in self._view.scan(max(first, self._floor), end))
        overlay = ((key, b"", 0) for key in changed)
        last: bytes | None = None
        for key, value, source in merge(overlay, stored, key=lambda entry: (entry[0], entry[2])):
            if key == last:
                continue
            last = key
            cached = self.values[key] if source == 0 or key in self.values else self._decode(value)
            if cached is not None:
                yield key, cached

    def drain(self, count: int, end: bytes | None = None) -> list[tuple[bytes, V]]:
        """Remove and return up to ``count`` entries with the lowest keys, below ``end``.

        What is left is the cursor: after a crash the next drain goes on where the last commit stood.
        """
        if self._whole and not self._older and end is None:
            taken = self._drain_whole(count)
        else:
            taken = list(islice(self.scan(b"", end), count))
            for key, _ in taken:
                self.values.pop(key, None)
                self._older.pop(key, None)
        keys = [key for key, _ in taken]
        self.dirty.difference_update(keys)
        self._drained.extend(keys)
        if taken:
            self._floor = max(self._floor, taken[-1][0] + b"\x00")
        return taken

    def _drain_whole(self, count: int) -> list[tuple[bytes, V]]:
        """As ``drain``, out of memory; the order is found once, however many slices it takes."""
        if self._order is None:
            self._order = sorted((key for key, value in self.values.items() if value is not None), reverse=True)
        order, values = self._order, self.values
        taken: list[tuple[bytes, V]] = []
        while order and len(taken) < count:
            key = order.pop()
            value = values[key]
            if value is not None:  # else deleted since, which is still to be written
                taken.append((key, value))
                del values[key]
        return taken

    def take_changes(self) -> list[tuple[bytes, Changes]]:
        if not self.dirty and not self._drained:
            return []
        changes = Changes()
        values, encode = self.values, self._encode
        if self._drained:
            changes.ranges.append((b"", self._floor))
            changes.deletes.extend(self._drained)
        keys = sorted(self.dirty)
        column = list(map(values.__getitem__, keys))
        if NoneType in set(map(type, column)):
            changes.deletes.extend(key for key, value in zip(keys, column) if value is None)
            keys = [key for key, value in zip(keys, column) if value is not None]
            column = [value for value in column if value is not None]
        encoded, failed = map_batch(encode, column)
        for index, error in failed:
            key, value = keys[index], column[index]
            raise UnencodableState(f"the state of key {key!r} can't be written: {error}: {value!r:.80}") from error
        self._budget.weigh(encoded[: self._budget.sample])
        changes.largest_bytes = max(map(len, encoded), default=0)
        changes.puts.extend(zip(keys, encoded))
        self.dirty = set()
        self._drained = []
        return [(b"", changes)]

    def applied(self) -> None:
        self._floor = b""
        if len(self.values) > self._budget.entries:
            self._whole = self._whole and not self._older
            self._older, self.values = self.values, {}


class WindowedState(Generic[V]):
    """One value a key in each window.  Each window is a keyed state of its own, stored behind its start."""

    def __init__(
        self,
        view: StoreView,
        store: Store,
        encode: Callable[[V], bytes],
        decode: Callable[[bytes], V],
        *,
        budget: CacheBudget,
    ) -> None:
        self._view = view
        self._store = store
        self._encode = encode
        self._decode = decode
        self._budget = budget
        self._segments: dict[int, KeyedState[V]] = {}
        self.open: set[int] = set(self._stored_starts())

    def _stored_starts(self) -> Iterator[int]:
        """The windows that the store holds, found by one seek each."""
        first = b""
        while True:
            entry = next(self._view.scan(first), None)
            if entry is None:
                return
            start = decode_start(entry[0][:8])
            yield start
            first = encode_start(start + 1)

    @property
    def dirty_count(self) -> int:
        return sum(segment.dirty_count for segment in self._segments.values())

    def segment(self, start: int) -> KeyedState[V]:
        """The keyed state of the window that begins at ``start``; opens the window."""
        segment = self._segments.get(start)
        if segment is None:
            view = StoreView(self._store, self._view.prefix + encode_start(start))
            segment = KeyedState(view, self._encode, self._decode, budget=self._budget)
            self._segments[start] = segment
        self.open.add(start)
        return segment

    def earliest(self) -> int | None:
        """The start of the earliest open window."""
        return min(self.open, default=None)

    def drain(self, start: int, count: int) -> list[tuple[bytes, V]]:
        """Remove and return up to ``count`` entries of a window; fewer mean that it is closed now."""
        taken = self.segment(start).drain(count)
        if len(taken) < count:
            self.open.discard(start)
        return taken

    def take_changes(self) -> list[tuple[bytes, Changes]]:
        taken = []
        for start in sorted(self._segments):
            for _, changes in self._segments[start].take_changes():
                taken.append((encode_start(start), changes))
        return taken

    def applied(self) -> None:
        for start in [start for start in self._segments if start not in self.open]:
            del self._segments[start]
        self._budget.sharers = max(1, len(self._segments))
        for segment in self._segments.values():
            segment.applied()
