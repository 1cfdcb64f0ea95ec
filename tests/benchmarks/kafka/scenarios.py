"""What isn't a matter of one contender's CPU time: two workers, restore, takeover, latency.

Each returns lines of the page.  What must live here: the scenarios.  What must not: starting contenders and watching
the broker (``serving.py``).  A scenario that fails says so on the page instead of its figures.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka.errors import KafkaError

from tests.benchmarks.common import serving
from tests.benchmarks.common.environments import ROOT
from tests.benchmarks.common.runs import Orders, Run, cpu_s, make_orders
from tests.benchmarks.common.workers import SHARED_CORES, Measured, failed, two_workers_table
from tests.benchmarks.kafka import contenders
from tests.benchmarks.kafka.ground import Ground
from tests.benchmarks.kafka.serving import Feed, feeding, joined, watching

NAMES = {
    "ours": "**streams**",
    "bare": "bare aiokafka loop",
    "kstreams": "Kafka Streams (Java)",
    "quixstreams": "quixstreams",
}
RATES = (1_000, 20_000)
COMMIT_INTERVAL_S = 0.1
KEYS = 1_000_000
FAILURES = (RuntimeError, TimeoutError, KafkaError)
at_work = partial(serving.serving, contenders.command)


def _among(programs: Sequence[str], *wanted: str) -> list[str]:
    return [each for each in wanted if each in programs]


# ── two workers ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def two_workers(where: Ground, programs: Sequence[str], scale: float, rounds: int) -> list[str]:
    """The keyed count over four partitions by one worker process and by two, from the moment that all orders show."""
    messages = round(2_000_000 * scale)

    async def measured(program: str, count: int, number: int) -> Measured:
        return await _workers(where, program, count, messages, number)

    return [
        "## Two worker processes against one",
        "",
        f"The keyed count of {messages:,} orders of 95 bytes in four partitions, a commit each 0.1 s. "
        "The orders lie in a transaction that is committed when all workers have their tasks; the clock stops when the "
        f"group's offsets stand for all of them. {SHARED_CORES}",
        "",
        *await two_workers_table(_among(programs, "ours", "kstreams"), NAMES, messages, rounds, measured, FAILURES),
    ]


async def _workers(where: Ground, program: str, count: int, messages: int, number: int) -> Measured:
    name = f"workers-{program}-{count}-{number}"
    orders = make_orders(f"{name}-orders", "small", messages, 4)
    run = Run(program, name, where.server, orders.topic, f"{name}-counts", 4, "small", 0, COMMIT_INTERVAL_S)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-bench-")))
        show = await stack.enter_async_context(where.held_back(orders))
        await where.create(4, run.output)
        workers = [await stack.enter_async_context(at_work(run, folder / f"worker-{each}")) for each in range(count)]
        await joined(where, name, count, 4)
        await asyncio.sleep(2)  # restores of nothing, first fetches
        broker, spent, began = where.broker_cpu_s(), [cpu_s(each.pid) for each in workers], time.monotonic()
        await show()
        await where.until_committed(name, orders)
        wall, broker = time.monotonic() - began, where.broker_cpu_s() - broker
        spent = [cpu_s(each.pid) - before for each, before in zip(workers, spent)]
        print(
            f"workers      {program} {count}: {wall:.2f} s, broker {broker:.2f} s CPU, workers "
            f"{', '.join(f'{each:.2f}' for each in spent)} s CPU",
            flush=True,
        )
    fault = await where.fault(run, orders)
    await where.delete(name)
    if fault:
        raise RuntimeError(fault)
    return Measured(wall, broker, sum(spent))


# ── restore ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def restore(where: Ground, programs: Sequence[str], scale: float, rounds: int) -> list[str]:
    """The stores of a count with a million keys are gone; a worker starts and has them back from the changelog."""
    if "ours" not in programs:
        return []
    keys = round(KEYS * scale)
    orders = Orders("restore-orders", "small", keys, 2, {})
    await where.fill(orders, users=keys, each_once=True)
    run = Run("ours", "restore", where.server, orders.topic, "restore-counts", 2, "small", keys, 1.0)
    lines = [
        f"## Restore of {keys:,} keys",
        "",
        "The stores of the keyed count are removed; a worker starts, reads the changelog of both tasks and has caught "
        "up. Beside it, reading the same changelog and nothing else, through the same reader.",
        "",
    ]
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as folder:
        argv = contenders.command(run, Path(folder))
        for number in range(rounds + 1):
            # The first one makes the changelog.
            more = ["--restore"] if number else []
            process = await asyncio.create_subprocess_exec(
                *argv, *more, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            out, err = await process.communicate()
            if process.returncode:
                return [*lines, failed("restore", "ours", RuntimeError(err.decode()[-2000:])), ""]
            if number:
                figures.append(json.loads(out.splitlines()[-1]))
    await where.delete("restore")
    cpu, reading, wall, reading_wall = (
        statistics.median(each[field] / each["messages"] for each in figures)
        for field in ("cpu_ns", "reading_cpu_ns", "wall_ns", "reading_wall_ns")
    )
    times = cpu / reading
    return [
        *lines,
        "| | CPU µs a key | wall µs a key | keys per second | its cost against reading | bar |",
        "| --- | ---: | ---: | ---: | --- | --- |",
        f"| **streams, restore** | {cpu / 1000:.2f} | {wall / 1000:.2f} | {1e9 / wall:,.0f} | {times:.2f} × | "
        f"≤ 3 × {'✓' if times <= 3 else 'missed'} |",
        f"| reading the changelog | {reading / 1000:.2f} | {reading_wall / 1000:.2f} | {1e9 / reading_wall:,.0f} | | |",
        "",
    ]


# ── takeover ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def takeover(where: Ground, programs: Sequence[str], scale: float, rounds: int) -> list[str]:
    """kill -9 of one of two workers: how long no output comes from the partitions that it had."""
    keys = round(KEYS * scale)
    lines = [
        "## Takeover",
        "",
        f"Two workers share four partitions with {keys:,} keys in their stores, a commit each 0.1 s, while 1,000 "
        "orders a second arrive. One is killed (`kill -9`). Seconds until committed outputs of later orders come from "
        f"every partition again. Most of it is the session time-out, after which the group notices: "
        f"{contenders.SESSION_TIMEOUT_MS / 1000:g} s for both.",
        "",
        "| | without a standby | with one |",
        "| --- | ---: | ---: |",
    ]
    for program in _among(programs, "ours", "kstreams"):
        cells = []
        for standbys in (0, 1):
            took = []
            try:
                for number in range(rounds):
                    took.append(await _takeover(where, program, standbys, keys, number))
                cells.append(f"{statistics.median(took):.1f}")
            except FAILURES as error:
                cells.append(failed("takeover", program, error))
        lines.append(f"| {NAMES[program]} | {' | '.join(cells)} |")
    return [*lines, ""]


async def _takeover(where: Ground, program: str, standbys: int, keys: int, number: int) -> float:
    name = f"takeover-{program}-{standbys}-{number}"
    orders = Orders(f"{name}-orders", "small", keys, 4, {})
    run = Run(program, name, where.server, orders.topic, f"{name}-counts", 4, "small", 0, COMMIT_INTERVAL_S, standbys)
    killed_ms: int | None = None
    back: dict[int, int] = {}

    def seen(partition: int, records: Any, now_ms: int) -> None:
        if killed_ms is not None and partition not in back and records[-1].timestamp > killed_ms:
            back[partition] = now_ms

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-bench-")))
        # Both have their tasks before there is any state: neither waits for the other's.
        show = await stack.enter_async_context(where.held_back(orders, users=keys, each_once=True))
        await where.create(4, run.output)
        workers = [await stack.enter_async_context(at_work(run, folder / f"worker-{each}")) for each in range(2)]
        await joined(where, name, 2, 4)
        await show()
        await where.until_committed(name, orders)
        await asyncio.sleep(5)  # standbys follow
        await stack.enter_async_context(watching(where, run.output, 4, seen))
        feed = await stack.enter_async_context(feeding(Feed(where, orders.topic, 4, 1000, keys)))
        await asyncio.sleep(3)
        assert feed.sent
        killed_ms = int(time.time() * 1000)
        serving.kill(workers[0])
        await serving.until(lambda: len(back) == 4, 180, f"outputs of {4 - len(back)} partitions")
    await where.delete(name)
    took = (max(back.values()) - killed_ms) / 1000
    print(f"takeover     {program} with {standbys} standbys: {took:.1f} s", flush=True)
    return took


# ── latency ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def latency(where: Ground, programs: Sequence[str], scale: float, rounds: int) -> list[str]:
    """From the sending of an order to the arrival of its count at a committed reader."""
    seconds = max(5.0, 20 * scale)
    lines = [
        "## Latency, end to end",
        "",
        "From the sending of an order to the arrival of its count at a read_committed consumer, in milliseconds, with "
        f"a commit each 0.1 s: half of that is spent waiting for the commit on average. {seconds:g} s at each rate, "
        "after 5 s to warm up. Producer, broker, contender and consumer share the cores.",
        "",
        "| | " + " | ".join(f"{rate:,} a second: p50 | p99" for rate in RATES) + " |",
        "| --- |" + " ---: |" * (2 * len(RATES)),
    ]
    for program in _among(programs, "ours", "bare", "kstreams", "quixstreams"):
        cells = []
        for rate in RATES:
            try:
                found = [await _latency(where, program, rate, seconds, number) for number in range(rounds)]
                cells += [f"{statistics.median(each[place] for each in found):.0f}" for place in (0, 1)]
            except FAILURES as error:
                cells += [failed("latency", program, error), ""]
        lines.append(f"| {NAMES[program]} | {' | '.join(cells)} |")
    return [*lines, ""]


async def _latency(where: Ground, program: str, rate: int, seconds: float, number: int) -> tuple[float, float]:
    name = f"latency-{program}-{rate}-{number}"
    run = Run(program, name, where.server, f"{name}-orders", f"{name}-counts", 2, "small", 0, COMMIT_INTERVAL_S)
    from_ms: int | None = None
    arrived = 0
    took: list[int] = []

    def seen(partition: int, records: Any, now_ms: int) -> None:
        nonlocal arrived
        arrived += len(records)
        if from_ms is not None:
            took.extend(now_ms - record.timestamp for record in records if record.timestamp >= from_ms)

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-bench-")))
        await where.create(2, run.input, *contenders.topics(run))
        await stack.enter_async_context(watching(where, run.output, 2, seen))
        await stack.enter_async_context(at_work(run, folder / "worker"))
        feed = Feed(where, run.input, 2, rate)
        async with feeding(feed):
            await serving.until(lambda: arrived > 0, serving.START_TIMEOUT_S, "the first output")
            await asyncio.sleep(5)
            from_ms = int(time.time() * 1000)
            await asyncio.sleep(seconds)
        await serving.until(lambda: arrived >= feed.sent, 60, "all outputs")
        sent = feed.sent
    await where.delete(name)
    if arrived != sent:
        raise RuntimeError(f"{arrived:,} outputs for {sent:,} orders")
    cuts = statistics.quantiles(took, n=100)
    print(f"latency      {program} at {rate}: p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms", flush=True)
    return cuts[49], cuts[98]
