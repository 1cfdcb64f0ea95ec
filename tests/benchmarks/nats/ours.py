"""Our side: the JetStream log and a real worker on it, exactly once, defaults but for the commit interval.

keyed     with messages, a worker that runs until it has caught up with its input and reports; without, one that
          serves until SIGTERM, and reads nothing before SIGUSR1
consume   a reader of all partitions, to their ends
publish   orders appended to the log, a thousand at a time, each thousand waited for
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path
from typing import Any

import uvloop

from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.reader import JetStreamReader
from streams.connectors.registry import open_log
from streams.core.log import Append
from streams.core.record import Records, TopicPartition
from streams.runtime.process import Settings, run_worker
from tests.benchmarks.common import work
from tests.benchmarks.common.worker import keyed, mark_first_fetch, measure, read
from tests.benchmarks.workload import START_MS


async def consume(options: argparse.Namespace, meter: work.Meter) -> None:
    log = open_log(options.server)
    await log.open()
    mark_first_fetch(log, meter)
    count = await read(log, [TopicPartition(options.input, number) for number in range(options.partitions)])
    meter.end()
    await log.close()
    if count != options.messages:
        raise SystemExit(f"{count} records were read, {options.messages} are there")


async def publish(options: argparse.Namespace, meter: work.Meter) -> None:
    log = open_log(options.server)
    await log.open()
    rows = list(work.orders(options.size, options.messages))
    at = TopicPartition(options.output, 0)
    await log.topics([options.output])
    meter.begin()
    for start in range(0, len(rows), work.BATCH_RECORDS):
        part = rows[start : start + work.BATCH_RECORDS]
        times = [START_MS + start + number for number in range(len(part))]
        records = Records([key for key, _ in part], [value for _, value in part], times)
        await log.append([Append(at, records)])
    meter.end()
    await log.close()


def serve(options: argparse.Namespace) -> None:
    """A worker process that gets no records before SIGUSR1 says so: by then all workers have their tasks."""
    told = asyncio.Event()
    fetch, opened = JetStreamReader.fetch, JetStreamLog.open

    async def open_and_listen(log: JetStreamLog) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told.set)
        await opened(log)

    async def when_told(reader: JetStreamReader, *places: Any, **limits: Any) -> Any:
        if not told.is_set():
            try:
                async with asyncio.timeout(limits["wait_s"]):
                    await told.wait()
            except TimeoutError:
                return []
        return await fetch(reader, *places, **limits)

    JetStreamReader.fetch = when_told  # type: ignore[assignment, method-assign]
    JetStreamLog.open = open_and_listen  # type: ignore[assignment, method-assign]
    run_worker(keyed(options, options.server), Settings(options.server), lambda task, done, total: None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["keyed", "consume", "publish"])
    parser.add_argument("--server", required=True)
    parser.add_argument("--name", required=True, help="of the app")
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--size", choices=list(work.TYPES), default="small")
    parser.add_argument("--messages", type=int, required=True, help="0: until SIGTERM")
    parser.add_argument("--commit-interval", type=float, required=True, help="in seconds")
    parser.add_argument("--state", type=Path, required=True, help="a folder for its stores")
    parser.set_defaults(standbys=0)
    options = parser.parse_args()
    if not options.messages:
        serve(options)
        return
    meter = work.Meter()
    if options.work == "keyed":
        uvloop.run(measure(keyed(options, options.server), options.server, options.state, meter))
    else:
        uvloop.run({"consume": consume, "publish": publish}[options.work](options, meter))
    meter.report(options.messages)


if __name__ == "__main__":
    main()
