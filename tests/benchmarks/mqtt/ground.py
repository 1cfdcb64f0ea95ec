"""The ground that all contenders stand on: the broker, who feeds them, and the check of what came out.

What must live here: what is done beside the contenders.  What must not: anything that is measured, except the broker's
own CPU time.

What is published waits in a session for a subscriber that isn't ours (paho), which takes it when the contender has
ended.  What a journal holds is read from its log.  Who consumes counts by itself; here it is seen that nothing is left
in its session, so that all it took was acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from streams.connectors.mqtt.config import parse_url
from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.events import Pong
from streams.connectors.mqtt.packets import Publish
from streams.connectors.registry import open_log
from streams.core.record import TopicPartition
from tests.benchmarks.common.environments import ROOT
from tests.benchmarks.common.runs import Command, Orders, Run, cpu_s, report_of
from tests.benchmarks.common.serving import until
from tests.benchmarks.common.worker import read
from tests.benchmarks.mqtt import contenders
from tests.benchmarks.mqtt.contenders import JOURNALS, qos_of
from tests.benchmarks.mqtt.journal import app_of, journal_of
from tests.brokers.mqtt.server import Mosquitto

BROKER = ["persistence false", "max_queued_messages 0", "max_inflight_messages 1000", "queue_qos0_messages true"]
"""Lines of its configuration: nothing is dropped, and nothing is written while clients are measured."""
START_S = 60.0
FEEDER_END_S = 5.0


class Ground:
    """One broker; every method is called in the harness's process, between measurements.

    logs: URLs by kind; an embedded one is made anew for each run, in ``folder``.
    """

    def __init__(self, broker: Mosquitto, folder: Path, logs: dict[str, str]) -> None:
        self.server = broker.url
        self.command: Command = contenders.commands(self.log_of)
        self._broker = broker
        self._folder = folder
        self._logs = logs
        self._feeder: asyncio.subprocess.Process | None = None

    def broker_cpu_s(self) -> float:
        return cpu_s(self._broker.pid)

    def log_of(self, run: Run) -> str:
        kind = JOURNALS[run.program]
        return f"embedded:{self._folder / run.name}" if kind == "embedded" else self._logs[kind]

    async def fill(self, orders: Orders) -> None:
        """Nothing lies ready at a broker."""

    async def prepare(self, run: Run) -> None:
        """A subscriber's session for what will be published; else a feeder that waits for the contender."""
        if run.work.startswith("publish"):
            done = await asyncio.to_thread(report_of, self.command, replace(self._checker(run), messages=0))
            if done[0] is None:
                raise RuntimeError(f"no session to check with: {done[1]}")
            return
        words = ["--server", self.server, "--name", f"{run.name}-feeder", "--topic", run.output]
        words += ["--qos", str(qos_of(run)), "--messages", str(run.messages)]
        self._feeder = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "tests.benchmarks.mqtt.feed", "feed", *words],
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._feeder.stdout is not None
        async with asyncio.timeout(START_S):
            await self._feeder.stdout.readline()

    def _checker(self, run: Run) -> Run:
        """Subscribes to what a run publishes."""
        name = f"{run.name}-check"
        return replace(run, program="paho", work=f"consume-{qos_of(run)}", name=name)

    async def fault(self, run: Run, orders: Orders) -> str | None:
        """None if everything has come, once where that was promised, else what is wrong."""
        if run.work.startswith("publish"):
            report, why = await asyncio.to_thread(report_of, self.command, self._checker(run))
            return None if report is not None else why
        if run.program in JOURNALS:
            return await self._journaled(run)
        return await self._left(run)

    async def _journaled(self, run: Run) -> str | None:
        log = open_log(url := self.log_of(run))
        await log.open()
        values: list[bytes | None] = []
        topic = journal_of(app_of(self.server, run.name, run.output, qos_of(run), url))
        await read(log, [TopicPartition(topic, 0)], lambda records: values.extend(records.values))
        await log.close()
        distinct = len(set(values))
        if (distinct, len(values)) == (run.messages, run.messages):
            return None
        return f"the journal has {len(values):,} messages, {distinct:,} distinct ones, of {run.messages:,}"

    async def _left(self, run: Run) -> str | None:
        """What the broker would send again."""
        await until(lambda: f"Client {run.name} " in self._broker.log(), START_S, f"the end of {run.name}")
        connection = await self._session(run.name, clean=False)
        connection.ping()
        left = 0
        while True:
            events = await connection.events()
            left += sum(isinstance(event, Publish) for event in events)
            if any(isinstance(event, Pong) for event in events):
                break
        await connection.close()
        return f"{left:,} messages weren't acknowledged" if left else None

    async def _session(self, name: str, *, clean: bool) -> Connection:
        config = parse_url(self.server)
        return await Connection.open(config, config.session(name, clean_start=clean))

    async def delete(self, *prefixes: str) -> None:
        """End who feeds, and the sessions, so that the next contender finds the broker as this one did."""
        if self._feeder is not None:
            try:
                async with asyncio.timeout(FEEDER_END_S):
                    await self._feeder.wait()
            except TimeoutError:  # the contender has failed, and takes no more
                self._feeder.kill()
                await self._feeder.wait()
            self._feeder = None
        for prefix in prefixes:
            for name in (prefix, f"{prefix}-feeder", f"{prefix}-check", f"{prefix}-progress"):
                await (await self._session(name, clean=True)).close()
