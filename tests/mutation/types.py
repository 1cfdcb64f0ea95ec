"""The mutants that mypy rejects: a change that no one could land isn't one that a test has to notice.

What must live here: the file of all mutants of a module (mutmut makes it, each as a copy of its function), one run
of mypy on it in the place of the real one, and which copies have errors.  An error that the unchanged copy of
the function has as well comes from being a copy, and says nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mutmut.mutation.file_mutation import combine_mutations_to_source

from tests.mutation.mutants import Mutant

__all__ = ["rejected"]

ERROR = re.compile(r"(?P<file>[^:]+):(?P<line>\d+): error: (?P<text>.*)")


def rejected(those: Sequence[Mutant]) -> set[Mutant]:
    by_path: dict[Path, list[Mutant]] = defaultdict(list)
    for mutant in those:
        by_path[mutant.path].append(mutant)
    if not by_path:
        return set()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "mypy", "--no-error-summary", "--no-pretty", "--hide-error-context"]
        copies: dict[Path, Mapping[str, range]] = {}
        for i, (path, mutants) in enumerate(by_path.items()):
            made = combine_mutations_to_source(mutants[0].module, [mutant.mutation for mutant in mutants])
            shadow = Path(folder) / f"{i}.py"
            shadow.write_text(made.code, "utf-8")
            command += ["--shadow-file", str(path), str(shadow)]
            copies[path] = {
                name: range(span.start, span.end + 1) for name, span in made.line_span_by_function_name.items()
            }
        command += ["--cache-dir", ".mutants/mypy", *map(str, by_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"mypy can't check the mutants:\n{done.stdout}{done.stderr}")
    errors: dict[Path, list[tuple[int, str]]] = defaultdict(list)
    for line in done.stdout.splitlines():
        found = ERROR.match(line)
        if found:
            errors[Path(found["file"])].append((int(found["line"]), found["text"]))
    return {mutant for path, mutants in by_path.items() for mutant in _with_errors(mutants, copies[path], errors[path])}


def _with_errors(
    mutants: Iterable[Mutant], copies: Mapping[str, range], errors: Sequence[tuple[int, str]]
) -> Iterator[Mutant]:
    numbers: dict[str, int] = defaultdict(int)
    for mutant in mutants:
        base = f"xǁ{mutant.owner}ǁ{mutant.name}" if mutant.owner else f"x_{mutant.name}"
        numbers[base] += 1
        mine = _texts(copies[f"{base}__mutmut_{numbers[base]}"], errors)
        if mine - _texts(copies[f"{base}__mutmut_orig"], errors):
            yield mutant


def _texts(lines: range, errors: Sequence[tuple[int, str]]) -> set[str]:
    return {re.sub(r"__mutmut_\w+", "", text) for line, text in errors if line in lines}
