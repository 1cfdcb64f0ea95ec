"""One run of a contender: what it is told, the process, the CPU time of processes.

What must live here: what is the same on every broker.  What must not: brokers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.common import work
from tests.benchmarks.common.environments import ROOT


@dataclass(frozen=True)
class Run:
    """One run of a contender.  messages: 0 serves until SIGTERM.  name: of its app, group and own topics.
    server: where the broker is.
    """

    program: str
    name: str
    server: str
    input: str
    output: str
    partitions: int
    size: str
    messages: int
    commit_interval_s: float
    standbys: int = 0
    folder: Path | None = None
    work: str = "keyed"


Command = Callable[[Run, Path], list[str]]
"""The command line of a run; the folder is for state that the contender keeps beside the log."""


@dataclass
class Orders:
    """A topic full of orders, and what their counts must come to.

    ``ends``: orders in each partition.
    """

    topic: str
    size: str
    messages: int
    partitions: int
    last: Mapping[bytes, int]
    ends: list[int] = field(default_factory=list)


def make_orders(topic: str, size: str, messages: int, partitions: int) -> Orders:
    last = Counter(key for key, _ in work.orders("small", messages))
    return Orders(topic, size, messages, partitions, last)


def cpu_s(pid: int) -> float:
    """User and system time of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report_of(command: Command, run: Run, timeout_s: float = 900) -> tuple[dict[str, Any] | None, str]:
    """Run a contender to its end: what it measured, or why it failed in a line."""
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as folder:
        try:
            done = subprocess.run(
                command(run, Path(folder)),
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
        said_last = said[-1].replace(f"{ROOT}/", "")  # a page names no path of this machine
        return None, f"ended with status {done.returncode}: {said_last[:200]}"
    report: dict[str, Any] = json.loads(lines[-1])
    return report, ""
