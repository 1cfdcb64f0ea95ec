"""Rules of the sources that no single module can hold: who may import what, and that nothing read is executed.

The layers stand in pyproject.toml and are checked by import-linter, here and in `make check`. The rules below are
those that it can't express: a ban with exceptions by folder, calls, and the links. Each rule is a function from source
text to findings, and is tried on a bad line first, so that none of them passes because it looks at nothing.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("apps", "connectors", "state")

# What would make the core or an operator depend on the outside world, so that no simulation could replay it.
IMPURE = {"asyncio", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time", "uuid"}
PURE_PACKAGES = ("streams/core", "streams/operators")

# Where each third-party package may be imported; a new dependency has to be given its place here.
ANYWHERE = {"msgspec", "orjson"}
HOMES = {
    "aiohttp": ("connectors/http", "streams/cli", "streams/runtime"),
    "aiokafka": ("connectors/kafka",),
    "click": ("streams/cli",),
    "confluent_kafka": ("streams/registry",),
    "croniter": ("streams/dsl", "streams/runtime"),
    "google": ("streams/registry",),
    "httpx2": ("streams/registry",),
    "hypothesis": ("streams/testing",),
    "nats": ("connectors/jetstream",),
    "nkeys": ("connectors/jetstream",),
    "prometheus_client": ("streams/runtime",),
    "pydantic": ("streams/dsl",),
    "pydantic_core": ("streams/dsl",),
    "pytest": ("streams/testing",),
    "rich": ("streams/cli",),
    "rocksdict": ("connectors/embedded", "state"),
    "typer": ("streams/cli",),
    "uvloop": ("streams/runtime",),
    "wsproto": ("connectors/mqtt",),
}

EXECUTING_MODULES = {"cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve"}
EXECUTING_CALLS = {"eval", "exec"}
# Source text of our own, never of a record: file → what is executed there.
MAY_EXECUTE = {"tests/test_doc_snippets.py": "the project's own documentation"}


def python_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path.is_file()]
    # rglob follows a link that it is given and, before Python 3.13, those that it meets: one file, one path.
    return sorted({path.resolve() for path in found})


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


PACKAGE = python_files("streams", *ROOMS)
EVERYTHING = python_files("streams", *ROOMS, "examples", "tests")


class Contents(NamedTuple):
    """What the rules look at, each with its line, inside functions too."""

    imports: list[tuple[int, str]]
    """Dotted names; `from a import b` gives a.b."""
    calls: list[tuple[int, ast.Name | ast.Attribute]]
    """What is called by a name, plain or dotted."""


@cache
def contents(source: str) -> Contents:
    """Every rule looks at every file, and to parse and walk it takes far longer than to look."""
    found = Contents([], [])
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found.imports.extend((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(level=level, module=module, names=names):
                prefix = "." * level + (module or "")
                found.imports.extend((node.lineno, f"{prefix}.{alias.name}") for alias in names)
            case ast.Call(func=ast.Name() | ast.Attribute(value=ast.Name() | ast.Attribute()) as called):
                found.calls.append((node.lineno, called))
    return found


def rooms_at_the_top(source: str) -> list[str]:
    names = contents(source).imports
    return [f"line {line}: {name}" for line, name in names if name.split(".")[0] in ROOMS or name.startswith(".")]


def impurities(source: str) -> list[str]:
    found = [f"line {line}: import {name}" for line, name in contents(source).imports if name.split(".")[0] in IMPURE]
    for line, called in contents(source).calls:
        match called:
            case ast.Attribute(
                value=ast.Name(id="date" | "datetime") | ast.Attribute(attr="date" | "datetime"),
                attr="now" | "utcnow" | "today",
            ):
                found.append(f"line {line}: {ast.unparse(called)}()")
            case ast.Name(id="open" | "input" | "print" as name):
                found.append(f"line {line}: {name}()")
    return found


def strangers(source: str, where: str) -> list[str]:
    """Third-party imports that have no place in the file `where`."""
    found = []
    for line, name in contents(source).imports:
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or top in ANYWHERE or top in ("", "streams", "__future__"):
            continue
        if not any(where.startswith(home + "/") for home in HOMES.get(top, ())):
            found.append(f"line {line}: {top}")
    return found


def executions(source: str) -> list[str]:
    found = []
    for line, called in contents(source).calls:
        match called:
            case ast.Name(id=name) if name in EXECUTING_CALLS:
                found.append(f"line {line}: {name}()")
            case ast.Attribute(value=ast.Name(id="builtins"), attr=name) if name in EXECUTING_CALLS:
                found.append(f"line {line}: builtins.{name}()")
    names = contents(source).imports
    return found + [f"line {line}: {name}" for line, name in names if name.split(".")[0] in EXECUTING_MODULES]


@pytest.mark.parametrize(
    "line", ["import connectors", "import state.memory", "from apps import x", "from .core import y", "from . import z"]
)
def test_the_import_of_a_room_at_the_top_is_recognised(line: str) -> None:
    assert rooms_at_the_top(f"def f():\n    {line}\n")
    assert rooms_at_the_top("import streams.connectors\nfrom streams.state import memory\n") == []


def test_rooms_are_imported_through_the_package_only() -> None:
    # `import connectors` would be a second copy of the same module, with other classes and its own registry.
    assert {name_of(p): found for p in EVERYTHING if (found := rooms_at_the_top(p.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import asyncio",
        "from time import monotonic",
        "import os.path",
        "datetime.now(UTC)",
        "dt.date.today()",
        "open(x)",
        "print(1)",
    ],
)
def test_an_impure_line_is_recognised(line: str) -> None:
    assert impurities(f"def f():\n    {line}\n")
    assert impurities("import heapq\nfrom datetime import UTC\nx = clock.now()\n") == []


def test_the_core_and_the_operators_reach_no_clock_no_chance_and_no_outside_world() -> None:
    files = [path for path in PACKAGE if name_of(path).startswith(PURE_PACKAGES)]
    assert files
    assert {name_of(p): found for p in files if (found := impurities(p.read_text("utf-8")))} == {}


def test_a_client_outside_its_folder_is_recognised() -> None:
    assert strangers("def f():\n    from rocksdict import Rdict\n", "streams/core/x.py") == ["line 2: rocksdict"]
    assert strangers("import numpy.linalg", "state/rocksdb.py") == ["line 1: numpy"]
    assert strangers("import rocksdict, json, msgspec, streams.core", "state/rocksdb.py") == []


def test_each_client_is_imported_in_its_own_folder_only() -> None:
    found = {name_of(path): strangers(path.read_text("utf-8"), name_of(path)) for path in PACKAGE}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("line", ["import pickle", "from marshal import loads", "eval(x)", "exec(x, {})"])
def test_a_line_that_executes_data_is_recognised(line: str) -> None:
    assert executions(f"def f():\n    {line}\n")
    assert executions("executor.exec(x)\nliteral_eval(x)\n") == []


def test_nothing_that_is_read_is_executed() -> None:
    found = {name_of(path): executions(path.read_text("utf-8")) for path in EVERYTHING}
    found = {name: lines for name, lines in found.items() if lines}
    assert {name: lines for name, lines in found.items() if name not in MAY_EXECUTE} == {}
    assert sorted(MAY_EXECUTE.keys() - found.keys()) == [], "no longer needs its exception"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def test_imports_point_down() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_that_points_up_is_caught_through_the_links_too(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("streams", *ROOMS):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True)
    (tmp_path / "state" / "climber.py").write_text("import streams.cli\n")
    (tmp_path / "streams" / "core" / "sleeper.py").write_text("import asyncio\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    output = " ".join(done.stdout.split())
    assert "streams.state is not allowed to import streams.cli" in output
    assert "streams.core.sleeper -> asyncio" in output
