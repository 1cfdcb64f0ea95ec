"""A worker's client of the simulated log, and the network in between, which loses, repeats, delays and cuts off.

What must live here: the ``Log`` protocol over ``sim_server``, and the faults of calls.  What must not: what is true on
the log (``sim_server``), who runs what (``sim_cluster``).

    before: a while, killed, refused ──▶ effect on the server ──▶ after: killed, the answer lost, a while

A commit may also be lost on its way, or come to the server later than its caller gave up on it, or twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import Context, ContextVar
from random import Random
from typing import Any, TypeVar

from streams.connectors.alone import Alone
from streams.connectors.memory.log import MemoryLog, MemoryReader
from streams.connectors.since import first_since
from streams.core.capability import Capabilities, Limits
from streams.core.log import Append, Commit, TaskRef, TopicInfo, TopicSpec
from streams.core.membership import Member, Membership, Wanted
from streams.core.record import Bounds, Fetched, Headers, Position, Positions, Records, TopicPartition
from streams.errors import CommitUnknown, Fenced, LogUnavailable
from streams.testing.faults import Odds
from streams.testing.sim_process import Process, outside
from streams.testing.sim_server import Broken, Request, Server

__all__ = ["Network", "SimLog", "SimReader", "SimWriter"]

R = TypeVar("R")

TOMBSTONE_RETENTION_MS = 1500

asking: ContextVar[bool] = ContextVar("streams.simulated_asking", default=False)
"""True while the workload calls something of a worker: what is appended then is an input, not an output."""


class Network:
    """What lies between workers and log.  ``calm``: from now on everything arrives, at once and once.

    trace: what happened, in order; two runs of one seed have the same.
    """

    def __init__(self, server: Server, odds: Odds, random: Random, now_s: Callable[[], float]) -> None:
        self.server = server
        self.odds = odds
        self.calm = False
        self.trace: list[tuple[float, str, str, str]] = []
        self.under_way: set[asyncio.Task[Any]] = set()
        self.counts: dict[str, int] = {}
        self._random = random
        self._now_s = now_s

    def note(self, who: str, what: str, about: str = "") -> None:
        """Write an event into the trace."""
        self.trace.append((round(self._now_s(), 6), who, what, about))

    def count(self, fault: str) -> None:
        self.counts[fault] = self.counts.get(fault, 0) + 1

    def strikes(self, chance: float) -> bool:
        """True with the given chance, and never when it is calm."""
        return not self.calm and chance > 0.0 and self._random.random() < chance

    def pick(self, most: int) -> int:
        """A number from 1 to ``most``."""
        return self._random.randint(1, most)

    def shuffle(self, items: list[Any]) -> None:
        self._random.shuffle(items)

    async def travel(self, process: Process, chance_of_death: float, what: str) -> None:
        """On the way there or back: takes a while; the process may die on it."""
        if self.strikes(self.odds.slow_call):
            await asyncio.sleep(self._random.random() * self.odds.slow_ms / 1000)
        if self.strikes(chance_of_death):
            self.count("killed in a call")
            await self.die(process, what)

    async def die(self, process: Process, what: str) -> None:
        """Kill the calling process here.  Never returns."""
        self.note(process.name, "dies", what)
        process.kill()
        await asyncio.get_running_loop().create_future()

    def later(self, request: Request, server: Server) -> None:
        """Deliver a request some time from now, whatever has become of its sender."""
        task = outside(
            self._deliver(request, server, self._random.random() * self._random.choice((0.05, 0.5, 3.0))), "late"
        )
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard, context=Context())

    async def _deliver(self, request: Request, server: Server, after_s: float) -> None:
        await asyncio.sleep(after_s)
        try:
            server.commit(request)
        except Fenced:
            self.note("network", "refused", request.task)
            self.count("late commit refused")
        else:
            self.note("network", "delivered", request.task)

    def cut(self) -> None:
        """The log's machine went down: nothing that is under way arrives."""
        for task in list(self.under_way):
            task.cancel()


