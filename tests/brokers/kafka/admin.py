"""What the fixtures ask a broker: is it ready, who leads, and the few requests that set a test up.

What must not live here: anything that a test is about; those use ``streams.connectors.kafka`` or a client of their own.

Everything is a coroutine that is bounded by the caller.  ``blocking`` runs one from ordinary code, also from within a
running loop: on a thread of its own, while the caller waits.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, for_code

T = TypeVar("T")
POLL_S = 0.05
Client = Mapping[str, Any]
"""How to reach a broker: the arguments of an aiokafka client, ``bootstrap_servers`` and those of its security."""


def blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result.  Blocks the calling thread, and with it a loop that runs there."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


@asynccontextmanager
async def admin(client: Client, timeout_s: float = 10.0) -> AsyncIterator[AIOKafkaAdminClient]:
    connected = AIOKafkaAdminClient(**client, request_timeout_ms=int(timeout_s * 1000))
    try:
        await connected.start()
        yield connected
    finally:
        await connected.close()


async def until(ready: Callable[[], Coroutine[Any, Any, T | None]]) -> T:
    """The first result that is not None.  Without end: bound it.  Errors of Kafka and of sockets mean: not yet."""
    while True:
        try:
            result = await ready()
        except (KafkaError, OSError, TimeoutError):
            result = None
        if result is not None:
            return result
        await asyncio.sleep(POLL_S)


async def ready(client: Client, brokers: int = 1) -> None:
    """Return when the broker names itself and so many brokers in all in its answer to a metadata request."""
    host, _, port = str(client["bootstrap_servers"]).rpartition(":")

    async def listens() -> bool:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        return True

    async def knows_all() -> bool | None:
        async with admin(client, timeout_s=2.0) as connected:
            described = await connected.describe_cluster()
            ports = {node["port"] for node in described["brokers"]}
            return True if int(port) in ports and len(ports) >= brokers else None

    # First the bare port: the client writes an error to the log for each attempt that finds nobody.
    await until(listens)
    quiet = logging.getLogger("aiokafka")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        await until(knows_all)
    finally:
        quiet.setLevel(level)


async def create_topic(
    client: Client, name: str, partitions: int = 1, replication: int = 1, configs: Mapping[str, str] | None = None
) -> None:
    async with admin(client) as connected:
        answer = await connected.create_topics(
            [NewTopic(name, partitions, replication, topic_configs=dict(configs or {}))]
        )
        for _, code, *message in answer.topic_errors:
            if code:
                raise for_code(code)(f"topic {name!r}: {message}")


async def partition(client: Client, topic: str, number: int) -> Mapping[str, Any]:
    """What the broker knows of a partition: ``leader`` (-1: none), ``replicas``, ``isr``."""
    async with admin(client) as connected:
        (described,) = await connected.describe_topics([topic])
        if described["error_code"]:
            raise for_code(described["error_code"])(f"topic {topic!r}")
        found: Mapping[str, Any] = next(p for p in described["partitions"] if p["partition"] == number)
        return found
