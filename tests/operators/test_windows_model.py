"""Windows against a model in plain Python: which records count, which are late, and what each window holds at its end.

The model knows nothing of batches: it takes the records one by one, as they stand on the log.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streams import App, agg, hopping, tumbling
from streams.core.window import Windows
from streams.testing.driver import TestDriver

FAR = 1_000_000
"""A time behind every window of these tests, in ms."""

Record = tuple[str, int]

records_st = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(-60, 200)), max_size=25)
cuts_st = st.lists(st.booleans(), min_size=25, max_size=25)


def model(
    records: list[Record], size: int, step: int, slack: int, grace: int
) -> tuple[Counter[tuple[str, int]], Counter[Record]]:
    """(key, window start) → how many records counted; and how often each record came too late for a window."""
    counted: Counter[tuple[str, int]] = Counter()
    late: Counter[Record] = Counter()
    watermark: float = float("-inf")
    for key, time in records:
        for start in range(-400, 400):
            if start % step or not start <= time < start + size:
                continue
            if watermark >= start + size + grace:
                late[key, time] += 1
            else:
                counted[key, start] += 1
        watermark = max(watermark, time - slack)
    return counted, late


def cut(records: list[Record], cuts: list[bool]) -> list[list[Record]]:
    """The records in runs: a new one begins where ``cuts`` is true."""
    batches: list[list[Record]] = [[]]
    for record, begins in zip(records, cuts, strict=False):
        if begins:
            batches.append([])
        batches[-1].append(record)
    return [batch for batch in batches if batch]


def run(
    batches: list[list[Record]], windows: Windows, slack: int, grace: int
) -> tuple[list[dict[str, Any]], list[Record]]:
    """Finals with their key as ``key``, and late records, as the engine gives them."""
    app = App("model")
    stream = app.stream("in", timestamp=lambda v: v["t"], out_of_orderness=f"{slack}ms", idle_after=None)
    counted = stream.window(windows, grace=f"{grace}ms").aggregate(n=agg.count(), times=agg.collect("t", limit=100))
    counted.final().to("final")
    counted.late.to("late")
    with TestDriver(app) as t:
        for batch in batches:
            t.send_all("in", [(key, {"t": time}) for key, time in batch])
        t.send_watermark("in", FAR)
        finals = [{"key": key, **value} for key, value in t.outputs("final")]
        return finals, [(key, value["t"]) for key, value in t.outputs("late")]


@settings(max_examples=60)
@given(records_st, cuts_st, st.integers(1, 50), st.integers(0, 40), st.integers(0, 40))
def test_tumbling_windows_hold_what_a_plain_loop_over_the_records_holds(
    records: list[Record], cuts: list[bool], size: int, slack: int, grace: int
) -> None:
    finals, late = run(cut(records, cuts), tumbling(f"{size}ms"), slack, grace)
    counted, expected_late = model(records, size, size, slack, grace)
    assert {(f["key"], f["window_start"]): f["n"] for f in finals} == dict(counted)
    assert len(finals) == len(counted), "a window is final once"
    assert Counter(late) == expected_late


@settings(max_examples=60)
@given(records_st, cuts_st, st.integers(1, 30), st.integers(0, 60), st.integers(0, 40), st.integers(0, 40))
def test_hopping_windows_hold_what_a_plain_loop_over_the_records_holds(
    records: list[Record], cuts: list[bool], step: int, longer: int, slack: int, grace: int
) -> None:
    size = step + longer
    finals, late = run(cut(records, cuts), hopping(f"{size}ms", f"{step}ms"), slack, grace)
    counted, expected_late = model(records, size, step, slack, grace)
    assert {(f["key"], f["window_start"]): f["n"] for f in finals} == dict(counted)
    assert len(finals) == len(counted), "a window is final once"
    assert set(late) == set(expected_late)


@settings(max_examples=40)
@given(records_st, cuts_st, st.integers(1, 50), st.integers(0, 40), st.integers(0, 40))
def test_windows_do_not_depend_on_where_batches_are_cut(
    records: list[Record], cuts: list[bool], size: int, slack: int, grace: int
) -> None:
    windows = tumbling(f"{size}ms")
    one_by_one = run([[record] for record in records], windows, slack, grace)
    assert run(cut(records, cuts), windows, slack, grace) == one_by_one
    assert run([records] if records else [], windows, slack, grace) == one_by_one


@settings(max_examples=40)
@given(records_st, cuts_st, st.integers(5, 50), st.integers(0, 40), st.integers(0, 40))
def test_finals_are_never_late_in_a_window_downstream(
    records: list[Record], cuts: list[bool], size: int, slack: int, grace: int
) -> None:
    app = App("chain")
    stream = app.stream("in", timestamp=lambda v: v["t"], out_of_orderness=f"{slack}ms", idle_after=None)
    first = stream.window(tumbling(f"{size}ms"), grace=f"{grace}ms").count()
    second = first.final().window(tumbling(f"{2 * size}ms")).aggregate(finals=agg.count(), total=agg.sum("count"))
    second.final().to("final")
    second.late.to("late")
    with TestDriver(app) as t:
        for batch in cut(records, cuts):
            t.send_all("in", [(key, {"t": time}) for key, time in batch])
        t.send_watermark("in", FAR)
        finals = {(key, f["window_start"]): (f["finals"], f["total"]) for key, f in t.outputs("final")}
        late = t.outputs("late")
    counted, _ = model(records, size, size, slack, grace)
    expected: dict[tuple[str, int], tuple[int, int]] = {}
    for (key, start), n in counted.items():
        outer = start - start % (2 * size)
        windows, total = expected.get((key, outer), (0, 0))
        expected[key, outer] = (windows + 1, total + n)
    assert late == []
    assert finals == expected


@settings(max_examples=30)
@given(records_st, cuts_st, st.integers(1, 50), st.integers(0, 40))
def test_the_last_update_of_a_window_is_its_final_result(
    records: list[Record], cuts: list[bool], size: int, grace: int
) -> None:
    app = App("updates")
    stream = app.stream("in", timestamp=lambda v: v["t"], idle_after=None)
    counted = stream.window(hopping(f"{2 * size}ms", f"{size}ms"), grace=f"{grace}ms").count()
    counted.final().to("final")
    counted.updates().to("updates")
    with TestDriver(app) as t:
        for batch in cut(records, cuts):
            t.send_all("in", [(key, {"t": time}) for key, time in batch])
        t.send_watermark("in", FAR)
        finals = {(key, v["window_start"]): v for key, v in t.outputs("final")}
        seen: dict[tuple[str, int], list[int]] = {}
        last: dict[tuple[str, int], Any] = {}
        for key, value in t.outputs("updates"):
            seen.setdefault((key, value["window_start"]), []).append(value["count"])
            last[key, value["window_start"]] = value
    assert last == finals
    assert all(counts == list(range(1, len(counts) + 1)) for counts in seen.values())
