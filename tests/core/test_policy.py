"""What the three policies do to a record, as the core carries them out."""

from __future__ import annotations

import pytest

from streams.core.batch import Batch, Origin, emitted
from streams.core.capability import Limits
from streams.core.log import TopicSpec
from streams.core.outputs import Outputs, RecordTooLarge
from streams.core.policy import FAIL, MAX_WORDS, ErrorPolicy, Failures
from streams.core.record import Fetched, Headers, Records, TopicPartition
from streams.errors import DerivedValueFailed, RecordFailed, WrongPartition

AT = TopicPartition("in", 3)
LETTERS = ErrorPolicy("dead_letter", TopicSpec("letters", partitions=2))
SKIP = ErrorPolicy("skip")


def batch() -> Batch:
    """Three records of which the log knows the offsets 10, 20 and 30."""
    records = Records([b"a", None, b"c"], [b"1", b"2", b"3"], [5, 6, 7])
    fetched = Fetched(AT, [10, 20, 30], records, 31)
    origin = Origin(fetched, 0, [5, 6, 7], before=0, after=7, ceiling=100, slack_ms=0)
    return Batch([b"a", None, b"c"], [1, 2, 3], [5, 6, 7], [0, 1, 2], origin)


def failures() -> tuple[Failures, Outputs]:
    outputs = Outputs(Limits())
    return Failures(outputs, "app.in-3"), outputs


def test_fail_raises_with_the_offset_that_the_log_gave_and_the_cause() -> None:
    cause = ValueError("no")
    with pytest.raises(RecordFailed, match=r"in\[3\]@20: op: ValueError: no") as caught:
        failures()[0].drop(batch(), [(1, cause)], "op", FAIL)
    assert caught.value.__cause__ is cause
    assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("in", 3, 20)


def test_skip_leaves_the_others_and_counts_by_operator() -> None:
    carried, outputs = failures()
    left = carried.drop(batch(), [(0, ValueError("x")), (2, ValueError("y"))], "op", SKIP)
    assert (left.values, left.keys, list(left.rows)) == ([2], [None], [1])
    assert carried.skipped == {"op": 2}
    assert outputs.count == 0


def test_a_dead_letter_is_one_more_output_of_the_same_slice() -> None:
    carried, outputs = failures()
    carried.drop(batch(), [(2, ValueError("x"))], "op", LETTERS)
    assert outputs.count == 1
    [append] = outputs.take()
    assert append.partition == TopicPartition("letters", 1), "its own partition, as far as there are so many"
    assert (append.records.keys, append.records.values, append.records.timestamps) == ([b"c"], [b"3"], [7])


@pytest.mark.parametrize("policy", [FAIL, SKIP, LETTERS])
def test_a_key_of_another_task_is_a_fault_of_the_app_under_every_policy(policy: ErrorPolicy) -> None:
    with pytest.raises(WrongPartition):
        failures()[0].drop(batch(), [(0, WrongPartition("elsewhere"))], "op", policy)


def test_outputs_name_the_first_record_that_is_too_large_and_the_setting() -> None:
    outputs = Outputs(Limits(max_record_bytes=10))
    with pytest.raises(RecordTooLarge, match="max_record_bytes") as caught:
        outputs.check_sizes([b"k", b"key-of-8", None], [b"fine", b"abc", b"x" * 50])
    assert caught.value.index == 1
    assert outputs.check_sizes([b"k", None], [None, b"x" * 10]) == 11


def test_records_of_internal_topics_have_a_limit_of_their_own_where_they_go_packed() -> None:
    outputs = Outputs(Limits(max_commit_records=3, max_packed_records=5), {"inner"})
    inner = TopicPartition("inner", 0)
    outputs.add(inner, [None] * 4, [b"x"] * 4, [1] * 4)
    assert (outputs.room, outputs.full) == (1, False)
    outputs.add(AT, [None] * 2, [b"x"] * 2, [1] * 2)
    assert (outputs.room, outputs.full) == (1, False)
    outputs.add(inner, [None], [b"x"], [1])
    assert outputs.full
    outputs.take()
    assert (outputs.room, outputs.full) == (3, False)
    outputs.add(AT, [None] * 3, [b"x"] * 3, [1] * 3)
    assert outputs.full
    everything = Outputs(Limits(max_commit_records=3), {"inner"})
    everything.add(inner, [None] * 3, [b"x"] * 3, [1] * 3)
    assert everything.full


