"""The log on three servers, each stream on all of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.names import app_stream
from streams.core.log import Commit, TopicSpec
from streams.core.record import TopicPartition
from streams.errors import CommitUnknown, Fenced, LogUnavailable
from streams.testing.log_scenarios import append, task_ref, values_of
from tests.brokers.nats.cluster import NatsCluster

PATIENCE_S = 120.0
GROUP = "cluster"
OUT = TopicPartition("out", 0)
T = TypeVar("T")


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    with NatsCluster(tmp_path_factory.mktemp("three")) as servers:
        yield servers


async def at_last(ask: Callable[[], Awaitable[T]]) -> T:
    """What comes of it once servers have elected whom they need to."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await ask()
            except LogUnavailable:
                await asyncio.sleep(0.1)


async def commit(log: JetStreamLog, value: bytes) -> None:
    """One value, once, whatever becomes of the answer."""

    async def once() -> None:
        writer = await log.fence(task_ref(1, GROUP))
        if writer.checkpoint == value:
            return
        try:
            await writer.commit(Commit(value, [append(OUT, value)]))
        except (CommitUnknown, Fenced) as error:
            raise LogUnavailable("look again") from error

    await at_last(once)


def test_a_commit_is_there_whole_and_once_whoever_led_the_stream_is_killed(cluster: NatsCluster) -> None:
    async def run() -> None:
        log = JetStreamLog(f"{cluster.url}?replicas=3")
        await log.open()
        await log.create_topics([TopicSpec("out")])
        await commit(log, b"0")
        old = await log.fence(task_ref(1, GROUP))
        victim = await asyncio.to_thread(cluster.leader_of, app_stream(GROUP))
        await asyncio.to_thread(cluster.kill, victim)
        for number in range(1, 20):
            await commit(log, b"%d" % number)
        with pytest.raises(Fenced):
            await old.commit(Commit(b"late", [append(OUT, b"late")]))
        assert await at_last(lambda: values_of(log, OUT)) == [b"%d" % number for number in range(20)]
        assert await at_last(lambda: log.checkpoint(task_ref(1, GROUP))) == b"19"
        await log.close()

    asyncio.run(run())


def test_a_topic_whose_leader_asked_in_vain_for_what_it_takes_in_is_led_anew(
    cluster: NatsCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streams")

    async def run() -> None:
        # The app's stream is on one server, so that it has no leader while that is away.
        single, log = JetStreamLog(cluster.url), JetStreamLog(f"{cluster.url}?replicas=3")
        await log.open()
        await single.open()
        await log.create_topics([TopicSpec("out")])
        await commit(single, b"1")
        assert await at_last(lambda: values_of(log, OUT)) == [b"1"]
        home = await asyncio.to_thread(cluster.leader_of, app_stream(GROUP))
        await asyncio.to_thread(cluster.kill, home)
        await at_last(lambda: _step_down(log))
        await at_last(lambda: _asks_in_vain(log))
        await asyncio.to_thread(cluster.start, home)
        await commit(single, b"2")
        assert await at_last(lambda: values_of(log, OUT)) == [b"1", b"2"]
        await single.close()
        await log.close()

    asyncio.run(run())
    assert "stream out has stopped to take in what S-cluster holds; it is led anew" in caplog.text


async def _step_down(log: JetStreamLog) -> None:
    await log._api.call(f"STREAM.LEADER.STEPDOWN.{OUT.topic}")


async def _asks_in_vain(log: JetStreamLog) -> None:
    """Its leader has asked for what it takes in, which it does within the first second, and heard nothing."""
    led, since = "", 0.0
    while time.monotonic() < since + 3 or not led:
        stream = await log._api.stream(OUT.topic)
        sources = (stream or {}).get("sources") or ()  # a new leader has none for a moment
        leader = stream["cluster"].get("leader", "") if stream is not None and sources else ""
        if sources and sources[0]["active"] >= 0:
            raise LogUnavailable("it has heard of the app's stream, before it was led anew")
        if leader != led:
            led, since = leader, time.monotonic()
        await asyncio.sleep(0.1)
