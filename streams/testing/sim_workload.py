"""What a simulation does to the app from outside: sends records, asks agents, waits.

What must live here: the handle that a workload is given.  What must not: faults.  Records that a workload sends always
arrive, once: they are the input, and the verdict is about what the app makes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any

from streams.core.duration import Duration, parse_duration_ms, to_epoch_ms
from streams.core.log import Append
from streams.core.record import Records, TopicPartition
from streams.dsl.app import App
from streams.dsl.topic import watermark_record
from streams.errors import AskTimeout, StreamsError
from streams.testing.sim_cluster import Cluster
from streams.testing.sim_log import asking
from streams.testing.sim_process import State
from streams.testing.sim_server import Server

__all__ = ["Client", "Workload", "as_workload"]


class Client:
    """The world outside of the app.  ``random`` is seeded: take all chance from it, and the seed replays the run."""

    def __init__(self, app: App, server: Server, now_ms: Callable[[], int], random: Random, cluster: Cluster) -> None:
        self.app = app
        self.random = random
        self._server = server
        self._now_ms = now_ms
        self._cluster = cluster

    @property
    def faultless(self) -> bool:
        """Nothing goes wrong in this run: every question is answered."""
        return not self._cluster.network.odds.active

    def now_ms(self) -> int:
        """The wall clock."""
        return self._now_ms()

    async def sleep(self, duration: Duration) -> None:
        """Let time pass; it costs nothing."""
        await asyncio.sleep(parse_duration_ms(duration, "sleep") / 1000)

    async def send(self, topic: str, value: Any, *, key: Any = None, timestamp: Any = None) -> None:
        """Append a record to a topic of the app.  ``timestamp``: ms or a datetime, now by default."""
        target = self.app.topics[topic]
        at = self._now_ms() if timestamp is None else to_epoch_ms(timestamp)
        self._give(topic, target.encode([(key, value)], [at]))

    async def send_bytes(self, topic: str, value: bytes, *, key: bytes | None = None) -> None:
        """Append raw bytes: a record that may not decode."""
        self._give(topic, Records([key], [value], [self._now_ms()]))

    def _give(self, topic: str, records: Records) -> None:
        count = self.app.topics[topic].spec.partitions
        key = records.keys[0]
        partition = 0 if key is None else self.app_partition(key, count)
        self._server.append([Append(TopicPartition(topic, partition), records)], given=True)

    def app_partition(self, key: bytes, count: int) -> int:
        """The partition of an encoded key."""
        return self._cluster.partition_for(key, count)

    async def send_watermark(self, topic: str, time: Any) -> None:
        """Promise that nothing with an event time below ``time`` comes any more, so that windows before it close."""
        mark = watermark_record(to_epoch_ms(time), self._now_ms())
        count = self.app.topics[topic].spec.partitions
        self._server.append([Append(TopicPartition(topic, number), mark) for number in range(count)], given=True)

    async def ask(self, agent: str, value: Any, *, key: Any = None, timeout: Duration = "5s") -> Any:
        """Ask an agent through the worker that should run its task.  Raises as ``Agent.ask`` does, AskTimeout when
        the worker dies meanwhile, and LogUnavailable or CommitUnknown when the request could not be sent."""
        while not (found := self._cluster.running()) and self.faultless:
            await self.sleep("10ms")  # they have yet to start
        if not found:
            raise AskTimeout(f"agent {agent}: no worker runs now")
        process, app = self.random.choice(found)

        async def call() -> Any:
            asking.set(True)
            return await app.agents[agent].ask(value, key=key, timeout=timeout)

        asked = process.spawn(call(), f"ask {agent}")
        stood_still = process.freezes if process.state is State.RUNNING else -1
        done, _ = await asyncio.wait({asked}, timeout=parse_duration_ms(timeout, "timeout") / 1000 + 1.0)
        if not done:
            alive = process.state is State.RUNNING and process.freezes == stood_still
            assert not alive, f"agent {agent}: no answer within {timeout}, and nobody says so"
            raise AskTimeout(f"agent {agent}: the worker that was asked is gone")
        error = asked.exception()
        if isinstance(error, RuntimeError) and not isinstance(error, StreamsError):
            raise AskTimeout(f"agent {agent}: the worker that was asked is stopping")
        return asked.result()


Workload = Callable[[Client], Awaitable[None]]


def as_workload(given: Workload | Iterable[tuple[Any, ...]]) -> Workload:
    """A workload as it is, or one that sends each (topic, key, value) or (topic, key, value, timestamp) in turn."""
    if callable(given):
        return given
    rows = list(given)

    async def send_all(client: Client) -> None:
        for topic, key, value, *rest in rows:
            await client.send(topic, value, key=key, timestamp=rest[0] if rest else None)
            if client.random.random() < 0.2:
                await client.sleep(client.random.randint(1, 300) / 1000)

    return send_all
