"""The worker: one process of an app at work.

    open the log ──▶ topics ──▶ topology record (fenced) ──▶ on_start ──▶ a driver for each assigned task ──▶ stop

What must live here: starting, supervising and stopping what runs side by side.  What must not: what a task does
(``runtime.driver``).  A failure of any part stops the worker with that error; nothing is skipped in silence.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from streams.connectors.registry import open_edge, open_foreign
from streams.core.capability import Derived, derive_commit, derive_source
from streams.core.edge import Edge
from streams.core.log import Append, Log, TaskRef, TopicSpec
from streams.core.membership import Assignment, Member, Membership, OutOfTouch, Wanted
from streams.core.plan import Plan
from streams.core.record import Records, TopicPartition
from streams.core.state import KeyedState, StateSpec
from streams.core.thresholds import PRODUCTION, Thresholds
from streams.dsl.agent import Agent
from streams.dsl.app import App
from streams.errors import LogUnavailable, StreamsError
from streams.runtime.clock import Clock
from streams.runtime.delivery import Delivery
from streams.runtime.driver import Driver, DriverFactory, Phase, Services
from streams.runtime.egress import Egress
from streams.runtime.existing import watch_topics
from streams.runtime.housekeeping import TOUCH_LOST_S, consumed, tick_here, watch_touch
from streams.runtime.ingress import Ingress
from streams.runtime.metrics import Metrics
from streams.runtime.outages import Outages
from streams.runtime.outside import Outside
from streams.runtime.peers import PeerReads
from streams.runtime.places import is_shared
from streams.runtime.preparation import prepare
from streams.runtime.producer import Producer
from streams.runtime.replies import replies_topic
from streams.runtime.requests import Requests
from streams.runtime.restore import Progress
from streams.runtime.retention import Expiry
from streams.runtime.standby import Standby, Standbys
from streams.runtime.stores import Stores
from streams.runtime.ticker import Ticker

logger = logging.getLogger("streams")

ASSIGNMENTS = "assignments"
ANSWERS_S = 1.0
"""How long agents of a worker that stops go on waiting for answers, some of which nobody gives any more."""


class StuckTask(StreamsError):
    """A task has made no progress for its liveness deadline while records wait for it."""


class Worker:
    """Runs an app on an opened log.

    member: what it says of itself to the others; read when it begins to work.
    liveness_timeout_s: a task whose lag isn't 0 and that makes no progress for that long fails the worker.
    shutdown_timeout_s: a task that hasn't committed and let go that long after a stop is cut off, which loses nothing.
    """

    def __init__(
        self,
        app: App,
        log: Log,
        stores: Stores,
        clock: Clock,
        *,
        membership: Membership | None = None,
        member: Member | None = None,
        progress: Progress = lambda task, done, total: None,
        liveness_timeout_s: float = 120.0,
        shutdown_timeout_s: float = 8.0,
        make_driver: DriverFactory = Driver,
        connect: Callable[[str], Log] = open_foreign,
        connect_edge: Callable[[str], Edge] = open_edge,
        thresholds: Thresholds = PRODUCTION,
    ) -> None:
        self.app = app
        self.log = log
        self.blueprint = app.build()
        self.metrics = Metrics(app.name)
        self.drivers: dict[str, Driver] = {}
        self._stores = stores
        self._clock = clock
        self._membership = membership
        self.member = member or Member()
        self._progress = progress
        self._liveness_timeout_s = liveness_timeout_s
        self._shutdown_timeout_s = shutdown_timeout_s
        self._make_driver = make_driver
        self.outages = Outages()
        self._thresholds = thresholds
        self.outside = Outside(app, connect, connect_edge, self.outages, thresholds)
        self.deliveries: dict[str, Delivery | Egress] = {}
        self.ingresses: dict[str, Ingress] = {}
        self.ticker: Ticker | None = None
        self.assigned = False
        self._leaving = False
        self._assignment = Assignment()
        self._going: dict[str, asyncio.Task[None]] = {}
        self._moving = asyncio.Lock()
        shared = is_shared(log.url)
        self._replies = replies_topic(app.name) if shared and app.agents else None
        self.requests = Requests(log, clock, self._replies)
        self.reads = PeerReads(app.name, lambda: log.identity, self.held, self.state_spec, shared=shared)
        self.standbys = Standbys(self._start)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._background: list[asyncio.Task[None]] = []
        self._failure: asyncio.Future[None] | None = None
        self._refs: Mapping[str, TaskRef] = {}
        self._expiry = Expiry({})
        self._producer = Producer(app.name, log.partition_for, app.spreads)

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then commit and let go of every task.  Raises the first failure."""
        async with self.working():
            assert self._failure is not None
            stopped = asyncio.ensure_future(stop.wait())
            waited: list[asyncio.Future[Any]] = [stopped, self._failure]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if self._failure.done():
                self._failure.result()

    @asynccontextmanager
    async def working(self, stop: asyncio.Event | None = None) -> AsyncIterator[Worker]:
        """The worker at work; on leaving, its tasks commit and are released.  Raises StoppedEarly when ``stop`` is set
        while it waits for a log to begin."""
        self._failure = asyncio.get_running_loop().create_future()
        try:
            await self.outside.open(self.blueprint)
            await self._prepare(stop or asyncio.Event())
            self.app.attach(self)
            for hook in self.app.start_hooks:
                await hook()
            self._spawn(ASSIGNMENTS, self._follow_assignments())
            self._spawn("housekeeping", self._keep_house())
            self._spawn("touch", watch_touch(self))
            self._spawn("topics", watch_topics(self.app, self.log, self.outside.logs))
            for timer in self.app.timers:
                if timer.topic is None:
                    self._spawn(f"timer {timer.name}", tick_here(timer, self._clock))
            yield self
        finally:
            await self._shut_down()
            self.app.attach(None)
            await self.outside.close()

    async def _prepare(self, stop: asyncio.Event) -> None:
        more = [self._replies] if self._replies is not None else []
        seed = f"{self.log.identity} {self.app.name} {self.member.address}"
        now_ms, outages = self._clock.now_ms(), self.outages
        ready = await prepare(self.app, self.log, self.outside, more, now_ms, outages=outages, stop=stop, seed=seed)
        for asked in self.outside.logs.values():
            self.outages.works(asked.url)
        self.blueprint, self._refs, self._expiry = ready.blueprint, ready.refs, ready.expiry

    def _services(self) -> Services:
        app, blueprint = self.app, self.blueprint
        cache_bytes = self._thresholds.state_cache_bytes
        if cache_bytes is None:
            states = sum(each.partitions * len(each.states) for each in blueprint.subtopologies)
            cache_bytes = app.cache_bytes // max(1, states)
        plan = Plan(
            app=app.name,
            limits=self.log.limits,
            partitions=blueprint.partitions,
            partitioner=self.log.partition_for,
            upstream_tasks=blueprint.upstream_tasks,
            spreads=app.spreads,
            state_cache_bytes=cache_bytes,
            watermark_interval_ms=app.watermark_interval_ms,
            thresholds=self._thresholds,
        )
        return Services(
            log=self.log,
            stores=self._stores,
            clock=self._clock,
            plan=plan,
            metrics=self.metrics,
            requests=self.requests,
            foreign=self.outside.logs,
            user_topics=frozenset(name for name, spec in blueprint.topics.items() if spec.kind == "user"),
            topology_version=app.version,
            guarantee=app.guarantee,
            commit_interval_s=app.commit_interval_ms / 1000,
            barrier_timeout_ms=app.barrier_timeout_ms,
            progress=self._progress,
            expiry=self._expiry,
            outages=self.outages,
        )

    async def _follow_assignments(self) -> None:
        services = self._services()
        membership = self._membership = self._membership or self.log.membership(
            self.app.name, self._introduction(), self._wanted()
        )
        async for assignment in membership.assignments():
            self.reads.addresses = assignment.addresses
            await self._follow(assignment, services)
            self._report()
            self.assigned = True

    def _report(self) -> None:
        if self._membership is not None:
            self._membership.report(self._running.keys(), self._running.keys() | self.standbys.ready)

    def _introduction(self) -> Member:
        stored = self.member.stored & set(self.blueprint.tasks)
        return replace(
            self.member, version=self.app.version, fingerprint=self.blueprint.record.fingerprint, stored=stored
        )

    def _wanted(self) -> Wanted:
        stateful = {task for each in self.blueprint.subtopologies if each.states for task in each.task_ids}
        return Wanted([self._refs[task] for task in self.blueprint.tasks], frozenset(stateful), self.app.standbys)

    async def _follow(self, assignment: Assignment, services: Services) -> None:
        """Let go of what was taken away, and take up what was given, each as soon as it can be: an agent of a task that
        is to let go may wait for the answer of one that moves too."""
        for task in sorted(self._running.keys() - assignment.active - self._going.keys()):
            self._going[task] = self._start(f"end of {task}", self._release(task, services))
        async with self._moving:
            await self.standbys.keep(assignment.standby)
            self._assignment = assignment
            self._take_up(services)

    async def _release(self, task: str, services: Services) -> None:
        """Stop a task, say so when it has ended, and take up what only waited for that."""
        self._stop(task)
        await asyncio.wait({self._running[task]})
        async with self._moving:
            del self._running[task], self._going[task]
            self.drivers.pop(task, None)
            self.deliveries.pop(task, None)
            self.ingresses.pop(task, None)
            self._take_up(services)
        self._report()

    def _take_up(self, services: Services) -> None:
        """Start what is assigned and isn't here yet.  What is still on its way out has its store open."""
        if self._leaving:
            return
        for task in sorted(self._assignment.active - self._running.keys()):
            self._running[task] = self._start(f"task {task}", self._make(services, task).run())

        def standby(task: str) -> Standby:
            return Standby(services, *self.blueprint.subtopology_of_task(task), self._refs[task], self._report)

        self.standbys.take_up(self._assignment.standby - self._running.keys(), standby)

    def _stop(self, task: str) -> None:
        at_work = self._at_work(task)
        at_work.stop()
        if isinstance(at_work, Ingress | Egress) and at_work.connecting:
            self._running[task].cancel()  # a transport that doesn't answer would hold up the stop
        driver = self.drivers.get(task)
        if driver is not None and driver.phase in (Phase.CLAIMING, Phase.RESTORING):
            self._running[task].cancel()  # it has nothing to commit yet, and its next owner would wait for the restore

    def _at_work(self, task: str) -> Driver | Delivery | Egress | Ticker | Ingress:
        if task == self.blueprint.ticker:
            assert self.ticker is not None
            return self.ticker
        return self.drivers.get(task) or self.deliveries.get(task) or self.ingresses[task]

    def _make(self, services: Services, task: str) -> Driver | Delivery | Egress | Ticker | Ingress:
        """What runs a task: a driver, the delivery of an outbox's partition, an ingress, or the ticker."""
        ref = self._refs[task]
        if task == self.blueprint.ticker:
            self.ticker = Ticker(ref, self.app.timers, self.log, self._clock, self.app.version, self.outages)
            return self.ticker
        delivery = self.outside.delivery(self.blueprint, ref, self.log, self._expiry)
        if delivery is not None:
            self.deliveries[task] = delivery
            return delivery
        ingress = self.outside.ingress(self.blueprint, ref, self.log, self.metrics)
        if ingress is not None:
            read = self.app.sources.get(ingress.source)
            if read is not None and read[0].policy.action != "fail":  # or one message that is too large comes for ever
                ingress.skipped = partial(self.metrics.of, self.metrics.skipped, task)
            self.ingresses[task] = ingress
            return ingress
        subtopology, partition = self.blueprint.subtopology_of_task(task)
        driver = self.drivers[task] = self._make_driver(services, subtopology, partition, ref)
        # Its coroutine hasn't begun yet: without this, housekeeping might find it to have hung since time began.
        driver.turn_at = driver.progress_at = asyncio.get_running_loop().time()
        return driver

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._background.append(self._start(name, work))

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def _shut_down(self) -> None:
        """Let every task commit and go; then end what runs beside them."""
        self._leaving = True
        for task in self._background:
            if task.get_name() == ASSIGNMENTS:  # so that none is started that nobody would stop
                task.cancel()
                await asyncio.wait({task})
        await self.standbys.keep(())
        for name in self._running:
            self._stop(name)
        if self._running:
            _, slow = await asyncio.wait(self._running.values(), timeout=min(ANSWERS_S, self._shutdown_timeout_s))
            if slow:
                self.requests.leave()
                _, slow = await asyncio.wait(slow, timeout=max(0.0, self._shutdown_timeout_s - ANSWERS_S))
            for task in slow:
                logger.warning(
                    "%s didn't stop within %g s; its work since the last commit is left to be done again",
                    task.get_name(),
                    self._shutdown_timeout_s,
                )
                task.cancel()
            if slow:
                await asyncio.wait(slow)
        if self._going:
            await asyncio.wait(self._going.values())
        if self._membership is not None:
            await self._membership.close()  # only now, when the tasks are free: the others take over at once
        await self.requests.close()
        await self.reads.close()
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        assert self._failure is not None
        if self._failure.done():
            self._failure.exception()  # it was or will be raised by ``run``; seen here so that asyncio doesn't complain
        self._running.clear()
        self._background.clear()

    def check(self) -> None:
        """Raise the failure that ended a part of the worker, if there is one."""
        if self._failure is not None and self._failure.done():
            self._failure.result()

    # ── beside the tasks ──────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_house(self) -> None:
        """Free what internal topics no longer need, let the log tidy up, and look for tasks that are stuck."""
        loop, who = asyncio.get_running_loop(), "housekeeping waits"
        while True:
            await asyncio.sleep(self._thresholds.housekeeping_s)
            try:
                await self.log.trim(consumed(self))
                await self.log.maintain(self._clock.now_ms())
            except LogUnavailable as error:
                self.outages.failed(who, error)
            else:
                self.outages.works(self.log.url, who)
            if self.cut_off() is not None:
                continue  # an outage is waited out, however long it takes
            for stuck in self.stuck(loop.time(), self._liveness_timeout_s):
                raise StuckTask(stuck)

    def stuck(self, now: float, deadline_s: float) -> list[str]:
        """One line for each task that has something to do and has got nothing done for so long."""
        return [
            f"task {driver.id} has got nothing done for {still_s:.0f} s while {driver.phase.value}, with {driver.lag} "
            f"records to read; look at what its log, its store and its operators wait for"
            for driver in self.drivers.values()
            if (still_s := driver.still_s(now)) > deadline_s
        ]

    def cut_off(self) -> OutOfTouch | None:
        """How this worker has lost touch with its log; None while it hasn't, or for no longer than an election takes.

        A membership is out of touch for a moment with each heartbeat, from its sending to the answer.
        """
        lost = self._membership.out_of_touch() if self._membership is not None else None
        counts = lost is not None and (lost.out or time.monotonic() - lost.since_s >= TOUCH_LOST_S)
        return lost if counts else None

    @property
    def caught_up(self) -> bool:
        """Every task runs, and has committed everything that it knows of."""
        return (
            self.assigned
            and all(
                driver.phase is Phase.RUNNING and driver.task is not None and driver.task.caught_up
                for driver in self.drivers.values()
            )
            and all(delivery.caught_up for delivery in self.deliveries.values())
            and all(ingress.caught_up for ingress in self.ingresses.values())
        )

    # ── what topics, tables and agents ask for (dsl.app.Running) ──────────────────────────────────────────────────

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def promised(self, topic: TopicSpec, *, written: bool) -> Derived:
        """What holds for what comes from a topic, or goes to it: up to the commit, or from it on."""
        if topic.location:
            return self.outside.promised(topic, written=written)
        capabilities = self.log.capabilities
        return derive_commit(capabilities, self.app.guarantee) if written else derive_source(capabilities)

    async def produce(self, topic: TopicSpec, records: Records) -> None:
        """Append records to a topic, each to the partition of its key; for one that lies elsewhere, to its outbox."""
        if topic.location:
            topic = self.app.outbox_of(topic)
        await self.log.append(self.spread(topic, records))

    async def produce_marks(self, topic: TopicSpec, mark: Records) -> None:
        await self.log.append([Append(TopicPartition(topic.name, p), mark) for p in range(topic.partitions)])

    def spread(self, topic: TopicSpec, records: Records) -> Sequence[Append]:
        """Records divided by partition."""
        return self._producer.spread(topic, records)

    async def read_table(self, table: str, wire_key: bytes, state_key: bytes) -> Any:
        """The committed value of a key, from the task that holds it, wherever that runs."""
        view = self.app.views[table]
        name = view.state.name
        subtopology = next(each for each in self.blueprint.subtopologies if name in each.states)
        task = subtopology.task_id(self.log.partition_for(wire_key, subtopology.partitions))
        value = await self.reads.read(task, name, state_key)
        return None if value is None else view.result(value)

    def held(self, task: str, state: str) -> KeyedState[Any] | None:
        """The state of a task that runs here; None of one that doesn't.

        One that was taken away isn't read any more: this worker may have been out of the group for a while, and while
        its last commit waits for a log that doesn't answer, the next owner's go on.
        """
        driver = self.drivers.get(task)
        if driver is None or driver.task is None or (driver.stopping and not self._leaving):
            return None
        return driver.task.context.keyed(state)

    def ref(self, task: str) -> TaskRef:
        """Where a task is on the log; known once the worker works."""
        return self._refs[task]

    def state_spec(self, state: str) -> StateSpec:
        return next(each.states[state] for each in self.blueprint.subtopologies if state in each.states)

    async def ask(self, agent: Agent[Any, Any], key: bytes, value: bytes, timeout_ms: int) -> Any:
        return await self.requests.ask(agent, key, value, timeout_ms)

    async def cast(self, agent: Agent[Any, Any], key: bytes, value: bytes) -> None:
        await self.requests.cast(agent, key, value)
