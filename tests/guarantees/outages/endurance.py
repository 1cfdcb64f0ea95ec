"""One cell of the matrix: an outage befalls workers, ends, and everything that was promised is looked at.

What must live here: the course of an outage, and what is expected.  What must not: brokers, faults, which cells there
are.

    all is counted ─ busy: a backlog ─▶ away ── watched: health, CPU ──▶ back ─ more numbers ─▶ all is counted, once
                                          └ leaves: SIGTERM, all end ──────┘ others start
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.guarantees.kafka.fleet import Fleet, FleetWorker, some_time
from tests.guarantees.kafka.verifier import differences
from tests.guarantees.outages.app import KEYS
from tests.guarantees.outages.brokers import Ground, Result
from tests.guarantees.outages.faults import OF_BROKERS, struck
from tests.guarantees.outages.matrix import Cell
from tests.guarantees.outages.watch import Answer, Watch, ask, watched

__all__ = ["Endured", "Theatre"]

APP = Path(__file__).with_name("app.py")
MORE = 50
BACK_S = 60.0
"""Within so long of the return something new is done.  The table tells how long it took; it is seconds."""
STOP_S = 8.0 + 2.0
"""How long a worker may take to end after SIGTERM: the default of --stop-timeout, and then it ends itself."""
SPARE_S = 20.0
"""What a busy machine may add to that."""
ANSWER_S = 10.0
"""Health is answered at once; this is for a busy machine."""
CPU_SHARE = 0.2
CPU_FROM_S, CPU_LEAST_S = 1.5, 2.0
"""Measured from so long after the beginning, if that leaves so long."""
LINES, LINES_PER_S = 40, 1.0
"""What a worker may say of an outage."""
QUIET_ABOUT = {"delay"}
"""In which nothing is away: it may be well throughout, and go on working."""
NOTICED_FROM_S, NOTICED_S = 4, 60.0
"""An outage that is to last so long lasts until all have said that they aren't well, within so long: a session, a
request or a keep-alive comes to its end within seconds."""
GROWN_MB = 150.0
"""By how much a worker may be larger after an outage than before it; an engine that is busy takes some of that."""


@dataclass
class Endured:
    """The result of a cell.  Times in seconds from the return of the broker, CPU as a share of one core,
    by how much the worker that has grown most is larger."""

    cell: Cell
    first_s: float = 0.0
    all_s: float = 0.0
    well_s: float = 0.0
    noticed_s: float | None = None
    cpu: float | None = None
    grown_mb: float | None = None
    answer_s: float = 0.0
    lines: int = 0
    ended_s: float | None = None
    statuses: list[int] = field(default_factory=list)
    repeated: int = 0

    HEAD = (
        f"{'cell':38} {'first':>6} {'all':>6} {'well':>6} {'noticed':>7} {'cpu':>5} {'MB':>5} "
        f"{'answer':>6} {'lines':>5} ended, repeated"
    )

    def __str__(self) -> str:
        noticed = f"{self.noticed_s:.1f}" if self.noticed_s is not None else "-"
        cpu = f"{self.cpu:.0%}" if self.cpu is not None else "-"
        grown = f"{self.grown_mb:+.0f}" if self.grown_mb is not None else "-"
        ended = f"{self.ended_s:.1f} {self.statuses}" if self.ended_s is not None else "-"
        return (
            f"{self.cell!s:38} {self.first_s:6.1f} {self.all_s:6.1f} {self.well_s:6.1f} {noticed:>7} {cpu:>5} "
            f"{grown:>5} {self.answer_s:6.2f} {self.lines:5} {ended} {self.repeated or ''}"
        )


class Theatre:
    """A ground, and the workers on it; cells are played on it one after the other."""

    def __init__(self, ground: Ground, fleet: Fleet, workers: int) -> None:
        self._ground, self._fleet, self._workers = ground, fleet, workers
        self._checked = self._sent = 0
        self._results: list[Result] = []
        """Of what was sent since the last check."""
        self._counts: Counter[int] = Counter()
        """For each digit what had been counted by then."""

    @property
    def said_in(self) -> Path:
        return self._fleet.directory

    def open(self) -> None:
        """Workers run, and what they are sent comes back."""
        self._start()
        self._send(MORE)
        self._until_all()
        self._check()

    def play(self, cell: Cell, chance: random.Random) -> Endured:
        endured = Endured(cell)
        workers = list(self._fleet.running.values())
        said = {worker: len(worker.said.splitlines()) for worker in workers}
        held = {worker: worker.memory_mb for worker in workers}
        if cell.busy:
            self._send(self._ground.backlog)
            self._fleet.until(some_time(chance, 0.0, 0.3), "the moment of the outage")
        with watched(workers) as watch:
            with struck(self._ground, cell.fault):
                began = time.monotonic()
                self._endure(cell, endured, watch, began)
                over = time.monotonic()
            back = time.monotonic()
            if cell.leaves:
                self._start()
            self._send(MORE)
            self._until_all(endured, back)
            self._until_well()
            endured.well_s = time.monotonic() - back
        if not cell.leaves:
            endured.grown_mb = max(worker.memory_mb - held[worker] for worker in workers)
        endured.lines = max(len(worker.said.splitlines()) - said[worker] for worker in workers)
        self._look(cell, endured, watch, workers, began, over)
        endured.repeated = self._check(exact=not cell.busy or cell.fault not in self._ground.repeats)
        return endured

    # ── its course ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _endure(self, cell: Cell, endured: Endured, watch: Watch, began: float) -> None:
        """The time while it is away."""
        fleet = self._fleet
        half, over = began + cell.away_s / 2, began + cell.away_s
        if cell.away_s >= CPU_FROM_S + CPU_LEAST_S and not cell.leaves:
            fleet.until(lambda: time.monotonic() >= began + CPU_FROM_S, "the outage to settle")
            since, used = time.monotonic(), {worker: worker.cpu_s for worker in fleet.running.values()}
        else:
            since, used = 0.0, {}
        fleet.until(lambda: time.monotonic() >= half, "half of the outage")
        if cell.busy and cell.fault not in OF_BROKERS:
            self._send(MORE)
        if cell.leaves:
            watch.end()
            self._leave(endured)
        fleet.until(lambda: time.monotonic() >= over, "the outage to end")
        if cell.away_s >= NOTICED_FROM_S and cell.fault not in QUIET_ABOUT and not cell.leaves:
            fleet.until(
                lambda: watch.noticed_s(began) is not None, "all to say that they aren't well", timeout_s=NOTICED_S
            )
        endured.noticed_s = watch.noticed_s(began)
        if used:
            elapsed_s = time.monotonic() - since
            endured.cpu = max((worker.cpu_s - before) / elapsed_s for worker, before in used.items())

    def _leave(self, endured: Endured) -> None:
        """SIGTERM to all: each ends in its time, well or with one line that says what will be done again."""
        workers = list(self._fleet.running.values())
        asked = time.monotonic()
        for worker in workers:
            worker.ask_to_leave()
        for worker in workers:
            endured.statuses.append(worker.process.wait(STOP_S + SPARE_S))
            last = worker.said.strip().splitlines()[-1]
            assert endured.statuses[-1] == 0 or (
                endured.statuses[-1] == 1 and last.startswith("streams: error: stopped, but ")
            ), f"{worker} ended with {endured.statuses[-1]}:\n{worker.said[-3000:]}"
        endured.ended_s = time.monotonic() - asked
        self._fleet.running.clear()

    def _start(self) -> None:
        self._fleet.start_all(self._workers)
        self._until_well()

    def _send(self, count: int) -> None:
        self._ground.send(range(self._sent, self._sent + count))
        self._sent += count

    def _until_all(self, endured: Endured | None = None, back: float = 0.0) -> None:
        self._results += self._ground.take()
        before = len(self._results)

        def all_have_come() -> bool:
            self._results += self._ground.take()
            if endured is not None and not endured.first_s and len(self._results) > before:
                endured.first_s = time.monotonic() - back
            return {n for n, _ in self._results}.issuperset(range(self._checked, self._sent))

        try:
            self._fleet.until(all_have_come, "all results")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self._wrong() or 'yet nothing is wrong'}") from error
        if endured is not None:
            endured.all_s = time.monotonic() - back

    def _until_well(self) -> None:
        found: dict[FleetWorker, Answer] = {}

        def all_are_well() -> bool:
            found.update((worker, ask(worker)) for worker in self._fleet.running.values())
            return all(each.well and each.tasks for each in found.values())

        try:
            self._fleet.until(all_are_well, "all to be well")
        except AssertionError as error:
            raise AssertionError(f"{error}: {[str(each) for each in found.values()]}") from error

    # ── what is expected ────────────────────────────────────────────────────────────────────────────────────────────

    def _look(
        self, cell: Cell, endured: Endured, watch: Watch, workers: list[FleetWorker], began: float, over: float
    ) -> None:
        answers = [answer for each in watch.answers.values() for answer in each]
        endured.answer_s = max((answer.took_s for answer in answers), default=0.0)
        silent = [answer for answer in answers if answer.status.startswith("no answer")]
        if cell.leaves:
            silent = [answer for answer in silent if answer.took_s >= ANSWER_S]  # it has ended
        assert not silent, f"health wasn't answered: {silent[0]}"
        assert endured.answer_s < ANSWER_S, f"health was answered after {endured.answer_s:.1f} s only"
        if cell.fault not in QUIET_ABOUT:
            lies = watch.took_back(began, over)
            assert not lies, f"after {lies[0].at_s - began:.1f} s a worker said that it is well again: {lies[0]}"
        assert endured.first_s < BACK_S, f"nothing was done for {endured.first_s:.1f} s after the return"
        if endured.cpu is not None and not (cell.busy and cell.fault in QUIET_ABOUT):
            assert endured.cpu < CPU_SHARE, f"a worker took {endured.cpu:.0%} of a core while it waited"
        if endured.grown_mb is not None:
            assert endured.grown_mb < GROWN_MB, f"a worker has grown by {endured.grown_mb:.0f} MB"
        allowed = LINES + LINES_PER_S * cell.away_s
        assert endured.lines <= allowed, f"a worker said {endured.lines} lines"
        for worker in workers:
            assert "Traceback" not in worker.said, f"{worker}:\n{worker.said[-5000:]}"

    def _check(self, *, exact: bool = True) -> int:
        """How much the broker has repeated; nothing else may have befallen any number, and where ``exact`` not that."""
        self._results += self._ground.take()
        repeated = len(self._results) - (self._sent - self._checked)
        wrong = self._wrong() if exact or repeated <= 0 else self._wrong_but_repeated()
        assert not wrong, wrong
        self._counts.update(n % KEYS for n, _ in self._results)
        self._results.clear()
        self._checked = self._sent
        return repeated

    def _wrong(self) -> str:
        """What is lost or there twice, in a line; empty if nothing is."""
        expected, counts = [], self._counts.copy()
        for n in range(self._checked, self._sent):
            counts[n % KEYS] += 1
            expected.append((str(n), str(counts[n % KEYS])))
        return differences(((str(n), str(count)) for n, count in self._results), expected, "counted")

    def _wrong_but_repeated(self) -> str:
        """The same where some came in twice: what came is counted once each time, and nothing is missing."""
        lost = set(range(self._checked, self._sent)).difference(n for n, _ in self._results)
        came = Counter(n % KEYS for n, _ in self._results)
        expected = ((str(key), str(self._counts[key] + each)) for key in came for each in range(1, came[key] + 1))
        wrong = differences(((str(n % KEYS), str(count)) for n, count in self._results), expected, "digits")
        return f"lost: {sorted(lost)}; {wrong}" if lost or wrong else ""
