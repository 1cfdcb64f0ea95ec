"""A small project to run verbs on, in this process or in one of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.cli import main

BANK = """\
from __future__ import annotations

import msgspec

from streams import App

app = App("bank", partitions=2, commit_interval="20ms")


class Transfer(msgspec.Struct):
    account: str
    amount: int


balances = app.table("balances", key=str, value=int, default=int)
transfers = app.stream(app.topic("transfers", value=Transfer))


@app.agent(transfers.key_by(lambda t: t.account), sinks=["statements"])
async def settle(events):
    async for t in events:
        if t.amount == 13:
            raise ValueError("no 13 here")
        balances[t.account] += t.amount
        with open("seen.txt", "a") as seen:  # an effect outside of the commit: shows what was done twice
            seen.write(f"{t.account} {t.amount}\\n")
        yield {"account": t.account, "balance": balances[t.account]}
"""

TIMEOUT_S = 60
Ran = subprocess.CompletedProcess[str]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with bank.py in it, which is the current one; modules and settings are as before afterwards."""
    (tmp_path / "bank.py").write_text(BANK)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("STREAMS_")]:
        monkeypatch.delenv(name)
    modules, path, logger = set(sys.modules), list(sys.path), logging.getLogger("streams")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if not name.startswith("streams") and str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = path
    logger.handlers[:], logger.level, logger.propagate = before
    os.environ.pop("STREAMS_TRACEBACK", None)


@pytest.fixture
def call(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a verb in this process."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run


@pytest.fixture
def run(project: Path) -> Callable[..., Ran]:
    """Run a verb in a process of its own, to its end."""

    def run_it(*arguments: str, stdin: str | None = None, **environment: str) -> Ran:
        return subprocess.run(
            [sys.executable, "-m", "streams", *arguments],
            cwd=project,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**ENVIRONMENT, **environment},
        )

    return run_it


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``streams worker``; returns once it is at work.  What it says stands in worker.err."""
    started: list[subprocess.Popen[str]] = []

    def start_it(*arguments: str, app: str = "bank") -> subprocess.Popen[str]:
        says = project / "worker.err"
        with says.open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "streams", "worker", "-A", app, *arguments],
                cwd=project,
                stdin=subprocess.DEVNULL,
                stderr=err,
                text=True,
                env=ENVIRONMENT,
            )
        started.append(process)
        deadline = time.monotonic() + TIMEOUT_S
        while "works on" not in says.read_text():
            assert process.poll() is None, says.read_text()
            assert time.monotonic() < deadline, says.read_text()
            time.sleep(0.02)
        return process

    yield start_it
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition, with a deadline."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, "the condition didn't come true"
            time.sleep(0.02)

    return wait
