"""What the Kafka connector asks brokers for, and what it makes of answers that real ones give at bad moments only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from streams.connectors.kafka.appender import GROUP_BYTES, Appender
from streams.connectors.kafka.batches import NO_PRODUCER
from streams.connectors.kafka.cluster import Cluster, TopicMetadata, Unanswered
from streams.connectors.kafka.config import parse_url
from streams.connectors.kafka.faults import Code
from streams.connectors.kafka.producer import Session
from streams.connectors.kafka.topics import Topics
from streams.connectors.kafka.writer import KafkaTaskWriter
from streams.core.log import Append, Commit, TopicSpec
from streams.core.membership import TaskRef
from streams.core.record import Position, Records, TopicPartition
from streams.errors import CommitUnknown, Fenced, LogUnavailable

AT = TopicPartition("orders", 0)
OLD_MS = 1
Answer = Callable[[Any], Any]


class Scripted(Cluster):
    """A cluster whose answers the test gives: ``answer`` returns one for a request, or raises."""

    def __init__(self, answer: Answer, query: str = "") -> None:
        super().__init__(parse_url(f"kafka://broker?{query}", {}))
        self.answer = answer
        self.asked: list[str] = []
        self.dropped: set[str] = set()
        self.known = {AT.topic}

    async def send(self, node: int, request: Any, lane: str = "", *, answered: bool = True) -> Any:
        assert lane not in self.dropped, f"{type(request).__name__} by a lane that was dropped"
        self.asked.append(type(request).__name__)
        found = self.answer(request)
        return await found if asyncio.iscoroutine(found) else found

    async def refresh(self, names: Collection[str] | None) -> Mapping[str, TopicMetadata]:
        found = {name: TopicMetadata("id", {0: 1}) for name in sorted(names or ()) if name in self.known}
        self._topics.update(found)
        return found

    def any_node(self) -> int:
        return 1

    async def leaders(self, partitions: Collection[TopicPartition], **_: Any) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 1)

    async def coordinator(self, key: str, kind: int) -> int:
        return 1

    def drop(self, lane: str) -> None:
        self.dropped.add(lane)


def records(at_ms: int | None = None) -> Records:
    return Records([None], [b"value"], [time.time_ns() // 1_000_000 if at_ms is None else at_ms])


def produced(code: int, offset: int = 0) -> Any:
    return SimpleNamespace(topics=[(AT.topic, [(AT.partition, code, offset, -1)])])


def in_turn(*answers: Any) -> Answer:
    left = list(answers)

    def answer(_: Any) -> Any:
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return answer


# ── producing ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("acks", ["1", "0"])
def test_a_batch_that_no_producer_vouches_for_is_not_sent_again_when_its_answer_is_lost(acks: str) -> None:
    cluster = Scripted(in_turn(Unanswered("no answer"), produced(Code.NONE, 1)), f"acks={acks}")
    session = Session(cluster, "lane", NO_PRODUCER)
    with pytest.raises(CommitUnknown, match="only with acks=all"):
        asyncio.run(session.produce({AT: records()}, patience_s=5))
    assert len(cluster.asked) == 1
    assert session.uncertain == {AT: 1}


@pytest.mark.parametrize(("acks", "producer"), [("1", NO_PRODUCER), ("all", (1, 0))])
def test_a_batch_that_a_leader_refuses_before_it_stores_it_is_sent_again(acks: str, producer: tuple[int, int]) -> None:
    """As one does that hasn't heard yet of a topic which was just made."""
    cluster = Scripted(in_turn(produced(Code.NOT_LEADER, -1), produced(Code.NONE, 7)), f"acks={acks}")
    runs = asyncio.run(Session(cluster, "lane", producer).produce({AT: records(OLD_MS)}, patience_s=5))
    assert runs == {AT: [(7, 1)]}


def test_old_records_that_a_leader_stored_before_it_ceased_to_lead_are_not_sent_again() -> None:
    """The next leader may have forgotten their producer: they would be there twice."""
    cluster = Scripted(in_turn(produced(Code.NOT_LEADER, 3), produced(Code.NONE, 4)))
    asyncio.run(cluster.refresh([AT.topic]))
    session = Session(cluster, "lane", (1, 0))
    with pytest.raises(CommitUnknown, match="wouldn't recognise them"):
        asyncio.run(session.produce({AT: records(OLD_MS)}, patience_s=5))
    assert cluster.topic_id(AT.topic) is None, "the next one would ask the same broker"


def test_new_records_that_a_leader_stored_before_it_ceased_to_lead_are_sent_again_and_recognised() -> None:
    cluster = Scripted(in_turn(produced(Code.NOT_LEADER, 3), produced(Code.NONE, 3)))
    assert asyncio.run(Session(cluster, "lane", (1, 0)).produce({AT: records()}, patience_s=5)) == {AT: [(3, 1)]}


@pytest.mark.parametrize(("acks", "told"), [("1", {AT: Position.at(5)}), ("0", {})])
def test_an_append_is_told_the_positions_that_a_broker_acknowledged_and_no_others(
    acks: str, told: Mapping[TopicPartition, Position]
) -> None:
    async def run() -> None:
        appender = Appender(Scripted(in_turn(produced(Code.NONE, 4) if acks == "1" else None), f"acks={acks}"))
        assert await appender.append([Append(AT, records())], 5) == told
        await appender.close()

    asyncio.run(run())


