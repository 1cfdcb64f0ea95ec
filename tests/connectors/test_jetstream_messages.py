"""Records as messages and back, by whichever way: all at once, or one by one; whatever the socket makes of them."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from streams.connectors.jetstream.client import Message, publication
from streams.connectors.jetstream.messages import atomic_batch, columns_of, record_of, rows_of
from streams.connectors.jetstream.parser import BatchParser
from streams.core.record import Headers, Records

KEYS = (
    st.none() | st.binary(max_size=12) | st.sampled_from([b"", b"u1", b"two words", b" left", b"right ", b"a\r\nb: c"])
)
NAMES = st.text(max_size=8) | st.sampled_from(["trace", "Nats-Own", "Streams-Key", "a b", "a:b"])
HEADERS = st.none() | st.lists(st.tuples(NAMES, st.binary(max_size=8)), min_size=1, max_size=3).map(tuple)
TIMES = st.integers(-(10**6), 2 * 10**13)
ROW = st.tuples(KEYS, st.none() | st.binary(max_size=20), TIMES)


def stored(records: Records) -> list[Message]:
    """The messages as a server hands them out after an atomic batch, with a line of its own behind the rest."""
    rows = [("t.0", lines, payload) for lines, payload in rows_of(records)]
    sent = atomic_batch(rows, "reply") if rows else b""
    messages = []
    while sent:
        line, _, rest = sent.partition(b"\r\n")
        words = line.split()
        assert words[:2] == [b"HPUB", b"t.0"]
        split, size = int(words[-2]), int(words[-1])
        head, payload = rest[: split - 2] + b"Nats-Stream-Source: x y\r\n\r\n", rest[split:size]
        assert rest[split - 4 : split] == b"\r\n\r\n", "the size of the headers is right"
        assert rest[size : size + 2] == b"\r\n", "the size of the message is right"
        messages.append(Message(b"t.0", b"", head, payload))
        sent = rest[size + 2 :]
    return messages


def read(messages: list[Message]) -> Records:
    return columns_of([(number, 5_000_000, message) for number, message in enumerate(messages, 1)])


@given(st.lists(ROW, max_size=6), st.booleans(), st.data())
def test_what_is_written_as_messages_is_read_as_it_was(
    rows: list[tuple[bytes | None, bytes | None, int]], plain: bool, data: Any
) -> None:
    headers: list[Headers | None] | None = None
    if not plain and rows:
        headers = data.draw(st.lists(HEADERS, min_size=len(rows), max_size=len(rows)))
    records = Records([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], headers)
    found = read(stored(records))
    assert (found.keys, found.values, found.timestamps) == (records.keys, records.values, records.timestamps)
    assert found.headers == (headers if headers is not None and any(headers) else None)


HEADS = st.lists(
    st.sampled_from(
        [
            b"Nats-Batch-Id: a",
            b"Nats-Stream-Source: x y",
            b"Streams-Time: 7",
            b"Streams-Time:8",
            b"Streams-Time: -9",
            b"Streams-Key: k",
            b"Streams-Key:  k l ",
            b"Streams-Key:",
            b"Streams-Tombstone: 1",
            b"trace: 5",
            b"broken",
        ]
    ),
    max_size=5,
)


@given(HEADS)
def test_a_batch_of_messages_means_what_each_of_them_means(lines: list[bytes]) -> None:
    head = b"".join([b"NATS/1.0\r\n", *(line + b"\r\n" for line in lines), b"\r\n"])
    key, value, time_ms, headers = record_of(head, b"v", 5)
    found = read([Message(b"t.0", b"", head, b"v")])
    assert found == Records([key], [value], [time_ms], [headers] if headers is not None else None)


def test_a_message_without_headers_has_the_time_of_its_arrival() -> None:
    assert read([Message(b"t.0", b"", b"", b"v")]) == Records([None], [b"v"], [5])


class Told:
    """Stands in for the client: what isn't for a subscription of ours is the client's."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    async def _process_msg(self, *message: Any) -> None:
        self.seen.append(message)

    async def _process_ping(self) -> None:
        self.seen.append(("ping",))


WIRE = (
    b"MSG a 1 2\r\nhi\r\n"
    b"HMSG a 1 back 12 14\r\nNATS/1.0\r\n\r\nyo\r\n"
    b"PING\r\n"
    b"HMSG b 22 12 12\r\nNATS/1.0\r\n\r\n\r\n"
    b"MSG c 3 re.ply 4\r\n\r\n\r\n\r\n"
    b"MSG a 1 back 0\r\n\r\n"
)


@given(st.lists(st.integers(0, len(WIRE)), max_size=6))
def test_messages_are_taken_apart_wherever_the_socket_cuts_them(cuts: list[int]) -> None:
    told = Told()
    parser = BatchParser(cast(Any, told))
    got: dict[bytes, list[Message]] = {b"1": [], b"22": []}
    parser.handlers = {sid: each.extend for sid, each in got.items()}
    places = [0, *sorted(cuts), len(WIRE)]

    async def feed() -> None:
        for start, end in pairwise(places):
            await parser.parse(WIRE[start:end])

    asyncio.run(feed())
    assert got[b"1"] == [
        (b"a", b"", b"", b"hi"),
        (b"a", b"back", b"NATS/1.0\r\n\r\n", b"yo"),
        (b"a", b"back", b"", b""),
    ]
    assert got[b"22"] == [(b"b", b"", b"NATS/1.0\r\n\r\n", b"")]
    assert told.seen == [("ping",), (3, b"c", b"re.ply", b"\r\n\r\n", None)]


def test_a_publication_says_how_long_it_is() -> None:
    assert publication("a", b"hi") == b"PUB a 2\r\nhi\r\n"
    assert publication("a", b"hi", "re", [("k", b"v")]) == b"HPUB a re 18 20\r\nNATS/1.0\r\nk: v\r\n\r\nhi\r\n"
