"""The form of each message and block to the byte, where its sizes end, and what is refused."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.connectors.jetstream.client import Message
from streams.connectors.jetstream.messages import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_RECORDS,
    MAX_RECORD_BYTES,
    atomic_batch,
    blocks_of,
    columns_of,
    record_of,
    records_of_block,
    room,
    rows_of,
)
from streams.core.record import Headers, Records
from streams.errors import DataError, LogCorrupt


def one(key: bytes | None, value: bytes | None, headers: Headers | None = None) -> tuple[bytes, bytes]:
    """A record of the time 5 as a message."""
    (row,) = rows_of(Records([key], [value], [5], [headers] if headers is not None else None))
    return row


def read(lines: bytes, payload: bytes) -> tuple[bytes | None, bytes | None, int, Headers | None]:
    return record_of(b"NATS/1.0\r\n" + lines + b"\r\n", payload, 9)


# ── one record, one message ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("headers", [None, (("trace", b"x:y"),)])
@pytest.mark.parametrize("key", [b"k", b"", b"two words", "grün".encode(), b"a:b"])
def test_a_key_that_fits_into_a_line_stands_there_as_it_is(key: bytes, headers: Headers | None) -> None:
    lines, payload = one(key, b"v", headers)
    further = b"trace: x:y\r\n" if headers else b""
    assert lines == b"Streams-Time: 5\r\nStreams-Key: " + key + b"\r\n" + further
    assert read(lines, payload) == (key, b"v", 5, headers)


@pytest.mark.parametrize("headers", [None, (("trace", b"x"),)])
@pytest.mark.parametrize("key", [b" k", b"k ", b"\tk", b"a\rb", b"a\nb", b"\r", b"\xff", b"a\x85\xff"])
def test_a_key_that_no_line_can_carry_is_packed(key: bytes, headers: Headers | None) -> None:
    lines, payload = one(key, b"v", headers)
    assert re.fullmatch(rb"Streams-Time: 5\r\nStreams-Packed: [A-Za-z0-9+/=]+\r\n", lines)
    assert read(lines, payload) == (key, b"v", 5, headers)


@pytest.mark.parametrize("value", [b"a\rb", b"a\nb", b" a", b"a ", b"\xff"])
def test_a_header_that_no_line_can_carry_is_packed(value: bytes) -> None:
    lines, payload = one(b"k", b"v", (("trace", value),))
    assert b"trace" not in lines
    assert read(lines, payload) == (b"k", b"v", 5, (("trace", value),))


@pytest.mark.parametrize("name", ["a:b", "a b", "é", "a\r", "Nats-Msg-Id", "Streams-Key"])
def test_a_name_that_would_mean_something_else_is_packed(name: str) -> None:
    lines, payload = one(None, b"v", ((name, b"1"),))
    assert lines.startswith(b"Streams-Time: 5\r\nStreams-Packed: ")
    assert read(lines, payload) == (None, b"v", 5, ((name, b"1"),))


def test_a_name_of_any_letters_stands_in_its_line() -> None:
    assert one(None, b"v", (("X-Trace", b"1"),))[0] == b"Streams-Time: 5\r\nX-Trace: 1\r\n"


def test_a_record_without_a_key_has_no_line_for_it_and_a_tombstone_has_one_and_no_payload() -> None:
    assert one(None, b"v") == (b"Streams-Time: 5\r\n", b"v")
    assert one(None, b"") == (b"Streams-Time: 5\r\n", b"")
    assert one(b"k", None) == (b"Streams-Time: 5\r\nStreams-Key: k\r\nStreams-Tombstone: 1\r\n", b"")
    lines, payload = one(b"k", None)
    assert read(lines, payload) == (b"k", None, 5, None)


def test_many_records_are_each_what_it_is_by_itself() -> None:
    keys: list[bytes | None] = [b"k", None, b"l m", b" n", b"o\rp"]
    values: list[bytes | None] = [b"1", b"2", None, b"4", b"5"]
    assert rows_of(Records(keys, values, [5] * 5)) == [one(key, value) for key, value in zip(keys, values, strict=True)]
    assert rows_of(Records(keys[:2], values[:2], [5] * 2)) == [one(b"k", b"1"), one(None, b"2")]
    assert rows_of(Records([b"a", b"b\nc"], [b"", b""], [5] * 2)) == [one(b"a", b""), one(b"b\nc", b"")]


def test_a_line_without_a_colon_is_passed_over_and_a_name_that_is_no_text_is_told_as_well_as_it_can_be() -> None:
    assert read(b"broken\r\na: x:y\r\n\xff: z\r\n", b"v") == (None, b"v", 9, (("a", b"x:y"), ("\ufffd", b"z")))


@pytest.mark.parametrize("time", [-(2**63), 2**63 - 1])
def test_a_time_is_one_that_a_log_can_keep(time: int) -> None:
    assert read(b"Streams-Time: %d\r\n" % time, b"v")[2] == time
    beyond = time - 1 if time < 0 else time + 1
    with pytest.raises(ValueError, match=f"Streams-Time: {beyond} is no time"):
        read(b"Streams-Time: %d\r\n" % beyond, b"v")


def test_a_message_whose_headers_do_not_read_back_is_named_with_what_to_do() -> None:
    head = b"NATS/1.0\r\nStreams-Time: soon\r\n\r\n"
    with pytest.raises(LogCorrupt, match=r"orders, message 7: .*Streams-Time.*nats stream rmm orders-stream 7"):
        columns_of([(7, 0, Message(b"t", b"", head, b""))], "orders", "orders-stream")


# ── blocks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("max_payload", "expected"),
    [(8_000, 6_000), (16_384, 12_288), (100_000, 95_904), (504_096, 500_000), (1_048_576, MAX_RECORD_BYTES)],
)
def test_a_quarter_of_a_message_and_4_kb_at_most_are_left_to_its_headers(max_payload: int, expected: int) -> None:
    assert room(max_payload) == expected


@given(
    st.lists(st.integers(0, 3_000), max_size=60),
    st.booleans(),
    st.sampled_from([1_000, 4_000, 20_000]),
)
def test_blocks_hold_all_records_in_order_and_no_more_than_fits(
    sizes: list[int], headed: bool, max_payload: int
) -> None:
    headers: list[Headers | None] | None = [(("n", b"%d" % n),) for n in range(len(sizes))] if headed else None
    records = Records([b"%d" % n for n in range(len(sizes))], [bytes(size) for size in sizes], list(sizes), headers)
    joined = Records()
    for count, payload in blocks_of(records, max_payload):
        found = records_of_block(payload, "t")
        assert len(found) == count > 0
        assert len(payload) <= room(max_payload) or count == 1
        assert msgspec.msgpack.decode(payload)[0] == 1, "the version of the form"
        joined.extend(found)
    assert joined == (records if sizes else Records())


def test_a_block_takes_a_thousand_records_and_is_as_large_as_it_may_be() -> None:
    many = Records([None] * 2_500, [b"v"] * 2_500, [5] * 2_500)
    assert [count for count, _ in blocks_of(many)] == [MAX_BLOCK_RECORDS, MAX_BLOCK_RECORDS, 500]
    half = MAX_BLOCK_BYTES // 2 - 100
    [(_, payload)] = blocks_of(Records([None] * 2, [bytes(half), bytes(half)], [5, 5]))
    full = half + MAX_BLOCK_BYTES - len(payload)
    assert [(n, len(b)) for n, b in blocks_of(Records([None] * 2, [bytes(half), bytes(full)], [5, 5]))] == [
        (2, MAX_BLOCK_BYTES)
    ]
    over = Records([None] * 2, [bytes(half), bytes(full + 1)], [5, 5])
    assert [count for count, _ in blocks_of(over)] == [1, 1]


def test_a_record_that_fills_a_block_alone_holds_up_none_behind_others() -> None:
    large = bytes(MAX_BLOCK_BYTES + 5)
    records = Records([None] * 4, [b"a", large, large, b"b"], [5] * 4)
    assert [count for count, _ in blocks_of(records)] == [1, 1, 1, 1]


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_messages_of_a_batch_have_one_id_and_their_numbers_and_the_last_one_is_answered() -> None:
    sent = atomic_batch([("t.0", b"a: 1\r\n", b"x"), ("t.1", [("b", b"2")], b"yz")], "reply")
    found = re.fullmatch(
        rb"HPUB t\.0 (\d+) (\d+)\r\n"
        rb"(NATS/1\.0\r\nNats-Batch-Id: (\S{16})\r\nNats-Batch-Sequence: 1\r\na: 1\r\n\r\n)x\r\n"
        rb"HPUB t\.1 reply (\d+) (\d+)\r\n"
        rb"(NATS/1\.0\r\nNats-Batch-Id: \4\r\nNats-Batch-Sequence: 2\r\nb: 2\r\nNats-Batch-Commit: 1\r\n\r\n)yz\r\n",
        sent,
    )
    assert found is not None
    assert (int(found[1]), int(found[2])) == (len(found[3]), len(found[3]) + 1)
    assert (int(found[5]), int(found[6])) == (len(found[7]), len(found[7]) + 2)


def test_a_message_larger_than_the_server_takes_is_refused_and_one_that_just_fits_is_not() -> None:
    sent = atomic_batch([("t", b"a: 1\r\n", b"x" * 100)], "reply")
    size = int(sent.split(b"\r\n")[0].split()[-1])
    assert atomic_batch([("t", b"a: 1\r\n", b"x" * 100)], "reply", size)
    with pytest.raises(DataError, match=str(size)):
        atomic_batch([("t", b"a: 1\r\n", b"x" * 100)], "reply", size - 1)
