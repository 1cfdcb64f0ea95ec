"""Two worker processes against one, as a table.

What must live here: the arithmetic and the table.  What must not: how the workers are started and watched.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

SHARED_CORES = (
    "Broker and workers share two cores, so the broker's CPU time is taken off what the machine had to give: the wall "
    "time of two is less half of it, that of one (which leaves it a core) is as it is. Nothing else may run on the "
    "machine meanwhile: the last column, the CPU time of both workers against that of one, tells what sharing costs, "
    "whatever runs beside them."
)
BAR = 1.6


class Measured(NamedTuple):
    """Wall seconds for all orders, and the CPU seconds of the broker and of the workers in them."""

    wall_s: float
    broker_s: float
    workers_s: float


def failed(what: str, program: str, error: Exception) -> str:
    """The cell of a scenario that has no figure."""
    print(f"{what}: {program}: {error}", file=sys.stderr, flush=True)
    said = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    return f"not shown: {said.strip()[:160]}"


async def two_workers_table(
    programs: Sequence[str],
    names: Mapping[str, str],
    messages: int,
    rounds: int,
    measured: Callable[[str, int, int], Awaitable[Measured]],
    failures: tuple[type[Exception], ...],
) -> list[str]:
    """``measured(program, workers, round)`` for one worker and for two, as Markdown."""
    lines = [
        "| | one: messages per second | two | two without the broker | times one | bar | CPU of two against one |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for program in programs:
        ratios, ones, twos, nets, spent = [], [], [], [], []
        try:
            for number in range(rounds):
                one, two = await measured(program, 1, number), await measured(program, 2, number)
                net_s = two.wall_s - two.broker_s / 2
                ones.append(messages / one.wall_s)
                twos.append(messages / two.wall_s)
                nets.append(messages / net_s)
                ratios.append(one.wall_s / net_s)
                spent.append(two.workers_s / one.workers_s)
        except failures as error:
            lines.append(f"| {names[program]} | {failed('workers', program, error)} | | | | | |")
            continue
        times = statistics.median(ratios)
        bar = f"≥ {BAR:g} × {'✓' if times >= BAR else 'missed'}" if program == "ours" else ""
        cells = [f"{statistics.median(each):,.0f}" for each in (ones, twos, nets)]
        lines.append(
            f"| {names[program]} | {' | '.join(cells)} | {times:.2f} | {bar} | {statistics.median(spent):.2f} |"
        )
    return [*lines, ""]
