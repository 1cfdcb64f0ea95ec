"""Timers of event time: state like any other, so they survive restarts and moves.

Two named states: ``due`` holds what may be due, ordered by time; ``index`` holds, for each key and timer name, when it
is really due.  Moving a timer to a later time only touches the index; the entry in ``due`` finds out when it comes up.
"""

from __future__ import annotations

from heapq import heappop, heappush
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
    """The timers of one operator in one task."""

    def __init__(self, due: KeyedState[Any], index: KeyedState[int]) -> None:
        self._due = due
        self._index = index
        self.next = self._first()

    def _first(self) -> int:
        entry = next(self._due.scan(), None)
        return FOREVER if entry is None else decode_start(entry[0][:8])

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
            self._due.put(encode_start(at) + label, True)
            self.next = min(self.next, at)

    def cancel(self, key: bytes, name: str) -> None:
        self._index.delete(_label(key, name))

    def take(self, watermark: int, count: int) -> list[tuple[int, bytes, str]]:
        """Up to ``count`` timers that are due at ``watermark``, as (time, key, name), the earliest first.

        They are gone afterwards.  An empty list means that none is left, so call until it comes.
        """
        while self.next <= watermark:
            fired = []
            waiting = [entry for entry, _ in self._due.drain(count, encode_start(watermark + 1))]
            last = waiting[-1] if waiting else b""
            while waiting:
                entry = heappop(waiting)
                at, label = decode_start(entry[:8]), entry[8:]
                current = self._index.get(label)
                if current is None:
                    continue
                if current <= at:
                    self._index.delete(label)
                    fired.append((at, *_parse(label)))
                elif (moved := encode_start(current) + label) <= last:
                    # Behind the drain's floor a put would not be found again before the next commit.
                    heappush(waiting, moved)
                else:
                    self._due.put(moved, True)
            self.next = self._first()
            if fired:
                return fired
        return []


def _label(key: bytes, name: str) -> bytes:
    encoded = name.encode()
    return bytes([len(encoded)]) + encoded + key


def _parse(label: bytes) -> tuple[bytes, str]:
    size = 1 + label[0]
    return label[size:], label[1:size].decode()
