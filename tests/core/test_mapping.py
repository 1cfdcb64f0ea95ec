"""A function over a column: every record has its result or its failure, in its place."""

from __future__ import annotations

import gc
import re
import traceback
import weakref
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.mapping import FAILED, decode_batch, describe_failure, has_none, map_batch


def test_a_good_batch_has_results_only() -> None:
    assert map_batch(str, [1, 2, 3]) == (["1", "2", "3"], [])
    assert map_batch(str, []) == ([], [])


def test_several_columns_are_taken_side_by_side() -> None:
    assert map_batch(lambda key, value: (key, value), ["a", "b"], [1, 2]) == ([("a", 1), ("b", 2)], [])


def test_bad_records_are_named_and_the_others_keep_their_places() -> None:
    results, failures = map_batch(lambda n: 10 // n, [0, 5, 0, 0, 2, 0])
    assert results == [FAILED, 2, FAILED, FAILED, 5, FAILED]
    assert [index for index, _ in failures] == [0, 2, 3, 5]
    assert all(isinstance(error, ZeroDivisionError) for _, error in failures)


def test_no_record_is_computed_twice() -> None:
    seen: list[int] = []

    def fn(n: int) -> int:
        seen.append(n)
        if n % 3 == 0:
            raise ValueError(n)
        return n

    map_batch(fn, range(10))
    assert seen == list(range(10))


def test_stop_iteration_from_the_function_fails_that_record_only() -> None:
    def fn(n: int) -> int:
        if n in (1, 3):
            next(iter(()))
        return n

    results, failures = map_batch(fn, [0, 1, 2, 3])
    assert results == [0, FAILED, 2, FAILED]
    assert [(index, str(error)) for index, error in failures] == [
        (1, "the function raised StopIteration"),
        (3, "the function raised StopIteration"),
    ]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_passes_through(kind: type[BaseException]) -> None:
    def fn(n: int) -> int:
        raise kind

    with pytest.raises(kind):
        map_batch(fn, [1])


@pytest.mark.parametrize("compiled", [True, False])
def test_a_failure_does_not_pin_its_batch_in_memory(compiled: bool) -> None:
    class Value:
        pass

    def fn(value: Value) -> None:
        raise ValueError

    gc.collect()
    gc.disable()
    try:
        value = Value()
        alive = weakref.ref(value)
        results, failures = map_batch(orjson.loads if compiled else fn, [value])
        [(_, error)] = failures
        if not compiled:
            error.with_traceback(None)
        del value, results
        assert alive() is None
    finally:
        gc.enable()


def test_a_failure_in_words() -> None:
    def divide(n: int) -> float:
        return 1 / n

    _, [(_, error)] = map_batch(lambda n: divide(n), [0])
    assert re.fullmatch(
        r"ZeroDivisionError: division by zero \(test_mapping\.py:\d+ in divide\)", describe_failure(error)
    )
    assert describe_failure(KeyError()) == "KeyError"


def test_the_traceback_of_a_failure_starts_in_the_users_function() -> None:
    def divide(n: int) -> float:
        return 1 / n

    _, [(_, error)] = map_batch(divide, [0])
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["divide"]


@given(st.lists(st.sampled_from(["ok", "raise", "stop"])))
def test_each_record_has_a_result_or_a_failure(script: list[str]) -> None:
    def fn(step: str) -> str:
        if step == "raise":
            raise ValueError
        if step == "stop":
            raise StopIteration
        return step

    results, failures = map_batch(fn, script)
    assert results == [step if step == "ok" else FAILED for step in script]
    assert [index for index, _ in failures] == [index for index, step in enumerate(script) if step != "ok"]


def test_failed_is_false_so_that_a_filter_drops_it() -> None:
    assert not FAILED
    assert repr(FAILED) == "FAILED"


def test_a_poison_record_leaves_its_batch_unharmed() -> None:
    # Joined into one array these four would decode to three values, two of them wrong.
    results, failures = decode_batch(orjson.loads, [b"[1,2]", b"[3", b"4]", b"5"])
    assert results == [[1, 2], FAILED, FAILED, 5]
    assert [index for index, _ in failures] == [1, 2]


def test_a_tombstone_is_not_decoded() -> None:
    decoded: list[Any] = []

    def decode(raw: bytes) -> Any:
        decoded.append(raw)
        return orjson.loads(raw)

    results, failures = decode_batch(decode, [None, b"1", None, b"{", b"", b"null", None])
    assert results == [None, 1, None, FAILED, FAILED, None, None]
    assert [index for index, _ in failures] == [3, 4]
    assert decoded == [b"1", b"{", b"", b"null"]


def test_empty_bytes_are_no_tombstone() -> None:
    assert decode_batch(bytes.decode, [b"", None, b"x"]) == (["", None, "x"], [])
    assert decode_batch(bytes.decode, [None]) == ([None], [])


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([], False),
        ([None], True),
        ([1, None], True),
        ([1, 2], False),
        ([0, 1], False),
        ([b"", 0, ""], False),
        ([0, None], True),
    ],
)
def test_none_is_told_from_what_is_false(column: list[Any], expected: bool) -> None:
    assert has_none(column) is expected
