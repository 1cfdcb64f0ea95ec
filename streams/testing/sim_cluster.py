"""Simulated machines with a worker each, who should run what, and the simulator that torments them.

What must live here: machines, membership, and the faults that strike a whole worker.  What must not: faults of calls
(``sim_log``), the verdict (``sim_oracle``).

    machine: disks, and a process with a worker in it ── killed, or stopped ──▶ a while ──▶ a new process on its disks
    coordinator: who should run which task; after ``PATIENCE_S`` without a sign of life a worker's tasks go to others
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from random import Random

from streams.connectors.memory.rules import partition_for
from streams.core.log import Log
from streams.core.membership import Assignment
from streams.core.thresholds import PRODUCTION, Thresholds
from streams.dsl.app import App
from streams.errors import RetryableError
from streams.runtime.driver import Driver, DriverFactory, Phase
from streams.runtime.worker import Worker
from streams.testing.loop import VirtualClock
from streams.testing.sim_log import Network, SimLog
from streams.testing.sim_process import Process, SimLoop
from streams.testing.sim_server import Elsewhere, Snapshot
from streams.testing.sim_stores import SimStores

__all__ = ["Cluster", "Machine", "SimMembership"]

PATIENCE_S = 0.6


class SimMembership:
    """A worker's place among the others (``core.membership.Membership``), in the simulator's hands."""

    def __init__(self) -> None:
        self._wanted = Assignment()
        self._changed = asyncio.Event()

    def assign(self, tasks: frozenset[str], followed: frozenset[str] = frozenset()) -> None:
        wanted = Assignment(tasks, followed)
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def assignments(self) -> AsyncIterator[Assignment]:
        while True:
            self._changed.clear()
            yield self._wanted
            await self._changed.wait()

    def report(self, held: Collection[str], ready: Collection[str]) -> None:
        """The simulator sees for itself."""

    def out_of_touch(self) -> None:
        """The simulator has no health to tell of."""

    async def close(self) -> None:
        """The simulator sees for itself."""


class SkewedClock:
    """A machine's wall clock, which is wrong by some time."""

    def __init__(self, clock: VirtualClock, skew_ms: int) -> None:
        self._clock = clock
        self._skew_ms = skew_ms

    def now_ms(self) -> int:
        return self._clock.now_ms() + self._skew_ms


@dataclass(slots=True)
class Machine:
    """A machine.  ``process`` is None while nothing runs on it."""

    name: str
    stores: SimStores
    process: Process | None = None
    worker: Worker | None = None
    membership: SimMembership | None = None
    stop: asyncio.Event | None = None
    starts: int = 0
    unseen_since_s: float | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and not self.process.dead


