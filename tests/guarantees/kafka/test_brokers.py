"""Brokers stop, die and come back while workers are at their work."""

from __future__ import annotations

import random
from pathlib import Path

from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.kafka.cluster import KafkaCluster
from tests.guarantees.kafka.fleet import Fleet, some_time
from tests.guarantees.kafka.pipeline import APP, PACE, Pipeline
from tests.stages import rounds

WORKERS = 3
BACKLOG = 4_000
LEADER_KILLS = rounds(1, 3)
"""Of the leaders of what is read or written, of the checkpoints, and of the transactions."""


def test_the_workers_outlive_the_only_broker_or_its_silence_and_no_result_is_lost_or_doubled_when_it_comes_back(
    kafka_own: KafkaBroker, tmp_path: Path, chance: random.Random
) -> None:
    pipeline = Pipeline(kafka_own.bootstrap, chance)
    with Fleet(APP, kafka_own.bootstrap, tmp_path, env=PACE) as fleet:
        fleet.start_all(WORKERS)
        again = kafka_own.start
        for end, begin in ((kafka_own.stop, again), (kafka_own.kill, again), (kafka_own.pause, kafka_own.resume)):
            came_to = pipeline.done()
            pipeline.top_up(BACKLOG)
            fleet.until(lambda: pipeline.done() > came_to, "the workers to come forward")  # noqa: B023
            fleet.until(some_time(chance, 0.0, 0.3), "the moment to end the broker")
            end()
            fleet.until(some_time(chance, 0.0, 4.0), "the moment to bring it back")
            begin()
        pipeline.finish(fleet)
    print(f"{pipeline.sent} events, {pipeline.verifier.total()} results")


def coordinating_partition(name: str, partitions: int = 4) -> int:
    """The partition of ``__transaction_state`` that holds a transactional id: as ``String.hashCode`` in Java."""
    code = 0
    for char in name:
        code = (31 * code + ord(char)) & 0xFFFFFFFF
    return (code & 0x7FFFFFFF) % partitions if code < 2**31 else (2**32 - code) % partitions


def test_leaders_of_what_workers_read_and_write_and_their_coordinator_die_and_no_result_is_lost_or_doubled(
    kafka_cluster: KafkaCluster, tmp_path: Path, chance: random.Random
) -> None:
    pipeline = Pipeline(kafka_cluster.bootstrap, chance, replication=3)
    pipeline.send(BACKLOG)
    with Fleet(APP, kafka_cluster.bootstrap, tmp_path, env=PACE) as fleet:
        fleet.start_all(WORKERS)
        task = "pipeline.events-0"
        leads = [
            (chance.choice(["events", "settled"]), 0),
            ("pipeline.checkpoints", chance.randrange(8)),
            ("__transaction_state", coordinating_partition(task)),
        ]
        for topic, partition in chance.sample(leads, LEADER_KILLS):
            came_to = pipeline.done()
            pipeline.top_up(BACKLOG)
            fleet.until(lambda: pipeline.done() > came_to, "the workers to come forward")  # noqa: B023
            leader = kafka_cluster.leader_of(topic, partition)
            print(f"broker {leader.node_id}, leader of {topic}-{partition}, dies")
            leader.kill()
            kafka_cluster.leader_of(topic, partition, other_than=leader.node_id)
            came_to = pipeline.done()
            pipeline.send(BACKLOG // 10)
            fleet.until(lambda: pipeline.done() > came_to, "the workers to come forward on two brokers")  # noqa: B023
            leader.start(brokers=3)
            kafka_cluster.wait_until_in_sync(topic, partition)
        pipeline.finish(fleet)
    print(f"{pipeline.sent} events, {pipeline.verifier.total()} results")
