"""Mutation testing: changes the code in small ways, and shows which changes no test notices.

    make mutants                                       the packages of [tool.mutmut] in pyproject.toml
    make mutants ONLY="streams/core/state.py"          one file, or a few

What must live here: the command, its table, and the check against ``explained.toml``.  What must not: how mutants are
made (``mutants``), run (``forks``) or type-checked (``types``).

It fails if a mutant survives that isn't explained in ``explained.toml``, if one is explained there that is killed now
or isn't made any more, or if fewer than ``KILLED_MIN`` of a package that is run as a whole are killed.  Survivors are
printed as entries of that file, their reason still to be written; the better answer is a test.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from mutmut.configuration import config

from tests.mutation.forks import Forks, Outcome
from tests.mutation.mutants import mutants_of
from tests.mutation.types import rejected

EXPLAINED = Path(__file__).with_name("explained.toml")
CACHE = Path(".mutants")
KILLED_MIN = {"streams/core": 0.9, "streams/operators": 0.9}

Key = tuple[str, str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description="Which changes of the code does no test notice?")
    parser.add_argument("only", nargs="*", type=Path, help="files or folders, instead of all that are configured")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--again", action="store_true", help="run only those that weren't killed when last they were run"
    )
    parser.add_argument("--tests", nargs="+", help="the tests to run, instead of those that are configured")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of tests that a mutant is given at most")
    options = parser.parse_args(arguments)

    os.environ["CI"] = "true"
    configured = config().source_paths
    files = sorted(set(_files(options.only or configured)))
    mutants = [mutant for file in files for mutant in mutants_of(file)]
    last = _read_last()
    for name in {mutant.module_name for mutant in mutants}:
        importlib.import_module(name)

    # First what costs nothing to run: what the types reject needs no test.
    by_types = rejected(mutants)
    left = [mutant for mutant in mutants if mutant not in by_types]
    before: list[Outcome] = []
    if options.again:
        before = [Outcome(mutant, killer, 0) for mutant in left if (killer := last.get(" | ".join(mutant.key)))]
        killed = {outcome.mutant for outcome in before}
        left = [mutant for mutant in left if mutant not in killed]
    print(f"{len(mutants)} mutants, {len(by_types)} of which mypy rejects", flush=True)
    killers = {key: killer for key, killer in last.items() if killer is not None}
    forks = Forks(left, options.jobs, killers, options.budget)
    tests = options.tests or config().pytest_add_cli_args_test_selection
    quiet = [
        "-qq",
        "-x",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--trace-all",
        "-o",
        "console_output_style=classic",
    ]
    pytest.main([*quiet, *tests], plugins=[forks])
    if not forks.ready:
        print("the tests fail without any mutant: run them first", file=sys.stderr)
        return 2
    outcomes = [*before, *forks.outcomes, *(Outcome(mutant, "mypy", 0) for mutant in by_types)]
    _write_last(outcomes)
    return _report(outcomes, files, packages=options.only or configured)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from path.rglob("*.py")
        elif path.suffix == ".py" and path.exists():
            yield path
        else:
            raise SystemExit(f"{path}: no such file or folder")


def _report(outcomes: Sequence[Outcome], files: Sequence[Path], packages: Sequence[Path]) -> int:
    explained = _explained()
    survivors = [outcome for outcome in outcomes if outcome.killer is None]
    unexplained = [outcome for outcome in survivors if outcome.mutant.key not in explained]
    for outcome in sorted(unexplained, key=lambda outcome: (outcome.mutant.path, outcome.mutant.line)):
        _show(outcome)
    _table(outcomes, explained)
    ok = not unexplained
    if unexplained:
        print(f"\n{len(unexplained)} mutants survive unexplained (above).")
    modules = {".".join(file.with_suffix("").parts) for file in files}
    stale = {key for key in explained if key[0].partition(":")[0] in modules}
    stale -= {outcome.mutant.key for outcome in survivors}
    for function, was, becomes in sorted(stale):
        print(f"\nno survivor any more, take it out of {EXPLAINED.name}:\n  {function}\n  - {was}\n  + {becomes}")
    ok = ok and not stale
    for package in packages:
        ok = _enough(package, outcomes) and ok
    return 0 if ok else 1


def _enough(package: Path, outcomes: Sequence[Outcome]) -> bool:
    least = KILLED_MIN.get(str(package), 0.0)
    those = [outcome for outcome in outcomes if outcome.mutant.path.is_relative_to(package)]
    killed = sum(outcome.killer is not None for outcome in those) / max(1, len(those))
    if killed < least:
        print(f"\n{package}: {killed:.1%} are killed, {least:.0%} is asked for.")
    return killed >= least


def _show(outcome: Outcome) -> None:
    mutant = outcome.mutant
    reached = f"{outcome.tests} tests reach it" if outcome.tests else "no test reaches it"
    print(f"\n# {mutant.path}:{mutant.line}, {reached}\n[[survivor]]")
    for name, value in (
        ("function", mutant.function),
        ("was", mutant.was),
        ("becomes", mutant.becomes),
        ("reason", ""),
    ):
        print(f"{name} = {json.dumps(value, ensure_ascii=False)}")


def _table(outcomes: Sequence[Outcome], explained: set[Key]) -> None:
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        mutant = outcome.mutant
        if outcome.killer is None:
            became = "explained" if mutant.key in explained else "unexplained"
        else:
            became = "types" if outcome.killer == "mypy" else "tests"
        for row in (str(mutant.path), f"{mutant.path.parent}/"):
            rows[row][became] += 1
    print(f"\n{'':36}{'mutants':>9}{'tests':>9}{'types':>9}{'explained':>11}{'survive':>9}{'killed':>9}")
    for row, counts in sorted(rows.items()):
        killed = (counts["tests"] + counts["types"]) / counts.total()
        figures = f"{counts.total():>9}{counts['tests']:>9}{counts['types']:>9}{counts['explained']:>11}"
        print(f"{row:36}{figures}{counts['unexplained']:>9}{killed:>9.1%}")


def _explained() -> set[Key]:
    entries = tomllib.loads(EXPLAINED.read_text("utf-8")).get("survivor", [])
    for entry in entries:
        if not entry.get("reason"):
            raise SystemExit(f"{EXPLAINED.name}: no reason is given for {entry['function']}: {entry['was']}")
    return {(entry["function"], entry["was"], entry["becomes"]) for entry in entries}


def _read_last() -> dict[str, str | None]:
    try:
        found: dict[str, str | None] = json.loads((CACHE / "last.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _write_last(outcomes: Sequence[Outcome]) -> None:
    last = _read_last()  # once more: another run may have ended since
    CACHE.mkdir(exist_ok=True)
    # Of several changes that read alike, one that survives counts.
    killed_last = sorted(outcomes, key=lambda outcome: outcome.killer is None)
    last.update((" | ".join(outcome.mutant.key), outcome.killer) for outcome in killed_last)
    (CACHE / "last.json").write_text(json.dumps(last, indent=0, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
