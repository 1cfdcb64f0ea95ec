"""Our side: a real worker on a durable embedded log, over a topic that is there already, until it has caught up.

All settings are the defaults: exactly once, a commit each 0.1 s, each commit synced, uvloop.  The log and the stores
lie in a folder that is removed afterwards.  What is measured begins with the start of the worker on the opened log and
ends when its tasks have committed and are released.

``fill`` makes the topic in a folder; every other work takes a copy of such a folder, so that a round costs only itself.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from streams import App, agg, tumbling
from streams.connectors.embedded import EmbeddedLog
from streams.core.log import Append, TopicSpec
from streams.core.record import START, Records, TopicPartition
from streams.runtime.clock import SystemClock
from streams.runtime.stores import RocksStores
from streams.runtime.worker import Worker

if TYPE_CHECKING:
    from tests.benchmarks import workload
else:
    import workload

ORDERS = TopicPartition("orders", 0)
CHANGELOG = TopicPartition("keyed.orders-by-user.changelog", 0)

WINDOW_MS = 16_000
"""With an order a millisecond of 10,000 users, two million orders make a million pairs of user and window."""


def stateless_typed() -> App:
    app = App("stateless")
    orders = app.stream(app.topic("orders", value=workload.Order))
    orders.filter(workload.is_large).map(workload.priced).to("priced")
    return app


def stateless_dicts() -> App:
    app = App("stateless")
    app.stream("orders").filter(workload.is_large_dict).map(workload.priced_dict).to("priced")
    return app


def keyed() -> App:
    app = App("keyed")
    app.stream("orders", value=workload.Order).count(name="orders-by-user").updates().to("counts")
    return app


def agent() -> App:
    app = App("agent")
    counts = app.table("counts-by-user", key=str, value=int, default=int)

    @app.agent(app.stream("orders", value=workload.Order), sinks=["counts"])
    async def count(orders: Any) -> Any:
        async for order in orders:
            counts[order.user] = seen = counts[order.user] + 1
            yield seen

    return app


def windowed() -> App:
    app = App("windowed")
    orders = app.stream("orders", value=workload.Order)
    orders.window(tumbling(f"{WINDOW_MS}ms")).aggregate(n=agg.count()).final().to("windows")
    return app


WORKS: dict[str, Callable[[], App]] = {
    "stateless-typed": stateless_typed,
    "stateless-dicts": stateless_dicts,
    "keyed": keyed,
    "agent": agent,
    "windowed": windowed,
}


async def fill(log: EmbeddedLog, orders: Iterable[tuple[bytes, bytes]]) -> None:
    """Append the orders in blocks of a thousand, a hundred blocks a write."""
    await log.create_topics([TopicSpec("orders")])
    rows = iter(orders)
    total = 0
    while some := list(islice(rows, 100 * workload.BLOCK_RECORDS)):
        times = [workload.START_MS + total + index for index in range(len(some))]
        await log.append([Append(ORDERS, Records([key for key, _ in some], [value for _, value in some], times))])
        total += len(some)


async def work(app: App, log: EmbeddedLog, stores: RocksStores) -> None:
    """Run the app on what is there; returns when all of it is committed and the tasks are released."""
    worker = Worker(app, log, stores, SystemClock())
    async with worker.working():
        while not worker.caught_up:
            worker.check()
            await asyncio.sleep(0.02)


async def read(log: EmbeddedLog, partition: TopicPartition) -> int:
    """Read a partition to its end and return how many records there are."""
    end = (await log.bounds([partition]))[partition].end
    reader, position, count = log.reader({partition: START}), START, 0
    while not position.reached(end):
        for fetched in await reader.fetch([partition], max_records=10_000, wait_s=1.0):
            position = position.advanced(fetched.lane, fetched.next_offset)
            count += len(fetched)
    await reader.close()
    return count


async def opened(folder: Path) -> EmbeddedLog:
    log = EmbeddedLog(f"embedded:{folder / 'log'}")
    await log.open()
    return log


async def measure(name: str, folder: Path, messages: int) -> workload.Spent:
    log = await opened(folder)
    with workload.measured(messages) as spent:
        await work(WORKS[name](), log, RocksStores(folder / "state"))
    await log.close()
    return spent


async def measure_restore(folder: Path, messages: int) -> workload.Spent:
    """A keyed count whose store is gone: what it costs to read its changelog, and to have it back from there."""
    log = await opened(folder)
    await work(keyed(), log, RocksStores(folder / "state"))
    await log.close()
    shutil.rmtree(folder / "state")
    log = await opened(folder)
    with workload.measured(messages) as reading:
        count = await read(log, CHANGELOG)
    with workload.measured(messages) as spent:
        await work(keyed(), log, RocksStores(folder / "state"))
    await log.close()
    reading.messages = spent.messages = count
    spent.others["reading the changelog"] = reading.cpu_ns / count
    return spent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["fill", "restore", *WORKS])
    parser.add_argument("folder", type=Path, help="where fill leaves the log, and where the others copy it from")
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--users", type=int, required=True)
    options = parser.parse_args()
    messages, users = options.messages, options.users
    if options.work == "fill":
        orders = workload.orders(messages, users, each_once=users >= workload.MANY)

        async def make() -> None:
            log = await opened(options.folder)
            await fill(log, orders)
            await log.close()

        uvloop.run(make())
        return
    with tempfile.TemporaryDirectory(prefix="streams-bench-", dir=options.folder.parent) as temporary:
        folder = Path(temporary)
        shutil.copytree(options.folder / "log", folder / "log")
        restore = options.work == "restore"
        spent = uvloop.run(measure_restore(folder, messages) if restore else measure(options.work, folder, messages))
    unit = 2**20 if sys.platform == "darwin" else 2**10
    spent.report(rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit)


if __name__ == "__main__":
    main()
