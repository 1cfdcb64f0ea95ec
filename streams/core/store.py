"""The waist of state: what the engine asks of a store, and what a commit changes in it.

What must live here: the Store protocol, the identity of its contents, a view by prefix.  What must not: overlay
and codecs (``core.state``), RocksDB (``state/``).

One store belongs to one task and holds all its named states, each under a prefix of its own, so that one
WriteBatch (or one ingested SST) moves all of them and the identity of the commit together.  A store is a cache of
the changelog: it is written only after a commit succeeded, it is never ahead of the log, and losing its tail
costs a replay, not data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from streams.core.record import Position


class StoreState(msgspec.Struct, frozen=True):
    """Which commit the contents stand for: written in one write with them.

    log_id, epoch, number: the identity of the commit (protocol 7).
    claim: what the claim was called under which it was made.
    changelogs: by state name, the changelog position behind the last applied record.
    topics: by state name, the identity of its changelog; of another one the position would mean nothing.
    prefixes: by state name, the number that its keys are stored under.
    as_of_ms: by the worker's clock, when the contents were last all that had been committed by then; while they are
    still being restored, when that began.  0 for unknown (protocol 12).
    """

    log_id: str
    epoch: int
    number: int
    changelogs: dict[str, Position] = {}
    prefixes: dict[str, int] = {}
    topics: dict[str, str] = {}
    claim: str = ""
    as_of_ms: int = 0


@dataclass(slots=True)
class Changes:
    """What one commit changes in one named state.  ``puts`` are sorted by key and have no key twice.

    ``ranges`` are (first, end) keys, end excluded, to be cleared *before* the puts are written.  ``deletes`` name
    single keys; a range stands beside the deletes that it covers, which then only go to the changelog.
    ``largest_bytes`` is the size of the largest value among the puts, where who made them took note of it.
    """

    puts: list[tuple[bytes, bytes]] = field(default_factory=list)
    deletes: list[bytes] = field(default_factory=list)
    ranges: list[tuple[bytes, bytes]] = field(default_factory=list)
    largest_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes or self.ranges)


class Store(Protocol):
    """Ordered bytes to bytes, of one task.  Calls block for as long as a local read or write takes.

    Each implementation passes ``streams.testing`` StoreContract.
    """

    @property
    def state(self) -> StoreState | None:
        """What the contents stand for; None when the store is empty and new."""
        ...

    def get(self, key: bytes) -> bytes | None: ...

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of ``keys``, in their order.  Sorted keys are read faster."""
        ...

    def scan(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Entries with first <= key < end in order of their keys.  Close or exhaust the iterator before writing."""
        ...

    def apply(self, changes: Mapping[bytes, Changes], state: StoreState) -> None:
        """Write the changes of each prefix and the new state as one.  Not synced: a lost tail is replayed.

        A prefix begins with the two bytes of a state (a window's is longer), and none begins with another.  Keys and
        ranges in ``Changes`` are without it.
        """
        ...

    def load(self, prefix: bytes, entries: Mapping[bytes, bytes | None], state: StoreState) -> None:
        """Restore: apply the last values of many keys (None deletes) and the new state as one, as fast as can be.

        The keys are without the prefix.
        """
        ...

    def clear(self) -> None:
        """Remove everything, state included."""
        ...

    def close(self) -> None:
        """Release files and locks.  Idempotent."""
        ...


class StoreView:
    """The part of a store that lies under one prefix, with the prefix taken off."""

    __slots__ = ("_end", "_store", "prefix")

    def __init__(self, store: Store, prefix: bytes) -> None:
        self._store = store
        self.prefix = prefix
        self._end = after_prefix(prefix)

    def get(self, key: bytes) -> bytes | None:
        return self._store.get(self.prefix + key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        prefix = self.prefix
        return self._store.multi_get([prefix + key for key in keys])

    def scan(
        self, first: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        size = len(self.prefix)
        stop = self._end if end is None else self.prefix + end
        for key, value in self._store.scan(self.prefix + first, stop, reverse=reverse):
            yield key[size:], value


def prefix_bytes(number: int) -> bytes:
    """The stored prefix of a state: two bytes; prefixes from 1 on, 0 is the store's own."""
    return number.to_bytes(2, "big")


def after_prefix(prefix: bytes) -> bytes:
    """The first key behind every key that starts with ``prefix``."""
    trimmed = prefix.rstrip(b"\xff")
    assert trimmed, "a prefix of 0xff bytes only has no end"
    return trimmed[:-1] + bytes([trimmed[-1] + 1])
