"""What the simulation found in the engine, each as a scenario of its own: seeds move on, these stay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from random import Random

import pytest

from streams.core.log import Append
from streams.core.record import Fetched, Positions, Records, TopicPartition
from streams.dsl.app import App
from streams.dsl.state import State
from streams.operators.process import ProcessContext
from streams.testing import Client, Simulation, duplicates, reorders
from streams.testing.faults import Odds
from streams.testing.loop import VirtualClock
from streams.testing.sim_cluster import Cluster, Machine
from streams.testing.sim_log import Network, SimLog, SimReader
from streams.testing.sim_oracle import collect
from streams.testing.sim_process import SimLoop
from streams.testing.sim_server import Elsewhere, Server
from streams.testing.sim_stores import SimStores
from streams.testing.simulation import LIMITS

Script = Callable[[Cluster, Server], Awaitable[None]]


def play(make_app: Callable[[], App], script: Script, *, make_log: type[SimLog] = SimLog, workers: int = 2) -> None:
    """Machines on a log without faults; the script does what it likes with them.  What fails, fails the test."""
    loop = SimLoop()
    clock = VirtualClock(loop)
    server = Server(clock.now_ms, LIMITS)
    network = Network(server, Odds(), Random(1), loop.time)
    cluster = Cluster(loop, clock, network, Elsewhere(clock.now_ms, LIMITS), make_app, Random(1), make_log=make_log)
    cluster.machines.extend(Machine(f"worker{number}", SimStores(server)) for number in range(workers))

    async def live() -> None:
        server.broker.create_topics(make_app().build().own_topics)
        for machine in list(cluster.machines):
            cluster.start(machine)
        await script(cluster, server)

    try:
        loop.run_until_complete(live())
    finally:
        cluster.over = network.calm = True
        for process in cluster.processes:
            process.bury()
        for _ in range(3):
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    assert cluster.failure is None, repr(cluster.failure)


async def until_settled(cluster: Cluster, patience_s: float = 30.0) -> None:
    deadline = cluster.loop.time() + patience_s
    while (left := cluster.unsettled()) is not None:
        assert cluster.loop.time() < deadline, left
        await asyncio.sleep(0.1)


def all_to(cluster: Cluster, number: int) -> None:
    for task in cluster.tasks:
        cluster._give(task, [cluster.machines[number]])
    cluster._announce()


def send(server: Server, topic: str, *values: int) -> None:
    records = Records([b"a"] * len(values), [str(value).encode() for value in values], list(range(len(values))))
    server.append([Append(TopicPartition(topic, 0), records)], given=True)


def test_a_zombie_whose_records_were_trimmed_behind_the_new_owner_lets_go_and_its_worker_lives() -> None:
    # It used to raise PositionLost, which ended the whole worker with tasks that were fine.
    def make() -> App:
        app = App("trimmed", commit_interval="20ms")
        app.stream("numbers", value=int, idle_after=None).key_by(str, key=str, value=int, name="by").to("out")
        return app

    async def script(cluster: Cluster, server: Server) -> None:
        all_to(cluster, 0)
        send(server, "numbers", *range(10))
        await until_settled(cluster)
        zombie = cluster.machines[0].process
        assert zombie is not None
        zombie.freeze()
        all_to(cluster, 1)
        send(server, "numbers", *range(10, 30))
        await until_settled(cluster)
        await asyncio.sleep(6.0)
        assert server.broker.partition(TopicPartition("trimmed.by.repartition", 0)).start > 10, "nothing was trimmed"
        zombie.thaw()
        await asyncio.sleep(6.0)
        assert not zombie.dead
        send(server, "numbers", 30)
        await until_settled(cluster)
        written = sum(len(records) for records in collect(make(), server).outputs["out"].values())
        assert written == 31

    play(make, script)


class _TidyingReader(SimReader):
    """Between two fetches of a changelog the log is compacted."""

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        changelog = any(at.topic.endswith(".changelog") for at in partitions)
        found = await super().fetch(partitions, max_records=3 if changelog else max_records, wait_s=wait_s)
        server = self._log.network.server
        if changelog and found:
            server.broker.maintain(server.now_ms(), 0)
        return found


class _TidyingLog(SimLog):
    def reader(self, positions: Positions) -> SimReader:
        return _TidyingReader(self, self._inner.reader(positions))


def test_deletes_that_are_compacted_away_while_a_store_is_restored_are_not_missed() -> None:
    # It used to read a put, and then never see the delete: the key came back to life.
    def make() -> App:
        app = App("overtaken", commit_interval="20ms")
        app.table("held", source="numbers", key=str, value=int)
        return app

    async def script(cluster: Cluster, server: Server) -> None:
        all_to(cluster, 0)
        keys: list[bytes | None] = [b"a", b"b", b"c", b"d"]
        puts: list[bytes | None] = [b"1"] * 4
        at = TopicPartition("numbers", 0)
        server.append([Append(at, Records(keys, puts, [0] * 4))], given=True)
        await until_settled(cluster)
        server.append([Append(at, Records(keys, [b"2", b"2", None, None], [0] * 4))], given=True)
        await until_settled(cluster)
        all_to(cluster, 1)
        await until_settled(cluster)
        disk = cluster.machines[1].stores.disks[cluster.tasks[0]]
        assert sorted(key[-1:] for key in disk.data) == [b"a", b"b"]

    play(make, script, make_log=_TidyingLog)


def test_a_task_that_has_not_begun_yet_is_not_found_to_hang() -> None:
    # The time of a driver's last turn was 0 until its coroutine began, and housekeeping may look before that.
    def make() -> App:
        app = App("early", commit_interval="20ms")
        app.stream("numbers", value=int, idle_after=None).to("out")
        return app

    async def script(cluster: Cluster, server: Server) -> None:
        all_to(cluster, 0)
        await asyncio.sleep(200.0)
        worker = cluster.machines[1].worker
        assert worker is not None
        worker._make(worker._services(), cluster.tasks[0])
        assert worker.stuck(cluster.loop.time(), 120.0) == []
        worker.drivers.clear()

    play(make, script)


class Seen(State):
    count: int = 0


@pytest.mark.parametrize("seed", range(6))
def test_when_a_timer_set_in_the_past_fires_does_not_depend_on_where_batches_end(seed: int) -> None:
    def make() -> App:
        app = App("past", commit_interval="20ms")
        numbers = app.stream("numbers", value=int, timestamp=int, out_of_orderness="5s", idle_after=None)

        @numbers.filter(lambda at: at % 3 != 0).process(state=Seen, name="seen")
        def seen(at: int, state: Seen, ctx: ProcessContext) -> None:
            state.count += 1
            ctx.timer("soon", after="1s")

        @seen.on_timer("soon")
        def soon(state: Seen, ctx: ProcessContext) -> None:
            ctx.emit([state.count, ctx.time, ctx.watermark])
            if state.count % 2:
                ctx.timer("soon", at=ctx.time - 10_000)
                state.count += 1

        seen.to("fired")
        return app

    async def workload(client: Client) -> None:
        now = 1_000_000
        for _ in range(60):
            now += client.random.choice((0, 700, 3000))
            at = now - client.random.choice((0, 100, 4_000, 20_000))
            await client.send("numbers", at, key=client.random.choice("ab"), timestamp=at)
        await client.send_watermark("numbers", now + 100_000)

    Simulation(make, workload, seed=seed, faults=reorders).check()


@pytest.mark.parametrize("seed", range(6))
def test_a_request_that_came_twice_takes_effect_once_also_within_one_batch(seed: int) -> None:
    def make() -> App:
        app = App("asked", commit_interval="50ms")
        totals = app.table("totals", key=str, value=int, default=int)

        @app.agent(app.stream("numbers", value=int, idle_after=None), name="add", sinks=["added"], tables=[totals])
        async def add(numbers):  # type: ignore[no-untyped-def]
            async for number in numbers:
                totals["all"] += number
                yield totals["all"]

        return app

    async def workload(client: Client) -> None:
        await client.sleep(0.5)
        for number in range(12):
            await client.ask("add", number, key="all", timeout="1s")

    report = Simulation(make, workload, seed=seed, faults=duplicates, workers=1).check()
    assert report.outcome.tables["totals"] == {"all": sum(range(12))}
