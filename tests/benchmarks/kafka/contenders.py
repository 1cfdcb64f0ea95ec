"""Who takes part, where each comes from, and the command that runs it.

What must live here: the pinned packages and jars, their installation, command lines.  What must not: what is measured
with them (``run.py`` and the scenarios).

The peers in Python get an environment each under ``.venv-peers``, since their pins of the same client differ; Kafka
Streams gets jars and classes under ``.kafka``.  What can't be had is left out, with the reason on the page.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks.common.environments import ROOT, install_python, python_of
from tests.benchmarks.common.runs import Run

HERE = Path(__file__).resolve().parent
JARS = ROOT / ".kafka"
JAVA = HERE / "java"
PACKAGES: Mapping[str, str] = {
    "quixstreams": "quixstreams==3.28.0",
    "faust": "faust-streaming==0.15.3",
    "bytewax": "bytewax[kafka]==0.21.1",
}
KAFKA_STREAMS = "Kafka Streams 4.1.1"
PROGRAMS = ("ours", "bare", "kstreams", *PACKAGES)
SESSION_TIMEOUT_MS = 10_000


def classes() -> Path:
    digest = hashlib.sha256()
    for path in (JAVA / "pom.xml", source()):
        digest.update(path.read_bytes())
    return JARS / f"streams-{digest.hexdigest()[:16]}"


def source() -> Path:
    return JAVA / "src" / "main" / "java" / "KeyedCount.java"


def install(programs: set[str]) -> dict[str, str]:
    """Fetch what these programs need, once.  Returns why the others can't run."""
    missing = {}
    for name in PACKAGES:
        if name in programs and (why := install_python("kafka", name, PACKAGES[name])):
            missing[name] = why
    if "kstreams" in programs and (why := _install_java()):
        missing["kstreams"] = why
    for name, why in missing.items():
        print(f"{name} is left out: {why}", flush=True)
    return missing


def _install_java() -> str | None:
    for program in ("java", "javac", "mvn"):
        if shutil.which(program) is None:
            return f"{program} is not on the PATH"
    folder = classes()
    if folder.exists():
        return None
    print(f"setting up {folder.relative_to(ROOT)}", flush=True)
    JARS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=JARS) as temporary:
        made = Path(temporary) / "made"
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={made / 'lib'}"]
        commands = [
            ["mvn", "--quiet", "--batch-mode", "--file", str(JAVA / "pom.xml"), *goal],
            ["javac", "-cp", f"{made / 'lib'}/*", "-d", str(made / "classes"), str(source())],
        ]
        for command in commands:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["no word"]
                return f"{command[0]} failed: {last[0]}"
        made.rename(folder)
    return None


def command(run: Run, folder: Path) -> list[str]:
    """The command line.  ``folder``: for state that the contender keeps beside the log."""
    if run.program == "kstreams":
        arguments = [run.server, run.name, run.input, run.output, str(run.messages)]
        arguments += [str(round(run.commit_interval_s * 1000)), str(folder), str(run.standbys), str(SESSION_TIMEOUT_MS)]
        path = f"{classes() / 'classes'}:{classes() / 'lib'}/*"
        return [shutil.which("java") or "java", "-cp", path, "KeyedCount", *arguments]
    options = {
        "--bootstrap": run.server,
        "--name": run.name,
        "--input": run.input,
        "--output": run.output,
        "--size": run.size,
        "--messages": run.messages,
        "--commit-interval": run.commit_interval_s,
    }
    if run.program in PACKAGES:
        python, module, first = python_of("kafka", run.program), "peers", [run.program]
    else:
        python, module, first = sys.executable, run.program, []
    if run.program != "bare":
        options["--partitions"] = run.partitions
    if run.program == "ours":
        options |= {"--state": folder, "--standbys": run.standbys}
    words = [str(word) for pair in options.items() for word in pair]
    return [python, "-W", "ignore", "-m", f"tests.benchmarks.kafka.{module}", *first, *words]


def topics(run: Run) -> list[str]:
    """The topics that have to be there before it starts."""
    return [run.output] + ([f"{run.name}-changelog"] if run.program == "bare" else [])
