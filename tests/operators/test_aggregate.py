"""Aggregates, alone: when exactly windows close, what is emitted where, and what a refused record leaves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streams.core.batch import FOREVER, NEVER
from streams.core.capability import Limits
from streams.core.policy import FAIL, ErrorPolicy
from streams.core.state import StateSpec
from streams.core.window import Windows
from streams.errors import RecordFailed
from streams.operators.aggregate import Aggregate, WindowAggregate, WindowBatch, WindowPort
from tests.operators.work import SKIP, Work, read_at

TEN = Windows(10, 10)


class Sum:
    """Adds numbers, and refuses 13. A list, so that a fold on a shared accumulator would show."""

    name = "sum"

    def __init__(self, counts: bool = False) -> None:
        self.counts = counts
        self.asked = 0

    def initial(self) -> Any:
        return 0 if self.counts else [0]

    def fold(self, accumulator: Any, value: Any) -> Any:
        if value == 13:
            raise ValueError(value)
        return accumulator + 1 if self.counts else [accumulator[0] + value]

    def result(self, accumulator: Any) -> Any:
        self.asked += 1
        return accumulator if self.counts else accumulator[0]

    def encode(self, accumulator: Any) -> bytes:
        return msgspec.msgpack.encode(accumulator)

    def decode(self, stored: bytes) -> Any:
        return msgspec.msgpack.decode(stored)


def spec(kind: Any) -> StateSpec:
    return StateSpec("s", kind, Sum().encode, Sum().decode, "sum/1")


def an_aggregate(*, counts: bool = False, policy: ErrorPolicy = SKIP) -> Work:
    return Work(Aggregate(name="a", state=spec("keyed"), fold=Sum(counts), policy=policy))


def a_window(*ports: str, windows: Windows = TEN, grace_ms: int = 0, policy: ErrorPolicy = SKIP, **work: Any) -> Work:
    node = WindowAggregate(
        name="w",
        state=spec("windowed"),
        fold=Sum(),
        windows=windows,
        grace_ms=grace_ms,
        wrap=lambda result, start, end: (result, start, end),
        finish=lambda accumulator, start, end: (accumulator[0], start, end),
        ports=set(ports),
        policy=policy,
    )
    return Work(node, **work)


def kinds(work: Work) -> list[str]:
    return [batch.kind for batch in work.emitted if isinstance(batch, WindowBatch)]


# ── without windows ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("counts", "expected"), [(False, [1, 2, 4, 8]), (True, [1, 1, 2, 2])])
def test_the_result_after_each_record_is_emitted_under_its_key_and_time(counts: bool, expected: list[int]) -> None:
    work = an_aggregate(counts=counts)
    work.give(("a", 1, 10), ("b", 2, 11), ("a", 3, 12))
    work.commit_and_restart()
    work.give(("b", 6, 13))
    assert work.taken() == [
        (key, result, time) for key, result, time in zip("abab", expected, [10, 11, 12, 13], strict=True)
    ]


def test_a_record_that_is_refused_changes_nothing_and_the_others_count() -> None:
    work = an_aggregate()
    work.give(("a", 1, 0), ("a", 13, 1), ("a", 2, 2), (None, 5, 3))
    assert work.taken() == [("a", 1, 0), ("a", 3, 2)]
    assert work.failures.skipped == {"a": 2}
    work.give(("b", 13, 4))
    assert work.emitted == [], "a batch of which nothing is left goes no further"


@pytest.mark.parametrize("value", [1, 13])
def test_a_record_without_a_key_or_that_is_refused_stops_the_task_where_nothing_else_is_said(value: int) -> None:
    work = an_aggregate(policy=FAIL)
    with pytest.raises(RecordFailed, match="13" if value == 13 else "no key"):
        work.give((None if value == 1 else "a", value, 0), origin=read_at([0], before=0, after=0))


# ── windows: which record belongs to which ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("grace_ms", "delay_ms"), [(0, 0), (3, 0), (0, 3), (2, 1)])
def test_a_record_is_late_from_the_watermark_on_that_closes_its_window(
    grace_ms: int, delay_ms: int, batched: bool
) -> None:
    """A window [0, 10) is closed at 10 + grace, and what comes from upstream may be ``delay`` behind."""
    closes = 10 + grace_ms + delay_ms
    for watermark in range(closes - 2, closes + 3):
        late = watermark >= closes
        work = a_window("updates", "late", grace_ms=grace_ms, delay_ms=delay_ms)
        if batched:
            # The row before moves the watermark there, and the row behind far beyond.
            times = [watermark, 5, 200]
            work.give(*(("a", 1, time) for time in times), origin=read_at(times, before=-9, after=200))
        else:
            work.context.watermark = watermark
            work.give(("b", 2, 5))
        found = {batch.kind: len(batch) for batch in work.emitted if isinstance(batch, WindowBatch)}
        assert found.get("late", 0) == late, watermark
        assert found.get("updates", 0) == (not late) + 2 * batched
        assert work.context.counters.get("late", 0) == late


@pytest.mark.parametrize("first", [80, 81, 89, 90, 95, 99])
def test_two_records_fall_into_the_windows_of_their_times_wherever_these_lie(first: int) -> None:
    for last in range(first, 112):
        work = a_window("updates")
        work.give(("a", 1, first), ("b", 2, last))
        assert [value[1] for _, value, _ in work.taken()] == [first // 10 * 10, last // 10 * 10]


def test_a_record_is_judged_by_the_watermark_before_it_and_not_by_its_own() -> None:
    work = a_window("updates", "late")
    origin = read_at([5, 10, 9], before=0, after=10)
    work.give(("a", 1, 5), ("b", 2, 10), ("c", 4, 9), origin=origin)
    assert kinds(work) == ["late", "updates"]
    assert [(list(batch.rows), batch.origin) for batch in work.emitted] == [([2], origin), ([0, 1], origin)]
    assert work.taken() == [("c", 4, 9), ("a", (1, 0, 10), 5), ("b", (2, 10, 20), 10)]


def test_a_record_that_is_late_for_several_windows_is_late_once_and_counts_in_the_others() -> None:
    work = a_window("updates", "late", windows=Windows(30, 10))
    work.context.watermark = 20
    work.give(("a", 1, 5), ("b", 2, 6))
    assert work.taken() == [("a", 1, 5), ("b", 2, 6), ("a", (1, 0, 30), 5), ("b", (2, 0, 30), 6)]
    assert work.context.counters == {"late": 2}


def test_updates_leave_in_the_order_of_the_records_and_for_each_in_that_of_the_windows() -> None:
    work = a_window("updates", windows=Windows(20, 10))
    work.give(("a", 1, 15), ("a", 2, 5), ("b", 4, 25), ("a", 8, 12))
    assert work.taken() == [
        ("a", (1, 0, 20), 15),
        ("a", (1, 10, 30), 15),
        ("a", (2, -10, 10), 5),
        ("a", (3, 0, 20), 5),
        ("b", (4, 10, 30), 25),
        ("b", (4, 20, 40), 25),
        ("a", (11, 0, 20), 12),
        ("a", (9, 10, 30), 12),
    ]


def test_updates_of_two_windows_leave_in_the_order_of_the_records() -> None:
    work = a_window("updates")
    work.give(("a", 1, 15), ("a", 2, 5), ("a", 4, 16))
    assert work.taken() == [("a", (1, 10, 20), 15), ("a", (2, 0, 10), 5), ("a", (5, 10, 20), 16)]


@pytest.mark.parametrize("windows", [TEN, Windows(20, 10)])
def test_a_record_that_is_refused_meets_the_policy_once_however_many_windows_it_belongs_to(windows: Windows) -> None:
    for ports in (("updates",), ("final",)):
        work = a_window(*ports, windows=windows)
        work.give(("a", 13, 5), ("a", 1, 6), ("b", 13, 7), (None, 1, 8))
        assert work.failures.skipped == {"w": 3}
        work.processor.advance(100)
        last = {(key, value[1]): value[0] for key, value, _ in work.taken()}
        assert last == {("a", start): 1 for start in windows.starts(6)}


def test_results_that_nobody_takes_are_neither_computed_nor_emitted() -> None:
    work = a_window("final")
    work.give(("a", 1, 5))
    assert work.node.fold.asked == 0
    assert work.emitted == []
    work.give((None, 1, 5))
    assert work.emitted == []
    assert work.processor.deadline() == 10


# ── windows: when they close ────────────────────────────────────────────────────────────────────────────────────────


def test_windows_close_in_order_each_at_its_end_and_grace_and_hold_their_keys_in_order() -> None:
    work = a_window("final", grace_ms=3)
    assert work.processor.deadline() == FOREVER
    work.give(("b", 1, 12), ("a", 2, 19), ("b", 4, 5), ("b", 8, 6))
    assert work.processor.deadline() == 13
    assert work.processor.advance(12)
    assert work.taken() == []
    assert work.processor.advance(13)
    assert work.taken() == [("b", (12, 0, 10), 9)]
    assert work.processor.deadline() == 23
    work.commit_and_restart()
    assert work.processor.deadline() == 23
    assert work.processor.advance(1_000)
    assert kinds(work) == ["final"]
    assert work.taken() == [("a", (2, 10, 20), 19), ("b", (1, 10, 20), 19)]
    assert work.processor.deadline() == FOREVER


def test_closing_stops_where_the_slice_is_full_and_goes_on_in_the_next() -> None:
    work = a_window("final", limits=Limits(max_commit_records=2))
    work.give(*((key, 1, 5) for key in "abcd"), ("a", 1, 15))
    assert not work.processor.advance(100)
    assert [key for key, _, _ in work.taken()] == ["a", "b"]
    work.commit_and_restart()
    work.outputs.count = 2
    assert not work.processor.advance(100)
    assert work.taken() == []
    work.outputs.take()
    assert not work.processor.advance(100)
    assert [key for key, _, _ in work.taken()] == ["c", "d"]
    work.commit_and_restart()
    assert work.processor.advance(100)
    assert work.taken() == [("a", (1, 10, 20), 19)]
    assert work.processor.deadline() == FOREVER


def test_an_earlier_window_that_opens_later_closes_first() -> None:
    work = a_window("final")
    work.context.watermark = NEVER
    for time in (25, 5, 15):
        work.give(("a", 1, time))
        assert work.processor.deadline() == (30 if time == 25 else 10)
    work.processor.advance(100)
    assert [value[1] for _, value, _ in work.taken()] == [0, 10, 20]


def test_a_port_takes_what_is_of_its_kind_and_nothing_else() -> None:
    seen: dict[str, list[Any]] = {"updates": [], "late": []}
    work = a_window("updates", "late")
    ports = {kind: WindowPort(name=kind, kind=kind).build(work.context, seen[kind].append) for kind in seen}
    work.context.watermark = 10
    work.give(("a", 1, 5), ("b", 2, 15))
    for batch in work.emitted:
        for port in ports.values():
            port.process(batch)
    assert {kind: [batch.keys for batch in batches] for kind, batches in seen.items()} == {
        "updates": [[b"b"]],
        "late": [[b"a"]],
    }


def test_a_window_holds_event_time_back_for_its_grace_alone() -> None:
    assert a_window("final", grace_ms=7).node.holds_ms == 7
