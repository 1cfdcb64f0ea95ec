"""The main job, killed with ``kill -9`` at random moments and run again, ends with the result of plain Python.

A round is one log: runs that are killed, then one that comes to its end, whose result has to be exact.  The moments lie
anywhere between the start of the process and some time behind its first work on the log.  The seed is printed, and
given back by ``FLIGHTS_KILL_SEED``; it repeats the moments, not the machine's own timing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLIGHTS = ROOT / "examples" / "flights.py"
MONTH = 2
KILLS = 8
MAX_RUNS = 60
TIMEOUT_S = 120.0


def load_oracle() -> ModuleType:
    path = ROOT / "tests" / "examples" / "flights_oracle.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(FLIGHTS), "--month", str(MONTH), "--json", "--data", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(process: subprocess.Popen[str], after_s: float) -> bool:
    """Kill the process ``after_s`` from now; False if it has ended by itself before."""
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def seconds_of_a_run(folder: Path) -> float:
    began = time.monotonic()
    process = start(folder)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    return time.monotonic() - began


def records_on(folder: Path) -> int:
    """Bytes under the log's folder: whether a run has left anything there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0


@pytest.mark.soak
def test_killed_at_random_moments_the_flights_end_with_the_exact_result(tmp_path: Path) -> None:
    seed = int(os.environ.get("FLIGHTS_KILL_SEED", random.SystemRandom().randrange(2**32)))
    print(f"FLIGHTS_KILL_SEED={seed}")
    chance = random.Random(seed)
    oracle = load_oracle()
    expected: dict[str, Any] = oracle.flights_result(MONTH)
    whole_s = seconds_of_a_run(tmp_path / "undisturbed")
    kills = at_work = rounds = 0
    for number in range(MAX_RUNS):
        folder = tmp_path / f"round-{rounds}"
        # Two of three fall into the last two thirds of a run, where the log is being written.
        after_s = whole_s * chance.triangular(0.1, 1.0, 0.8)
        process = start(folder)
        if kills < KILLS and killed(process, after_s):
            process.communicate()
            kills += 1
            at_work += records_on(folder) > 0
            print(f"run {number}, round {rounds}: killed after {after_s:.2f} s")
            continue
        output, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, errors
        assert oracle.result_of(json.loads(output)) == expected, f"FLIGHTS_KILL_SEED={seed}, round {rounds}"
        print(f"run {number}, round {rounds}: came to its end")
        rounds += 1
        if kills >= KILLS:
            break
    assert kills >= KILLS
    assert at_work >= 5, f"only {at_work} of {kills} kills came after the log was made"