class SimReader:
    """A ``Reader`` that cuts, shuffles, holds back and repeats batches."""

    def __init__(self, log: SimLog, inner: MemoryReader) -> None:
        self._log = log
        self._inner = inner
        self._held: list[Fetched] = []

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        network, odds = self._log.network, self._log.network.odds
        process = self._log.process
        await network.travel(process, odds.crash_at_call, "fetch")
        self._log.check_reachable()
        wanted = list(partitions)
        if network.strikes(odds.shuffle):
            network.shuffle(wanted)
        limit = network.pick(min(5, max_records)) if network.strikes(odds.cut) else max_records
        held = [batch for batch in self._held if batch.partition in partitions]
        if held:
            self._held = [batch for batch in self._held if batch.partition not in partitions]
            # What is held back comes first in its partition; the others wait for their turn.
            return held
        found = list(await self._inner.fetch(wanted, max_records=limit, wait_s=wait_s))
        if len(found) > 1 and network.strikes(odds.hold_back):
            keep = network.pick(len(found) - 1)
            self._held, found = found[keep:], found[:keep]
        return [self._repeated(batch) if network.strikes(odds.repeat_records) else batch for batch in found]

    def _repeated(self, batch: Fetched) -> Fetched:
        """The batch with some records in front that were handed out before."""
        network = self._log.network
        partition = self._log.server.broker.partition(batch.partition)
        first = batch.offsets[0] if len(batch) else batch.next_offset
        back = max(partition.start, first - network.pick(4))
        again = partition.read(back, 4) if back < first else None
        if again is None:
            return batch
        keep = sum(1 for offset in again.offsets if offset < first)
        if not keep:
            return batch
        network.count("records repeated")
        records = Records(
            again.records.keys[:keep] + batch.records.keys,
            again.records.values[:keep] + batch.records.values,
            again.records.timestamps[:keep] + batch.records.timestamps,
            _headers(again.records, keep) + _headers(batch.records, len(batch)),
        )
        return Fetched(batch.partition, [*again.offsets[:keep], *batch.offsets], records, batch.next_offset)

    def ends(self) -> Positions:
        return self._inner.ends()

    async def close(self) -> None:
        await self._inner.close()


def _headers(records: Records, count: int) -> list[Headers | None]:
    return records.headers[:count] if records.headers is not None else [None] * count


class SimWriter:
    """A ``TaskWriter`` whose commits go through the network."""

    def __init__(self, log: SimLog, task: str, generation: int, checkpoint: bytes | None) -> None:
        self.checkpoint = checkpoint
        self._log = log
        self._task = task
        self._generation = generation
        self._sequence = 0
        self._useless = ""

    async def commit(self, commit: Commit) -> Positions:
        if self._useless:
            raise Broken(f"task {self._task} commits with a writer that is of no use any more ({self._useless})")
        self._sequence += 1
        request = Request(self._task, self._generation, self._sequence, commit)
        self._useless = "a commit of its is under way"
        try:
            ends = await self._send(request)
        except Exception as error:
            self._useless = f"{type(error).__name__}"
            self._log.network.note(self._log.process.name, "commit failed", f"{self._task} {self._useless}")
            raise
        self._useless = ""
        return ends

    async def _send(self, request: Request) -> Positions:
        log, network, odds = self._log, self._log.network, self._log.network.odds
        if network.strikes(odds.crash_at_commit):
            network.count("killed before a commit")
            if network.strikes(0.3):
                network.later(request, log.server)
            await network.die(log.process, f"commit {self._task}")
        await network.travel(log.process, odds.crash_at_call, f"commit {self._task}")
        log.check_reachable()
        if network.strikes(odds.commit_unknown):
            return await self._lose(request)
        ends = log.server.commit(request)
        network.note(log.process.name, "commit", f"{self._task} {len(request.commit.appends)}")
        if network.strikes(odds.repeat_request):
            network.count("commit repeated")
            network.later(request, log.server)
        if network.strikes(odds.crash_at_commit):
            network.count("killed after a commit")
            await network.die(log.process, f"committed {self._task}")
        await network.travel(log.process, odds.crash_at_call, f"committed {self._task}")
        return ends

    async def _lose(self, request: Request) -> Positions:
        """The request or its answer is lost, or it takes longer than its sender waits."""
        log, network = self._log, self._log.network
        fate = network.pick(3)
        if fate == 1:
            network.count("commit lost")
        elif fate == 2:
            network.count("answer lost")
            log.server.commit(request)
        else:
            network.count("commit late")
            network.later(request, log.server)
        await asyncio.sleep(network.pick(20) / 1000)
        raise CommitUnknown(f"simulated: no answer came to the commit of task {self._task}; claim it again")

    async def close(self) -> None:
        self._useless = "closed"


