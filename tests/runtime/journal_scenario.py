"""An app between two transports on a log that workers share: what its journal is there, and that it starts over.

What must live here: the scenario.  What must not: starting a broker; each log's tests call it with a URL.
"""

from __future__ import annotations

import asyncio

from streams import App
from streams.cli.reset import _reset
from streams.cli.workers import kinds_on
from streams.connectors.registry import open_log
from streams.core.record import Bounds, TopicPartition
from streams.runtime.clock import SystemClock
from streams.runtime.housekeeping import consumed
from streams.runtime.idle import Idle
from streams.runtime.worker import Worker
from streams.testing.driver import MemoryStores
from tests.runtime.transport import Transport

__all__ = ["check_journals"]

PATIENCE_S = 90.0


def relay(name: str, partitions: int = 1) -> App:
    app = App(name, partitions=2, commit_interval="20ms")
    numbers = app.stream(app.topic("nats://127.0.0.1:1/numbers.*", value=int, partitions=partitions))
    numbers.map(lambda number: -number).to(app.topic("nats://127.0.0.1:1/negated.{key}", value=int))
    return app


async def _work(url: str, app: App, come: list[bytes]) -> list[bytes | None]:
    """What has gone out by the time that nothing is left to do; what was read of the journal is trimmed then."""
    log = open_log(url)
    await log.open()
    transport = Transport(come)
    try:
        worker = Worker(app, log, MemoryStores(), SystemClock(), connect_edge=transport)
        async with asyncio.timeout(PATIENCE_S), worker.working():
            idle = Idle(worker)
            while not await idle.look():
                worker.check()
                await asyncio.sleep(0.02)
            await log.trim(consumed(worker))
    finally:
        await log.close()
    return transport.out


async def check_journals(url: str, name: str) -> None:
    assert await _work(url, relay(name), [b"1", b"2", b"3"]) == [b"-1", b"-2", b"-3"]
    assert await _work(url, relay(name), [b"4"]) == [b"-4"], "what was processed stays so"
    journal = TopicPartition(f"{name}.numbers.any.journal", 0)
    log = open_log(url)
    await log.open()
    try:
        info = (await log.topics([journal.topic]))[journal.topic]
        assert (info.spec.retention_ms, info.spec.retention_bytes, info.spec.compact) == (None, None, False)
        kinds = await kinds_on(log, list(await log.topics()))
        assert kinds.get(journal.topic, info.spec.kind) == "journal"
        held: Bounds = (await log.bounds([journal]))[journal]
        assert held.start.reached(held.end), "what was read is freed"
    finally:
        await log.close()
    await _reset(relay(name), url, True)
    assert await _work(url, relay(name), [b"5"]) == [b"-5"], "a journal whose records were read has none to repeat"
    await _reset(relay(name, 3), url, True)
    assert await _work(url, relay(name, 3), [b"6"]) == [b"-6"]
