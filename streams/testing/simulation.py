"""Simulation: an app on a cluster in which everything goes wrong, repeatable from a seed.

    def test_survives():
        Simulation(make_app, workload, seed=7, faults=crashes | duplicates | reorders | torn_writes).check(exactly_once)

What must live here: one run from its start to its verdict.  What must not: the parts that it is made of (``sim_…``).

The workers are real, as they run in production; log, network, disks, clocks and processes are simulated, and the time
is virtual.  What happens follows from the seed alone: a seed that fails, fails again.  A run goes through three stages:

    torment: workload and faults ──▶ calm: faults end, everything that is on the log is processed ──▶ verdict
"""

from __future__ import annotations

import asyncio
import gc
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from streams.core.capability import Limits
from streams.core.log import Append
from streams.core.record import Records, TopicPartition
from streams.core.thresholds import Thresholds
from streams.dsl.app import App
from streams.operators.agent import REQUEST_HEADER, decode_request
from streams.runtime.driver import Driver, DriverFactory
from streams.testing.faults import Faults, Odds, all_faults, draw_odds, draw_thresholds
from streams.testing.loop import VirtualClock
from streams.testing.sim_cluster import Cluster, Machine
from streams.testing.sim_log import Network, SimLog
from streams.testing.sim_oracle import Expectation, Outcome, collect, differing_stores, exactly_once, overgrown_memories
from streams.testing.sim_process import Process, SimLoop, outside
from streams.testing.sim_server import Elsewhere, Entry, Server
from streams.testing.sim_stores import SimStores
from streams.testing.sim_workload import Client, Workload, as_workload

__all__ = ["Report", "Simulation", "SimulationFailed"]

LIMITS = Limits(max_commit_records=3)
"""So small that closing a window, a burst of timers, a record with many results all take several commits."""
START_MS = 1_700_000_037_000
"""Of the wall clock: a few seconds before a full minute, so that cron has something to do."""
SETTLE_S = 90.0
"""Virtual seconds after which an app that isn't done with its inputs is stuck."""
SHOWN_PROBLEMS = 12
SHOWN_EVENTS = 25


class SimulationFailed(AssertionError):
    """A promise was broken.  The message says which, and how to see it again.  ``seed``: of the run."""

    def __init__(self, message: str, seed: int) -> None:
        self.seed = seed
        super().__init__(message)


@dataclass(slots=True)
class Report:
    """What a run did.

    outcome: what was on the log in the end.  given: the inputs, by partition.  trace: (time, who, what, about), the
    same for each run of a seed.  faults: how often each struck.  time_s: virtual seconds.  problems: what was found
    wrong before the comparison.
    """

    outcome: Outcome
    given: dict[TopicPartition, list[Entry]]
    trace: list[tuple[float, str, str, str]] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    odds: Odds = field(default_factory=Odds)
    time_s: float = 0.0
    commits: int = 0
    problems: list[str] = field(default_factory=list)


