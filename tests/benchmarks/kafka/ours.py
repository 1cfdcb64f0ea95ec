"""Our side: a real worker on the Kafka log, exactly once, defaults but for the commit interval.

With messages it runs until it has caught up with its input and reports; without, it serves until SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import shutil
from pathlib import Path
from typing import Any

import uvloop

from streams import App
from streams.connectors.registry import open_log
from streams.core.log import Log
from streams.core.record import START, Position, TopicPartition
from streams.dsl.blueprint import changelog_topic
from streams.runtime.clock import SystemClock
from streams.runtime.process import GC_THRESHOLDS, Settings, run_worker
from streams.runtime.stores import RocksStores
from streams.runtime.worker import Worker
from tests.benchmarks.kafka import work


def keyed(options: argparse.Namespace) -> App:
    app = App(
        options.name,
        log=f"kafka://{options.bootstrap}",
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


async def measure_restore(app: App, log_url: str, state: Path, meter: work.Meter) -> dict[str, int]:
    """The stores are gone: what it costs to read the changelog, and to have them back from there."""
    shutil.rmtree(state, ignore_errors=True)
    log = open_log(log_url)
    await log.open()
    reading = work.Meter()
    reading.begin()
    topic = changelog_topic(app.name, "orders-by-user")
    count = await read(log, [TopicPartition(topic, number) for number in range(app.partitions)])
    reading.end()
    meter.begin()
    worker = Worker(app, log, RocksStores(state), SystemClock())
    async with worker.working():
        while not worker.caught_up:
            worker.check()
            await asyncio.sleep(0.02)
    meter.end()
    await log.close()
    cpu, wall = reading.spent
    return {"messages": count, "reading_cpu_ns": cpu, "reading_wall_ns": wall}


async def read(log: Log, places: list[TopicPartition]) -> int:
    """Read the partitions to their ends and return how many records there are."""
    ends = {place: bounds.end for place, bounds in (await log.bounds(places)).items()}
    positions: dict[TopicPartition, Position] = dict.fromkeys(places, START)
    reader, count = log.reader(positions), 0
    while left := [place for place in places if not positions[place].reached(ends[place])]:
        for fetched in await reader.fetch(left, max_records=10_000, wait_s=1.0):
            positions[fetched.partition] = positions[fetched.partition].advanced(fetched.lane, fetched.next_offset)
            count += len(fetched)
    await reader.close()
    return count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--size", choices=list(work.TYPES), default="small")
    parser.add_argument("--messages", type=int, required=True, help="0: until SIGTERM")
    parser.add_argument("--commit-interval", type=float, required=True, help="in seconds")
    parser.add_argument("--standbys", type=int, default=0)
    parser.add_argument("--state", type=Path, required=True, help="a folder for its stores")
    parser.add_argument("--restore", action="store_true", help="the changelog is there; measure the restore of stores")
    options = parser.parse_args()
    app = keyed(options)
    url = f"kafka://{options.bootstrap}"
    if not options.messages:
        run_worker(app, Settings(url), lambda task, done, total: None)
        return
    meter = work.Meter()
    if options.restore:
        meter.report(**uvloop.run(measure_restore(app, url, options.state, meter)))
        return
    uvloop.run(measure(app, url, options.state, meter))
    meter.report(options.messages)


if __name__ == "__main__":
    main()
