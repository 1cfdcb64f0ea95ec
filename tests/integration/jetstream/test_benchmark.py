"""The benchmark's program: contenders run, are checked, and stand on the page.  What it measures is nobody's test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 240


def test_the_benchmark_runs_checks_what_came_out_and_writes_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    rows = ["--only", "keyed-small", "--only", "consume-small", "--only", "publish-large"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.nats.run", "--rounds", "1", "--scale", "0.004", *rows]
        + ["--program", "ours", "--program", "natspy", "--no-scenarios", "--out", str(page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    shown = [line for line in text.splitlines() if line.startswith("| ") and "not measured" not in line]
    assert not [line for line in shown if "not shown" in line], text
    for name, count in [
        ("**streams**", 3),
        ("nats-py loop on uvloop", 1),
        ("nats-py, fetch", 1),
        ("nats-py, publish", 1),
    ]:
        assert sum(line.startswith(f"| {name}") for line in shown) == count, text
