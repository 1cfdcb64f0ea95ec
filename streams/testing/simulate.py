"""``python -m streams.testing.simulate``: many seeds of the simulation, in several processes.

What must live here: spreading seeds over processes and telling what they found.  What must not: the simulation.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Any

from streams.dsl.app import App
from streams.testing import faults as known_faults
from streams.testing.faults import Faults
from streams.testing.simulation import Simulation, SimulationFailed

__all__ = ["fresh_seed", "main", "run_seeds"]

OWN = ("streams.testing.sim_app:make_app", "streams.testing.sim_errands:make_app")
"""The project's own apps; seeds take turns at them."""
SEEDS_AT_ONCE = 25


@dataclass(slots=True)
class Tally:
    """What a stretch of seeds came to.  ``failures``: (seed, message)."""

    seeds: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    cpu_s: float = 0.0

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.failures += other.failures
        self.struck.update(other.struck)
        self.commits += other.commits
        self.cpu_s += other.cpu_s


@dataclass(frozen=True, slots=True)
class _Stretch:
    seeds: range
    app: str
    faults: Faults | None


def run_seeds(
    first: int, count: int, faults: Faults | None = None, *, processes: int = 1, app: str = ""
) -> Iterator[Tally]:
    """Run seeds and yield what each stretch of them came to, as they are done.

    faults: by default every seed has all that the engine must bear, some more than that (``_circumstances``).
    app: "module:function"; by default the project's own.
    """
    stretches = [
        _Stretch(range(at, min(at + SEEDS_AT_ONCE, first + count)), app, faults)
        for at in range(first, first + count, SEEDS_AT_ONCE)
    ]
    if processes == 1:
        yield from map(_run, stretches)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_run, stretches)


def _circumstances(seed: int) -> tuple[Faults, bool]:
    """The faults of a seed that may have any, and whether each worker follows what the others run.  A tenth is on a log
    that may lose its tail, which is a fault of the log and not one of the engine; a tenth has no faults, where every
    question is answered."""
    turn = seed // len(OWN)
    if turn % 10 == 8:
        return known_faults.no_faults, False
    more = known_faults.lost_tail if turn % 10 == 9 else known_faults.no_faults
    return known_faults.all_faults | more, turn % 5 == 4


def _run(stretch: _Stretch) -> Tally:
    names = (stretch.app,) if stretch.app else OWN
    makers: list[Callable[[], App]] = [_named(name) if stretch.app else _Recycled(_named(name)) for name in names]
    modules = [importlib.import_module(name.partition(":")[0]) for name in names]
    # What is there by now is never garbage: each run's own isn't looked for among it.
    gc.freeze()
    tally, began = Tally(len(stretch.seeds)), time.process_time()
    for seed in stretch.seeds:
        again = f"python -m streams.testing.simulate --seed {seed}"
        faults, standbys = _circumstances(seed)
        if stretch.faults is not None:
            faults, standbys = stretch.faults, False
            again += f" --faults {_words(faults)}"
        if stretch.app:
            again += f" --app {stretch.app}"
        make_app, module = makers[seed % len(makers)], modules[seed % len(makers)]
        if isinstance(make_app, _Recycled):
            make_app.begin()
        drawn = getattr(module, "thresholds", known_faults.draw_thresholds)
        try:
            report = Simulation(
                make_app,
                module.workload,
                seed=seed,
                faults=faults,
                standbys=standbys,
                thresholds=drawn,
                replay=again,
            ).check()
        except SimulationFailed as failure:
            tally.failures.append((seed, str(failure)))
        else:
            tally.struck.update(report.faults)
            tally.commits += report.commits
    tally.cpu_s = time.process_time() - began
    return tally


class _Recycled:
    """Hands out the apps of former runs again: making one costs as much as a worker's life.  Only for an app of which
    nothing lives in closures or globals."""

    def __init__(self, make: Callable[[], App]) -> None:
        self._make = make
        self._made: list[App] = []
        self._used = 0

    def begin(self) -> None:
        """A new run: all of them are free."""
        self._used = 0

    def __call__(self) -> App:
        if self._used == len(self._made):
            self._made.append(self._make())
        self._used += 1
        return self._made[self._used - 1]


def _named(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def _words(faults: Faults) -> str:
    if faults == known_faults.all_faults:
        return "all_faults"
    return ",".join(str(each.name).lower() for each in Faults if each in faults) or "no_faults"


def _faults(words: str) -> Faults:
    chosen = Faults.NONE
    for word in words.split(","):
        found = getattr(known_faults, word.strip(), None)
        if not isinstance(found, Faults):
            names = ", ".join(str(each.name).lower() for each in Faults)
            raise argparse.ArgumentTypeError(f"{word!r} is no fault; choose of all_faults, no_faults, {names}")
        chosen |= found
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """The command.  Returns 0 when every seed passed, 1 when one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m streams.testing.simulate",
        description="Run an app under simulated faults, once for each seed, and check that everything takes effect "
        "exactly once. A failure names its seed; --seed repeats it.",
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run (1000)")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--seed", type=int, help="run this seed only, and show what happened")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes at work (one a core)")
    parser.add_argument("--faults", type=_faults, help="names, by comma (all_faults; some seeds with more, or none)")
    parser.add_argument("--minutes", type=float, help="run fresh seeds for that long, or those from --from on")
    parser.add_argument(
        "--app",
        default="",
        help="module:function that makes the app; `workload` of the same module is its workload (the project's own)",
    )
    parser.add_argument("--keep-going", action="store_true", help="go on after a failure")
    options = parser.parse_args(arguments)
    first, count = (options.first, options.seeds) if options.seed is None else (options.seed, 1)
    if options.minutes is not None and options.seed is None:
        first, count = first or fresh_seed(), SEEDS_AT_ONCE * 4 * options.processes
        _say(f"{options.minutes:g} minutes of seeds from {first}")
    total, began = Tally(), time.monotonic()
    for tally in _rounds(first, count, options):
        total.add(tally)
        for _, words in tally.failures:
            _say(words)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{total.seeds:,} seeds, {len(total.failures)} failed")
        if total.failures and not options.keep_going:
            break
    spent_s = time.monotonic() - began
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    struck = ", ".join(f"{count:,} × {fault}" for fault, count in sorted(total.struck.items()))
    _say(
        f"{total.seeds:,} seeds from {first}: {len(total.failures)} failed; {total.commits:,} commits under "
        f"{struck or 'no fault'}; "
        f"{spent_s:.0f} s, {1000 * total.cpu_s / max(1, total.seeds):.0f} ms of CPU a seed"
    )
    return 1 if total.failures else 0


def _rounds(first: int, count: int, options: argparse.Namespace) -> Iterator[Tally]:
    """Seeds once, or the next ones again and again until the minutes are over."""
    processes = 1 if count <= SEEDS_AT_ONCE else options.processes
    ends = None if options.minutes is None or options.seed is not None else time.monotonic() + 60 * options.minutes
    while True:
        yield from run_seeds(first, count, options.faults, processes=processes, app=options.app)
        first += count
        if ends is None or time.monotonic() >= ends:
            return


def fresh_seed() -> int:
    """A seed to begin with that hardly anybody had before."""
    return SystemRandom().randrange(10**6, 10**9)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
