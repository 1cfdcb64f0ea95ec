"""What isn't a matter of one contender's CPU time: two workers against one.

Each returns lines of the page.  What must live here: the scenarios.  What must not: starting contenders
(``common/serving.py``).  A scenario that fails says so on the page instead of its figures.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import nats.errors

from streams.connectors.jetstream.group import heard
from streams.errors import StreamsError
from tests.benchmarks.common import serving
from tests.benchmarks.common.runs import Run, cpu_s, make_orders
from tests.benchmarks.common.workers import SHARED_CORES, Measured, two_workers_table
from tests.benchmarks.nats import contenders
from tests.benchmarks.nats.ground import Ground
from tests.benchmarks.nats.rows import COMMIT_INTERVAL_S

MESSAGES = 400_000
PARTITIONS = 4
FAILURES = (RuntimeError, TimeoutError, StreamsError, nats.errors.Error)


async def two_workers(where: Ground, programs: Sequence[str], scale: float, rounds: int) -> list[str]:
    """The keyed count over four partitions by one worker process and by two, once they have their tasks."""
    if "ours" not in programs:
        return []
    messages = round(MESSAGES * scale)

    async def measured(_: str, count: int, number: int) -> Measured:
        return await _workers(where, count, messages, number)

    return [
        "## Two worker processes against one",
        "",
        f"The keyed count of {messages:,} orders of 95 bytes in four partitions. Workers that have their tasks are "
        "told to begin; the clock stops when the topic of the outputs has all of them. "
        f"{SHARED_CORES}",
        "",
        "What an app writes goes into one stream of its own and from there to its topics, message by message. The "
        "server does that on about one core, and takes more CPU time for it than the workers do: beside it one worker "
        "is not busy, and the wall time of two is about that of one. The bar, which takes the server's time off that "
        "of two, tells what two would do beside a server that isn't the limit.",
        "",
        *await two_workers_table(["ours"], {"ours": "**streams**"}, messages, rounds, measured, FAILURES),
    ]


async def _workers(where: Ground, count: int, messages: int, number: int) -> Measured:
    name = f"workers-{count}-{number}"
    orders = make_orders(f"{name}-orders", "small", messages, PARTITIONS)
    run = Run("ours", name, where.server, orders.topic, f"{name}-counts", PARTITIONS, "small", 0, COMMIT_INTERVAL_S)
    await where.fill(orders)
    await where.prepare(run)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-bench-")))
        workers = [
            await stack.enter_async_context(serving.serving(contenders.command, run, folder / f"worker-{each}"))
            for each in range(count)
        ]
        await _joined(where, name, [PARTITIONS // count] * count)
        broker, spent, began = where.broker_cpu_s(), [cpu_s(each.pid) for each in workers], time.monotonic()
        for each in workers:
            each.send_signal(signal.SIGUSR1)
        await where.until_stored(run.output, messages)
        wall, broker = time.monotonic() - began, where.broker_cpu_s() - broker
        spent = [cpu_s(each.pid) - before for each, before in zip(workers, spent)]
        print(
            f"workers      {count}: {wall:.2f} s, server {broker:.2f} s CPU, workers "
            f"{', '.join(f'{each:.2f}' for each in spent)} s CPU",
            flush=True,
        )
    fault = await where.fault(run, orders)
    await where.delete(name)
    if fault:
        raise RuntimeError(fault)
    return Measured(wall, broker, sum(spent))


async def _joined(where: Ground, group: str, wanted: list[int]) -> None:
    """Wait until the members run so many tasks each."""
    async with asyncio.timeout(serving.START_TIMEOUT_S), where.log() as log:
        while True:
            members = await heard(log._api, group)
            if sorted(len(words.state.ready & words.state.held) for words in members.values()) == wanted:
                return
            await asyncio.sleep(0.1)
