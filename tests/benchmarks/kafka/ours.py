"""Our side: a real worker on the Kafka log, exactly once, defaults but for the commit interval.

With messages it runs until it has caught up with its input and reports; without, it serves until SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
from pathlib import Path

import uvloop

from streams import App
from streams.connectors.registry import open_log
from streams.core.record import TopicPartition
from streams.dsl.blueprint import changelog_topic
from streams.runtime.clock import SystemClock
from streams.runtime.process import Settings, run_worker
from streams.runtime.stores import RocksStores
from streams.runtime.worker import Worker
from tests.benchmarks.common import work
from tests.benchmarks.common.worker import keyed, measure, read


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
    url = f"kafka://{options.bootstrap}"
    app = keyed(options, url)
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
