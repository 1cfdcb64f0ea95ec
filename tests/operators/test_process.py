"""``process``, alone: when timers fire, what a call that raises leaves, and what is stored."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from streams.core.batch import FOREVER, Batch
from streams.core.capability import Limits
from streams.core.context import ambient
from streams.core.log import TopicSpec
from streams.core.policy import FAIL, ErrorPolicy
from streams.core.state import StateSpec
from streams.errors import DerivedValueFailed, RecordFailed, TopologyError
from streams.operators.process import Process, ProcessContext
from tests.operators.work import SKIP, Work, read_at

PACK, UNPACK = msgspec.msgpack.encode, msgspec.msgpack.decode
STATE = StateSpec("seen", "keyed", PACK, UNPACK, "process/1")
TABLE = StateSpec("rows", "keyed", PACK, UNPACK, "table/1")

Fn = Callable[[Any, list[Any], ProcessContext], Any]
OnTimer = Callable[[list[Any], ProcessContext], Any]


def a_process(
    fn: Fn, *, policy: ErrorPolicy = FAIL, tables: tuple[StateSpec, ...] = (), work: Any = None, **on_timer: OnTimer
) -> Work:
    node = Process(
        name="p",
        fn=fn,
        on_timer=on_timer,
        state=STATE,
        initial=list,
        decode_key=bytes.decode,
        tables=tables,
        policy=policy,
    )
    return Work(node, **(work or {}))


def test_each_call_sees_its_key_its_state_its_time_and_the_watermark_that_its_record_brings() -> None:
    calls: list[Any] = []

    def fn(value: Any, state: list[Any], ctx: ProcessContext) -> None:
        assert ambient.get() is None, "without tables there is nothing to find"
        state.append(value)
        calls.append((value, list(state), ctx.key, ctx.time, ctx.watermark))

    work = a_process(fn, work={"delay_ms": 2})
    work.give(("a", 1, 10), ("b", 2, 15), ("a", 3, 12), origin=read_at([10, 15, 12], before=8, after=15))
    assert calls == [(1, [1], "a", 10, 8), (2, [2], "b", 15, 13), (3, [1, 3], "a", 12, 13)]
    work.context.watermark = 20
    work.give(("b", 4, 19))
    assert calls[-1] == (4, [2, 4], "b", 19, 18)


def test_what_is_emitted_keeps_the_order_the_key_and_the_time_of_its_record() -> None:
    def fn(value: int, state: list[Any], ctx: ProcessContext) -> None:
        for n in range(value):
            ctx.emit((value, n))

    work = a_process(fn)
    work.give(("a", 2, 10), ("b", 0, 11), ("c", 1, 12), origin=read_at([10, 11, 12], before=0, after=12))
    [batch] = work.emitted
    assert list(batch.rows) == [0, 0, 2]
    assert batch.origin is not None
    assert work.taken() == [("a", (2, 0), 10), ("a", (2, 1), 10), ("c", (1, 0), 12)]


def test_a_timer_fires_before_the_record_that_brings_event_time_to_it_and_what_went_before_leaves_first() -> None:
    def fn(value: int, state: list[Any], ctx: ProcessContext) -> None:
        ctx.emit(value)
        ctx.timer("t", after="5ms")

    work = a_process(fn, t=lambda state, ctx: ctx.emit(("fired", ctx.time, ctx.watermark)))
    work.give(("a", 1, 10), ("b", 2, 14), ("c", 3, 15), origin=read_at([10, 14, 15], before=0, after=15))
    assert [batch.origin is None for batch in work.emitted] == [False, True, False]
    assert work.taken() == [("a", 1, 10), ("b", 2, 14), ("a", ("fired", 15, 15), 15), ("c", 3, 15)]


def test_a_timer_fires_at_the_first_watermark_that_reaches_it_though_rows_between_went_elsewhere() -> None:
    def fn(value: int, state: list[Any], ctx: ProcessContext) -> None:
        ctx.timer("t", at=12)

    fired: list[int] = []
    work = a_process(fn, t=lambda state, ctx: fired.append(ctx.watermark))
    origin = read_at([10, 13, 18], before=0, after=18, first=4)
    work.processor.process(Batch([b"a", b"b"], [1, 3], [10, 18], [4, 6], origin))
    assert fired == [12]


def test_every_timer_that_is_due_fires_however_many() -> None:
    def fn(value: int, state: list[Any], ctx: ProcessContext) -> None:
        for n in range(value):
            ctx.timer(str(n), at=n + 1)

    handlers: Any = {str(n): lambda state, ctx: ctx.emit(ctx.time) for n in range(1500)}
    work = a_process(fn, **handlers)
    work.give(("a", 1500, 0), ("a", 0, 5000), origin=read_at([0, 5000], before=-1, after=5000))
    assert [value for _, value, _ in work.taken()] == list(range(1, 1501))
    assert work.processor.deadline() == FOREVER


@pytest.mark.parametrize(
    ("given", "due"),
    [
        ({"at": 300}, 300),
        ({"at": datetime.fromtimestamp(0.5, UTC)}, 500),
        ({"after": "0.1s"}, 110),
        ({"after": 0.2}, 210),
    ],
)
def test_a_timer_is_set_to_a_time_or_to_a_span_after_its_record(given: dict[str, Any], due: int) -> None:
    work = a_process(lambda value, state, ctx: ctx.timer("t", **given), t=lambda state, ctx: ctx.emit(ctx.time))
    work.give(("a", 1, 10))
    assert work.processor.deadline() == due
    assert work.processor.advance(1_000)
    assert work.taken() == [("a", due, due)]


def test_a_timer_that_is_cancelled_in_the_call_that_sets_it_does_not_fire() -> None:
    def fn(value: str, state: list[Any], ctx: ProcessContext) -> None:
        ctx.timer("t", at=5)
        ctx.cancel("t")

    work = a_process(fn, t=lambda state, ctx: ctx.emit(ctx.time))
    work.give(("a", 1, 0))
    assert work.processor.advance(1_000)
    assert work.taken() == []


@pytest.mark.parametrize("given", [{}, {"at": 1, "after": "1s"}])
def test_a_timer_is_given_a_time_or_a_span_and_not_both(given: dict[str, Any]) -> None:
    work = a_process(lambda value, state, ctx: ctx.timer("t", **given))
    with pytest.raises(RecordFailed, match="either at= or after="):
        work.give(("a", 1, 0), origin=read_at([0], before=0, after=0))


def test_a_state_is_stored_when_it_differs_from_a_fresh_one_and_deleted_when_it_is_one_again() -> None:
    def fn(value: str, state: list[Any], ctx: ProcessContext) -> None:
        state.append(value) if value != "clear" else state.clear()

    work = a_process(fn)
    work.give(("a", "clear", 0))
    assert work.states["seen"].dirty_count == 0, "a fresh state isn't stored"
    work.give(("a", "x", 0))
    assert list(work.context.keyed("seen").scan()) == [(b"a", ["x"])]
    work.give(("a", "clear", 0))
    assert list(work.context.keyed("seen").scan()) == []
    work.commit_and_restart()
    work.give(("a", "x", 0))
    work.commit_and_restart()
    work.give(("a", "clear", 0))
    work.commit_and_restart()
    assert list(work.context.keyed("seen").scan()) == []


def failing(value: int, state: list[Any], ctx: ProcessContext) -> None:
    state.append(value)
    ctx.emit(value)
    ctx.timer("t", at=50 + value)
    if value < 0:
        raise ValueError(value)


def test_a_call_that_raises_leaves_nothing_behind() -> None:
    work = a_process(failing, policy=SKIP, t=lambda state, ctx: None)
    work.give(("a", -1, 0), ("a", 1, 1), ("a", -2, 2), ("b", -3, 3), ("b", 4, 4))
    assert work.taken() == [("a", 1, 1), ("b", 4, 4)]
    assert list(work.context.keyed("seen").scan()) == [(b"a", [1]), (b"b", [4])]
    assert work.processor.deadline() == 51
    assert work.failures.skipped == {"p": 3}
    work.commit_and_restart()
    work.give(("a", -4, 5))
    assert work.context.keyed("seen").get(b"a") == [1]


def test_what_raises_stops_the_task_where_nothing_else_is_said() -> None:
    work = a_process(failing)
    with pytest.raises(RecordFailed, match="ValueError: -1"):
        work.give(("a", -1, 0), origin=read_at([0], before=0, after=0))


def test_headers_are_those_of_the_record_and_a_timer_has_none() -> None:
    seen: list[Any] = []

    def fn(value: int, state: list[Any], ctx: ProcessContext) -> None:
        seen.append(ctx.headers)
        ctx.timer("t", at=1)

    work = a_process(fn, t=lambda state, ctx: seen.append(ctx.headers))
    headers: Any = [(("h", b"1"), ("h", b"2")), None]
    work.give(("a", 1, 0), ("a", 2, 0), origin=read_at([0, 0], before=0, after=0, headers=headers))
    assert work.processor.advance(1)
    assert seen == [{"h": b"2"}, {}, {}]


def test_records_without_a_key_meet_the_policy() -> None:
    work = a_process(failing, policy=SKIP)
    work.give((None, 1, 0), ("a", 2, 1))
    assert work.taken() == [("a", 2, 1)]
    assert work.failures.skipped == {"p": 1}


# ── advancing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def ten_timers(work: dict[str, Any] | None = None) -> Work:
    def fn(value: int, state: list[Any], ctx: ProcessContext) -> None:
        ctx.timer("t", at=value)

    made = a_process(fn, work=work, t=lambda state, ctx: ctx.emit(ctx.time))
    made.give(*((str(n), n, 0) for n in range(1, 11)))
    return made


def test_advancing_fires_what_is_due_and_nothing_later() -> None:
    work = ten_timers()
    assert work.processor.advance(4)
    assert [value for _, value, _ in work.taken()] == [1, 2, 3, 4]
    assert work.processor.deadline() == 5
    assert work.processor.advance(10)
    assert work.processor.deadline() == FOREVER


def test_advancing_stops_where_the_slice_has_no_room_left() -> None:
    work = ten_timers({"limits": Limits(max_commit_records=3)})
    assert not work.processor.advance(10)
    assert [value for _, value, _ in work.taken()] == [1, 2, 3]
    work.outputs.count = 3
    assert not work.processor.advance(10)
    assert work.taken() == []
    work.outputs.take()
    assert not work.processor.advance(6), "that it was all that was due isn't known yet"
    assert work.processor.advance(6)


def test_a_timer_fires_with_the_state_and_the_watermark_that_the_task_comes_to() -> None:
    def fn(value: int, state: list[Any], ctx: ProcessContext) -> None:
        state.append(value)
        ctx.timer("t", at=5)

    def fired(state: list[Any], ctx: ProcessContext) -> None:
        ctx.emit((list(state), ctx.key, ctx.time, ctx.watermark))
        state.clear()

    work = a_process(fn, t=fired)
    work.give(("a", 1, 0), ("a", 2, 0))
    work.commit_and_restart()
    assert work.processor.advance(9)
    assert work.taken() == [("a", ([1, 2], "a", 5, 9), 5)]
    assert list(work.context.keyed("seen").scan()) == []


def test_a_timer_that_raises_meets_the_policy_and_the_others_fire() -> None:
    def fn(value: int, state: list[Any], ctx: ProcessContext) -> None:
        ctx.timer("t", at=value)

    def fired(state: list[Any], ctx: ProcessContext) -> None:
        if ctx.time == 2:
            raise ValueError("no")
        ctx.emit(ctx.time)

    for policy in (SKIP, FAIL):
        work = a_process(fn, policy=policy, t=fired)
        work.give(*((str(n), n, 0) for n in (1, 2, 3)))
        if policy is FAIL:
            with pytest.raises(DerivedValueFailed, match=r"p: on_timer\('t'\).*b'2'"):
                work.processor.advance(3)
            continue
        assert work.processor.advance(3)
        assert [value for _, value, _ in work.taken()] == [1, 3]
        assert work.failures.skipped == {"p: on_timer('t')": 1}


def test_what_a_timer_refuses_goes_to_the_dead_letters_under_its_key_and_time() -> None:
    def fired(state: list[Any], ctx: ProcessContext) -> None:
        raise ValueError("no")

    letters = ErrorPolicy("dead_letter", TopicSpec("dead"))
    work = a_process(lambda value, state, ctx: ctx.timer("t", at=7), policy=letters, t=fired)
    work.give(("a", 1, 0))
    assert work.processor.advance(9)
    [append] = work.outputs.take()
    assert (append.partition.topic, append.records.keys, append.records.timestamps) == ("dead", [b"a"], [7])


def test_a_timer_that_nothing_handles_stops_the_task() -> None:
    work = a_process(lambda value, state, ctx: ctx.timer("gone", at=1))
    work.give(("a", 1, 0))
    with pytest.raises(TopologyError, match="gone"):
        work.processor.advance(1)


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_code_that_uses_tables_finds_them_and_its_record_and_what_it_wrote_is_taken_back_if_it_raises() -> None:
    here: list[Any] = []

    def fn(value: int, state: list[Any], ctx: ProcessContext) -> None:
        found = ambient.get()
        assert found is not None
        here.append((found.operator, found.origin, found.row))
        rows = found.context.keyed("rows")
        before = rows.get(b"r")
        assert found.journal is not None
        found.journal.append((rows, b"r", lambda: before))
        rows.put(b"r", value)
        ctx.timer("t", at=5)
        if value < 0:
            raise ValueError(value)

    def fired(state: list[Any], ctx: ProcessContext) -> None:
        found = ambient.get()
        assert found is not None
        here.append((found.operator, found.origin))

    work = a_process(fn, policy=SKIP, tables=(TABLE,), t=fired)
    origin = read_at([0, 0, 0], before=0, after=0)
    work.give(("a", 1, 0), ("a", -1, 0), ("b", -2, 0), origin=origin)
    assert here == [("p", origin, 0), ("p", origin, 1), ("p", origin, 2)]
    assert work.context.keyed("rows").get(b"r") == 1
    assert ambient.get() is None
    here.clear()
    assert work.processor.advance(5)
    assert here == [("p", None)]
    assert [spec.name for spec in work.node.states] == ["seen", "seen.timers-due", "seen.timers", "rows"]


def test_a_timer_does_not_fire_before_a_record_that_comes_before_it() -> None:
    def fn(value: str, state: list[Any], ctx: ProcessContext) -> None:
        ctx.emit(value)
        if value == "first":
            ctx.timer("t", at=12)
            ctx.timer("u", at=17)

    work = a_process(fn, t=lambda state, ctx: ctx.emit("12"), u=lambda state, ctx: ctx.emit("17"))
    work.give(("a", "first", 10), origin=read_at([10], before=0, after=10))
    origin = read_at([13, 18], before=10, after=18, first=4)
    work.processor.process(Batch([b"a"] * 2, ["second", "third"], [13, 18], [4, 5], origin))
    assert [value for _, value, _ in work.taken()] == ["first", "12", "second", "17", "third"]
