"""The rounds of the rows: each contender in turn, as a process of its own, and the check of what it wrote.

What must live here: what is the same on every broker.  What must not: brokers, or who takes part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from tests.benchmarks.common.rows import Contender, Figures, Results, Row
from tests.benchmarks.common.runs import Command, Orders, Run, make_orders, report_of


class Ground(Protocol):
    """A broker between measurements."""

    server: str

    def broker_cpu_s(self) -> float:
        """CPU time of the broker so far; 0.0 where it isn't ours."""

    async def fill(self, orders: Orders) -> None:
        """Make the topic and append the orders."""

    async def prepare(self, run: Run) -> None:
        """Make what has to be there before a contender starts."""

    async def fault(self, run: Run, orders: Orders) -> str | None:
        """None if what a run wrote is right, else what is wrong with it."""

    async def delete(self, *prefixes: str) -> None:
        """Remove every topic whose name begins so, so that the next contender finds the broker as this one did."""


class Bench:
    """The rounds of the rows, and the topics that they read.

    command: how a contender is started.  missing: contenders that can't be had, and why.
    """

    def __init__(self, where: Ground, command: Command, scale: float, missing: dict[str, str]) -> None:
        self.ground = where
        self.command = command
        self.scale = scale
        self.missing = missing
        self.results: Results = {}
        self._topics: dict[tuple[str, int, int], Orders] = {}
        self._number = 0

    async def orders(self, row: Row, contender: Contender) -> Orders:
        messages = max(1000, round(row.messages * contender.share * self.scale))
        key = row.size, messages, row.partitions
        if key not in self._topics:
            made = make_orders(f"orders-{row.size}-{messages}-{row.partitions}", row.size, messages, row.partitions)
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
            self.ground.server,
            orders.topic,
            f"{name}-counts",
            row.partitions,
            row.size,
            orders.messages,
            row.commit_interval_s,
            work=row.work,
        )
        await self.ground.prepare(run)
        broker = self.ground.broker_cpu_s()
        report, why = await asyncio.to_thread(report_of, self.command, run)
        broker_ns = (self.ground.broker_cpu_s() - broker) * 1e9
        fault = why if report is None else await self.ground.fault(run, orders)
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


async def take_rounds(bench: Bench, rows: Sequence[Row], programs: Sequence[str] | None, rounds: int) -> None:
    """All rows, round by round; ``programs``: these contenders only."""
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for row in rows:
            for contender in row.contenders:
                if not programs or contender.program in programs:
                    await bench.run(row, contender)
