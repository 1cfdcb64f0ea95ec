"""A function over a column: whole batches at the speed of ``list(map(fn, values))``, one bad record at a time.

What must live here: applying a user's function or a decoder to a column and telling which records it refused.
What must not: what happens to those (fail, dead letter, skip): that is the error policy of the stream.

The loop runs in C: ``list.extend`` takes from a ``map`` until the function raises.  What was computed before stays
in the list, so the bad index is its length; a placeholder takes the bad record's place and the same ``map`` goes
on behind it.  So no function is ever called twice for one record, and a batch without faults pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

__all__ = ["FAILED", "Failures", "Mapped", "decode_batch", "describe_failure", "has_none", "map_batch"]


class _Failed(Enum):
    FAILED = "failed"

    def __repr__(self) -> str:
        return "FAILED"

    def __bool__(self) -> bool:
        return False  # a filter that compresses by its predicate's results never lets a failed record pass


FAILED: Final = _Failed.FAILED
"""Stands in a column for the result of a record whose function raised.  Compare by identity; it is false."""

Failures = list[tuple[int, Exception]]
"""(index in the batch, what was raised), ascending."""

Mapped = tuple[list[Any], Failures]
"""Results in the order of the input, ``FAILED`` where there is none, and the failures."""


def map_batch(fn: Callable[..., Any], values: Sequence[Any], *more: Sequence[Any]) -> Mapped:
    """``fn`` of each value; with further columns of the same length, of one value of each.

    Called by every operator once per batch; blocks for as long as ``fn`` does.  What ``fn`` raises as an
    ``Exception`` is kept as that record's failure, its traceback starting in ``fn`` (none for a C function); a
    ``BaseException`` (KeyboardInterrupt, cancellation) passes through.

    Frames in a traceback hold the batch and, by their callers, the failures themselves, until the garbage collector
    comes round.  Who goes on after a failure (skip, dead letter) ends that with ``error.with_traceback(None)``.
    """
    count = len(values)
    rest = map(fn, values, *more)
    results: list[Any] = []
    failures: Failures = []
    while True:
        failure: Exception
        try:
            results.extend(rest)
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises is its record's failure
            failure = error
        else:
            if len(results) >= count:
                return results, failures
            # A StopIteration out of fn ends the map like the end of its input would: records lost without a word.
            failure = RuntimeError("the function raised StopIteration")
        # Our own frame in the traceback, and names left in it, would be a cycle that pins the batch.
        tb = failure.__traceback__
        failures.append((len(results), failure.with_traceback(tb.tb_next if tb is not None else None)))
        results.append(FAILED)
        del failure, tb


def has_none(column: Sequence[Any]) -> bool:
    """True when one of ``column`` is None; a third of what ``None in column`` takes, which compares every element."""
    return not all(column) and None in column


def describe_failure(error: Exception) -> str:
    """One line for a person: the type, the message, and the line of code that raised where there is one."""
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    tb = error.__traceback__
    if tb is None:
        return words
    while tb.tb_next is not None:
        tb = tb.tb_next
    code = tb.tb_frame.f_code
    return f"{words} ({code.co_filename.rpartition('/')[2]}:{tb.tb_lineno} in {code.co_name})"


def decode_batch(decode: Callable[[bytes], Any], raw: Sequence[bytes | None]) -> Mapped:
    """``map_batch`` of a decoder; None (a tombstone, or a record without a key) passes as None, undecoded."""
    if all(raw):
        return map_batch(decode, raw)
    # There are Nones, or empty bytes, which are decoded like any others.
    where = [index for index, item in enumerate(raw) if item is not None]
    decoded, failures = map_batch(decode, [raw[index] for index in where])
    results: list[Any] = [None] * len(raw)
    for index, value in zip(where, decoded):
        results[index] = value
    return results, [(where[index], error) for index, error in failures]
