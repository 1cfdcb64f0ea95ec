"""Operators without time, alone: map and its like, branches, tables and sinks.

Each makes columns of columns; what is checked is that an element keeps its key, time and row, that what is refused
meets the policy and takes nothing else along, and that nothing goes on where nothing is left.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from streams.core.batch import Batch
from streams.core.capability import Limits
from streams.core.log import TopicSpec
from streams.core.message import Message
from streams.core.policy import FAIL
from streams.core.record import Fetched, Headers, Records, TopicPartition
from streams.core.state import StateSpec
from streams.errors import RecordFailed
from streams.operators.agent import Agent, decode_request, encode_request, requests_state
from streams.operators.branch import Branch, BranchPort, Merge
from streams.operators.map import Filter, FlatMap, Items, Map, Peek
from streams.operators.matching import Matching
from streams.operators.sink import Repartition, Sink
from streams.operators.source import Source
from streams.operators.table import TableJoin, TableWriter
from tests.operators.work import SKIP, Work, read_at

TABLE = StateSpec("rows", "keyed", lambda value: str(value).encode(), int, "table/1")
THREE = (("a", 1, 10), ("b", 13, 11), ("c", 3, 12))


def refuse_13(value: int) -> int:
    if value == 13:
        raise ValueError(value)
    return value


def out_of(work: Work, *elements: tuple[Any, Any, int]) -> list[tuple[Any, Any, int, int]]:
    """(key, value, time, row) of what comes out of one batch; all of it stands on the same record as before."""
    origin = read_at([time for _, _, time in elements], before=0, after=0)
    work.give(*elements, origin=origin)
    assert all(batch.origin is origin for batch in work.emitted)
    rows = [row for batch in work.emitted for row in batch.rows]
    return [(*each, row) for each, row in zip(work.taken(), rows, strict=True)]


# ── map and its like ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (Map(name="o", fn=lambda v: refuse_13(v) * 2, policy=SKIP), [("a", 2, 10, 0), ("c", 6, 12, 2)]),
        (Filter(name="o", predicate=lambda v: refuse_13(v) > 1, policy=SKIP), [("c", 3, 12, 2)]),
        (
            FlatMap(name="o", fn=lambda v: range(refuse_13(v)), policy=SKIP),
            [("a", 0, 10, 0), ("c", 0, 12, 2), ("c", 1, 12, 2), ("c", 2, 12, 2)],
        ),
        (Peek(name="o", fn=refuse_13, policy=SKIP), [("a", 1, 10, 0), ("c", 3, 12, 2)]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_refused_meets_the_policy_and_the_rest_keeps_its_key_time_and_row(node: Any, expected: Any) -> None:
    work = Work(node)
    assert out_of(work, *THREE) == expected
    assert work.failures.skipped == {"o": 1}
    assert out_of(work, *THREE[1:2]) == []
    assert work.failures.skipped == {"o": 2}
    assert out_of(work, *THREE[:1]) == [each for each in expected if each[0] == "a"]


def test_a_key_that_does_not_decode_meets_the_policy_and_none_stays_none() -> None:
    def decode(key: bytes) -> int:
        return int(key)

    work = Work(Items(name="o", decode_key=decode, policy=SKIP))
    assert out_of(work, ("7", 1, 10), ("x", 2, 11), (None, 3, 12)) == [
        ("7", (7, 1), 10, 0),
        (None, (None, 3), 12, 2),
    ]
    assert work.failures.skipped == {"o": 1}


# ── branches ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_value_goes_to_the_first_branch_whose_predicate_is_true_or_to_the_last_and_each_is_asked_once() -> None:
    asked: list[tuple[str, int]] = []

    def small(value: int) -> bool:
        asked.append(("small", value))
        return refuse_13(value) < 3

    def odd(value: int) -> int:
        asked.append(("odd", value))
        return value % 2

    work = Work(Branch(name="o", predicates=[small, odd], policy=SKIP))
    ports: list[list[Batch]] = [[], [], []]
    processors = [BranchPort(name=str(i), index=i).build(work.context, ports[i].append) for i in range(len(ports))]
    origin = read_at([0] * 5, before=0, after=0)
    work.give(("a", 1, 1), ("b", 13, 2), ("c", 3, 3), ("d", 4, 4), ("e", 2, 5), origin=origin)
    assert [batch.index for batch in work.emitted] == [0, 1, 2]  # type: ignore[attr-defined]
    for batch in work.emitted:
        for port in processors:
            port.process(batch)
    assert [[(each.keys, each.values, list(each.rows), each.origin) for each in port] for port in ports] == [
        [([b"a", b"e"], [1, 2], [0, 4], origin)],
        [([b"c"], [3], [2], origin)],
        [([b"d"], [4], [3], origin)],
    ]
    assert asked == [("small", v) for v in (1, 13, 3, 4, 2)] + [("odd", v) for v in (3, 4)]
    assert work.failures.skipped == {"o": 1}


def test_a_merge_hands_everything_on() -> None:
    work = Work(Merge(name="o"))
    assert out_of(work, *THREE) == [(*each, row) for row, each in enumerate(THREE)]


def test_topics_by_pattern_are_read_by_sources_that_stand_before_the_node() -> None:
    def make(spec: TopicSpec) -> Source:
        return Source(name="o", topic=spec, decode=bytes.decode)

    found: list[Source] = []
    node = Matching(name="o", pattern=re.compile("a.*"), make=make, found=found)
    made = node.expand([TopicSpec("ab"), TopicSpec("ac")])
    assert [source.topic.name for source in made] == ["ab", "ac"]
    assert node.found is found
    assert node.expand([TopicSpec("ad")])[0].label() == "read ad"
    assert [source.topic.name for source in found] == ["ad"]
    assert node.label() == "topics a.*"


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def recode(key: bytes) -> bytes:
    if key == b"b":
        raise ValueError(key)
    return key.upper()


@pytest.mark.parametrize("recoded", [False, True])
def test_a_table_keeps_the_last_value_of_each_key_and_hands_the_changes_on(recoded: bool) -> None:
    work = Work(TableWriter(name="o", state=TABLE, recode_key=recode if recoded else None, policy=SKIP))
    given = [("a", 1, 10), ("b", 2, 11), (None, 3, 12), ("a", 4, 13)]
    kept = [("a", 1, 10, 0), ("a", 4, 13, 3)] if recoded else [("a", 1, 10, 0), ("b", 2, 11, 1), ("a", 4, 13, 3)]
    assert out_of(work, *given) == kept
    assert work.failures.skipped == {"o": 2 if recoded else 1}
    assert dict(work.context.keyed("rows").scan()) == ({b"A": 4} if recoded else {b"a": 4, b"b": 2})
    work.commit_and_restart()
    assert out_of(work, ("a", None, 14)) == [("a", None, 14, 0)]
    work.commit_and_restart()
    assert dict(work.context.keyed("rows").scan()) == ({} if recoded else {b"b": 2})
    assert out_of(work, (None, 3, 12)) == []


@pytest.mark.parametrize("recoded", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_a_join_pairs_each_value_with_the_row_of_its_key(inner: bool, recoded: bool) -> None:
    work = Work(
        TableJoin(
            name="o",
            state=TABLE,
            recode_key=recode if recoded else None,
            inner=inner,
            join=lambda value, row: (refuse_13(value), row),
            policy=SKIP,
        )
    )
    rows = work.context.keyed("rows")
    for name in (b"A", b"a", b"b", b"c", b"C"):
        rows.put(name, ord(name.lower()))
    work.commit_and_restart()
    given = [("a", 1, 10), ("z", 2, 11), ("b", 3, 12), ("c", 13, 13), (None, 5, 14), ("c", 6, 15)]
    expected: list[Any] = [("a", (1, 97), 10, 0), ("z", (2, None), 11, 1), ("b", (3, 98), 12, 2), ("c", (6, 99), 15, 5)]
    expected = [each for each in expected if not (inner and each[0] == "z") and not (recoded and each[0] == "b")]
    assert out_of(work, *given) == expected
    assert work.failures.skipped == {"o": 3 if recoded else 2}
    assert out_of(work, ("c", 13, 10)) == []


# ── sinks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def sent(work: Work) -> list[tuple[str, int, list[Any], list[Any], list[int], Any]]:
    return [
        (
            *append.partition,
            append.records.keys,
            append.records.values,
            append.records.timestamps,
            append.records.headers,
        )
        for append in work.outputs.take()
    ]


def encode(value: int) -> bytes:
    return str(refuse_13(value)).encode()


def test_a_sink_writes_under_the_stream_s_key_and_none_is_a_tombstone() -> None:
    work = Work(Sink(name="o", topic=TopicSpec("out"), encode=encode, policy=SKIP), partitions={"out": 1})
    work.give(*THREE, ("d", None, 14), (None, 4, 15))
    assert sent(work) == [("out", 0, [b"a", b"c", b"d", None], [b"1", b"3", None, b"4"], [10, 12, 14, 15], None)]
    assert work.failures.skipped == {"o": 1}
    work.give(*THREE[1:2])
    assert sent(work) == []


def test_a_sink_writes_under_the_key_that_it_computes_or_that_it_recodes() -> None:
    def key(value: int) -> bytes:
        if value == 5:
            raise ValueError(value)
        return b"k%d" % value

    topic = TopicSpec("out")
    given = [*THREE, ("b", 5, 13)]
    for node, keys, values, times in (
        (Sink(name="o", topic=topic, encode=encode, key=key, policy=SKIP), [b"k1", b"k3"], [b"1", b"3"], [10, 12]),
        (
            Sink(name="o", topic=topic, encode=encode, recode_key=recode, policy=SKIP),
            [b"A", b"C"],
            [b"1", b"3"],
            [10, 12],
        ),
        (
            Repartition(name="o", topic=topic, encode=encode, key=key, policy=SKIP),
            [b"k1", b"k3"],
            [b"1", b"3"],
            [10, 12],
        ),
    ):
        work = Work(node, partitions={"out": 1})
        work.give(*given)
        assert sent(work) == [("out", 0, keys, values, times, None)]
        assert work.failures.skipped == {"o": 2}
        work.give(("b", 13, 10))
        assert sent(work) == []


def test_headers_go_on_with_a_record_whose_key_is_recoded() -> None:
    node = Sink(name="o", topic=TopicSpec("out"), encode=encode, recode_key=bytes.upper)
    work = Work(node, partitions={"out": 1})
    headers: list[Headers | None] = [(("h", b"1"),), None]
    work.give(("a", 1, 1), ("b", 2, 2), origin=read_at([0, 0], before=0, after=0, headers=headers))
    assert sent(work) == [("out", 0, [b"A", b"B"], [b"1", b"2"], [1, 2], headers)]


@pytest.mark.parametrize("repartition", [False, True])
def test_what_is_too_large_for_the_log_meets_the_policy_and_headers_go_on(repartition: bool) -> None:
    topic = TopicSpec("out")
    kind: Any = Repartition if repartition else Sink
    node = kind(name="o", topic=topic, encode=lambda value: b"x" * value, key=lambda value: b"k", policy=SKIP)
    work = Work(node, limits=Limits(max_record_bytes=10), partitions={"out": 1})
    headers: list[Headers | None] = [(("h", b"1"),), None, (("streams.own", b"2"),), None]
    origin = read_at([0] * 4, before=0, after=0, headers=headers)
    work.give(("a", 3, 1), ("b", 10, 2), ("c", 4, 3), ("d", 11, 4), origin=origin)
    assert sent(work) == [("out", 0, [b"k", b"k"], [b"xxx", b"xxxx"], [1, 3], [(("h", b"1"),), None])]
    assert work.failures.skipped == {"o": 2}


# ── sources ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def fetched(*values: bytes | None, keys: list[bytes | None] | None = None, headers: Any = None) -> Fetched:
    count = len(values)
    records = Records(
        keys or [b"k%d" % i for i in range(count)], list(values), [100 + i for i in range(count)], headers
    )
    return Fetched(TopicPartition("in", 0), range(50, 50 + count), records, 50 + count)


def a_source(**fields: Any) -> Work:
    return Work(Source(name="s", topic=TopicSpec("in"), decode=int, **({"policy": SKIP} | fields)))


def test_a_source_decodes_what_lies_between_and_tells_what_it_cannot() -> None:
    work = a_source()
    batch = fetched(b"0", b"1", b"x", None, b"4", b"y", b"6", None, None)
    decoded = work.processor.decode(batch, 1, 6)
    assert (decoded.keys, decoded.values, decoded.times, list(decoded.rows)) == (
        [b"k1", b"k4"],
        [1, 4],
        [101, 104],
        [1, 4],
    )
    assert [(row, type(error), where) for row, error, where in decoded.failures] == [
        (2, ValueError, "decode"),
        (5, ValueError, "decode"),
    ]
    assert work.context.counters == {"tombstones": 1}
    work.processor.decode(batch, 6, 9)
    assert work.context.counters == {"tombstones": 3}
    good = {0: 0, 1: 1, 4: 4, 6: 6}
    for first, end in ((0, 2), (4, 5), (0, 7), (5, 7), (0, 3)):
        part = work.processor.decode(batch, first, end)
        assert dict(zip(part.rows, part.values, strict=True)) == {
            row: value for row, value in good.items() if first <= row < end
        }
        assert all(first <= row < end for row, _, _ in part.failures)


def test_a_source_of_a_table_hands_tombstones_on() -> None:
    work = a_source(tombstones=True)
    decoded = work.processor.decode(fetched(b"0", None, b"2"), 0, 3)
    assert (decoded.values, list(decoded.rows)) == ([0, None, 2], [0, 1, 2])
    assert work.context.counters == {}


def test_a_source_finds_the_event_time_in_the_value_and_tells_where_there_is_none() -> None:
    work = a_source(timestamp=lambda value: {1: 1000, 2: 2.5, 3: "soon"}[value])
    decoded = work.processor.decode(fetched(b"1", b"3", b"x", b"2", b"4"), 0, 5)
    assert (decoded.keys, decoded.values, decoded.times, list(decoded.rows)) == (
        [b"k0", b"k3"],
        [1, 2],
        [1000, 2500],
        [0, 3],
    )
    assert [(row, where) for row, _, where in decoded.failures] == [(1, "timestamp"), (2, "decode"), (4, "timestamp")]


def test_a_source_finds_the_key_in_the_whole_message() -> None:
    seen: list[Message] = []

    def key(message: Message) -> bytes:
        seen.append(message)
        if message.value == b"3":
            raise ValueError(message)
        return message.topic.upper().encode()

    work = a_source(key=key, topic_header="t")
    headers: list[Headers | None] = [(("u", b"no"), ("t", b"one")), None, None, (("t", b"\xff"),)]
    keys: list[bytes | None] = [b"k0", b"two", None, None]
    keys, headers = [*keys, b"five"], [*headers, None]
    decoded = work.processor.decode(fetched(b"1", b"2", b"3", b"4", b"x", keys=keys, headers=headers), 0, 5)
    assert (decoded.keys, decoded.values, list(decoded.rows)) == (
        [b"ONE", b"TWO", "\ufffd".encode()],
        [1, 2, 4],
        [0, 1, 3],
    )
    assert [(row, where) for row, _, where in decoded.failures] == [(2, "key"), (4, "decode")]
    assert seen == [
        Message("one", b"k0", b"1", 100, headers[0] or ()),
        Message("two", b"two", b"2", 101),
        Message("", None, b"3", 102),
        Message("\ufffd", None, b"4", 103, headers[3] or ()),
    ]
    assert list(work.processor.decode(fetched(b"1", b"2"), 0, 2).keys) == [b"K0", b"K1"], "without any headers"


def test_what_a_source_could_not_decode_meets_the_policy_under_the_name_of_its_topic() -> None:
    work = a_source()
    work.processor.failed(read_at([0], before=0, after=0), [(0, ValueError("no"), "decode")])
    assert work.failures.skipped == {"in: decode": 1}
    with pytest.raises(RecordFailed, match=r"in\[0\]@0: in: decode"):
        a_source(policy=FAIL).processor.failed(read_at([0], before=0, after=0), [(0, ValueError("no"), "decode")])


# ── agents ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_agent_gathers_what_comes_until_the_runtime_takes_it_and_remembers_what_it_answered() -> None:
    node = Agent(
        name="o",
        fn=print,
        inbox=TopicSpec("inbox"),
        tables=[TABLE],
        prefetch=(),
        concurrency=1,
        decode_key=bytes.decode,
    )
    work = Work(node)
    work.give(*THREE)
    work.give(*THREE[:1])
    assert [batch.values for batch in work.processor.mail] == [[1, 13, 3], [1]]
    assert [spec.name for spec in node.states] == ["rows", "o.requests"]
    memory = requests_state("o")
    assert (memory.kind, memory.fingerprint, memory.of_keys) == ("keyed", "requests/1", False)
    assert memory.decode(memory.encode(["id", 1])) == ["id", 1]
    assert work.processor.requests is work.context.keyed("o.requests")
    assert decode_request(encode_request(decode_request(b"\x91\xa1x"))).id == "x"