@dataclass(slots=True)
class Cluster:
    """All machines of a run.

    elsewhere: the server of every other log that the app names.  standbys: each machine follows every task that keeps
    state and that it doesn't run.  ticks: somebody writes the ticks of timers.
    """

    loop: SimLoop
    clock: VirtualClock
    network: Network
    elsewhere: Elsewhere
    make_app: Callable[[], App]
    random: Random
    machines: list[Machine] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    standbys: bool = False
    ticks: bool = True
    thresholds: Thresholds = PRODUCTION
    stateful: frozenset[str] = frozenset()
    make_driver: DriverFactory = Driver
    make_log: Callable[[Network, Process], SimLog] = SimLog
    failure: BaseException | None = None
    tasks: Sequence[str] = ()
    owners: dict[str, list[Machine]] = field(default_factory=dict)
    over: bool = False
    _restarts: set[asyncio.Task[None]] = field(default_factory=set)
    _snapshots: tuple[Snapshot, Snapshot] | None = None

    # ── machines ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, machine: Machine) -> None:
        """Start a worker on a machine."""
        machine.starts += 1
        process = Process(f"{machine.name}.{machine.starts}", self.loop)
        self.processes.append(process)
        process.on_death = lambda: self._died(machine)
        skew = self.random.randint(-1, 1) * self.network.odds.skew_ms
        app = self.make_app()
        machine.process, machine.unseen_since_s = process, None
        machine.membership, machine.stop = SimMembership(), asyncio.Event()
        log = self.make_log(self.network, process)
        machine.worker = worker = Worker(
            app,
            log,
            machine.stores,
            SkewedClock(self.clock, skew),
            membership=machine.membership,
            make_driver=self.make_driver,
            connect=lambda location: self._connect(process),
            thresholds=self.thresholds,
        )
        if not self.tasks:
            ticker = worker.blueprint.ticker
            self.tasks = [task for task in worker.blueprint.tasks if self.ticks or task != ticker]
            kept = (each for each in worker.blueprint.subtopologies if each.states)
            self.stateful = frozenset(task for each in kept for task in each.task_ids)
            self.owners = {task: [self.random.choice(self.machines)] for task in self.tasks}
        self.network.note(process.name, "starts")
        self._announce()
        task = process.spawn(_work(worker, log, machine.stop), process.name)
        task.add_done_callback(lambda done: self._ended(machine, process, done), context=Context())

    def _connect(self, process: Process) -> Log:
        """A client of what lies elsewhere."""
        return SimLog(self.network, process, self.elsewhere)

    def _died(self, machine: Machine) -> None:
        odds = self.network.odds
        torn = self.random.random() < odds.torn
        machine.stores.crash(self.random, torn)
        if self.random.random() < odds.new_disk:
            machine.stores = SimStores(self.network.server)
        self._leave(machine)

    def _ended(self, machine: Machine, process: Process, done: asyncio.Task[None]) -> None:
        """The worker has returned: it was stopped, or gave up."""
        if self.over or process.dead or machine.process is not process or done.cancelled():
            return
        error = done.exception()
        self.network.note(process.name, "ends", type(error).__name__ if error is not None else "in order")
        if error is not None and not isinstance(error, RetryableError) and self.failure is None:
            self.failure = error
        if error is not None:
            self.network.count("worker gave up")
        machine.stores.crash(self.random, torn=False)
        process.on_death = lambda: None
        process.kill()
        self._leave(machine)

    def _leave(self, machine: Machine) -> None:
        machine.worker = machine.membership = None
        machine.process = None
        machine.unseen_since_s = self.loop.time()
        pause_s = 0.05 if self.network.calm else self.random.choice((0.05, 0.3, 1.5))
        restart = self.loop.create_task(self._restart(machine, pause_s), context=Context())
        self._restarts.add(restart)
        restart.add_done_callback(self._restarts.discard, context=Context())

    async def _restart(self, machine: Machine, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        if machine.process is None:
            self.start(machine)

    def running(self) -> list[tuple[Process, App]]:
        """The processes whose worker is at work, with their apps."""
        return [
            (each.process, each.worker.app)
            for each in self.machines
            if each.process is not None and each.alive and each.worker is not None and each.worker.drivers
        ]

    def partition_for(self, key: bytes, count: int) -> int:
        """The log's partitioner."""
        return partition_for(key, count)

    # ── who runs what ─────────────────────────────────────────────────────────────────────────────────────────────

    def _announce(self) -> None:
        for machine in self.machines:
            if machine.membership is not None:
                active = frozenset(task for task in self.tasks if machine in self.owners[task])
                machine.membership.assign(active, self.stateful - active if self.standbys else frozenset())

    def _give(self, task: str, owners: list[Machine]) -> None:
        self.owners[task] = owners
        self.network.note("coordinator", "assign", f"{task} to {' and '.join(each.name for each in owners)}")

    def watch(self) -> None:
        """Give the tasks of workers that have shown no sign of life for long to others."""
        now = self.loop.time()
        seen = [each for each in self.machines if each.unseen_since_s is None]
        for machine in self.machines:
            gone_s = 0.0 if machine.unseen_since_s is None else now - machine.unseen_since_s
            if gone_s < PATIENCE_S or not seen:
                continue
            for task, owners in self.owners.items():
                if machine in owners:
                    self._give(task, [each for each in owners if each is not machine] or [self.random.choice(seen)])
        self._announce()

    # ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def torment(self) -> None:
        """Strike now and then, until it is calm."""
        network, odds = self.network, self.network.odds
        while not network.calm:
            await asyncio.sleep(self.random.uniform(0.5, 1.0) * odds.look_ms / 1000)
            if network.strikes(odds.power_cut):
                self._cut_power()
            machine = self.random.choice(self.machines)
            if machine.alive and machine.process is not None:
                if network.strikes(odds.crash):
                    network.note(machine.process.name, "killed")
                    network.count("killed")
                    machine.process.kill()
                elif network.strikes(odds.freeze):
                    self._freeze(machine, machine.process)
                elif network.strikes(odds.restart) and machine.stop is not None:
                    network.note(machine.process.name, "is told to stop")
                    network.count("stopped")
                    machine.stop.set()
            if network.strikes(odds.move):
                network.count("moved")
                self._give(self.random.choice(self.tasks), [self.random.choice(self.machines)])
            if network.strikes(odds.double) and len(self.machines) > 1:
                network.count("given to two")
                self._give(self.random.choice(self.tasks), self.random.sample(self.machines, 2))
            if network.strikes(odds.tidy):
                network.note("log", "tidies up")
                network.server.broker.maintain(self.clock.now_ms(), self.random.choice((0, 500, 2000)))
            if odds.power_cut and network.strikes(0.5):
                self._snapshots = network.server.snapshot(), self.elsewhere.snapshot()
            self.watch()

    def _freeze(self, machine: Machine, process: Process) -> None:
        network = self.network
        network.note(process.name, "freezes")
        network.count("frozen")
        process.freeze()
        machine.unseen_since_s = self.loop.time()
        self.loop.call_later(self.random.choice((0.2, 1.0, 3.0)), self._thaw, machine, process, context=Context())

    def _thaw(self, machine: Machine, process: Process) -> None:
        if machine.process is process and not process.dead:
            self.network.note(process.name, "goes on")
            machine.unseen_since_s = None
            process.thaw()

    def _cut_power(self) -> None:
        if self._snapshots is None:
            return
        self.network.note("log", "loses its tail")
        self.network.count("power cut")
        self.network.cut()
        for machine in self.machines:
            if machine.process is not None:
                machine.process.kill()
        for server, snapshot in zip((self.network.server, self.elsewhere), self._snapshots, strict=True):
            server.restore(snapshot)
        self._snapshots = None
        # Else each would find its own disks again, and never a store that others have overtaken meanwhile.
        for task in self.tasks:
            if self.random.random() < 0.5:
                self._give(task, [self.random.choice(self.machines)])

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def calm_down(self) -> None:
        """No more faults: everybody is thawed, and each task belongs to one worker."""
        self.network.calm = True
        self.network.note("simulator", "calm")
        for machine in self.machines:
            if machine.process is not None and machine.unseen_since_s is not None:
                self._thaw(machine, machine.process)
        for task, owners in self.owners.items():
            self._give(task, [self.random.choice(owners)])
        self._announce()

    def _renew(self, task: str, machine: Machine) -> None:
        """Take a task away and give it back: its worker was fenced and, with nothing to commit, hasn't noticed."""
        assert machine.membership is not None
        self.network.note("coordinator", "renew", f"{task} on {machine.name}")
        machine.membership.assign(frozenset(each for each in self.tasks if machine in self.owners[each]) - {task})
        self.loop.call_later(0.05, self._announce, context=Context())

    def unsettled(self) -> str | None:
        """What isn't done yet, in words; None when every record that the log holds was processed and committed."""
        if self.failure is not None:
            return None
        if self.network.under_way or self._restarts:
            return "requests are under way, or a worker is to be started"
        made = self.network.server.made
        for task, owners in self.owners.items():
            worker = owners[0].worker
            if worker is not None and task == worker.blueprint.ticker:
                continue  # it is never done
            if worker is not None and (delivery := worker.deliveries.get(task)) is not None:
                end = self.network.server.broker.partition(delivery.at).end
                if delivery.delivered.offset() < end:
                    return f"delivery {task} stands at {delivery.delivered} of {delivery.at}, which ends at {end}"
                continue
            driver = worker.drivers.get(task) if worker is not None else None
            if worker is None or driver is None or driver.task is None or driver.phase is not Phase.RUNNING:
                return f"task {task} doesn't run on {owners[0].name}"
            running, checkpoint = driver.task, made(task)
            if checkpoint is None or checkpoint.epoch != running.checkpoint.epoch:
                self._renew(task, owners[0])
                return f"task {task} on {owners[0].name} isn't the one that owns it on the log"
            for each in running.inputs:
                position, end = (
                    checkpoint.position(each.partition),
                    self.network.server.broker.partition(each.partition).end,
                )
                if position is None or position.offset() < end:
                    return f"task {task} stands at {position} of {each.partition}, which ends at {end}"
            if not running.caught_up or running.mark_due(self.clock.now_ms() + 1_000_000):
                return f"task {task} has something to commit"
        return None


async def _work(worker: Worker, log: SimLog, stop: asyncio.Event) -> None:
    await log.open()
    try:
        await worker.run(stop)
    finally:
        await log.close()
