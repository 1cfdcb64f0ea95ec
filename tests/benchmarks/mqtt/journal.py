"""Our worker with a source at the broker: what comes is on its log, synced, before it is acknowledged; exactly once.

journal            the task that fills the journal alone, as in a worker whose other tasks run elsewhere
journal-pipeline   all tasks of the app: the journal is read and filtered meanwhile

From when it hears the first message until the log has all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
from pathlib import Path

import uvloop

from streams import App
from streams.connectors.alone import Alone
from streams.connectors.mqtt.packets import Publish
from streams.connectors.registry import open_log
from streams.core.membership import TaskRef, Wanted
from streams.runtime.clock import SystemClock
from streams.runtime.process import GC_THRESHOLDS
from streams.runtime.stores import RocksStores
from streams.runtime.worker import Worker
from tests.benchmarks.common import work
from tests.benchmarks.mqtt import load
from tests.benchmarks.mqtt.ours import opened

LOOK_S = 0.005


def app_of(server: str, name: str, topic: str, qos: int, log_url: str) -> App:
    app = App(name, log=log_url)
    source = app.topic(f"{server}/{topic}?qos={qos}", value=bytes)
    app.stream(source).filter(lambda value: len(value) < load.PAYLOAD_BYTES).to(f"{name}-short")
    return app


def journal_of(app: App) -> str:
    """The topic that what comes is stored in."""
    (journal,) = app.build().journals
    return journal.topic.name


async def run(options: argparse.Namespace, state: Path, meter: work.Meter) -> None:
    app = app_of(options.server, options.name, options.topic, options.qos, options.log)
    log = open_log(options.log)
    await log.open()
    (journal,) = app.build().journals
    (task,) = journal.task_ids
    alone = None if options.work.endswith("-pipeline") else Alone(Wanted([TaskRef(app.name, 0, task)]))
    worker = Worker(app, log, RocksStores(state), SystemClock(), membership=alone)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)  # as a worker process does
    load.give_up_after(load.PATIENCE_S, "it doesn't come to receiving")
    async with worker.working():
        while not worker.caught_up:
            worker.check()
            await asyncio.sleep(LOOK_S)
        options.name += "-progress"
        teller = await opened(options)
        meter.begin()
        told = -1
        while (received := worker.ingresses[task].received) < options.messages:
            worker.check()
            if received >= told + load.STEP or told < 0:
                told = received
                load.give_up_after(load.PATIENCE_S, f"{told:,} of {options.messages:,} messages are stored")
                teller.publish(Publish(load.progress_topic(options.topic), b"%d" % told))
            await asyncio.sleep(LOOK_S)
        meter.end()
        await teller.close()
    await log.close()


def main() -> None:
    options = load.options("journal", "journal-pipeline")
    meter = work.Meter()
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as state:
        uvloop.run(run(options, Path(state), meter))
    meter.report(options.messages)


if __name__ == "__main__":
    main()
