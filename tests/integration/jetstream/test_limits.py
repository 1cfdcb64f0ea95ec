"""Storage that comes to an end: a commit is refused whole, and it goes on when there is room."""

from __future__ import annotations

import asyncio

import pytest

from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.names import app_stream
from streams.core.log import Commit, TopicSpec
from streams.core.record import TopicPartition
from streams.errors import LogUnavailable
from streams.testing.log_scenarios import append, task_ref, values_of
from tests.brokers.nats.server import NatsServer

GROUP = "limits"
OUT, INNER = TopicPartition("limits-out", 0), TopicPartition(f"{GROUP}.inner", 0)


def test_a_limit_of_the_stream_of_an_app_refuses_a_commit_whole(nats: NatsServer) -> None:
    async def run() -> None:
        log = JetStreamLog(nats.url)
        await log.open()
        await log.create_topics([TopicSpec(OUT.topic), TopicSpec(INNER.topic, kind="repartition", owner=GROUP)])
        writer = await log.fence(task_ref(1, GROUP))
        await writer.commit(Commit(b"1", [append(OUT, b"1"), append(INNER, b"1")]))
        config = (await log._api.call(f"STREAM.INFO.{app_stream(GROUP)}"))["config"]
        await log._api.call(f"STREAM.UPDATE.{app_stream(GROUP)}", {**config, "max_bytes": 100_000})
        with pytest.raises(LogUnavailable, match=r"maximum bytes exceeded.*nothing was stored"):
            await writer.commit(Commit(b"2", [append(OUT, *[bytes(9_000)] * 30), append(INNER, b"2")]))
        await log._api.call(f"STREAM.UPDATE.{app_stream(GROUP)}", {**config, "max_bytes": -1})
        writer = await log.fence(task_ref(1, GROUP))
        assert writer.checkpoint == b"1"
        await writer.commit(Commit(b"2", [append(OUT, b"2"), append(INNER, b"2")]))
        assert await values_of(log, OUT) == [b"1", b"2"]
        assert await values_of(log, INNER) == [b"1", b"2"]
        await log.close()

    asyncio.run(run())
