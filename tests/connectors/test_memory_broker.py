"""What the log in memory holds: reading, removing, the edges of its limits, the rules that it shares."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from streams.connectors.memory import MemoryBroker, rules
from streams.connectors.memory.broker import MemoryTask
from streams.core.capability import Limits
from streams.core.log import Append, TopicSpec
from streams.core.record import Headers, Position, Records, TopicPartition
from streams.errors import ConfigurationError, DataError, Fenced, PositionLost, TopicMismatch, TopicRecreated

AT = TopicPartition("orders", 0)
Row = tuple[bytes | None, bytes | None]


def broker_with(*rows: Row, each_ms: int = 10, **spec: Any) -> MemoryBroker:
    """A broker with the topic orders, to which one row after the other was appended, at 10 ms, 20 ms, …"""
    times = iter(range(each_ms, 10**6, each_ms))
    broker = MemoryBroker(now_ms=lambda: next(times))
    broker.create_topics([TopicSpec("orders", **spec)])
    for key, value in rows:
        broker.write([Append(AT, Records([key], [value], [0]))], Limits())
    return broker


def held(broker: MemoryBroker) -> list[tuple[int, bytes | None]]:
    partition = broker.partition(AT)
    return list(zip(partition.offsets, partition.values))


def numbered(count: int) -> list[Row]:
    return [(None, b"%d" % number) for number in range(count)]


# Reading


def test_a_read_takes_as_many_as_were_asked_for_and_says_where_it_goes_on() -> None:
    partition = broker_with(*numbered(5)).partition(AT)
    some, rest = partition.read(0, 3), partition.read(3, 3)
    assert some is not None
    assert rest is not None
    assert (some.offsets, some.records.values, some.next_offset) == (range(3), [b"0", b"1", b"2"], 3)
    assert (rest.offsets, rest.records.values, rest.next_offset) == (range(3, 5), [b"3", b"4"], 5)
    assert partition.read(5, 3) is None
    exact = partition.read(2, 3)
    assert exact is not None
    assert exact.next_offset == 5


def test_a_read_passes_over_what_compaction_has_taken() -> None:
    broker = broker_with((b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"c", b"1"), (b"c", b"2"), compact=True)
    broker.maintain(0, 0)
    partition = broker.partition(AT)
    one, both, rest = partition.read(0, 1), partition.read(0, 2), partition.read(3, 9)
    assert one is not None
    assert (one.offsets, one.next_offset) == (range(1, 2), 2)
    assert both is not None
    assert (both.offsets, both.next_offset) == (range(1, 3), 4)
    assert rest is not None
    assert (rest.offsets, rest.next_offset) == (range(4, 5), 5)
    everything = partition.read(0, 9)
    assert everything is not None
    assert everything.offsets == [1, 2, 4]


def test_headers_stay_with_their_records() -> None:
    broker = broker_with(*numbered(1))
    headers: list[Headers | None] = [None, (("trace", b"1"),), None]
    broker.write([Append(AT, Records([None] * 3, [b"x"] * 3, [0] * 3, headers))], Limits())
    partition = broker.partition(AT)
    first, tail = partition.read(0, 2), partition.read(2, 1)
    assert first is not None
    assert first.records.headers is None, "no record of the batch has any"
    assert tail is not None
    assert tail.records.headers == [(("trace", b"1"),)]


def test_outside_of_what_is_held_a_read_says_what_is_wrong() -> None:
    broker = broker_with(*numbered(5))
    partition = broker.partition(AT)
    partition.trim(2)
    with pytest.raises(PositionLost) as lost:
        partition.read(1, 1)
    assert (lost.value.topic, lost.value.partition, lost.value.position, lost.value.first) == ("orders", 0, 1, 2)
    assert partition.read(2, 1) is not None
    with pytest.raises(DataError, match="stands at 6 but the log ends at 5"):
        partition.read(6, 1)
    broker.delete_topics(["orders", "orders", "never-was"])
    with pytest.raises(TopicRecreated):
        partition.read(2, 1)


def test_who_waits_is_woken_by_a_write_and_by_the_end_of_the_topic() -> None:
    broker = broker_with()
    events = [asyncio.Event(), asyncio.Event()]
    broker.partition(AT).watchers.update(dict.fromkeys(events))
    broker.write([Append(AT, Records([None], [b"x"], [0]))], Limits())
    assert all(event.is_set() for event in events)
    events[0].clear()
    broker.delete_topics(["orders"])
    assert events[0].is_set()


# Removing


def test_a_trim_removes_what_lies_before_it_and_never_moves_back() -> None:
    broker = broker_with(*numbered(5))
    partition = broker.partition(AT)
    partition.trim(2)
    assert (partition.start, held(broker)) == (2, [(2, b"2"), (3, b"3"), (4, b"4")])
    partition.trim(1)
    assert (partition.start, len(partition.offsets)) == (2, 3)
    partition.trim(99)
    assert (partition.start, partition.end, held(broker)) == (5, 5, [])


def test_retention_by_time_removes_what_is_that_old_to_the_millisecond() -> None:
    broker = broker_with(*numbered(4), retention_ms=100)  # appended at 10, 20, 30 and 40 ms
    for now_ms, first in ((109, 0), (110, 1), (129, 2), (130, 3), (139, 3), (140, 4)):
        broker.maintain(now_ms, 0)
        assert broker.partition(AT).start == first
    assert held(broker) == []


def test_a_clock_that_is_set_back_does_not_make_records_older() -> None:
    times = iter([50, 10, 60])
    broker = MemoryBroker(now_ms=lambda: next(times))
    broker.create_topics([TopicSpec("orders", retention_ms=100)])
    for _ in range(3):
        broker.write([Append(AT, Records([None], [b"x"], [0]))], Limits())
    assert broker.partition(AT).appended_ms == [50, 50, 60]


def test_records_of_a_clock_that_stands_at_zero_are_as_old_as_it_says() -> None:
    broker = MemoryBroker(now_ms=lambda: 0)
    broker.create_topics([TopicSpec("orders")])
    broker.write([Append(AT, Records([None, None], [b"x", b"y"], [0, 0]))], Limits())
    assert broker.partition(AT).appended_ms == [0, 0]


@pytest.mark.parametrize(
    ("retention_bytes", "first"), [(1, 3), (4, 3), (5, 3), (7, 3), (8, 2), (11, 2), (12, 1), (16, 0), (99, 0)]
)
def test_retention_by_size_keeps_the_newest_that_fit_and_the_last_one_always(retention_bytes: int, first: int) -> None:
    broker = broker_with(*[(b"key", b"%d" % number) for number in range(4)], retention_bytes=retention_bytes)
    broker.maintain(0, 0)
    assert broker.partition(AT).start == first
    assert [offset for offset, _ in held(broker)] == list(range(first, 4))


def test_retention_by_size_counts_a_missing_key_and_a_tombstone_as_nothing() -> None:
    broker = broker_with((None, b"abc"), (b"abc", None), (None, None), (None, b"abc"), retention_bytes=6)
    broker.partition(AT).trim(0)
    broker.maintain(0, 0)
    assert broker.partition(AT).start == 1
    empty = broker_with(retention_bytes=6)
    empty.maintain(0, 0)
    assert empty.partition(AT).start == 0


def test_retention_of_a_partition_that_was_trimmed_keeps_its_start() -> None:
    broker = broker_with(*numbered(5), retention_bytes=99)
    broker.partition(AT).trim(2)
    broker.maintain(0, 0)
    assert broker.partition(AT).start == 2


def test_compaction_keeps_the_last_of_each_key_what_has_none_and_tombstones_that_are_young() -> None:
    rows: list[Row] = [(b"a", b"1"), (None, b"x"), (b"a", b"2"), (b"b", b"1"), (b"b", None), (None, None), (b"c", None)]
    broker = broker_with(*rows, compact=True)  # the tombstones at 50 and 70 ms
    broker.maintain(149, 100)
    assert [offset for offset, _ in held(broker)] == [1, 2, 4, 5, 6]
    assert broker.partition(AT).floor == 0
    broker.maintain(150, 100)
    assert [offset for offset, _ in held(broker)] == [1, 2, 5, 6]
    assert broker.partition(AT).floor == 5
    broker.maintain(170, 100)
    assert [offset for offset, _ in held(broker)] == [1, 2, 5]
    assert broker.partition(AT).floor == 7
    partition = broker.partition(AT)
    assert (partition.keys, partition.timestamps, partition.headers, partition.appended_ms) == (
        [None, b"a", None],
        [0] * 3,
        [None] * 3,
        [20, 30, 60],
    )


def test_maintenance_reaches_every_partition_of_every_topic_and_no_topic_that_keeps_everything() -> None:
    broker = MemoryBroker(now_ms=lambda: 10)
    specs = [TopicSpec("kept", partitions=2), TopicSpec("brief", partitions=2, retention_ms=5)]
    broker.create_topics(specs)
    ats = [TopicPartition(spec.name, number) for spec in specs for number in range(2)]
    broker.write([Append(at, Records([b"k", b"k"], [b"x", b"y"], [0, 0])) for at in ats], Limits())
    broker.maintain(100, 0)
    assert [len(broker.partition(at).offsets) for at in ats] == [2, 2, 0, 0]


# Topics, tasks, limits


def test_topics_are_numbered_and_a_write_to_what_is_not_there_stores_nothing() -> None:
    broker = MemoryBroker("m")
    broker.create_topics([TopicSpec("orders", partitions=2), TopicSpec("more")])
    broker.create_topics([TopicSpec("more"), TopicSpec("last")])
    infos = broker.infos()
    assert {name: info.identity for name, info in infos.items()} == {
        "orders": "m-topic-1",
        "more": "m-topic-2",
        "last": "m-topic-3",
    }
    assert list(broker.infos(["more"])) == ["more"]
    assert broker.infos([]) == {}
    assert broker.partition(TopicPartition("orders", 1)).at == TopicPartition("orders", 1)
    assert broker.partition(AT).identity == "m-topic-1"
    one = Records([None], [b"x"], [0])
    for at in (TopicPartition("orders", 2), TopicPartition("orders", -1), TopicPartition("none", 0)):
        with pytest.raises(ConfigurationError):
            broker.write([Append(AT, one), Append(at, one)], Limits())
    assert broker.partition(AT).end == 0
    with pytest.raises(TopicMismatch):
        broker.create_topics([TopicSpec("new"), TopicSpec("orders", partitions=3)])
    with pytest.raises(TopicMismatch):
        broker.create_topics([TopicSpec("new"), TopicSpec("new", partitions=2)])
    assert "new" not in broker.topics


def test_only_the_last_owner_of_a_task_commits_and_a_task_that_is_forgotten_starts_anew() -> None:
    broker = broker_with()
    broker.forget("never-was")
    assert broker.tasks == {}
    assert (broker.fence("task").generation, broker.fence("task").generation) == (1, 2)
    with pytest.raises(Fenced):
        broker.write([], Limits(), task="task", generation=1, checkpoint=b"old")
    assert broker.write([], Limits(), task="task", generation=2, checkpoint=b"new") == {}
    assert broker.tasks["task"].checkpoint == b"new"
    broker.forget("task")
    assert broker.tasks["task"] == MemoryTask(generation=3, checkpoint=None)
    ends = broker.write([Append(AT, Records([None], [b"x"], [0])), Append(AT, Records([None], [b"y"], [0]))], Limits())
    assert ends == {AT: Position.at(2)}


@pytest.mark.parametrize(
    ("sizes", "taken"), [([50], True), ([51], False), ([50, 50, 50], True), ([50, 50, 50, 1], False)]
)
def test_a_write_is_taken_up_to_its_limits_and_no_byte_further(sizes: Sequence[int], taken: bool) -> None:
    broker = broker_with()
    limits = Limits(max_record_bytes=50, max_commit_bytes=100)
    appends = [Append(AT, Records([b"k"], [bytes(size - 1)], [0])) for size in sizes]
    if taken:
        assert broker.write(appends, limits) == {AT: Position.at(len(sizes))}
    else:
        with pytest.raises(DataError):
            broker.write(appends, limits)
        assert broker.partition(AT).end == 0


# Rules


@pytest.mark.parametrize(
    ("records", "size"),
    [
        (Records([b"key", None], [b"value", None], [0, 0]), 8),
        (Records([b"key", b"k"], [b"v", b"value"], [0, 0]), 10),
        (Records([b"k", None], [b"v", b"v"], [0, 0], [(("ü", b"12"),), None]), 7),
    ],
)
def test_the_largest_record_counts_with_its_key_and_headers(records: Records, size: int) -> None:
    assert rules.check_record_sizes(AT, records, 8) == size
    largest = max(
        rules.record_bytes(key, value, headers)
        for key, value, headers in zip(records.keys, records.values, records.headers or [None, None])
    )
    rules.check_record_sizes(AT, records, largest)
    with pytest.raises(DataError, match=rf"record [01] .* has {largest} bytes, .*max_record_bytes={largest - 1};"):
        rules.check_record_sizes(AT, records, largest - 1)


def test_a_record_is_measured_in_bytes_of_key_value_and_headers() -> None:
    assert rules.record_bytes(None, None, None) == 0
    assert rules.record_bytes(b"key", b"va", (("ü", b"1"), ("a", b""))) == 3 + 2 + 3 + 1


def test_a_topic_that_can_not_be_is_refused() -> None:
    for spec, words in (
        (TopicSpec("orders", partitions=0), "partitions=0"),
        (TopicSpec(""), "no name"),
        (TopicSpec("orders", timestamps="append"), "timestamps='append'"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            rules.check_spec(spec, {})
    rules.check_spec(TopicSpec("orders", partitions=1), {})


@pytest.mark.parametrize(
    ("name", "other"),
    [("partitions", 2), ("kind", "changelog"), ("retention_ms", 5), ("retention_bytes", 5), ("compact", True)],
)
def test_a_topic_that_is_otherwise_on_the_log_is_refused_with_both_values(name: str, other: Any) -> None:
    asked = TopicSpec("orders", **{name: other})
    with pytest.raises(TopicMismatch, match=rf"{name} is .* on the log and {other} in the app"):
        rules.check_spec(asked, {"orders": TopicSpec("orders")})
    rules.check_spec(asked, {"orders": asked, "others": TopicSpec("others")})


def test_a_key_goes_where_it_always_went() -> None:
    assert [rules.partition_for(key, 8) for key in (b"", b"a", b"order-1", b"\xff")] == [0, 3, 7, 0]
