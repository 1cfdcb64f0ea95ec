"""Windows of event time.

What must live here: which windows a timestamp falls into and when one closes.  What must not: state, operators.
A window [start, start + size) closes when the watermark reaches start + size + grace; a record is late for it from
then on.
"""

from __future__ import annotations

from dataclasses import dataclass

from streams.core.duration import Duration, format_duration_ms, parse_duration_ms
from streams.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of ``size_ms`` that start at each multiple of ``step_ms`` since the epoch (UTC)."""

    size_ms: int
    step_ms: int

    def starts(self, time: int) -> range:
        """The starts of all windows that hold ``time``, in ascending order."""
        last = time - time % self.step_ms
        first = last - (self.size_ms - 1 - time % self.step_ms) // self.step_ms * self.step_ms
        return range(first, last + 1, self.step_ms)

    @property
    def label(self) -> str:
        """Stable name for stores and the topology fingerprint."""
        size = format_duration_ms(self.size_ms)
        return size if self.size_ms == self.step_ms else f"{size}-each-{format_duration_ms(self.step_ms)}"


def tumbling(size: Duration) -> Windows:
    """Windows of one size, each beginning where the one before ends."""
    size_ms = _positive(size, "tumbling window")
    return Windows(size_ms, size_ms)


def hopping(size: Duration, step: Duration) -> Windows:
    """Windows of ``size`` of which one begins each ``step``; a record belongs to size / step of them."""
    size_ms, step_ms = _positive(size, "hopping window"), _positive(step, "hopping window's step")
    if step_ms > size_ms:
        raise ConfigurationError(
            f"hopping({size!r}, {step!r}): the step is longer than the window, so records between two windows "
            f"would vanish; choose a step of at most the size"
        )
    return Windows(size_ms, step_ms)


def _positive(duration: Duration, what: str) -> int:
    milliseconds = parse_duration_ms(duration)
    if milliseconds <= 0:
        raise ConfigurationError(f"a {what} must be longer than 0, not {duration!r}")
    return milliseconds


def encode_start(start: int) -> bytes:
    """A window's start as eight bytes that sort as the numbers do, before 1970 too."""
    return (start + 2**63).to_bytes(8, "big")


def decode_start(encoded: bytes) -> int:
    return int.from_bytes(encoded, "big") - 2**63
