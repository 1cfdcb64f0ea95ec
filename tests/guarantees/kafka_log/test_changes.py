"""What others do to the topics of an app, while it is down and while it runs: one clear line, and nothing written."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition as At
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete

from streams.connectors.kafka.log import KafkaLog
from streams.core.log import Append, Log, TopicSpec
from streams.core.record import Records, TopicPartition
from tests.brokers.kafka.broker import KafkaBroker
from tests.guarantees.kafka_log.program import SETTINGS, Program, finish, running
from tests.guarantees.kafka_log.reading import records_of


class Cluster:
    """An app's topics, and what an administrator does to them."""

    def __init__(self, bootstrap: str, app: str) -> None:
        self.bootstrap = bootstrap
        self.app = app
        self.lines, self.outputs = f"{app}.lines", f"{app}.counts"
        self.url = f"kafka://{bootstrap}?{SETTINGS}"

    def _on_log(self, act: Callable[[Log], Any]) -> Any:
        async def run() -> Any:
            log = KafkaLog(f"kafka://{self.bootstrap}?linger_ms=0")
            await log.open()
            try:
                return await act(log)
            finally:
                await log.close()

        return asyncio.run(run())

    def create(self) -> None:
        self._on_log(lambda log: log.create_topics([TopicSpec(self.lines)]))

    def delete(self, topic: str) -> None:
        self._on_log(lambda log: log.delete_topics([topic]))

    def send(self, count: int) -> None:
        records = Records([b"k"] * count, [b"to be"] * count, [1] * count)
        self._on_log(lambda log: log.append([Append(TopicPartition(self.lines, 0), records)]))

    def grow(self) -> None:
        self._admin(lambda admin: admin.create_partitions({self.lines: NewPartitions(3)}))

    def delete_records(self, before: int) -> None:
        self._admin(lambda admin: admin.delete_records({At(self.lines, 0): RecordsToDelete(before)}))

    def _admin(self, act: Callable[[AIOKafkaAdminClient], Any]) -> None:
        async def run() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            await admin.start()
            try:
                await act(admin)
            finally:
                await admin.close()

        asyncio.run(run())

    def counts(self) -> Counter[bytes]:
        """Of each word the highest count; fails if a count was written twice."""
        records = asyncio.run(records_of(self.bootstrap, self.outputs))
        written = Counter((record.key, record.value) for record in records)
        assert max(written.values(), default=1) == 1, f"written twice: {written.most_common(2)}"
        found: Counter[bytes] = Counter()
        for record in records:
            found[record.key] = max(found[record.key], int(record.value))
        return found


@pytest.fixture
def cluster(kafka: KafkaBroker) -> Cluster:
    return Cluster(kafka.bootstrap, f"app{uuid.uuid4().hex[:8]}")


def recreated(cluster: Cluster, count: int) -> None:
    cluster.delete(cluster.lines)
    cluster.create()
    if count:
        cluster.send(count)


