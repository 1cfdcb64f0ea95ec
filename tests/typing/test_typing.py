"""What a type checker knows of a user's pipeline: the types of values and keys, and the mistakes that it finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

MISTAKES = """
from collections.abc import AsyncIterator
from dataclasses import dataclass
from streams import App

@dataclass
class Reading:
    celsius: float

app = App("mistakes")
hot = app.stream("readings", value=Reading)
hot.filter(lambda r: r.fahrenheit > 90)
hot.map(lambda r: r.celsius).map(lambda c: c.upper())
table = app.table("t", key=int, value=Reading)
hot.to_table(table)

async def outside() -> None:
    await app.topic("readings", value=Reading).send("warm")
"""


def mypy(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--show-column-numbers", "--no-error-summary", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
def test_a_checker_infers_the_types_of_a_pipeline() -> None:
    assert mypy(HERE / "inferred.py") == ""


@pytest.mark.slow
def test_a_checker_finds_mistakes_in_a_pipeline(tmp_path: Path) -> None:
    program = tmp_path / "mistakes.py"
    program.write_text(MISTAKES)
    told = mypy(program)
    found = [line for line in told.splitlines() if ": error:" in line]
    assert len(found) == 4, told
    assert '"Reading" has no attribute "fahrenheit"' in found[0]
    assert '"float" has no attribute "upper"' in found[1]
    assert 'Argument 1 to "to_table"' in found[2]
    assert 'Argument 1 to "send"' in found[3]
