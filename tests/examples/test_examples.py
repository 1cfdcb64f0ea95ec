"""Every example runs as its reader would run it, and prints what its first lines say that it prints.

examples/flights.py, the main job, has tests of its own beside this file.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = (
    "bank.py",
    "dead_letters.py",
    "dedupe.py",
    "enrich.py",
    "sessions.py",
    "test_an_app.py",
    "timers.py",
    "transports.py",
    "windows.py",
    "wordcount.py",
)
SHORT = [EXAMPLES / name for name in NAMES]
MAX_LINES = 60
TIMEOUT_S = 60


def promised(path: Path) -> str:
    """The indented end of the docstring: what the example prints."""
    documented = ast.get_docstring(ast.parse(path.read_text()))
    assert documented is not None
    _, found, output = documented.partition("prints:\n\n")
    assert found, f"{path.name}: the docstring doesn't end with what it prints"
    return "".join(line.removeprefix("    ") + "\n" for line in output.splitlines())


def run(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(path)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.stem)
def test_an_example_prints_what_it_promises_and_leaves_nothing_behind(path: Path, tmp_path: Path) -> None:
    done = run(path, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == promised(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", [*SHORT, EXAMPLES / "flights.py"], ids=lambda path: path.stem)
def test_the_command_line_finds_the_app_of_an_example(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "streams", "topology", "-A", str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("app ")


def test_no_example_is_left_out_here_or_in_their_list() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert names == sorted((*NAMES, "flights.py"))
    assert [name for name in names if f"({name})" not in listed] == []


def test_an_example_that_prints_something_else_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text('"""One.\n\nIt prints:\n\n    one\n    two\n"""\nprint("one")\n')
    assert promised(wrong) == "one\ntwo\n"
    assert run(wrong, tmp_path).stdout != promised(wrong)
