"""Measures on one real broker, ours and the peers in turn, and writes docs/benchmarks-kafka.md:

    .venv/bin/python -m tests.benchmarks.kafka.run                                   everything; about an hour
    .venv/bin/python -m tests.benchmarks.kafka.run --rounds 1 --scale 0.1 --only keyed --program bare

from the top of the tree.  Each contender is a process of its own that reports the CPU time, threads included, from its
first record to after its last commit; the contenders of a row run one after the other, round by round (A B C A B C …),
so that a machine that gets slower or faster in between does so for all; what is shown are medians.  After each run the
outputs are read as a committed reader would: a contender with a wrong count has no figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.kafka import contenders, ground, scenarios
from tests.benchmarks.kafka.contenders import Run
from tests.benchmarks.kafka.ground import Ground, Orders
from tests.benchmarks.kafka.rows import MESSAGES, ROWS, Contender, Figures, Results, Row, table
from tests.brokers.kafka.broker import KafkaBroker

ROOT = contenders.ROOT
SCENARIOS: dict[str, Callable[[Ground, Sequence[str], float, int], Coroutine[Any, Any, list[str]]]] = {
    "workers": scenarios.two_workers,
    "restore": scenarios.restore,
    "takeover": scenarios.takeover,
    "latency": scenarios.latency,
}


@contextmanager
def a_broker(bootstrap: str | None) -> Iterator[Ground]:
    if bootstrap is not None:
        yield Ground(bootstrap, None)
        return
    with KafkaBroker(ground.BROKER) as broker:
        yield Ground(broker.bootstrap, broker.pid)


class Bench:
    """The rounds of the rows, and the topics that they read."""

    def __init__(self, where: Ground, scale: float, missing: dict[str, str]) -> None:
        self.ground = where
        self.scale = scale
        self.missing = missing
        self.results: Results = {}
        self._topics: dict[tuple[str, int, int], Orders] = {}
        self._number = 0

    async def orders(self, row: Row, contender: Contender) -> Orders:
        messages = max(1000, round(MESSAGES[row.size] * contender.share * self.scale))
        key = row.size, messages, row.partitions
        if key not in self._topics:
            made = ground.make_orders(
                f"orders-{row.size}-{messages}-{row.partitions}", row.size, messages, row.partitions
            )
            await self.ground.fill(made)
            self._topics[key] = made
        return self._topics[key]

    async def run(self, row: Row, contender: Contender) -> None:
        """One contender, once; a fault stays with its figures and ends its part in the row."""
        figures = self.results.setdefault(row.key, {}).setdefault(contender.name, Figures())
        if figures.fault:
            return
        if contender.program in self.missing:
            figures.fault = self.missing[contender.program]
            return
        orders = await self.orders(row, contender)
        self._number += 1
        name = f"run-{contender.program}-{self._number}"
        run = Run(
            contender.program,
            name,
            self.ground.bootstrap,
            orders.topic,
            f"{name}-counts",
            row.partitions,
            row.size,
            orders.messages,
            row.commit_interval_s,
        )
        await self.ground.create(row.partitions, *contenders.topics(run))
        broker = self.ground.broker_cpu_s()
        report, why = await asyncio.to_thread(report_of, run)
        broker_ns = (self.ground.broker_cpu_s() - broker) * 1e9
        fault = why if report is None else await self.ground.fault(run.output, orders)
        await self.ground.delete(name)
        if report is None or fault:
            figures.fault = fault or why
            print(f"{row.key:12} {contender.name:24} {figures.fault}", flush=True)
            return
        figures.messages = orders.messages
        figures.cpu.append(report["cpu_ns"] / report["messages"])
        figures.wall.append(report["wall_ns"] / report["messages"])
        figures.broker.append(broker_ns / report["messages"])
        if "warm_cpu_ns" in report:
            figures.warm.append(report["warm_cpu_ns"] / report["warm_messages"])
        print(
            f"{row.key:12} {contender.name:24} {figures.cpu[-1]:9.0f} ns CPU  {figures.wall[-1]:9.0f} ns wall  "
            f"{figures.broker[-1]:9.0f} ns broker",
            flush=True,
        )


def report_of(run: Run, timeout_s: float = 900) -> tuple[dict[str, Any] | None, str]:
    """Run a contender to its end: what it measured, or why it failed in a line."""
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as folder:
        try:
            done = subprocess.run(
                contenders.command(run, Path(folder)),
                capture_output=True,
                text=True,
                cwd=ROOT,
                timeout=timeout_s,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return None, f"didn't end within {timeout_s:g} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(done.stderr[-4000:], file=sys.stderr)
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
        return None, f"ended with status {done.returncode}: {said[-1][:200]}"
    report: dict[str, Any] = json.loads(lines[-1])
    return report, ""


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("aiokafka", "msgspec", "orjson", "rocksdict", "uvloop"))
    return (
        f"{os.cpu_count()} cores, {platform.system()} on {platform.machine()}, Python {platform.python_version()}, "
        f"{packages}; peers: {', '.join(contenders.PACKAGES.values())}, {contenders.KAFKA_STREAMS} on Java"
    )


def page(rows: Sequence[Row], results: Results, rounds: int, more: Sequence[str], argv: Sequence[str]) -> str:
    lines = [
        "# Benchmarks on Kafka",
        "",
        "Written by this run:",
        "",
        "```console",
        f"$ .venv/bin/python -m tests.benchmarks.kafka.run {' '.join(argv)}".rstrip(),
        "```",
        "",
        f"Machine: {machine()}. One broker (Apache Kafka in KRaft mode, one node) runs on the same cores.",
        "",
        "What carries over from machine to machine is the ratios of one run.",
        "",
    ]
    if rows:
        lines += [
            "## Keyed count, Kafka to Kafka, exactly once",
            "",
            "Orders in JSON are read from two partitions, counted under their user (10,000 of them), and each new "
            "count is written with the changelog and the group's offsets in one transaction an interval. The CPU time "
            "of the contender's own process counts, all threads included, from its first record to after its last "
            f"commit; medians of {rounds} round{'s' if rounds > 1 else ''}, the contenders in turn in each. After "
            "each run the outputs are read with read_committed and compared with what they must be; a contender whose "
            "outputs are wrong has no figure. All settings are the contender's defaults but for the commit interval.",
            "",
            "The bare loop is `getmany(1000)`, typed decode, a dict, encode and `send_batch`: no store, no fencing, no "
            "restore. Kafka Streams runs a processor with one thread on a RocksDB store with its cache on "
            "(`exactly_once_v2`); its just-in-time compiler and garbage collector count, and a second line leaves out "
            "the first third of the messages. Bytewax can't write to Kafka exactly once: it runs at least once, with "
            "recovery data on disk. What takes long gets fewer messages. The broker's CPU time is that of the whole "
            "run, the contender's start included, which weighs where messages are few.",
            "",
        ]
    for row in rows:
        lines += [f"### {row.title[0].upper()}{row.title[1:]}", "", *table(row, results.get(row.key, {})), ""]
    return "\n".join([*lines, *more]).rstrip() + "\n"


async def measure(options: argparse.Namespace, where: Ground, missing: dict[str, str]) -> str:
    rows = [row for row in ROWS if not options.only or row.key in options.only]
    if options.no_rows:
        rows = []
    bench = Bench(where, options.scale, missing)
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        for row in rows:
            for contender in row.contenders:
                if not options.program or contender.program in options.program:
                    await bench.run(row, contender)
    more: list[str] = []
    present = [each for each in options.program or contenders.PROGRAMS if each not in missing]
    for name in options.scenario or []:
        print(f"scenario {name}", flush=True)
        more += await SCENARIOS[name](where, present, options.scale, options.scenario_rounds or options.rounds)
    return page(rows, bench.results, options.rounds, more, sys.argv[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure on a real broker, and write docs/benchmarks-kafka.md.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenario-rounds", type=int, help="as --rounds unless given")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of messages")
    parser.add_argument("--only", action="append", choices=[row.key for row in ROWS], help="this row; may be repeated")
    parser.add_argument("--no-rows", action="store_true", help="scenarios only")
    parser.add_argument("--program", action="append", choices=contenders.PROGRAMS, help="these contenders only")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="these scenarios; all by default")
    parser.add_argument("--no-scenarios", action="store_true")
    parser.add_argument("--bootstrap", help="a broker that runs already, whose CPU time isn't taken")
    parser.add_argument("--out", type=Path, help="where the page goes; docs/benchmarks-kafka.md for a complete run")
    options = parser.parse_args()
    complete = not (options.only or options.no_rows or options.program or options.scenario or options.no_scenarios)
    if complete or (options.scenario is None and not options.no_scenarios and not options.only):
        options.scenario = list(SCENARIOS)
    if options.no_scenarios:
        options.scenario = []
    began = time.monotonic()
    missing = contenders.install(set(options.program or contenders.PROGRAMS))
    with a_broker(options.bootstrap) as where:
        text = asyncio.run(measure(options, where, missing))
    out = options.out or (ROOT / "docs" / "benchmarks-kafka.md" if complete else None)
    if out is None:
        print(text)
    else:
        out.write_text(text)
        print(f"wrote {out} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