CHANGES: dict[str, tuple[Callable[[Cluster], None], str]] = {
    "deleted": (
        lambda cluster: cluster.delete(cluster.lines),
        "the topic is not the one that the position was taken from",
    ),
    "recreated, with fewer": (lambda cluster: recreated(cluster, 3), "the topic is not the one that the position was"),
    "recreated, with more": (lambda cluster: recreated(cluster, 50), "the topic is not the one that the position was"),
    "more partitions": (lambda cluster: cluster.grow(), "the tasks of APP.APP.lines were 1 and would be 3"),
    "records removed unread": (
        lambda cluster: (cluster.send(20), cluster.delete_records(25))[0],  # type: ignore[func-returns-value]
        "APP.lines[0]: the task stands at 10 but the log starts at 25: 15 records were removed unread",
    ),
    "a changelog deleted": (
        lambda cluster: cluster.delete(f"{cluster.app}.seen.changelog"),
        "APP.seen.changelog: the changelog was deleted and created again",
    ),
    "checkpoints deleted": (lambda cluster: cluster.delete(f"{cluster.app}.checkpoints"), "whose checkpoint isn't on"),
    "a repartition topic deleted": (
        lambda cluster: cluster.delete(f"{cluster.app}.{cluster.lines}.by-key.repartition"),
        "APP.APP.lines.by-key.repartition[0]: the topic is not the one that the position was taken from",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_to_its_topics_while_it_is_down_is_said_with_choices(
    cluster: Cluster, tmp_path: Path, change: str
) -> None:
    act, said = CHANGES[change]
    cluster.create()
    cluster.send(10)
    finish(cluster.url, tmp_path, APP=cluster.app)
    before = cluster.counts()
    assert before == {b"to": 10, b"be": 10}
    act(cluster)
    with running(cluster.url, tmp_path, "--until-idle", APP=cluster.app) as program:
        line = program.refusal()
    assert said.replace("APP", cluster.app) in line, program.said[-2000:]
    assert "streams reset" in line or "on_lost='earliest'" in line, line
    assert cluster.counts() == before


def remove_meanwhile(cluster: Cluster, program: Program, before: int) -> None:
    """Stop the program, send 21 records, remove all before an offset, let it go on.  It may have the first record: a
    request for it was under way."""
    program.pause()
    cluster.send(1)
    cluster.send(20)
    cluster.delete_records(before)
    program.resume()


def test_by_choice_records_that_were_removed_unread_are_counted_and_left(cluster: Cluster, tmp_path: Path) -> None:
    cluster.create()
    cluster.send(10)
    finish(cluster.url, tmp_path, APP=cluster.app, ON_LOST="earliest")
    cluster.send(20)
    cluster.delete_records(25)
    with running(cluster.url, tmp_path, "--port", "0", ON_LOST="earliest", APP=cluster.app) as program:
        program.until_it_works()
        program.until(lambda: cluster.counts()[b"to"] == 15, "it went on")
        assert program.metric("streams_lost") == 15
        # And once more while it runs: stopped meanwhile, it comes back to a log that starts behind its position.
        remove_meanwhile(cluster, program, before=46)
        program.until(lambda: program.metric("streams_lost") in (30, 31), "it counted again")
        program.until(lambda: cluster.counts()[b"to"] + program.metric("streams_lost") == 51, "it went on again")


def test_an_output_topic_that_was_deleted_is_created_again(cluster: Cluster, tmp_path: Path) -> None:
    """It holds nothing that the app goes on from."""
    cluster.create()
    cluster.send(10)
    finish(cluster.url, tmp_path, APP=cluster.app)
    cluster.delete(cluster.outputs)
    cluster.send(5)
    finish(cluster.url, tmp_path, APP=cluster.app)
    records = asyncio.run(records_of(cluster.bootstrap, cluster.outputs))
    assert sorted(int(record.value) for record in records if record.key == b"to") == [11, 12, 13, 14, 15]


RUNNING_CHANGES: dict[str, tuple[Callable[[Cluster], None], str]] = {
    "deleted": (lambda cluster: cluster.delete(cluster.lines), "APP.lines"),
    "recreated": (lambda cluster: recreated(cluster, 50), "deleted and created again"),
    "more partitions": (lambda cluster: cluster.grow(), "partitions is 3 on the log and 1 in the app"),
    "records removed unread": (lambda cluster: None, "but the log starts at 26: "),
    "output deleted": (lambda cluster: (cluster.delete(cluster.outputs), cluster.send(5))[0], "APP.counts"),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("change", RUNNING_CHANGES)
def test_a_change_to_its_topics_while_it_runs_ends_it_with_one_line(
    cluster: Cluster, tmp_path: Path, change: str
) -> None:
    act, said = RUNNING_CHANGES[change]
    cluster.create()
    cluster.send(10)
    with running(cluster.url, tmp_path, APP=cluster.app) as program:
        program.until_it_works()
        program.until(lambda: cluster.counts()[b"to"] == 10, "it has counted")
        if change == "records removed unread":
            remove_meanwhile(cluster, program, before=26)
        act(cluster)
        assert said.replace("APP", cluster.app) in program.refusal(), program.said[-2000:]
