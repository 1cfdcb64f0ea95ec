"""Three Kafka brokers for tests, each also a controller: what leader failover needs.

What must not live here: one broker's life (``broker.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tests.brokers.kafka import admin
from tests.brokers.kafka.broker import START_TIMEOUT_S, KafkaBroker, kafka_uuid
from tests.brokers.ports import free_port

REPLICATED: Mapping[str, str] = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    # A vote, a lost leader and a follower that lags are noticed soon.
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1500",
    "controller.quorum.election.backoff.max.ms": "500",
    "replica.lag.time.max.ms": "3000",
}


class KafkaCluster:
    """Brokers 1, 2 and 3 of one cluster: everything three times, two of which have to be in sync.

    Blocks as ``KafkaBroker`` does.  Any one broker may be killed and started again.
    """

    def __init__(self, properties: Mapping[str, str] | None = None, *, size: int = 3) -> None:
        controllers = {node: free_port() for node in range(1, size + 1)}
        cluster_id = kafka_uuid()
        merged = {**REPLICATED, **(properties or {})}
        self.brokers = [
            KafkaBroker(merged, node_id=node, cluster_id=cluster_id, controllers=controllers) for node in controllers
        ]

    @property
    def bootstrap(self) -> str:
        """All brokers, running or not: ``127.0.0.1:port,…``."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    @property
    def client(self) -> dict[str, Any]:
        """The arguments of an aiokafka client."""
        return {"bootstrap_servers": self.bootstrap}

    def broker(self, node_id: int) -> KafkaBroker:
        return next(broker for broker in self.brokers if broker.node_id == node_id)

    def start(self, *, timeout_s: float = START_TIMEOUT_S) -> KafkaCluster:
        """Start all that don't run; return when each of them knows all."""
        started = [broker for broker in self.brokers if not broker.running]
        for broker in started:
            broker.launch()
        for broker in started:
            broker.wait_until_ready(brokers=len(self.brokers), timeout_s=timeout_s)
        return self

    def close(self) -> None:
        for broker in self.brokers:
            broker.close()

    def __enter__(self) -> KafkaCluster:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def create_topic(
        self, name: str, partitions: int = 1, replication: int = 3, configs: Mapping[str, str] | None = None
    ) -> None:
        admin.blocking(admin.create_topic(self.client, name, partitions, replication, configs))

    def leader_of(
        self, topic: str, partition: int = 0, *, other_than: int = -1, timeout_s: float = 30.0
    ) -> KafkaBroker:
        """The broker that leads a partition; waits until there is one, and another than the given node."""

        async def leader() -> int | None:
            node = int((await admin.partition(self.client, topic, partition))["leader"])
            return None if node in (-1, other_than) else node

        return self.broker(self._wait(leader, timeout_s))

    def wait_until_in_sync(self, topic: str, partition: int = 0, *, replicas: int = 3, timeout_s: float = 60.0) -> None:
        """Block until so many replicas of the partition are in sync."""

        async def in_sync() -> bool | None:
            return True if len((await admin.partition(self.client, topic, partition))["isr"]) >= replicas else None

        self._wait(in_sync, timeout_s)

    def _wait(self, condition: Any, timeout_s: float) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(timeout_s):
                return await admin.until(condition)

        try:
            return admin.blocking(bounded())
        except TimeoutError:
            logs = "\n".join(f"broker {broker.node_id}:\n{broker.log_tail(10)}" for broker in self.brokers)
            raise RuntimeError(f"not so within {timeout_s:g} s\n{logs}") from None
