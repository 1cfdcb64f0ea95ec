"""Runs mutants: a pytest session that collects once, and then forks a process for each mutant.

What must live here: which tests a mutant is given, and what becomes of it.  What must not: what a mutant is
(``mutants``), what is done about survivors (``run``).

1. In a forked process, every test is run once under coverage, whose contexts tell which lines it executes, and once
   more without: what it costs, and that all are green with no mutant.  This process runs no test itself: the threads
   that a library starts for the first of them (RocksDB's) would be missing in each fork, which would wait for them.
2. For each mutant a process is forked, which installs it and runs the tests that execute its lines, up to the first
   that fails: those that killed the last mutants of its function first, then those of its own test files, then the
   cheapest.
3. A process is given as much CPU time as its tests should take, many times over (a mutant may loop for ever), a bound
   on memory (it may fill a list for ever), and a time on the clock (it may wait for ever).  Each of them is a kill.

A mutant is given tests of ``budget_s`` at most: what survives the cheap ones is seldom killed by the dear ones, and
a survivor is what costs most.
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import coverage
import pytest

from tests.mutation.mutants import Mutant

__all__ = ["Forks", "Outcome"]

MEMORY_BYTES = 4 << 30
CLOCK_S = 60.0
"""How long a mutant may wait. A test that waits for something does so for milliseconds."""


@dataclass(frozen=True)
class Outcome:
    mutant: Mutant
    killer: str | None
    """The test that failed, or what ended the process. None: it survived."""
    tests: int


@dataclass(eq=False)  # pytest keeps its plug-ins in sets
class Forks:
    """A pytest plug-in: its outcomes are there once ``pytest.main`` has returned."""

    mutants: Sequence[Mutant]
    jobs: int
    killers: Mapping[str, str]
    """The test that killed a mutant when last it was run, by the mutant's name."""
    budget_s: float
    outcomes: list[Outcome] = field(default_factory=list)
    ready: bool = False
    cpu_s: float = 0.0

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        # Here, not above: pytest rewrites the assertions of a plug-in that isn't imported yet.
        from hypothesis import HealthCheck, Phase, settings

        # No shrinking: it is for people, and costs a hundred times what the failure does.  No database of failures.
        settings.register_profile(
            "mutants",
            derandomize=True,
            database=None,
            deadline=None,
            max_examples=30,
            phases=[Phase.explicit, Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        settings.load_profile("mutants")

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return ("", "", "") if report.outcome != "failed" or self.ready else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.ready:
            print(f"{report.nodeid}\n{report.longreprtext}", flush=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            return True
        for name in {mutant.module_name for mutant in self.mutants}:
            importlib.import_module(name)  # not before pytest, which warns of plug-ins that are imported already
        files = {os.path.realpath(mutant.path) for mutant in self.mutants}
        measured = _in_fork(lambda: _measured(session, files))
        if not measured:
            return True
        reached = {(file, line): set(tests) for file, line, tests in measured["reached"]}
        needed = set().union(*reached.values())
        costs_s = measured["costs_s"]
        print(f"{len(needed)} tests, {sum(costs_s):.0f} s of CPU; {len(self.mutants)} mutants", flush=True)
        self.ready = True
        self._run_mutants(session, reached, costs_s)
        return True

    def _run_mutants(
        self, session: pytest.Session, reached: Mapping[tuple[str, int], set[int]], costs_s: Sequence[float]
    ) -> None:
        index = {item.nodeid: i for i, item in enumerate(session.items)}
        by_function: dict[str, list[int]] = defaultdict(list)
        for mutant in self.mutants:
            known = index.get(self.killers.get(" | ".join(mutant.key), ""))
            if known is not None:
                by_function[mutant.function].append(known)
        shared = mmap.mmap(-1, 4 * len(self.mutants))
        running: dict[int, tuple[int, int]] = {}
        gc.freeze()

        def reap() -> None:
            pid, status, usage = os.wait4(-1, 0)
            self.cpu_s += usage.ru_utime + usage.ru_stime
            i, tests = running.pop(pid)
            mutant = self.mutants[i]
            killer = None
            if status != 0:
                (number,) = struct.unpack_from("i", shared, 4 * i)
                killer = session.items[number].nodeid
                if os.WIFSIGNALED(status):
                    killer += f" ({signal.Signals(os.WTERMSIG(status)).name})"
                else:
                    by_function[mutant.function].append(number)
            self.outcomes.append(Outcome(mutant, killer, tests))
            if len(self.outcomes) % 100 == 0:
                print(f"  {len(self.outcomes)} of {len(self.mutants)}, {self.cpu_s:.0f} s of CPU", flush=True)

        for i, mutant in enumerate(self.mutants):
            file = os.path.realpath(mutant.path)
            tests = set().union(*(reached.get((file, line), set()) for line in mutant.lines))
            known = index.get(self._known(mutant))
            own = f"test_{mutant.path.stem}"
            ranks = [(not item.path.name.startswith(own), cost_s) for item, cost_s in zip(session.items, costs_s)]
            chosen = _chosen(tests, costs_s, ranks, by_function[mutant.function], known, self.budget_s)
            if not chosen:
                self.outcomes.append(Outcome(mutant, None, 0))
                continue
            while len(running) >= self.jobs:
                reap()
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                _child(session, mutant, chosen, sum(costs_s[n] for n in chosen), shared, 4 * i)
            running[pid] = (i, len(chosen))
        while running:
            reap()

    def _known(self, mutant: Mutant) -> str:
        return self.killers.get(" | ".join(mutant.key), "")


def _chosen(
    tests: set[int],
    costs_s: Sequence[float],
    ranks: Sequence[tuple[bool, float]],
    recent: Sequence[int],
    known: int | None,
    budget_s: float,
) -> list[int]:
    first = [known] if known in tests and known is not None else []
    for number in reversed(recent):
        if number in tests and number not in first:
            first.append(number)
        if len(first) == 3:
            break
    chosen = first + sorted(tests.difference(first), key=lambda number: ranks[number])
    spent_s = 0.0
    for i, number in enumerate(chosen):
        spent_s += costs_s[number]
        if spent_s > budget_s and i > 0:
            return chosen[:i]
    return chosen


def _in_fork(call: Callable[[], Any]) -> Any:
    """What ``call`` returns, as JSON has it, from a process of its own; None if it raised, which is printed."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            with open(writing, "w") as out:
                json.dump(call(), out)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(writing)
    with open(reading) as found:
        said = found.read()
    os.waitpid(pid, 0)
    return json.loads(said) if said else None


def _measured(session: pytest.Session, files: set[str]) -> dict[str, Any] | None:
    """Which tests execute each line, and what they cost; None if one fails."""
    reached = _reached(session, files)
    needed = set().union(*reached.values())
    costs_s = [_cpu_s(item) if i in needed else 0.0 for i, item in enumerate(session.items)]
    if session.testsfailed:
        return None
    return {"reached": [(*at, sorted(tests)) for at, tests in reached.items()], "costs_s": costs_s}


def _reached(session: pytest.Session, files: set[str]) -> Mapping[tuple[str, int], set[int]]:
    """The tests that execute a line, by file and line."""
    meter = coverage.Coverage(data_file=None, config_file=False, include=sorted(files))
    meter.start()
    for i, item in enumerate(session.items):
        meter.switch_context(str(i))
        _run(item)
    meter.stop()
    data = meter.get_data()
    reached: dict[tuple[str, int], set[int]] = {}
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            reached[(os.path.realpath(file), line)] = {int(context) for context in contexts if context}
    return reached


def _run(item: pytest.Item) -> None:
    item.ihook.pytest_runtest_protocol(item=item, nextitem=None)


def _cpu_s(item: pytest.Item) -> float:
    before_s = time.process_time()
    _run(item)
    return time.process_time() - before_s


def _child(
    session: pytest.Session, mutant: Mutant, chosen: Sequence[int], cost_s: float, shared: mmap.mmap, at: int
) -> None:
    """Never returns: 0 is a survivor, 1 a kill, a signal a kill as well."""
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        for name, timer, limit_s in (
            ("SIGPROF", signal.ITIMER_PROF, 2.0 + 5 * cost_s),
            ("SIGALRM", signal.ITIMER_REAL, CLOCK_S + 10 * cost_s),
        ):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
            signal.setitimer(timer, limit_s)
        mutant.install(vars(sys.modules[mutant.module_name]))
        for number in chosen:
            struct.pack_into("i", shared, at, number)
            _run(session.items[number])
            if session.testsfailed:
                break
        else:
            status = 0
    finally:
        os._exit(status)