def test_outputs_tell_how_much_room_a_slice_has_and_that_it_is_never_none() -> None:
    outputs = Outputs(Limits(max_commit_records=3))
    assert (outputs.room, outputs.full) == (3, False)
    outputs.add(AT, [None] * 4, [b"x"] * 4, [1] * 4, size_bytes=4)
    assert (outputs.room, outputs.full) == (1, True)
    outputs = Outputs(Limits(max_commit_bytes=1000))
    outputs.add(AT, [None], [b"x"], [1], size_bytes=2000)
    assert (outputs.room, outputs.full) == (1, True)


def test_outputs_keep_the_order_of_each_partition() -> None:
    outputs = Outputs(Limits())
    other = TopicPartition("in", 4)
    outputs.add(AT, [b"1"], [b"a"], [1])
    outputs.add(other, [b"2"], [b"b"], [2], [(("h", b"v"),)])
    outputs.add(AT, [b"3"], [b"c"], [3], [(("h", b"w"),)])
    taken = {append.partition: append.records for append in outputs.take()}
    assert (taken[AT].values, taken[AT].headers) == ([b"a", b"c"], [None, (("h", b"w"),)])
    assert taken[other].headers == [(("h", b"v"),)]
    assert outputs.take() == []


def headers_of(
    outputs: Outputs,
) -> tuple[TopicPartition, list[bytes | None], list[bytes | None], list[int], dict[str, bytes]]:
    """The one letter that was written."""
    [append] = outputs.take()
    records = append.records
    assert records.headers is not None
    [headers] = records.headers
    return append.partition, records.keys, records.values, records.timestamps, dict(headers or ())


def test_a_dead_letter_carries_the_record_with_its_headers_and_says_whence_and_why() -> None:
    given = batch()
    assert given.origin is not None
    carried, outputs = failures()
    columns: list[list[Headers | None] | None] = [None, [None, None, (("mine", b"1"),)]]
    for headers in columns:
        given.origin.fetched.records.headers = headers
        carried.drop(given, [(2, ValueError("no"))], "op", LETTERS)
        assert headers_of(outputs) == (
            ("letters", 1),
            [b"c"],
            [b"3"],
            [7],
            ({"mine": b"1"} if headers else {})
            | {
                "streams.error": b"ValueError: no",
                "streams.operator": b"op",
                "streams.topic": b"in",
                "streams.partition": b"3",
                "streams.offset": b"30",
            },
        )
    assert carried.dead_lettered == {"op": 2}
    assert carried.skipped == {}


def test_a_dead_letter_that_would_be_too_large_leaves_the_original_where_it_is() -> None:
    """The record and the letter's headers weigh 100 together; key and value each have a part in it."""
    weight = len("streams.errorValueError: noStreams.operatoropstreams.topicinstreams.partition3streams.offset30") + 2
    for limit, whole in ((weight, True), (weight - 1, False)):
        outputs = Outputs(Limits(max_record_bytes=limit))
        Failures(outputs, "t").drop(batch(), [(2, ValueError("no"))], "op", LETTERS)
        _, keys, values, _, headers = headers_of(outputs)
        assert (keys, values) == ([b"c"], [b"3"] if whole else [None])
        assert headers.get("streams.truncated") == (None if whole else b"value")


def test_an_error_of_many_words_is_cut() -> None:
    carried, outputs = failures()
    carried.handle(batch().origin, 0, ValueError("x" * 5_000), "op", LETTERS)
    carried.handle(None, 0, ValueError("x" * 5_000), "op", LETTERS)
    for append in outputs.take():
        assert append.records.headers is not None
        for headers in append.records.headers:
            assert len(dict(headers or ())["streams.error"]) == MAX_WORDS


def test_a_value_that_no_record_stands_behind_meets_the_policy_too() -> None:
    emitted_batch = emitted([b"k", b"l"], [1, 2], [5, 6])
    carried, outputs = failures()
    for _ in range(2):
        left = carried.drop(emitted_batch, [(1, ValueError("no"))], "op", LETTERS)
        assert left.values == [1]
        assert headers_of(outputs) == (
            ("letters", 0),
            [b"l"],
            [None],
            [6],
            {"streams.error": b"ValueError: no", "streams.operator": b"op", "streams.task": b"app.in-3"},
        )
    assert carried.dead_lettered == {"op": 2}
    carried.drop(emitted_batch, [(1, ValueError("no"))], "op", SKIP)
    assert carried.skipped == {"op": 1}
    with pytest.raises(DerivedValueFailed, match=r"app\.in-3: op: ValueError: no.*b'l'"):
        carried.drop(emitted_batch, [(1, ValueError("no"))], "op", FAIL)
