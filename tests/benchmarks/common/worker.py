"""Our side: a real worker on a log, exactly once, defaults but for the commit interval.

What must live here: what is the same on every log.  What must not: the choice of a log.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streams import App
from streams.connectors.registry import open_log
from streams.core.log import Log
from streams.core.record import START, Position, Records, TopicPartition
from streams.runtime.clock import SystemClock
from streams.runtime.process import GC_THRESHOLDS
from streams.runtime.stores import RocksStores
from streams.runtime.worker import Worker
from tests.benchmarks.common import work


def keyed(options: argparse.Namespace, log_url: str) -> App:
    app = App(
        options.name,
        log=log_url,
        partitions=options.partitions,
        commit_interval=f"{round(options.commit_interval * 1000)}ms",
        state_dir=str(options.state),
        standbys=options.standbys,
    )
    orders = app.stream(app.topic(options.input, value=work.TYPES[options.size]))
    orders.count(name="orders-by-user").updates().to(app.topic(options.output, value=int))
    return app


def mark_first_fetch(log: Log, meter: work.Meter) -> None:
    """Begin the measurement when the first records arrive, as with every contender: claims and restores come before."""
    make: Any = log.reader

    def reader(*arguments: Any, **settings: Any) -> Any:
        made = make(*arguments, **settings)
        fetch = made.fetch

        async def first(places: Any, *more: Any, **limits: Any) -> Any:
            fetched = await fetch(places, *more, **limits)
            if any(len(each) for each in fetched):
                meter.begin()
                made.fetch = fetch
            return fetched

        made.fetch = first
        return made

    log.reader = reader  # type: ignore[method-assign]


async def measure(app: App, log_url: str, state: Path, meter: work.Meter) -> None:
    log = open_log(log_url)
    await log.open()
    mark_first_fetch(log, meter)
    worker = Worker(app, log, RocksStores(state), SystemClock())
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)  # as a worker process does
    async with worker.working():
        while not consumed(worker):
            worker.check()
            await asyncio.sleep(0.02)
    meter.end()  # on leaving, its tasks have committed: nobody waits for the interval
    await log.close()


def consumed(worker: Worker) -> bool:
    """All that is on the log is processed, if not committed."""
    if not worker.drivers:
        return False
    for driver in worker.drivers.values():
        if (task := driver.task) is None:
            return False
        for each in task.inputs:
            end = task.ends.get(each.partition)
            if end is None or each.waiting or not each.buffered.reached(end):
                return False
    return True


async def read(log: Log, places: list[TopicPartition], take: Callable[[Records], None] = lambda records: None) -> int:
    """Read the partitions to their ends and return how many records there are; ``take`` gets them."""
    ends = {place: bounds.end for place, bounds in (await log.bounds(places)).items()}
    positions: dict[TopicPartition, Position] = dict.fromkeys(places, START)
    reader, count = log.reader(positions), 0
    while left := [place for place in places if not positions[place].reached(ends[place])]:
        for fetched in await reader.fetch(left, max_records=10_000, wait_s=1.0):
            positions[fetched.partition] = positions[fetched.partition].advanced(fetched.lane, fetched.next_offset)
            count += len(fetched)
            take(fetched.records)
    await reader.close()
    return count
