"""Rows of a page that compare contenders: who does what, what ours is held to, and the figures as a table.

What must live here: data, and medians over it.  What must not: running anything, or who takes part (the ``rows.py``
of each broker).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contender:
    """Someone who takes part.  share: of the row's messages."""

    name: str
    program: str
    share: float = 1.0
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """Ours is to be at least ``times`` as fast as the other, per CPU second."""

    other: str
    times: float
    goal: float | None = None

    def judge(self, times: float) -> str:
        text = f"≥ {self.times:g} × {'✓' if times >= self.times else 'missed'}"
        if self.goal is not None:
            text += f", goal {self.goal:g} × {'✓' if times >= self.goal else 'missed'}"
        return text


@dataclass(frozen=True)
class Row:
    """Some work on orders of a size, with a commit each so many seconds.  The first contender is ours.

    messages: of the row; a contender that takes longer gets a share of them, in a topic of its own.
    """

    key: str
    title: str
    size: str
    commit_interval_s: float
    contenders: Sequence[Contender]
    bars: Sequence[Bar]
    messages: int
    partitions: int = 2
    work: str = "keyed"


@dataclass
class Figures:
    """What the rounds gave for one contender of one row; nanoseconds a message.

    warm: without the first third, where that was measured.  fault: why nothing is shown.
    """

    messages: int = 0
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    broker: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    fault: str = ""

    @property
    def shown(self) -> bool:
        return bool(self.cpu) and not self.fault


Results = dict[str, dict[str, Figures]]
"""By row and contender's name."""


def per_second(ns: Sequence[float]) -> str:
    return f"{1e9 / statistics.median(ns):,.0f}"


def micros(ns: Sequence[float]) -> str:
    return f"{statistics.median(ns) / 1000:.2f}"


def table(row: Row, figures: dict[str, Figures]) -> list[str]:
    """The row as Markdown."""
    ours = figures.get(row.contenders[0].name, Figures())
    bars = {bar.other: bar for bar in row.bars}
    lines = [
        "| | messages | per CPU second | CPU µs a message | per wall second | broker, CPU µs | ours against it | bar |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for contender in row.contenders:
        got = figures.get(contender.name, Figures())
        name = f"**{contender.name}**" if contender is row.contenders[0] else contender.name
        if not got.shown:
            lines.append(f"| {name} | | not shown: {got.fault or 'not measured'} | | | | | |")
            continue
        cells = [
            name,
            f"{got.messages:,}",
            per_second(got.cpu),
            micros(got.cpu),
            per_second(got.wall),
            micros(got.broker),
        ]
        lines.append(f"| {' | '.join(cells)} | {against(ours, got.cpu, bars.get(contender.name), contender)} |")
        if got.warm:
            cells = [f"{name}, first third left out", "", per_second(got.warm), micros(got.warm), "", ""]
            lines.append(f"| {' | '.join(cells)} | {against(ours, got.warm, None, contender)} |")
    return lines


def against(ours: Figures, other: Sequence[float], bar: Bar | None, contender: Contender) -> str:
    """The ratio to ours and the bar, as two cells."""
    if not ours.shown or contender.program == "ours" or other is ours.cpu:
        return " | "
    times = statistics.median(other) / statistics.median(ours.cpu)
    return f"{times:.2f} × as fast | {bar.judge(times) if bar is not None else ''}"
