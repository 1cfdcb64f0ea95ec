"""A page of benchmarks on a broker, and the command line that makes it.

What must live here: what is the same on every broker.  What must not: what is measured there, and what is said of it.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.common.environments import ROOT
from tests.benchmarks.common.rows import Results, Row, table


@dataclass(frozen=True)
class Page:
    """key: of the package below ``tests.benchmarks`` and of the page.  on: what is measured on.  packages: ours, whose
    versions are told.  peers: with theirs."""

    key: str
    on: str
    packages: Sequence[str]
    peers: str
    began: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> Path:
        return ROOT / "docs" / f"benchmarks-{self.key}.md"

    def head(self, beside: str) -> list[str]:
        """Title, command and machine.  beside: what runs on the same cores, as a sentence."""
        packages = ", ".join(f"{name} {version(name)}" for name in self.packages)
        return [
            f"# Benchmarks on {self.on}",
            "",
            "Written by this run:",
            "",
            "```console",
            f"$ .venv/bin/python -m tests.benchmarks.{self.key}.run {' '.join(sys.argv[1:])}".rstrip(),
            "```",
            "",
            f"Machine: {os.cpu_count()} cores, {platform.system()} on {platform.machine()}, Python "
            f"{platform.python_version()}, {packages}; peers: {self.peers}. {beside}",
            "",
            "What carries over from machine to machine is the ratios of one run.",
            "",
        ]

    def parser(
        self, rows: Sequence[Row], programs: Collection[str], scenarios: Collection[str] = ()
    ) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(description=f"Measure on {self.on}, and write docs/{self.path.name}.")
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of messages")
        keys = [row.key for row in rows]
        parser.add_argument("--only", action="append", choices=keys, help="this row; may be repeated")
        parser.add_argument("--program", action="append", choices=programs, help="these contenders only")
        parser.add_argument("--out", type=Path, help=f"where the page goes; docs/{self.path.name} for a complete run")
        parser.set_defaults(no_rows=False, scenario=None, no_scenarios=False)
        if scenarios:
            parser.add_argument("--no-rows", action="store_true", help="scenarios only")
            parser.add_argument("--scenario", action="append", choices=scenarios, help="these; all by default")
            parser.add_argument("--no-scenarios", action="store_true")
        return parser

    def write(self, text: str, options: argparse.Namespace) -> None:
        """Where it was asked for; a complete run's is the page in ``docs``, any other is shown."""
        partial = options.only or options.no_rows or options.program or options.scenario or options.no_scenarios
        out = options.out or (None if partial else self.path)
        if out is None:
            print(text)
        else:
            out.write_text(text)
            print(f"wrote {out} after {time.monotonic() - self.began:.0f} s")


def chosen_rows(options: argparse.Namespace, rows: Sequence[Row]) -> list[Row]:
    if options.no_rows:
        return []
    return [row for row in rows if not options.only or row.key in options.only]


def chosen_scenarios(options: argparse.Namespace, scenarios: Collection[str]) -> list[str]:
    """Those asked for; all of them where neither they nor rows were chosen."""
    if options.no_scenarios:
        return []
    return options.scenario or ([] if options.only else list(scenarios))


def tables(rows: Sequence[Row], results: Results, title: Callable[[Row], str] = lambda row: row.title) -> list[str]:
    """A section each."""
    lines = []
    for row in rows:
        words = title(row)
        lines += [f"### {words[0].upper()}{words[1:]}", "", *table(row, results.get(row.key, {})), ""]
    return lines


def short_title(row: Row) -> str:
    """What a row adds to the work that its section is about."""
    return row.title.partition(", ")[2]
