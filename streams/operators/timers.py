"""Timers of event time: state like any other, so they survive restarts and moves.

Two named states: ``due`` holds what may be due, ordered by time; ``index`` holds, for each key and timer name, when it
is really due.  Moving a timer to a later time only touches the index; the entry in ``due`` finds out when it comes up.
"""

from __future__ import annotations

from heapq import heappop, heappush, nsmallest
from itertools import islice
from typing import Any

from streams.core.batch import FOREVER
from streams.core.state import KeyedState, StateSpec
from streams.core.window import decode_start, encode_start


def timer_states(name: str) -> tuple[StateSpec, StateSpec]:
    """The states ``due`` and ``index`` of the operator called ``name``."""
    return (
        StateSpec(f"{name}.timers-due", "keyed", lambda _: b"", lambda _: True, "timers-due/1"),
        StateSpec(f"{name}.timers", "keyed", encode_start, decode_start, "timers/1"),
    )


class Timers:
    """The timers of one operator in one task.  at_once: how many are read from the store at once."""

    def __init__(self, due: KeyedState[Any], index: KeyedState[int], at_once: int) -> None:
        self._at_once = at_once
        self._due = due
        self._index = index
        self._near: list[bytes] = []
        self._horizon: bytes | None = b""
        self._refill()

    def _refill(self) -> None:
        """Load the next entries: those below the horizon are all in the heap ``_near``; None: there are no others."""
        if not self._near and self._horizon is not None:
            self._near = [entry for entry, _ in islice(self._due.scan(self._horizon), self._at_once)]
            self._horizon = self._near[-1] + b"\x00" if len(self._near) == self._at_once else None

    @property
    def next(self) -> int:
        """When the next timer may be due; FOREVER when there is none."""
        return decode_start(self._near[0][:8]) if self._near else FOREVER

    def _put(self, entry: bytes) -> None:
        self._due.put(entry, True)
        if self._horizon is None or entry < self._horizon:
            heappush(self._near, entry)
            if len(self._near) > 4 * self._at_once:  # the later ones are read again from the store in their time
                self._near = nsmallest(self._at_once, self._near)
                self._horizon = self._near[-1] + b"\x00"

    def set(self, key: bytes, name: str, at: int, watermark: int) -> None:
        """Set or move the timer ``name`` of ``key``.  One in the past fires as soon as event time moves on.

        ``watermark``: as it stands for the record or timer in hand, so that the time of one in the past depends on
        the order of the log and not on what happened to fire before.
        """
        at = max(at, watermark + 1)
        label = _label(key, name)
        known = self._index.get(label)
        self._index.put(label, at)
        if known is None or at < known:
            self._put(encode_start(at) + label)

    def cancel(self, key: bytes, name: str) -> None:
        self._index.delete(_label(key, name))

    def take(self, watermark: int, count: int) -> list[tuple[int, bytes, str]]:
        """Up to ``count`` timers that are due at ``watermark``, as (time, key, name), the earliest first.

        They are gone afterwards.  An empty list means that none is left, so call until it comes.
        """
        fired: list[tuple[int, bytes, str]] = []
        while self.next <= watermark and len(fired) < count:
            entry = heappop(self._near)
            at, label = decode_start(entry[:8]), entry[8:]
            self._due.delete(entry)
            self._refill()
            current = self._index.get(label)
            if current is None:
                continue  # cancelled, or fired already
            if current > at:
                self._put(encode_start(current) + label)
            else:
                self._index.delete(label)
                fired.append((at, *_parse(label)))
        return fired


def _label(key: bytes, name: str) -> bytes:
    encoded = name.encode()
    return bytes([len(encoded)]) + encoded + key


def _parse(label: bytes) -> tuple[bytes, str]:
    size = 1 + label[0]
    return label[size:], label[1:size].decode()
