"""Mutation testing: changes the code in small ways, and shows which changes no test notices.

    make mutants                                       all of AREAS
    make mutants ONLY="streams/core/state.py"          one file, or a few

What must live here: the command, its table, and the check against ``explained.toml``.  What must not: how mutants are
made (``mutants``), run (``forks``) or type-checked (``types``).

It fails if a mutant survives that isn't explained in ``explained.toml``, if one is explained there that is killed now
or isn't made any more, or if fewer than ``KILLED_MIN`` of an area that is run as a whole are killed.  Survivors are
printed as entries of that file, their reason still to be written; the better answer is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutation.forks import Forks, Outcome
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.types import rejected

EXPLAINED = Path(__file__).with_name("explained.toml")
CACHE = Path(".mutants")
KILLED_MIN = 0.9
LINKED = {"apps", "connectors", "state"}
"""The rooms that are linked into streams/, where their code is imported from."""


@dataclass(frozen=True)
class Area:
    """Code, and the tests that its mutants are to be noticed by: fast ones, since each mutant is given its own.

    sources: files and folders, as they are imported.
    tests: arguments of pytest.
    """

    name: str
    sources: Sequence[str]
    tests: Sequence[str]


FAST = ("-m", "not (integration or guarantee or slow)")

CORE_TESTS = ("tests/core", "tests/operators", "tests/dsl", "tests/state/test_memory.py", *FAST)
EMBEDDED_TESTS = ("blocks", "commit", "damage", "engine", "lock", "log", "maintenance", "reader", "waiting_writers")
AREAS = (
    Area("core", ("streams/core",), CORE_TESTS),
    Area("operators", ("streams/operators",), CORE_TESTS),
    Area(
        "codecs",
        ("streams/dsl/codec.py", "streams/dsl/key_types.py", "streams/registry/codecs.py"),
        ("tests/dsl", "tests/registry", "tests/integration/registry", "-m", "not (guarantee or slow)"),
    ),
    Area(
        "embedded log",
        tuple(f"streams/connectors/embedded/{name}.py" for name in ("blocks", "engine", "flusher", "log", "reader")),
        tuple(f"tests/connectors/test_embedded_{name}.py" for name in EMBEDDED_TESTS) + FAST,
    ),
    Area(
        "memory log",
        ("streams/connectors/memory",),
        tuple(f"tests/connectors/test_{name}.py" for name in ("memory_broker", "memory_log", "waiting")) + FAST,
    ),
    Area(
        "messages of JetStream",
        ("streams/connectors/jetstream/messages.py",),
        tuple(f"tests/connectors/test_jetstream_{name}.py" for name in ("forms", "messages", "own_headers")) + FAST,
    ),
)

Key = tuple[str, str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description="Which changes of the code does no test notice?")
    parser.add_argument("only", nargs="*", type=Path, help="files or folders, instead of all areas")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--again", action="store_true", help="run only those that weren't killed when last they were run"
    )
    parser.add_argument("--tests", nargs="+", help="the tests to run, instead of those of the area")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of tests that a mutant is given at most")
    options = parser.parse_args(arguments)

    os.environ["CI"] = "true"
    areas = _chosen(options.only)
    files = [file for those in areas.values() for file in those]
    mutants = [mutant for file in files for mutant in mutants_of(file)]
    last = _read_last()

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
    ran: list[Outcome] = []
    for area, those in areas.items():
        found = _run(area, [mutant for mutant in left if mutant.path in those], killers, options)
        if found is None:
            print(f"the tests of {area.name} fail without any mutant: run them first", file=sys.stderr)
            return 2
        ran += found
    outcomes = [*before, *ran, *(Outcome(mutant, "mypy", 0) for mutant in by_types)]
    _write_last(outcomes)
    return _report(outcomes, areas)


def _chosen(only: Sequence[Path]) -> dict[Area, list[Path]]:
    """The files to change, by the area that they belong to."""
    every = {area: sorted(set(_files(map(Path, area.sources)))) for area in AREAS}
    if not only:
        return every
    # Named by what the link points to, a file would be imported as a module of its own.
    wanted = set(_files(Path("streams", path) if path.parts[0] in LINKED else path for path in only))
    if strangers := wanted.difference(*every.values()):
        raise SystemExit(f"{', '.join(map(str, sorted(strangers)))}: in no area of {Path(__file__).name}")
    return {area: those for area, files in every.items() if (those := [file for file in files if file in wanted])}


def _run(
    area: Area, mutants: Sequence[Mutant], killers: Mapping[str, str], options: argparse.Namespace
) -> list[Outcome] | None:
    """The outcome of each of ``mutants``; None if the tests fail without them."""
    if not mutants:
        return []
    print(f"{area.name}: ", end="", flush=True)
    forks = Forks(mutants, options.jobs, killers, options.budget)
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
    pytest.main([*quiet, *(options.tests or area.tests)], plugins=[forks])
    return forks.outcomes if forks.ready else None


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from path.rglob("*.py")
        elif path.suffix == ".py" and path.exists():
            yield path
        else:
            raise SystemExit(f"{path}: no such file or folder")


def _report(outcomes: Sequence[Outcome], areas: Mapping[Area, Sequence[Path]]) -> int:
    explained = _explained()
    survivors = [outcome for outcome in outcomes if outcome.killer is None]
    unexplained = [outcome for outcome in survivors if outcome.mutant.key not in explained]
    for outcome in sorted(unexplained, key=lambda outcome: (outcome.mutant.path, outcome.mutant.line)):
        _show(outcome)
    _table(outcomes, explained)
    ok = not unexplained
    if unexplained:
        print(f"\n{len(unexplained)} mutants survive unexplained (above).")
    modules = {".".join(file.with_suffix("").parts) for files in areas.values() for file in files}
    stale = {key for key in explained if key[0].partition(":")[0] in modules}
    stale -= {outcome.mutant.key for outcome in survivors}
    for function, was, becomes in sorted(stale):
        print(f"\nno survivor any more, take it out of {EXPLAINED.name}:\n  {function}\n  - {was}\n  + {becomes}")
    ok = ok and not stale
    for area, files in areas.items():
        ok = _enough(area, files, outcomes) and ok
    return 0 if ok else 1


def _enough(area: Area, files: Sequence[Path], outcomes: Sequence[Outcome]) -> bool:
    if set(files) != set(_files(map(Path, area.sources))):
        return True
    those = [outcome for outcome in outcomes if outcome.mutant.path in files]
    killed = sum(outcome.killer is not None for outcome in those) / max(1, len(those))
    if killed < KILLED_MIN:
        print(f"\n{area.name}: {killed:.1%} are killed, {KILLED_MIN:.0%} is asked for.")
    return killed >= KILLED_MIN


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