class SimLog:
    """A ``Log``: one process' client.  server: another one than that of the app's own log."""

    def __init__(self, network: Network, process: Process, server: Server | None = None) -> None:
        self.network = network
        self.process = process
        self.server = server or network.server
        self._inner = MemoryLog(self.server.broker, tombstone_retention_ms=TOMBSTONE_RETENTION_MS)

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    @property
    def limits(self) -> Limits:
        return self.server.limits

    @property
    def url(self) -> str:
        return f"simulated://{self.identity}"

    @property
    def identity(self) -> str:
        return self._inner.identity

    def check_reachable(self) -> None:
        """Raise LogUnavailable when the log can't be reached now."""
        if self.network.strikes(self.network.odds.unavailable):
            self.network.count("unavailable")
            raise LogUnavailable("simulated: the log can't be reached; try again")

    async def _call(self, what: str, effect: Callable[[], R]) -> R:
        network = self.network
        await network.travel(self.process, network.odds.crash_at_call, what)
        self.check_reachable()
        result = effect()
        await network.travel(self.process, network.odds.crash_at_call, what)
        return result

    async def open(self) -> None:
        await self._inner.open()

    async def close(self) -> None:
        await self._inner.close()

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]:
        return await self._call("topics", lambda: self._inner.broker.infos(names))

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        def look() -> Mapping[TopicPartition, Bounds]:
            held = map(self._inner.broker.partition, partitions)
            return {one.at: Bounds(start=Position.at(one.start), end=Position.at(one.end)) for one in held}

        return await self._call("bounds", look)

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Positions:
        return await first_since(self, times)

    def reader(self, positions: Positions) -> SimReader:
        return SimReader(self, self._inner.reader(positions))

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        await self._call("create", lambda: self._inner.broker.create_topics(specs))

    async def delete_topics(self, names: Collection[str]) -> None:
        await self._call("delete", lambda: self._inner.broker.delete_topics(names))

    def membership(self, group: str, member: Member, wanted: Wanted) -> Membership:
        """Alone; a simulated cluster gives its workers places of its own."""
        return Alone(wanted)

    async def members(self, group: str) -> Sequence[Member]:
        return ()

    async def fence(self, task: TaskRef) -> SimWriter:
        name = task.name
        if self.network.strikes(self.network.odds.slow_fence):
            await asyncio.sleep(self.network.pick(20) / 100)
        generation, checkpoint = await self._call(f"fence {name}", lambda: self.server.fence(name))
        self.network.note(self.process.name, "fence", name)
        return SimWriter(self, name, generation, checkpoint)

    async def checkpoint(self, task: TaskRef) -> bytes | None:
        def look() -> bytes | None:
            held = self._inner.broker.tasks.get(task.name)
            return held.checkpoint if held is not None else None

        return await self._call("checkpoint", look)

    async def forget(self, tasks: Collection[TaskRef]) -> None:
        for task in tasks:
            await self._call("forget", lambda task=task: self._inner.broker.forget(task.name))  # type: ignore[misc]

    async def append(self, appends: Sequence[Append]) -> Positions:
        """Outside of any task: may be carried out twice, as a producer's request that is sent again."""
        network = self.network
        given = asking.get()
        ends = await self._call("append", lambda: self.server.append(appends, given=given))
        if network.strikes(network.odds.repeat_request):
            network.count("append repeated")
            ends = self.server.append(appends, given=given)
        if network.strikes(network.odds.commit_unknown):
            raise CommitUnknown("simulated: no answer came to an append; it may have been carried out")
        return ends

    async def trim(self, positions: Positions) -> None:
        def free() -> None:
            for at, position in positions.items():
                self._inner.broker.partition(at).trim(position.offset())

        await self._call("trim", free)
        await self.network.travel(self.process, self.network.odds.crash_at_trim, "trimmed")

    async def maintain(self, now_ms: int) -> None:
        await self._call("maintain", lambda: self._inner.broker.maintain(now_ms, TOMBSTONE_RETENTION_MS))

    def compaction_floor(self, partition: TopicPartition) -> Position:
        return self._inner.compaction_floor(partition)

    def partition_for(self, key: bytes, partitions: int) -> int:
        return self._inner.partition_for(key, partitions)
