"""The driver: carries out the life of one task.

    claim ──▶ restore ──▶ running ── commit ──▶ running ── stop ──▶ commit, released
      ▲                      │  unknown outcome, log or store error, agent stuck
      └──── closed dirty ◀───┘  fenced: another owner has it; claimed again only if it stays assigned here

What must live here: the order of effects around a claim and a commit.  What must not: what a commit contains
(``core.task``), who should run the task (``core.membership``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import cast

from streams.core.batch import NEVER
from streams.core.capability import GuaranteeName
from streams.core.checkpoint import Checkpoint, claimed, decode_checkpoint, encode_checkpoint, partition_key
from streams.core.graph import SourceNode, Subtopology
from streams.core.log import Append, Commit, Foreign, Log, Reader, TaskRef, TaskWriter, distance_on
from streams.core.plan import Captured, Plan
from streams.core.record import TopicPartition
from streams.core.recovery import InputFacts, resolve_changelogs, resolve_inputs
from streams.core.store import Store
from streams.core.task import Task
from streams.errors import (
    AgentStuck,
    CommitUnknown,
    ConfigurationError,
    Fenced,
    LogUnavailable,
    PositionLost,
    RetryableError,
    ServiceUnavailable,
    StoreCorrupt,
    TopicRecreated,
)
from streams.operators.agent import AgentWork
from streams.runtime.agents import AgentRunner
from streams.runtime.clock import Clock
from streams.runtime.metrics import Metrics
from streams.runtime.outages import Outages
from streams.runtime.owner import FENCED_PAUSE_S, check_owner
from streams.runtime.readers import open_reader
from streams.runtime.requests import Requests
from streams.runtime.restore import Progress, Restoration, restore
from streams.runtime.retention import Expiry
from streams.runtime.starts import first_position
from streams.runtime.stores import Stores

logger = logging.getLogger("streams")

MAX_WAIT_S = 0.2
"""How long a task that has nothing to do waits at most before it looks at the clock."""
FUTURE_MS = 86_400_000
"""Event time that is further ahead of the wall clock is worth a warning."""
TURN_S = 0.02
"""How long a task works before it lets others run."""


class Phase(Enum):
    """Where a task is in its life."""

    CLAIMING = "claiming"
    RESTORING = "restoring"
    RUNNING = "running"
    RELEASED = "released"


@dataclass(slots=True)
class Services:
    """What all drivers of a worker share.  ``foreign``: by topic, the other log that holds it."""

    log: Log
    stores: Stores
    clock: Clock
    plan: Plan
    metrics: Metrics
    requests: Requests
    user_topics: frozenset[str]
    foreign: Mapping[str, Foreign]
    topology_version: int
    guarantee: GuaranteeName = "exactly_once"
    commit_interval_s: float = 0.1
    barrier_timeout_ms: int = 30_000
    max_restarts: int = 5
    progress: Progress = field(default=lambda task, done, total: None)
    expiry: Expiry = field(default_factory=lambda: Expiry({}))
    outages: Outages = field(default_factory=Outages)


class Driver:
    """Runs one task until it is stopped or fails for good."""

    def __init__(self, services: Services, subtopology: Subtopology, partition: int, ref: TaskRef) -> None:
        self.id = ref.name
        self.phase = Phase.CLAIMING
        self.task: Task | None = None
        self.progress_at: float = 0.0  # when it last got on with its work
        self.turn_at: float = 0.0  # when it last came round to look for some
        self._services = services
        self._who = f"task {self.id} starts again from its last commit"
        self._subtopology = subtopology
        self._partition = partition
        self._ref = ref
        self._stop = asyncio.Event()
        self._writer: TaskWriter | None = None
        self._stored: bytes | None = None
        self._agents: list[AgentRunner] = []
        self._commit_at: float | None = None
        self._settled_in = False
        self._seen_counts: dict[str, int] = {}
        self._commits = 0
        sources = [cast(SourceNode, node) for node in subtopology.sources]
        self._may_lose = {each.reads.name for each in sources if each.reads and each.on_lost == "earliest"}
        self._reader: Reader | None = None
        self._restored_until = -1
        self._pending_since: float | None = None
        self._warned = False
        self._worked = True

    def stop(self) -> None:
        """Ask the task to commit and let go; ``run`` returns soon after."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """The task was asked to let go."""
        return self._stop.is_set()

    @property
    def lag(self) -> int:
        """What lies between the committed positions and the ends of the inputs as the reader knows them now."""
        task, reader = self.task, self._reader
        if task is None or reader is None:
            return 0
        ends = reader.ends()
        committed, services = task.checkpoint.positions, self._services
        return sum(
            distance_on(services.foreign.get(at.topic, services.log), at, committed[partition_key(at)], end)
            for at, end in ends.items()
            if partition_key(at) in committed
        )

    def still_s(self, now: float) -> float:
        """For how long the task has had something to do and got nothing done; 0.0 while there is nothing to do."""
        task, reader = self.task, self._reader
        if task is None or reader is None:
            return now - max(self.progress_at, self.turn_at) if self.phase is not Phase.RELEASED else 0.0
        task.ends = reader.ends()
        if task.caught_up and not task.mail_waits:
            self._pending_since = None
            return now - self.turn_at if now - self.turn_at > 2 * MAX_WAIT_S else 0.0
        if self._pending_since is None:
            self._pending_since = now
        return now - max(self._pending_since, self.progress_at)

    async def run(self) -> None:
        """Live the task's life.  Returns when it was stopped; raises what can't be retried."""
        restarts = 0
        while not self._stop.is_set():
            committed_before = self._commits
            try:
                await self._live()
                break
            except Fenced as error:
                # Whoever fenced it runs it now.  While this worker is still told to run it, it tries again, slowly.
                logger.info("task %s: %s", self.id, error)
                await self._pause(FENCED_PAUSE_S)
            except PositionLost as error:
                if error.topic not in self._may_lose:  # what another source may lose doesn't excuse it
                    raise
                logger.warning("task %s goes on from the first record that is left: %s", self.id, error)
                await self._pause(MAX_WAIT_S)
            except RetryableError as error:
                # An outage is waited out; what is wrong with the task itself isn't tried for ever.
                waits = isinstance(error, LogUnavailable | CommitUnknown | ServiceUnavailable)
                restarts = 0 if self._commits > committed_before + 1 else restarts + 1
                self._services.metrics.of(self._services.metrics.restarts, self.id, 1)
                if not waits and (
                    restarts > self._services.max_restarts or (isinstance(error, AgentStuck) and restarts > 1)
                ):
                    raise
                self._services.outages.failed(self._who, error)
                if isinstance(error, StoreCorrupt):
                    self._services.stores.set_aside(self.id)
                await self._pause(min(5.0, 0.05 * 2 ** min(restarts, 10)))
        self.phase = Phase.RELEASED

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the task is stopped first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _live(self) -> None:
        services = self._services
        loop = asyncio.get_running_loop()
        self.phase = Phase.CLAIMING
        self.turn_at = self.progress_at = loop.time()
        store: Store | None = None
        reader: Reader | None = None
        try:
            self._writer = await services.log.fence(self._ref)
            previous = self._stored = self._writer.checkpoint
            checkpoint = claimed(
                decode_checkpoint(previous) if previous is not None else None,
                log_id=services.log.identity,
                topology=services.topology_version,
                claim=uuid.uuid4().hex[:12],
                history=services.plan.thresholds.checkpoint_history,
            )
            renewed = previous is not None and decode_checkpoint(previous).topology < services.topology_version
            checkpoint, lost = resolve_inputs(checkpoint, await self._input_facts(checkpoint), renewed=renewed)
            names = {name: services.plan.changelog(name) for name in self._subtopology.states}
            topics = await services.log.topics(names.values())
            identities = {name: topics[topic].identity for name, topic in names.items()}
            changelogs = {names[name]: identity for name, identity in identities.items()}
            checkpoint = resolve_changelogs(checkpoint, changelogs, renewed=renewed)
            if previous is None and services.topology_version == 1:
                await self._check_new([TopicPartition(topic, self._partition) for topic in changelogs])
            stored = encode_checkpoint(checkpoint)
            await self._writer.commit(Commit(stored))
            services.metrics.of(services.metrics.lost, self.id, lost)  # a claim that fails gives nothing up
            self._stored = stored
            self._commits += 1
            self.phase = Phase.RESTORING
            store = await restore(
                Restoration(
                    services.log,
                    services.stores,
                    services.clock,
                    self.id,
                    self._subtopology,
                    {name: TopicPartition(topic, self._partition) for name, topic in names.items()},
                    identities,
                    checkpoint,
                    self._restored,
                    services.plan.thresholds,
                )
            )
            self.task = task = Task(
                self._subtopology,
                self._partition,
                plan=services.plan,
                checkpoint=checkpoint,
                store=store,
                identities=identities,
            )
            self._agents = [
                AgentRunner(work, services.barrier_timeout_ms) for work in task.mailboxes if isinstance(work, AgentWork)
            ]
            self._seen_counts = {}
            self._commit_at = None
            self._settled_in = False
            self.phase = Phase.RUNNING
            self.progress_at = loop.time()
            positions = {each.partition: each.position for each in task.inputs}
            reader = self._reader = open_reader(services.foreign, services.log, positions)
            await self._work(task, reader)
        except (PositionLost, TopicRecreated) as error:
            await check_owner(services.log, self._ref, self._stored, error)
            raise
        finally:
            await self._let_go(reader, store)

    async def _check_new(self, changelogs: Sequence[TopicPartition]) -> None:
        """Raise TopicRecreated when a task that never ran has state: without its positions it would count twice."""
        for at, bounds in (await self._services.log.bounds(changelogs)).items():
            if not bounds.start.reached(bounds.end):
                raise TopicRecreated(
                    f"{at} holds state of task {self.id}, whose checkpoint isn't on {self._services.log.url} any more; "
                    f"bring it back, or start the app over with `streams reset`"
                )

    async def _input_facts(self, checkpoint: Checkpoint) -> dict[TopicPartition, InputFacts]:
        nodes: dict[TopicPartition, SourceNode] = {}
        for node in self._subtopology.sources:
            assert node.reads is not None
            nodes[TopicPartition(node.reads.name, self._partition)] = node  # type: ignore[assignment]
        facts = {}
        for at, node in nodes.items():
            log = self._services.foreign.get(at.topic, self._services.log)
            info = (await log.topics([at.topic])).get(at.topic)
            if info is None:
                raise ConfigurationError(
                    f"topic {at.topic!r} doesn't exist on {log.url}; create it there, or mend its name"
                )
            bounds = (await log.bounds([at]))[at]
            known = checkpoint.position(at) is not None
            first = None if known else await first_position(log, at, node.start, bounds)
            facts[at] = InputFacts(bounds, info.identity, node.on_lost, info.spec.kind != "user", first)
        return facts

    async def _let_go(self, reader: Reader | None, store: Store | None) -> None:
        """Close everything, the store before the task is anybody else's."""
        for agent in self._agents:
            await agent.close()
        self._agents = []
        self._reader = None
        self.task = None
        if store is not None:
            store.close()
        if reader is not None:
            await reader.close()
        if self._writer is not None:
            await self._writer.close()
            self._writer = None

    # ── running ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _work(self, task: Task, reader: Reader) -> None:
        services, loop = self._services, asyncio.get_running_loop()
        while not self._stop.is_set():
            self.turn_at = loop.time()
            wanted = task.wanted()
            if wanted:
                for fetched in await reader.fetch(
                    wanted, max_records=services.plan.thresholds.piece_records, wait_s=self._wait_s(task, loop.time())
                ):
                    task.accept(fetched, services.clock.now_ms())
            task.ends = reader.ends()
            task.tick(services.clock.now_ms())
            await self._turn(task, loop)
            if task.caught_up:  # else the first commit shows it: a log that is full can be fenced all the same
                services.outages.works(services.log.url, self._who)
            await asyncio.sleep(0)
        await self._settle(task)
        if task.dirty or task.must_commit:
            await self._commit(task)

    def _wait_s(self, task: Task, now: float) -> float:
        """How long to wait for records: not at all after a turn that found work, else until something else is due."""
        if self._worked or task.must_commit:
            return 0.0
        if self._commit_at is not None:
            return max(0.0, min(MAX_WAIT_S, self._commit_at - now))
        return MAX_WAIT_S

    async def _turn(self, task: Task, loop: asyncio.AbstractEventLoop) -> None:
        """Work on what is buffered, and commit when it is time."""
        until = loop.time() + TURN_S
        while not self._stop.is_set():
            worked = self._worked = False if task.must_commit else task.step()
            if worked:
                self.progress_at = loop.time()
            await self._settle(task)  # whether or not a step was made: what the clock made due is mail as well
            if task.dirty and self._commit_at is None:
                self._commit_at = loop.time() + self._interval_s()
            if self._commit_due(task, loop.time()):
                await self._commit(task)
                self.progress_at = loop.time()
            if not worked or loop.time() >= until:
                return

    def _interval_s(self) -> float:
        """Until the next commit.  The first one of a claim comes sooner for some tasks than for others, so that the
        tasks of a worker take turns: one works while another one waits for its commit."""
        share = 1.0 if self._settled_in else 1.0 - self._ref.slot % 4 / 4
        self._settled_in = True
        return self._services.commit_interval_s * share

    def _commit_due(self, task: Task, now: float) -> bool:
        if task.must_commit:
            return True
        if self._commit_at is not None and now >= self._commit_at:
            return True
        return not task.dirty and task.mark_due(self._services.clock.now_ms())

    async def _settle(self, task: Task) -> None:
        """The barrier: let every agent finish what it was given, and what that gives to others."""
        while task.mail_waits:
            started = asyncio.get_running_loop().time()
            for agent in self._agents:
                if agent.work.mail:
                    await agent.run(self._progress)
            task.pace(asyncio.get_running_loop().time() - started, self._services.commit_interval_s)
            task.check_bounds()

    def _restored(self, task: str, done: int, total: int) -> None:
        if done != self._restored_until:
            self._services.metrics.of(self._services.metrics.restored, self.id, max(0, done - self._restored_until))
            self._restored_until = done
            self.turn_at = self.progress_at = asyncio.get_running_loop().time()
        self._services.progress(task, done, total)

    def _progress(self) -> None:
        self.progress_at = asyncio.get_running_loop().time()

    async def _commit(self, task: Task) -> None:
        services, writer = self._services, self._writer
        assert writer is not None
        assert not task.mail_waits, "a position would be committed before the effects of its record"
        started = asyncio.get_running_loop().time()
        captured = task.capture(services.clock.now_ms())
        appends = captured.appends
        if services.guarantee == "at_least_once":
            appends = await self._send_ahead(appends)
        services.expiry.look(appends, services.clock.now_ms())
        stored = encode_checkpoint(captured.checkpoint)
        # Another log's partitions aren't this one's to keep offsets of: Kafka would refuse the whole commit.
        own = {at: position for at, position in captured.positions.items() if at.topic not in services.foreign}
        ends = await writer.commit(Commit(stored, appends, own))
        self._stored = stored
        task.committed(captured, ends)
        self._commits += 1
        services.outages.works(services.log.url, self._who)
        self._commit_at = None
        answers = [answer for agent in self._agents for answer in agent.take_replies()]
        if answers:
            services.requests.answer(answers)
        self._count(task, captured, asyncio.get_running_loop().time() - started)

    async def _send_ahead(self, appends: Sequence[Append]) -> list[Append]:
        """At least once: outputs to topics leave before the commit; everything else stays in it (protocol 8)."""
        ahead = [each for each in appends if each.partition.topic in self._services.user_topics]
        if ahead:
            await self._services.log.append(ahead)
        return [each for each in appends if each.partition.topic not in self._services.user_topics]

    def _count(self, task: Task, captured: Captured, seconds: float) -> None:
        services = self._services
        metrics = services.metrics
        metrics.of(metrics.commits, self.id, 1)
        metrics.commit_seconds.labels(metrics.app, self.id).observe(seconds)
        out = sum(len(each.records) for each in captured.appends if each.partition.topic in services.user_topics)
        metrics.of(metrics.records_out, self.id, out)
        counters: dict[str, int] = {
            "records_in": task.records_in,
            "skipped": sum(task.failures.skipped.values()),
            "dead_lettered": sum(task.failures.dead_lettered.values()),
            **task.context.counters,
        }
        for name, count in counters.items():
            metrics.of(getattr(metrics, name), self.id, count - self._seen_counts.get(name, 0))
        self._seen_counts = counters
        metrics.lag.labels(metrics.app, self.id).set(self.lag)
        self._warn_of_the_future(task.watermark)
        if task.watermark > NEVER:
            metrics.watermark.labels(metrics.app, self.id).set(task.watermark)

    def _warn_of_the_future(self, watermark: int) -> None:
        ahead_ms = watermark - self._services.clock.now_ms()
        if ahead_ms > FUTURE_MS and not self._warned:
            self._warned = True
            logger.warning(
                "task %s: event time is %d days ahead of the clock, so records of today count as late; look for a "
                "wrong timestamp in its inputs",
                self.id,
                ahead_ms // 86_400_000,
            )


DriverFactory = Callable[[Services, Subtopology, int, TaskRef], Driver]

__all__ = ["Driver", "DriverFactory", "Phase", "Services"]
