"""Blocks, retention and compaction as pure functions, against plain models."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.connectors.embedded import blocks
from streams.connectors.embedded.blocks import Block, block_records, decode_block, decode_head, encode_block, pack
from streams.connectors.embedded.catalog import Mark
from streams.connectors.embedded.compaction import Cleaner, survey
from streams.connectors.embedded.retention import decide_start, thinned, wants_mark, without_removed
from streams.core.log import TopicSpec
from streams.core.record import Headers, Records, TopicPartition
from streams.errors import DataError

AT = TopicPartition("orders", 0)
KEYS = st.none() | st.binary(max_size=3)
VALUES = st.none() | st.binary(max_size=40)
HEADERS = st.none() | st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), min_size=1, max_size=2).map(tuple)


@st.composite
def columns(draw: st.DrawFn, max_size: int = 50) -> Records:
    rows = draw(
        st.lists(
            st.tuples(KEYS, VALUES, st.integers(-(2**62), 2**62), HEADERS),
            max_size=max_size,
        )
    )
    headers: list[Headers | None] | None = [row[3] for row in rows] if draw(st.booleans()) else None
    return Records([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], headers)


def unpacked(packed: list[tuple[int, bytes]], first: int = 0) -> tuple[list[int], Records]:
    found = Records()
    offsets: list[int] = []
    for base, value in packed:
        part, records = block_records(base, decode_block(value), first)
        offsets += part
        found.extend(records)
    return offsets, found


@pytest.mark.parametrize(("records_max", "bytes_max"), [(1000, 2**20), (7, 100), (1, 1)])
@given(columns(), st.integers(0, 2**40), st.integers(0, 60))
def test_packed_records_come_back_from_any_offset(
    records_max: int, bytes_max: int, written: Records, base: int, skip: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MAX_BLOCK_RECORDS", records_max)
        patch.setattr(blocks, "MAX_BLOCK_BYTES", bytes_max)
        packed = pack(AT, written, base, 5, 100, 10**6)
    ends = [decode_head(value).next_offset for _, value in packed]
    assert [at for at, _ in packed] == [base, *ends][: len(packed)], "blocks leave a hole"
    assert all(len(decode_block(value).values) <= records_max for _, value in packed)
    offsets, found = unpacked(packed, base + skip)
    assert offsets == list(range(base, base + len(written)))[skip:]
    assert (found.keys, found.values) == (written.keys[skip:], written.values[skip:])
    assert found.timestamps == written.timestamps[skip:]
    expected = written.headers[skip:] if written.headers is not None else [None] * len(found)
    assert (found.headers or [None] * len(found)) == expected


def test_the_head_says_how_many_bytes_came_before() -> None:
    written = Records([b"k"] * 2500, [b"v" * 100] * 2500, [1] * 2500)
    packed = pack(AT, written, 10, 77, 1000, 10**6)
    assert [base for base, _ in packed] == [10, 1010, 2010]
    before = 1000
    for _, value in packed:
        head = decode_head(value)
        assert (head.append_ms, head.bytes_before) == (77, before)
        before += len(value)


def test_large_records_are_cut_into_blocks_of_about_a_megabyte() -> None:
    sizes = [300_000, 300_000, 300_000, 300_000, 5_000_000, 10, 10]
    written = Records([None] * len(sizes), [bytes(size) for size in sizes], [0] * len(sizes))
    packed = pack(AT, written, 0, 0, 0, 10**7)
    assert [len(decode_block(value).values) for _, value in packed] == [3, 1, 1, 2]
    with pytest.raises(DataError, match=r"record 4 .*5000000 bytes.*max_record_bytes=1000000"):
        pack(AT, written, 0, 0, 0, 1_000_000)


@pytest.mark.parametrize(
    ("sizes", "bytes_max", "lengths"),
    [
        ([300] * 9, 900, [3, 3, 3]),
        ([300] * 9, 899, [2, 2, 2, 2, 1]),
        ([600, 600], 1000, [1, 1]),
        ([300] * 3, 1, [1, 1, 1]),
    ],
)
@pytest.mark.parametrize("in_headers", [False, True])
def test_a_block_is_cut_before_the_record_that_makes_it_too_large(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], bytes_max: int, lengths: list[int], in_headers: bool
) -> None:
    monkeypatch.setattr(blocks, "MAX_BLOCK_BYTES", bytes_max)
    values: list[bytes | None] = [bytes(0 if in_headers else size) for size in sizes]
    headers: list[Headers | None] | None = [(("", bytes(size)),) for size in sizes] if in_headers else None
    packed = pack(AT, Records([None] * len(sizes), values, [0] * len(sizes), headers), 0, 0, 0, 10**6)
    assert [len(decode_block(value).values) for _, value in packed] == lengths


def test_a_block_that_has_the_largest_size_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Records([b"k"] * 3, [bytes(50)] * 3, [0] * 3)
    ((_, whole),) = pack(AT, written, 0, 0, 0, 10**6)
    monkeypatch.setattr(blocks, "MAX_BLOCK_BYTES", len(whole))
    assert len(pack(AT, written, 0, 0, 0, 10**6)) == 1


def test_keys_are_stored_where_there_are_any() -> None:
    for keys, stored in (([None, None], None), ([None, b"k"], [None, b"k"]), ([b"k", None], [b"k", None])):
        ((_, value),) = pack(AT, Records(list(keys), [b"v", b"v"], [0, 0]), 0, 0, 0, 10**6)
        assert decode_block(value).keys == stored


def test_headers_stay_with_their_records_from_any_offset() -> None:
    headers: list[Headers | None] = [(("a", b"1"),), None, (("b", b"2"),)]
    ((base, value),) = pack(AT, Records([None] * 3, [b"v"] * 3, [0] * 3, headers), 5, 0, 0, 10**6)
    for first in range(9):
        _, records = block_records(base, decode_block(value), first)
        assert records.headers == headers[max(0, first - base) :]


def test_keys_of_blocks_sort_by_topic_partition_and_offset() -> None:
    assert blocks.partition_end_key(1, 2) == blocks.block_key(1, 2, 2**64 - 1)
    assert blocks.topic_range(1) == (b"\x00\x00\x00\x01", b"\x00\x00\x00\x02")
    assert blocks.offset_of_key(blocks.block_key(1, 2, 3)) == 3


def test_blocks_of_a_later_format_are_refused_in_words() -> None:
    value = encode_block(Block(2, 1, 0, 0, None, [b""], [0]))
    for read in (decode_block, decode_head):
        with pytest.raises(ValueError, match="upgrade"):
            read(value)
        with pytest.raises(ValueError, match="doesn't read back"):
            read(b"\x93garbage")


# Retention


@given(
    appends=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 500)), max_size=60),
    retention_ms=st.none() | st.integers(0, 500),
    retention_bytes=st.none() | st.integers(0, 5000),
    now_ms=st.integers(0, 2000),
    trimmed=st.integers(0, 60),
)
def test_retention_keeps_what_it_must_and_not_much_more(
    appends: list[tuple[int, int]], retention_ms: int | None, retention_bytes: int | None, now_ms: int, trimmed: int
) -> None:
    spec = TopicSpec("t", retention_ms=retention_ms, retention_bytes=retention_bytes)
    marks: list[Mark] = []
    times, sizes = [], []
    time_ms = total = 0
    for offset, (step_ms, size) in enumerate(appends):
        time_ms += step_ms
        if wants_mark(spec, marks[-1] if marks else None, time_ms, total):
            marks.append(Mark(offset, time_ms, total))
        times.append(time_ms)
        sizes.append(size)
        total += size
    end = len(appends)
    begin = min(trimmed, end)
    marks = without_removed(marks, begin)
    start = decide_start(spec, marks, start=begin, end=end, total_bytes=total, last_append_ms=time_ms, now_ms=now_ms)
    assert begin <= start <= end
    removed = range(begin, start)
    for offset in removed:
        too_old = retention_ms is not None and times[offset] <= now_ms - retention_ms
        enough = retention_bytes is not None and sum(sizes[offset + 1 :]) >= retention_bytes
        assert too_old or enough, "a record was removed that had to stay"
    if retention_ms is not None:
        for offset in range(start, end):
            allowed = retention_ms + retention_ms // 16 + 50  # a sixteenth, and what one append is later
            assert times[offset] > now_ms - allowed - 1 or times[-1] > now_ms - retention_ms - allowed
    if retention_ms is None and retention_bytes is None:
        assert start == begin


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=300, unique=True))
def test_thinned_marks_keep_the_first_and_the_last(offsets: list[int]) -> None:
    marks = [Mark(offset, offset, offset) for offset in sorted(offsets)]
    thin = thinned(marks)
    assert thin[0] == marks[0]
    assert thin[-1] == marks[-1]
    assert [mark for mark in marks if mark in thin] == thin
    assert len(thin) <= len(marks) // 2 + 1


# Compaction

ENTRY = st.tuples(st.sampled_from([None, b"a", b"b", b"c", b"d"]), st.none() | st.binary(max_size=3))
RUNS = st.lists(st.tuples(st.lists(ENTRY, max_size=8), st.integers(1, 30)), min_size=1, max_size=8)


@given(RUNS, st.integers(0, 100), st.integers(0, 8), st.integers(0, 60))
def test_a_pass_keeps_the_last_of_each_key_and_covers_what_was_there(
    runs: list[tuple[list[tuple[bytes | None, bytes | None]], int]], horizon_ms: int, split: int, first: int
) -> None:
    stored: list[tuple[int, Block]] = []
    ages: dict[int, int] = {}
    entries: list[tuple[int, bytes | None, bytes | None]] = []
    offset = append_ms = 0
    for rows, step_ms in runs:
        append_ms += step_ms
        base = offset
        for key, value in rows:
            ages[offset] = append_ms
            entries.append((offset, key, value))
            offset += 1
        values = [value for _, value in rows]
        stored.append((base, Block(1, offset, append_ms, 0, [key for key, _ in rows], values, [0] * len(rows))))
    stored = [(base, block) for base, block in stored if block.values]
    # Some of it in a first pass that drops no tombstones, then all of it in a second one.
    once = compacted(stored[:split], -1) + stored[split:]
    twice = compacted(once, horizon_ms)
    last = {key: at for at, key, _ in entries if key is not None}
    expected = [
        (at, key, value)
        for at, key, value in entries
        if key is None or (last[key] == at and (value is not None or ages[at] > horizon_ms))
    ]
    found = []
    reached = 0
    for base, block in twice:
        assert base == reached, "blocks leave a hole"
        reached = block.next_offset
        offsets, records = block_records(base, decode_block(encode_block(block)), 0)
        found += list(zip(offsets, records.keys, records.values))
    assert reached == offset
    assert found == expected
    for base, block in twice:
        copy = decode_block(encode_block(block))
        known = list(copy.offsets if copy.offsets is not None else range(base, base + len(copy.values)))
        offsets, _ = block_records(base, copy, first)
        assert list(offsets) == known[bisect_left(known, first) :]


def compacted(stored: list[tuple[int, Block]], horizon_ms: int) -> list[tuple[int, Block]]:
    """Blocks after a pass, done the way that maintenance does it."""
    latest: dict[bytes, int] = {}
    for base, block in stored:
        survey(base, block, latest)
    cleaner = Cleaner(latest, horizon_ms)
    rewrites = [cleaner.feed(base, block) for base, block in stored] + [cleaner.finish()]
    left = dict(stored)
    dropped = 0
    for rewrite in filter(None, rewrites):
        for base in rewrite.replaced:
            del left[base]
        if rewrite.block is not None:
            left[rewrite.base] = rewrite.block
        dropped = max(dropped, rewrite.dropped_to)
    assert horizon_ms >= 0 or dropped == 0
    return sorted(left.items())