def test_appends_that_wait_together_are_written_in_groups_that_a_broker_accepts() -> None:
    sizes: list[int] = []

    def answer(request: Any) -> Any:
        ((_, ((_, raw),)),) = request._topics
        sizes.append(len(raw))
        return produced(Code.NONE, len(sizes))

    async def run() -> None:
        appender = Appender(Scripted(answer, "acks=1&linger_ms=1"))
        half = GROUP_BYTES // 2
        calls = [appender.append([Append(AT, records())], size) for size in (half, half, 1, 2 * half, 3 * half, 1, 1)]
        told = await asyncio.gather(*calls)
        ends = [each[AT].offset() for each in told]
        assert ends == sorted(ends), "they change places"
        assert len(sizes) == 5, "[half, half], [1], [2 half], [3 half], [1, 1]"
        await appender.close()

    asyncio.run(run())


# ── commits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fails", ["AddPartitionsToTxnRequest", "AddOffsetsToTxnRequest", "ProduceRequest"])
def test_a_commit_that_fails_leaves_nothing_behind_that_goes_on_asking(fails: str) -> None:
    busy = {
        "AddPartitionsToTxnRequest": SimpleNamespace(errors=[("orders", [(0, Code.CONCURRENT_TRANSACTIONS)])]),
        "AddOffsetsToTxnRequest": SimpleNamespace(error_code=Code.CONCURRENT_TRANSACTIONS),
        "TxnOffsetCommitRequest": SimpleNamespace(errors=[("orders", [(0, Code.COORDINATOR_LOADING)])]),
    }
    fine = {
        "AddPartitionsToTxnRequest": SimpleNamespace(errors=[("orders", [(0, Code.NONE)])]),
        "AddOffsetsToTxnRequest": SimpleNamespace(error_code=Code.NONE),
    }
    fenced = {
        "AddPartitionsToTxnRequest": SimpleNamespace(errors=[("orders", [(0, Code.PRODUCER_FENCED)])]),
        "AddOffsetsToTxnRequest": SimpleNamespace(error_code=Code.PRODUCER_FENCED),
        "ProduceRequest": SimpleNamespace(topics=[("g.checkpoints", [(0, Code.PRODUCER_FENCED, -1, -1)])]),
    }

    async def answer(request: Any) -> Any:
        name = type(request).__name__
        if name == fails:
            beside = 4 if fails == "ProduceRequest" else 2
            while len(set(cluster.asked)) < beside:  # noqa: ASYNC110 - until the other one is under way
                await asyncio.sleep(0)
            return fenced[name]
        return fine[name] if fails == "ProduceRequest" and name in fine else busy[name]

    async def run() -> None:
        writer = KafkaTaskWriter(
            cluster, TaskRef("g", 0, "g.t-0"), "lane", Session(cluster, "lane", (1, 0), "g.t-0"), None, lambda _: None
        )
        others = asyncio.all_tasks()
        with pytest.raises(Fenced):
            await writer.commit(Commit(b"checkpoint", (), {AT: Position.at(1)}))
        assert asyncio.all_tasks() == others, "a request goes on by itself"
        await writer.close()

    cluster = Scripted(answer)
    asyncio.run(run())


# ── topics ───────────────────────────────────────────────────────────────────────────────────────────────────────────

CHANGELOG = TopicSpec("orders", 1, "changelog", compact=True)


def described(code: int) -> Any:
    held = [("cleanup.policy", "compact"), ("retention.ms", "-1"), ("retention.bytes", "-1")]
    return SimpleNamespace(resources=[(code, "", 2, "orders", held if code == Code.NONE else [])])


def test_a_topic_whose_settings_a_broker_has_not_heard_of_yet_is_not_taken_for_another_one() -> None:
    unheard = described(Code.UNKNOWN_TOPIC_OR_PARTITION)
    cluster = Scripted(in_turn(unheard, unheard, described(Code.NONE)))
    asyncio.run(Topics(cluster).create([CHANGELOG]))
    assert cluster.asked == ["DescribeConfigsRequest"] * 3


def test_a_topic_that_is_deleted_while_its_settings_are_asked_for_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.connectors.kafka.topics.UNKNOWN_TOPIC_PATIENCE_S", 0.1)

    def deleted(_: Any) -> Any:
        cluster.known.clear()
        return described(Code.UNKNOWN_TOPIC_OR_PARTITION)

    cluster = Scripted(deleted)
    assert asyncio.run(Topics(cluster).infos(["orders"])) == {}


def test_a_topic_whose_settings_no_broker_comes_to_know_is_given_up_after_the_request_time_out() -> None:
    cluster = Scripted(
        lambda _: described(Code.UNKNOWN_TOPIC_OR_PARTITION), "fetch_max_wait_ms=100&request_timeout_ms=200"
    )
    with pytest.raises(LogUnavailable, match="settings of topic orders"):
        asyncio.run(Topics(cluster).infos(["orders"]))


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_connection_to_a_broker_that_is_dropped_while_it_is_made_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    async def run() -> None:
        class Connection:
            def close(self, reason: Any = None) -> asyncio.Future[None]:
                closed.append("yes")
                done = asyncio.get_running_loop().create_future()
                done.set_result(None)
                return done

        async def connect(self: Cluster, host: str, port: int) -> Any:
            self.drop_seeds()  # another request has found the cluster meanwhile
            return Connection()

        monkeypatch.setattr(Cluster, "_connect", connect)
        cluster = Cluster(parse_url("kafka://broker", {}))
        with pytest.raises(LogUnavailable, match="isn't known any more"):
            await cluster.open()
        await cluster.close()

    asyncio.run(run())
    assert closed, "nobody has it, and it is open"


def test_while_no_broker_is_known_some_broker_is_a_server_of_the_url() -> None:
    cluster = Cluster(parse_url("kafka://broker:9092", {}))
    cluster.drop_seeds()  # as after metadata of a cluster that starts, which names no brokers
    assert cluster.any_node() < 0, "a worker ended with an IndexError"
