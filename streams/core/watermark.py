"""Watermarks: how far event time has come, for each input and for the task.

What must live here: the arithmetic of event time, as plain state that goes into the checkpoint.  What must not:
a clock; idleness is wall time, handed in as a fact.

A watermark of W says: a record with a timestamp below W isn't expected any more.  A partition of a source follows
the highest timestamp seen, less the disorder that its stream allows.  A partition of a repartition topic follows
the marks that its upstream tasks write into it in their commits: the least of all upstream tasks counts, one not
yet heard from holds it at NEVER, and an idle one is left out.  A task's watermark is the least of its inputs that
are not idle.  None of them ever moves back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from streams.core.batch import NEVER


class InputState(msgspec.Struct, array_like=True):
    """The watermark of one input as the checkpoint keeps it.  ``marks``: upstream task → (watermark, idle)."""

    peak: int = NEVER
    idle: bool = False
    marks: dict[str, tuple[int, bool]] = {}


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """A watermark in-band: what upstream ``task`` promised in commit ``number`` of ``epoch``.

    From a producer (``topic.send_watermark``) ``task`` is empty and epoch and number are 0.
    """

    task: str
    watermark: int
    idle: bool = False
    epoch: int = 0
    number: int = 0


MARK_HEADER = "streams.watermark"
encode_mark = msgspec.msgpack.Encoder().encode
decode_mark = msgspec.msgpack.Decoder(Mark).decode


class InputWatermark(Protocol):
    """The watermark of one input."""

    slack_ms: int

    @property
    def watermark(self) -> int: ...
    @property
    def idle(self) -> bool: ...
    def observe(self, peak: int) -> None:
        """Records were read; ``peak`` is their highest timestamp."""
        ...

    def heard(self, mark: Mark) -> None:
        """A mark was read in-band."""
        ...

    def silent(self) -> bool:
        """The input has been silent for its idle time-out (a wall-clock fact).  True when that changes something."""
        ...

    def save(self) -> InputState: ...


class SourceWatermark:
    """Follows the highest timestamp of a source partition, less ``slack_ms``."""

    def __init__(self, slack_ms: int, state: InputState | None = None) -> None:
        self.slack_ms = slack_ms
        self._peak = state.peak if state else NEVER
        self._idle = state.idle if state else False

    @property
    def watermark(self) -> int:
        return self._peak - self.slack_ms if self._peak > NEVER else NEVER

    @property
    def idle(self) -> bool:
        return self._idle

    def observe(self, peak: int) -> None:
        self._idle = False
        if peak > self._peak:
            self._peak = peak

    def heard(self, mark: Mark) -> None:
        self._idle = mark.idle
        self._peak = max(self._peak, mark.watermark + self.slack_ms)

    def silent(self) -> bool:
        changed = not self._idle
        self._idle = True
        return changed

    def save(self) -> InputState:
        return InputState(self._peak, self._idle)


class MarkedWatermark:
    """Follows the in-band marks of a fixed set of upstream tasks."""

    slack_ms = 0

    def __init__(self, upstream: Iterable[str], state: InputState | None = None) -> None:
        self._marks: dict[str, tuple[int, bool]] = dict.fromkeys(upstream, (NEVER, False))
        if state:
            self._marks.update({task: mark for task, mark in state.marks.items() if task in self._marks})

    @property
    def watermark(self) -> int:
        busy = [watermark for watermark, idle in self._marks.values() if not idle]
        return min(busy) if busy else max(watermark for watermark, _ in self._marks.values())

    @property
    def idle(self) -> bool:
        return all(idle for _, idle in self._marks.values())

    def observe(self, peak: int) -> None:
        pass

    def heard(self, mark: Mark) -> None:
        known = self._marks.get(mark.task)
        if known is not None:
            self._marks[mark.task] = (max(known[0], mark.watermark), mark.idle)

    def silent(self) -> bool:
        return False

    def save(self) -> InputState:
        return InputState(NEVER, self.idle, dict(self._marks))


def combine(inputs: Iterable[InputWatermark], current: int) -> int:
    """The task's watermark: the least of the inputs that are not idle, and never behind ``current``."""
    busy = [each.watermark for each in inputs if not each.idle]
    return max(current, min(busy)) if busy else current
