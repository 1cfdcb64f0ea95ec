"""Who takes part, where each comes from, and the command that runs it.

What must live here: the pinned packages, their installation, command lines.  What must not: what is measured with them
(``run.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.common.environments import install_python, python_of, remove_package
from tests.benchmarks.common.runs import Run

PACKAGES: Mapping[str, str] = {"paho": "paho-mqtt==2.2.0", "aiomqtt": "aiomqtt==2.5.1", "gmqtt": "gmqtt==0.8.0"}
LOGS = ("embedded", "kafka", "jetstream")
JOURNALS = {f"journal-{log}": log for log in LOGS} | {"journal_pipeline-embedded": "embedded"}
"""Our worker, by the log that it is on."""
PROGRAMS = ("ours", *JOURNALS, *PACKAGES, "aiomqtt-uvloop")


def install(programs: set[str]) -> dict[str, str]:
    """Fetch what these programs need, once.  Returns why the others can't run."""
    missing: dict[str, str] = {}
    for name, package in PACKAGES.items():
        users = {each for each in programs if each.partition("-")[0] == name}
        if name == "paho" and programs:  # it checks what the others have published
            users.add(name)
        if users and (why := install_python("mqtt", name, package, f"uvloop=={version('uvloop')}")):
            missing |= dict.fromkeys(users, why)
            print(f"{name} is left out: {why}", flush=True)
    if "gmqtt" in programs and "gmqtt" not in missing:
        remove_package("mqtt", "gmqtt", "tests")  # it brings its own tests along, which would hide ours
    return missing


def qos_of(run: Run) -> int:
    return int(run.work[-1])


def commands(log_of: Callable[[Run], str]) -> Callable[[Run, Path], list[str]]:
    """The command lines of runs.  log_of: the URL of the log that a worker is on."""

    def command(run: Run, folder: Path) -> list[str]:
        what, qos = run.work.split("-")
        program, _, variant = run.program.partition("-")
        options: dict[str, object] = {
            "--server": run.server,
            "--name": run.name,
            "--topic": run.output,
            "--qos": qos,
            "--messages": run.messages,
        }
        module, python = f"{program}_client", sys.executable
        if run.program in JOURNALS:
            module, what = "journal", program.replace("_", "-")
            options["--log"] = log_of(run)
        elif program in PACKAGES:
            what = "consume" if what == "journal" else what
            what, python = f"{what}-{variant}" if variant else what, python_of("mqtt", program)
        else:
            module = program
        words = [str(word) for pair in options.items() for word in pair]
        return [python, "-W", "ignore", "-m", f"tests.benchmarks.mqtt.{module}", what, *words]

    return command