class Simulation:
    """One run of an app under faults.

    app: a function without arguments that declares the app anew at each call, since each process has an app of its
    own; an ``App`` itself will do, but then there is one worker only.
    workload: ``async def workload(client)``, or rows of (topic, key, value) or (topic, key, value, timestamp).
    seed: everything follows from it.  faults: what may happen.  workers: machines with a worker each.
    replay: the command that repeats the run, for the message of a failure.
    standbys: each worker follows the state of every task that it doesn't run.
    thresholds: draws the sizes at which structures change their ways; small ones, if the app doesn't need others.

    What must hold for the verdict to mean something: the app's results may not depend on chance, on the wall clock or
    on the order in which partitions are read.
    """

    def __init__(
        self,
        app: App | Callable[[], App],
        workload: Workload | Iterable[tuple[Any, ...]],
        *,
        seed: int = 0,
        faults: Faults = all_faults,
        workers: int = 3,
        replay: str = "",
        make_driver: DriverFactory = Driver,
        make_log: Callable[[Network, Process], SimLog] = SimLog,
        make_server: Callable[..., Server] = Server,
        check_always: bool = True,
        standbys: bool = False,
        thresholds: Callable[[Random], Thresholds] = draw_thresholds,
    ) -> None:
        self.seed = seed
        self.faults = faults
        self._make_app: Callable[[], App] = (lambda: app) if isinstance(app, App) else app
        self._workload = as_workload(workload)
        self._workers = 1 if isinstance(app, App) else workers
        self._replay = replay or f"Simulation(…, seed={seed}, faults={_words(faults)}).check(…)"
        self._make_driver = make_driver
        self._standbys = standbys
        self._thresholds = thresholds
        self._make_log = make_log
        self._make_server = make_server
        self._check_always = check_always

    def check(self, expectation: Expectation = exactly_once) -> Report:
        """Run, and compare with what should be there.  Raises SimulationFailed, with the seed."""
        report = self.run()
        problems = report.problems or list(expectation(self.reference(report), report.outcome))
        if problems:
            raise SimulationFailed(self._message(problems, report), self.seed)
        return report

    def run(self) -> Report:
        """Run under faults; the verdict is left to the caller."""
        run = _Run(self._make_app, self.seed, draw_odds(self.faults, Random(f"{self.seed} odds")), LIMITS)
        run.cluster.make_driver, run.cluster.make_log = self._make_driver, self._make_log
        run.cluster.standbys = self._standbys
        run.cluster.thresholds = self._thresholds(Random(f"{self.seed} thresholds"))
        run.use_server(self._make_server)
        run.server.check = self._check_always
        return run.live(self._workload, self._workers, torment=True)

    def reference(self, report: Report) -> Outcome:
        """What the app makes of the same inputs without faults, on one worker, far below any threshold.  The ticks of
        timers are inputs there: when they come isn't for the app to say."""
        run = _Run(self._make_app, self.seed, Odds(), Limits())
        run.network.calm = True
        run.cluster.ticks = False
        run.feed(report.given)
        made = run.live(_nothing, 1, torment=False)
        if made.problems:
            raise SimulationFailed(f"without any fault: {'; '.join(made.problems[:SHOWN_PROBLEMS])}", self.seed)
        return made.outcome

    def _message(self, problems: list[str], report: Report) -> str:
        shown = problems[:SHOWN_PROBLEMS]
        more = [f"… and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
        events = [f"  {time:9.3f}  {who:12} {what} {about}" for time, who, what, about in report.trace[-SHOWN_EVENTS:]]
        struck = ", ".join(f"{count} × {fault}" for fault, count in sorted(report.faults.items()))
        return "\n".join(
            (
                f"seed {self.seed}: {shown[0]}",
                *(f"  {line}" for line in (*shown[1:], *more)),
                f"faults: {struck or 'none'}",
                f"again: {self._replay}",
                "what happened last:",
                *events,
            )
        )


async def _carry_out(workload: Workload, client: Client) -> None:
    """The workload, and some more torment for what it has left to do."""
    await workload(client)
    await asyncio.sleep(client.random.random() * 1.5)


async def _nothing(client: Client) -> None:
    return None


class _Run:
    """A loop, a log and a cluster: everything of one run."""

    def __init__(self, make_app: Callable[[], App], seed: int, odds: Odds, limits: Limits) -> None:
        self.loop = SimLoop()
        self.clock = VirtualClock(self.loop, START_MS)
        self.app = make_app()
        self.server = Server(self.clock.now_ms, limits)
        self.elsewhere = Elsewhere(self.clock.now_ms, limits, identity="elsewhere")
        self.network = Network(self.server, odds, Random(f"{seed} network"), self.loop.time)
        self.cluster = Cluster(self.loop, self.clock, self.network, self.elsewhere, make_app, Random(f"{seed} cluster"))
        self._seed = seed
        self._given: dict[TopicPartition, list[Entry]] = {}

    def use_server(self, make: Callable[..., Server]) -> None:
        self.server = self.network.server = make(self.clock.now_ms, self.server.limits)

    def feed(self, given: dict[TopicPartition, list[Entry]]) -> None:
        """Take the inputs of another run: as they were, but each request to an agent once."""
        self._given = {at: _without_repeated_requests(entries) for at, entries in given.items()}

    def live(self, workload: Workload, workers: int, *, torment: bool) -> Report:
        problems: list[str] = []
        with _undisturbed(Random(f"{self._seed} names")):
            try:
                self.loop.set_exception_handler(self._unexpected)
                self.loop.run_until_complete(self._live(workload, workers, torment))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the run's failure, told with its seed
                problems.append(_tell(error))
            report = self._report(problems)
            self._end()
        return report

    async def _live(self, workload: Workload, workers: int, torment: bool) -> None:
        cluster, server = self.cluster, self.server
        blueprint = self.app.build()
        server.broker.create_topics(blueprint.own_topics)
        self.elsewhere.broker.create_topics(
            [replace(spec, name=spec.name_there, location="", there="") for spec in blueprint.foreign_topics]
        )
        for at, entries in self._given.items():
            server.append([Append(at, _records(entries))], given=True)
        cluster.machines.extend(Machine(f"worker{number}", SimStores(server)) for number in range(workers))
        for machine in list(cluster.machines):
            cluster.start(machine)
        if torment:
            client = Client(self.app, server, self.clock.now_ms, Random(f"{self._seed} workload"), cluster)
            tormenting = outside(cluster.torment(), "torment")
            working = outside(_carry_out(workload, client), "workload")
            await asyncio.wait({working, tormenting}, return_when=asyncio.FIRST_COMPLETED)
            self.network.calm = True
            await tormenting
            if not working.done():
                await working
            working.result()
        await cluster.calm_down()
        await self._settle()

    async def _settle(self) -> None:
        deadline = self.loop.time() + SETTLE_S
        quiet = 0
        while quiet < 3 and self.cluster.failure is None:
            await asyncio.sleep(0.1)
            left = self.cluster.unsettled()
            quiet = 0 if left else quiet + 1
            if self.loop.time() > deadline:
                raise SimulationStuck(f"{SETTLE_S:g} s after the last fault the app still isn't done: {left}")

    def _report(self, problems: list[str]) -> Report:
        cluster, server = self.cluster, self.server
        if cluster.failure is not None:
            problems.insert(0, _tell(cluster.failure))
        if not problems:
            drivers = {task for each in self.app.build().subtopologies for task in each.task_ids}
            for task, owners in cluster.owners.items():
                if task in drivers:
                    problems += differing_stores(self.app, server, task, owners[0].stores.disks[task])
            problems += overgrown_memories(self.app, server, cluster.thresholds.remembered_requests)
        ticks = {timer.topic.name for timer in self.app.timers if timer.topic is not None}
        given = {
            at: [entry for entry in entries if entry.given or at.topic in ticks]
            for at, entries in server.journal.items()
        }
        return Report(
            collect(self.app, server, self.elsewhere),
            {at: entries for at, entries in given.items() if entries},
            self.network.trace,
            self.network.counts,
            self.network.odds,
            self.loop.time(),
            server.commits,
            problems,
        )

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised.  A task's own error isn't news here: whoever started it looks at it."""
        error = context.get("exception")
        if error is not None and "future" not in context and "task" not in context and self.cluster.failure is None:
            self.cluster.failure = error

    def _end(self) -> None:
        """Close every coroutine, those of the dead included, and the loop."""
        self.cluster.over = self.network.calm = True
        loop = self.loop
        loop.steps = 0
        for process in self.cluster.processes:
            process.bury()
        for _ in range(5):
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                with suppress(RuntimeError):
                    loop.run_until_complete(asyncio.wait(left, timeout=60.0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class SimulationStuck(AssertionError):
    """The app is not done with its inputs long after the last fault."""


@contextmanager
def _undisturbed(names: Random) -> Iterator[None]:
    """No garbage collection, which would end abandoned coroutines at moments of its own, and no log lines.  Workers,
    claims and requests are named by ``names``: their names decide where they are kept, and in what order."""
    collecting, logger = gc.isenabled(), logging.getLogger("streams")
    level = logger.level
    gc.disable()
    by_chance = uuid.uuid4
    uuid.uuid4 = lambda: uuid.UUID(int=names.getrandbits(128), version=4)
    if level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        uuid.uuid4 = by_chance
        logger.setLevel(level)
        if collecting:
            gc.enable()


def _without_repeated_requests(entries: list[Entry]) -> list[Entry]:
    seen: set[str] = set()
    kept = []
    for entry in entries:
        request = next((value for name, value in entry.headers or () if name == REQUEST_HEADER), None)
        if request is not None:
            identity = decode_request(request).id
            if identity in seen:
                continue
            seen.add(identity)
        kept.append(entry)
    return kept


def _records(entries: list[Entry]) -> Records:
    return Records(
        [entry.key for entry in entries],
        [entry.value for entry in entries],
        [entry.timestamp for entry in entries],
        [entry.headers for entry in entries],
    )


def _tell(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {error}{where}"


def _words(faults: Faults) -> str:
    return " | ".join(str(each.name).lower() for each in Faults if each in faults) or "no_faults"
