"""What a slice collects: columns by partition, how much more fits, and what the log wouldn't take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.capability import Limits
from streams.core.outputs import GUESSED_RECORD_BYTES, Outputs, RecordTooLarge
from streams.core.record import Headers, TopicPartition

ONE, TWO, PACKED = TopicPartition("one", 0), TopicPartition("two", 1), TopicPartition("packed", 0)


def add(outputs: Outputs, partition: TopicPartition, count: int, size_bytes: int = 0) -> None:
    outputs.add(partition, [None] * count, [b""] * count, [0] * count, size_bytes=size_bytes)


adds_st = st.lists(
    st.tuples(st.sampled_from([ONE, TWO]), st.lists(st.integers(0, 9), min_size=1, max_size=3), st.booleans()),
    max_size=5,
)


@given(adds_st)
def test_columns_are_collected_by_partition_in_the_order_of_their_first_use(
    adds: list[tuple[TopicPartition, list[int], bool]],
) -> None:
    outputs = Outputs(Limits())
    expected: dict[TopicPartition, list[tuple[Any, ...]]] = {}
    for partition, numbers, with_headers in adds:
        headers: list[Headers | None] | None = [(("h", b"%d" % n),) for n in numbers] if with_headers else None
        columns = [b"k%d" % n for n in numbers], [b"v%d" % n for n in numbers], list(numbers)
        outputs.add(partition, *columns, headers)  # type: ignore[arg-type]
        rows = zip(*columns, headers or [None] * len(numbers), strict=True)
        expected.setdefault(partition, []).extend(rows)
    assert outputs.count == sum(map(len, expected.values()))
    taken = outputs.take()
    assert [append.partition for append in taken] == list(expected)
    for append in taken:
        records = append.records
        headers = records.headers or [None] * len(records)
        assert (
            list(zip(records.keys, records.values, records.timestamps, headers, strict=True))
            == expected[append.partition]
        )
    assert (outputs.count, outputs.size_bytes, outputs.take()) == (0, 0, [])


def test_columns_that_were_added_are_not_those_of_the_caller() -> None:
    outputs = Outputs(Limits())
    keys: list[bytes | None] = [b"a"]
    headers: list[Headers | None] = [None]
    outputs.add(ONE, keys, [b"1"], [1], headers)
    outputs.add(ONE, [b"b"], [b"2"], [2], [None])
    assert keys == [b"a"]
    assert headers == [None]


def test_a_slice_is_full_at_the_records_or_at_half_the_bytes_that_a_commit_takes() -> None:
    outputs = Outputs(Limits(max_commit_records=3, max_commit_bytes=20))
    assert not outputs.full
    add(outputs, ONE, 2, size_bytes=9)
    assert not outputs.full
    add(outputs, ONE, 1)
    assert outputs.full
    outputs.take()
    add(outputs, ONE, 1, size_bytes=9)
    add(outputs, ONE, 1, size_bytes=1)
    assert outputs.full
    outputs.take()
    assert not outputs.full


def test_a_commit_of_few_bytes_takes_one_record_at_least() -> None:
    outputs = Outputs(Limits(max_commit_bytes=1))
    assert not outputs.full
    assert outputs.room == 1
    add(outputs, ONE, 1, size_bytes=1)
    assert outputs.full


def test_records_that_go_packed_count_by_themselves() -> None:
    outputs = Outputs(Limits(max_commit_records=3, max_packed_records=5, max_commit_bytes=10**9), {"packed"})
    assert outputs.room == 3
    add(outputs, PACKED, 3)
    assert outputs.room == 2
    add(outputs, ONE, 2)
    assert outputs.room == 1
    add(outputs, PACKED, 1)
    assert outputs.room == 1
    assert not outputs.full
    add(outputs, PACKED, 1)
    assert outputs.full
    outputs.take()
    assert outputs.room == 3


def test_where_the_log_packs_nothing_all_records_count_alike() -> None:
    outputs = Outputs(Limits(max_commit_records=3), {"packed"})
    add(outputs, PACKED, 2)
    assert outputs.room == 1
    add(outputs, PACKED, 1)
    assert outputs.full


def test_how_many_more_fit_is_told_by_what_the_last_ones_weighed() -> None:
    bytes_max = 100 * GUESSED_RECORD_BYTES
    outputs = Outputs(Limits(max_commit_bytes=2 * bytes_max))
    assert outputs.room == 100
    add(outputs, ONE, 10, size_bytes=10 * GUESSED_RECORD_BYTES)
    assert outputs.room == 90
    outputs.take()
    add(outputs, ONE, 2, size_bytes=4 * GUESSED_RECORD_BYTES)
    outputs.take()
    assert outputs.room == 50, "larger ones are believed at once"
    add(outputs, ONE, 2, size_bytes=20)
    outputs.take()
    assert outputs.room == 100, "smaller ones by half"
    for _ in range(20):
        add(outputs, ONE, 1, size_bytes=1)
        outputs.take()
    assert outputs.room == bytes_max // 64
    outputs.take()
    assert outputs.room == bytes_max // 64, "nothing was learnt from nothing"


@given(
    st.lists(
        st.tuples(
            st.none() | st.binary(max_size=6), st.none() | st.binary(max_size=6), st.none() | st.just((("hé", b"1"),))
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_the_first_record_that_is_too_large_is_named(
    rows: list[tuple[bytes | None, bytes | None, Headers | None]], with_headers: bool
) -> None:
    outputs = Outputs(Limits(max_record_bytes=8))
    keys, values, headers = ([row[i] for row in rows] for i in range(3))
    weights = [len(key or b"") + len(value or b"") for key, value, _ in rows]
    # Records with headers are looked at first.
    heavy = [4 + weight if each else 0 for weight, each in zip(weights, headers, strict=True)] if with_headers else []
    wrong = next((i for i, weight in enumerate(heavy) if weight > 8), None)
    if wrong is None:
        wrong = next((i for i, weight in enumerate(weights) if weight > 8), None)
    given_headers: Any = headers if with_headers else None
    if wrong is None:
        assert outputs.check_sizes(keys, values, given_headers) == sum(weights)  # type: ignore[arg-type]
        return
    with pytest.raises(RecordTooLarge) as caught:
        outputs.check_sizes(keys, values, given_headers)  # type: ignore[arg-type]
    assert caught.value.index == wrong
    size = heavy[wrong] if heavy and heavy[wrong] > 8 else weights[wrong]
    assert f"{size} bytes" in str(caught.value)
    assert "at most 8" in str(caught.value)


def test_a_record_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    outputs = Outputs(Limits(max_record_bytes=10))
    headers: list[Headers | None] = [(("h", b"123"),)]
    assert outputs.check_sizes([b"123"], [b"123"], headers) == 6
    assert outputs.check_sizes([b"12345"], [b"12345"]) == 10
    for key, value, each in ((b"123", b"1234", headers), (b"1234", b"123", headers), (b"12345", b"123456", None)):
        with pytest.raises(RecordTooLarge):
            outputs.check_sizes([key], [value], each)


def test_headers_weigh_their_names_and_contents() -> None:
    outputs = Outputs(Limits(max_record_bytes=10))
    assert outputs.takes(b"12", b"345", (("hé", b"67"),))
    assert not outputs.takes(b"12", b"345", (("hé", b"678"),))
    assert outputs.takes(None, None, (("a", b"1234"), ("b", b"1234")))
    assert not outputs.takes(None, b"1", (("a", b"1234"), ("b", b"1234")))
