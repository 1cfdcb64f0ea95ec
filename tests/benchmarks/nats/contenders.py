"""Who takes part, where each comes from, and the command that runs it.

What must live here: the pinned packages, their installation, command lines.  What must not: what is measured with them
(``run.py`` and the scenarios).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.common.environments import install_python, python_of
from tests.benchmarks.common.runs import Run

PACKAGES: Mapping[str, str] = {"faststream": "faststream[nats]==0.7.8"}
PROGRAMS = ("ours", "natspy", "natspy-asyncio", "natspy-callback", "natspy-waited", *PACKAGES)
MODULES = {"ours": "ours", "natspy": "natspy", "faststream": "peers"}
"""Where the programs are; behind a hyphen, a variant of the work."""


def install(programs: set[str]) -> dict[str, str]:
    """Fetch what these programs need, once.  Returns why the others can't run."""
    missing = {}
    for name, package in PACKAGES.items():
        if name in programs and (why := install_python("nats", name, package, f"uvloop=={version('uvloop')}")):
            missing[name] = why
            print(f"{name} is left out: {why}", flush=True)
    return missing


def plain(topic: str) -> str:
    """The stream that takes the place of a topic for those who know nothing of keys and partitions."""
    return f"plain-{topic}"


def command(run: Run, folder: Path) -> list[str]:
    """The command line.  ``folder``: for state that the contender keeps beside the log."""
    options: dict[str, object] = {
        "--server": run.server,
        "--name": run.name,
        "--size": run.size,
        "--messages": run.messages,
    }
    if run.program == "ours":
        options |= {
            "--input": run.input,
            "--output": run.output,
            "--commit-interval": run.commit_interval_s,
            "--partitions": run.partitions,
            "--state": folder,
        }
    else:
        options |= {"--input": plain(run.input), "--output": plain(run.output)}
    python = python_of("nats", run.program) if run.program in PACKAGES else sys.executable
    words = [str(word) for pair in options.items() for word in pair]
    program, _, variant = run.program.partition("-")
    work = f"{run.work}-{variant}" if variant else run.work
    return [python, "-W", "ignore", "-m", f"tests.benchmarks.nats.{MODULES[program]}", work, *words]
