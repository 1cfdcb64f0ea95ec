"""The web and control endpoints of a worker, asked over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import msgspec
import pytest

from streams import App
from streams.connectors.alone import Alone
from streams.connectors.memory.log import MemoryLog
from streams.core.log import Append
from streams.core.membership import OutOfTouch, TaskRef, Wanted
from streams.core.record import Records, TopicPartition
from streams.core.thresholds import PRODUCTION
from streams.errors import ConfigurationError, LogUnavailable
from streams.runtime.clock import SystemClock
from streams.runtime.control import control_app
from streams.runtime.driver import Phase
from streams.runtime.status import Status
from streams.runtime.web import serve, web_app
from streams.runtime.worker import StuckTask, Worker
from streams.testing.driver import MemoryStores
from streams.testing.loop import VirtualLoop

Get = Callable[[str], Awaitable[tuple[int, str]]]


class Desk:
    """A worker on a log in memory, its status, and what it answers."""

    def __init__(self, app: App, liveness_timeout_s: float = 60.0) -> None:
        self.log = MemoryLog()
        self.worker = Worker(
            app, self.log, MemoryStores(), SystemClock(), liveness_timeout_s=600, shutdown_timeout_s=0.1
        )
        self.status = Status(self.worker, liveness_timeout_s)
        self.base = ""
        self.session: aiohttp.ClientSession

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Desk]:
        await self.log.open()
        async with (
            serve(web_app(self.status), "127.0.0.1", 0) as port,
            aiohttp.ClientSession() as self.session,
            self.worker.working(),
        ):
            self.base = f"http://127.0.0.1:{port}"
            self.status.working = True
            yield self
        await self.log.close()

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(self.base + path) as reply:
            text = await reply.text()
            return reply.status, msgspec.json.decode(text) if reply.content_type == "application/json" else text

    async def send(self, topic: str, *pairs: tuple[str, str]) -> None:
        keys: list[bytes | None] = [key.encode() for key, _ in pairs]
        values: list[bytes | None] = [value.encode() for _, value in pairs]
        spec = self.worker.blueprint.topics[topic]
        await self.log.append(self.worker.spread(spec, Records(keys, values, [1_700_000_000_000] * len(pairs))))

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await condition():  # noqa: ASYNC110 - what is asked is behind HTTP
                await asyncio.sleep(0.01)

    async def until_status(self, path: str, status: int) -> Any:
        async def reached() -> bool:
            return (await self.get(path))[0] == status

        await self.until(reached)
        return (await self.get(path))[1]


def prices(**settings: Any) -> App:
    app = App("prices", partitions=2, commit_interval="10ms")
    app.table("prices", key=str, value=float, source="changes", **settings)
    return app


def waiting(forever: asyncio.Event) -> App:
    """An app whose agent waits until ``forever`` is set."""
    app = App("waiting", commit_interval="10ms")

    @app.agent(app.stream("work"))
    async def wait(events: AsyncIterator[Any]) -> None:
        async for _ in events:
            await forever.wait()

    return app


def test_health_is_200_only_when_every_task_runs() -> None:
    async def run() -> None:
        async with Desk(prices()).at_work() as desk:
            body = await desk.until_status("/health", 200)
            assert body == {
                "status": "ok",
                "app": "prices",
                "tasks": {"prices.changes-0": "running", "prices.changes-1": "running"},
                "problems": [],
            }
            desk.worker.drivers["prices.changes-1"].phase = Phase.RESTORING
            desk.status.note_restore("prices.changes-1", 5, 10)
            status, body = await desk.get("/health")
            assert (status, body["status"]) == (503, "restoring")
            assert body["problems"] == ["task prices.changes-1 restores its store: 5 of 10 changelog records"]
            desk.worker.drivers["prices.changes-1"].phase = Phase.CLAIMING
            status, body = await desk.get("/health")
            assert (status, body["status"]) == (503, "starting")
            desk.worker.drivers["prices.changes-1"].phase = Phase.RUNNING
            desk.status.stopping = True
            assert (await desk.get("/health"))[1]["status"] == "stopping"

    asyncio.run(run())


class Adrift(Alone):
    """Everything runs here, and the log answers as long as the test says so."""

    lost: OutOfTouch | None = None

    def out_of_touch(self) -> OutOfTouch | None:
        return self.lost


@pytest.mark.parametrize("with_tasks", [True, False])
def test_a_worker_whose_log_does_not_answer_is_unhealthy_with_tasks_and_without(with_tasks: bool) -> None:
    async def run() -> None:
        desk = Desk(prices())
        tasks = [TaskRef("prices", slot, name) for slot, name in enumerate(desk.worker.blueprint.tasks, start=1)]
        place = Adrift(Wanted(tasks if with_tasks else []))
        desk.worker = Worker(prices(), desk.log, MemoryStores(), SystemClock(), membership=place)
        desk.status = Status(desk.worker, 60.0)
        async with desk.at_work():
            await desk.until_status("/health", 200)
            place.lost = OutOfTouch("kafka://a:1: broker a:1", time.monotonic() + 60, "it doesn't answer")
            assert (await desk.get("/health"))[0] == 200  # since just now: not for the moment that an election takes
            place.lost = replace(place.lost, out=True)
            assert (await desk.get("/health"))[0] == 503  # its session is over, though: others may have its tasks
            place.lost = replace(place.lost, since_s=time.monotonic() - 20, out=False)
            status, body = await desk.get("/health")
            assert (status, body["status"]) == (503, "disconnected")
            (line,) = body["problems"]
            assert line.startswith("out of touch with kafka://a:1: broker a:1 for ")
            assert line.endswith(" s (it doesn't answer); its tasks go on when it answers")
            place.lost = None
            assert (await desk.get("/health"))[0] == 200

    asyncio.run(run())


def test_a_stuck_task_fails_the_worker_while_a_heartbeat_is_on_its_way() -> None:
    async def run() -> None:
        app, log = waiting(asyncio.Event()), MemoryLog()
        names = app.build().tasks
        place = Adrift(Wanted([TaskRef("waiting", slot, name) for slot, name in enumerate(names, start=1)]))
        place.lost = OutOfTouch("kafka://a:1", time.monotonic() + 3600, "it doesn't answer")  # since just now, always
        often = replace(PRODUCTION, housekeeping_s=0.01)
        worker = Worker(
            app,
            log,
            MemoryStores(),
            SystemClock(),
            membership=place,
            liveness_timeout_s=0.05,
            shutdown_timeout_s=0.1,
            thresholds=often,
        )
        await log.open()
        async with worker.working():
            await worker.produce(worker.blueprint.topics["work"], Records([b"k"], [b"1"], [1_700_000_000_000]))

            async def fails() -> None:
                while True:
                    worker.check()
                    await asyncio.sleep(0.01)

            with pytest.raises(StuckTask):
                await asyncio.wait_for(fails(), 120)
        await log.close()

    asyncio.run(run())


def test_a_log_that_is_away_while_a_worker_prepares_its_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = VirtualLoop()

    async def run() -> None:
        desk, server = Desk(prices()), "kafka://a:1"
        monkeypatch.setattr(MemoryLog, "url", server)
        assert (desk.status.health().status, desk.status.health().problems) == ("starting", [])
        desk.worker.outages.failed("app prices: starting again", LogUnavailable(f"{server}: it doesn't answer"))
        await asyncio.sleep(20)
        health = desk.status.health()
        assert health.status == "disconnected"
        (line,) = health.problems
        assert line.startswith(f"away for 20 s: {server}: it doesn't answer")

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


def test_a_stuck_agent_is_unhealthy_though_the_event_loop_answers() -> None:
    async def run() -> None:
        forever = asyncio.Event()
        async with Desk(waiting(forever), liveness_timeout_s=0.05).at_work() as desk:
            await desk.until_status("/health", 200)
            await desk.send("work", ("k", "1"))
            body = await desk.until_status("/health", 503)
            assert body["status"] == "stuck"
            assert body["problems"][0].startswith("task waiting.work-0 has ")
            status, text = await desk.get("/metrics")
            assert status == 200
            assert 'streams_lag_records{app="waiting",task="waiting.work-0"} 1.0' in text
            forever.set()
            await desk.until_status("/health", 200)

    asyncio.run(run())


def test_a_task_without_anything_to_do_is_healthy_for_as_long_as_that_takes() -> None:
    async def run() -> None:
        async with Desk(waiting(asyncio.Event()), liveness_timeout_s=1.0).at_work() as desk:
            await desk.until_status("/health", 200)
            driver, loop = desk.worker.drivers["waiting.work-0"], asyncio.get_running_loop()

            async def idle_for_long() -> bool:
                assert (await desk.get("/health"))[0] == 200
                return loop.time() - driver.progress_at > 1.5

            await desk.until(idle_for_long)

    asyncio.run(run())


def test_the_event_loop_turns_while_a_store_restores() -> None:
    # Else health, tables and signals would wait for the end of a restore, which may take minutes.
    async def run() -> None:
        desk = Desk(prices())
        async with desk.at_work():
            await desk.send("changes", *((f"k-{number}", "1") for number in range(60_000)))
            await desk.until_status("/tables/prices/k-59999", 200)
        turns = 0
        at_report: dict[str, list[int]] = {}

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        def report(task: str, done: int, total: int) -> None:
            at_report.setdefault(task, []).append(turns)

        await desk.log.open()
        worker = Worker(prices(), desk.log, MemoryStores(), SystemClock(), progress=report)
        turning = asyncio.create_task(turn())
        async with worker.working():

            async def running() -> bool:
                return bool(worker.drivers) and all(each.phase is Phase.RUNNING for each in worker.drivers.values())

            await desk.until(running)
        turning.cancel()
        assert sorted(at_report) == ["prices.changes-0", "prices.changes-1"]
        for seen in at_report.values():
            assert len(seen) > 2
            assert len(set(seen)) == len(seen), "the loop turned between any two reports"

    asyncio.run(run())


def test_a_table_shows_what_is_committed_by_key_and_in_pages() -> None:
    async def run() -> None:
        async with Desk(prices()).at_work() as desk:
            await desk.send(
                "changes", *((f"k-{number:03}", str(number)) for number in range(250)), ("other/key", "1.5")
            )

            async def committed() -> bool:
                return len((await desk.get("/tables/prices?limit=1000"))[1].get("rows", ())) == 251

            await desk.until(committed)
            assert await desk.get("/tables/prices/k-007") == (200, 7.0)
            assert await desk.get("/tables/prices/other%2Fkey") == (200, 1.5)
            assert await desk.get("/tables/prices/other/key") == (200, 1.5)
            found: list[str] = []
            after = ""
            while after is not None:
                query = f"&after={after}" if after else ""
                status, page = await desk.get(f"/tables/prices?prefix=k-&limit=100{query}")
                assert status == 200
                found += [row["key"] for row in page["rows"]]
                after = page["after"]
            assert found == [f"k-{number:03}" for number in range(250)]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/tables/prices/nothing", 404, "there is no key 'nothing'"),
        ("/tables/nothing", 404, "no table 'nothing'; its tables: prices"),
        ("/tables/prices?limit=0", 400, "give 1 to 1000"),
        ("/tables/prices?limit=many", 400, "no whole number"),
    ],
)
def test_what_isnt_there_or_makes_no_sense_is_told_in_words(path: str, status: int, says: str) -> None:
    async def run() -> None:
        async with Desk(prices()).at_work() as desk:
            await desk.until_status("/health", 200)
            got, body = await desk.get(path)
            assert got == status
            assert says in body["message"]

    asyncio.run(run())


def test_keys_that_are_numbers_are_asked_for_in_digits() -> None:
    async def run() -> None:
        app = App("numbers")
        app.table("names", key=int, value=str, source="changes")
        async with Desk(app).at_work() as desk:
            await desk.send("changes", ("-7", "minus"), ("12", "twelve"), ("3", "three"))
            await desk.until_status("/tables/names/12", 200)
            rows = (await desk.get("/tables/names"))[1]["rows"]
            assert [row["key"] for row in rows] == ["-7", "3", "12"], "in the order of the numbers"
            assert (await desk.get("/tables/names?after=-7&limit=1"))[1]["rows"] == [{"key": "3", "value": "three"}]
            assert (await desk.get("/tables/names/seven"))[0] == 400
            assert (await desk.get("/tables/names?prefix=1"))[0] == 400

    asyncio.run(run())


def test_a_table_whose_task_isnt_open_yet_is_to_be_asked_again() -> None:
    async def run() -> None:
        async with Desk(prices()).at_work() as desk:
            await desk.until_status("/health", 200)
            for driver in desk.worker.drivers.values():
                driver.stop()

            async def released() -> bool:
                return all(driver.phase is Phase.RELEASED for driver in desk.worker.drivers.values())

            await desk.until(released)
            status, body = await desk.get("/tables/prices/k")
            assert (status, body["error"]) == (503, "LogUnavailable")

    asyncio.run(run())


def test_tasks_show_positions_and_lag() -> None:
    async def run() -> None:
        async with Desk(prices()).at_work() as desk:
            await desk.send("changes", ("a", "1"), ("b", "2"), ("c", "3"))
            await desk.until_status("/tables/prices/c", 200)

            async def done() -> bool:
                _, tasks = await desk.get("/tasks")
                return bool(sum(each["position"] for task in tasks for each in task["inputs"]) == 3)

            await desk.until(done)
            _, tasks = await desk.get("/tasks")
            assert [task["task"] for task in tasks] == ["prices.changes-0", "prices.changes-1"]
            assert {task["lag"] for task in tasks} == {0}

    asyncio.run(run())


def test_the_control_endpoint_asks_for_its_token() -> None:
    async def run() -> None:
        desk = Desk(prices())
        async with desk.at_work(), serve(control_app(desk.status, "secret"), "127.0.0.1", 0) as port:
            for headers, status in (({}, 401), ({"Authorization": "Bearer wrong"}, 401)):
                async with desk.session.get(f"http://127.0.0.1:{port}/log", headers=headers) as reply:
                    assert reply.status == status
            good = {"Authorization": "Bearer secret"}
            async with desk.session.get(f"http://127.0.0.1:{port}/log", headers=good) as reply:
                assert reply.status == 200
            async with desk.session.post(f"http://127.0.0.1:{port}/log/append", headers=good, data=b"junk") as reply:
                assert reply.status == 400
                assert "can't be read" in (await reply.json())["message"]

    asyncio.run(run())


def test_a_port_that_is_taken_is_a_configuration_error() -> None:
    async def run() -> None:
        desk = Desk(prices())
        async with serve(web_app(desk.status), "127.0.0.1", 0) as port:
            with pytest.raises(ConfigurationError, match=f"can't listen on 127.0.0.1:{port}"):
                async with serve(web_app(desk.status), "127.0.0.1", port):
                    pass

    asyncio.run(run())


def test_the_remote_log_gives_what_the_log_gives_and_raises_what_it_raises() -> None:
    from streams.cli.remote import RemoteLog
    from streams.connectors.embedded.lock import Holder

    async def run() -> None:
        desk = Desk(prices())
        async with desk.at_work(), serve(control_app(desk.status, "secret"), "127.0.0.1", 0) as port:
            log = RemoteLog("memory:", Holder(1, "here", "test", "now", port, "secret"))
            at = TopicPartition("changes", 1)
            records = Records([b"k", None], [None, b"\xff"], [1, 2], [None, (("h", b"v"),)])
            assert dict(await log.append([Append(at, records)])) == {at: (await desk.log.bounds([at]))[at].end}
            assert await log.bounds([at]) == await desk.log.bounds([at])
            assert await log.topics() == await desk.log.topics()
            reader = log.reader({at: (await log.bounds([at]))[at].start})
            [batch] = await reader.fetch([at], max_records=10, wait_s=0)
            assert batch.records == records
            assert list(batch.offsets) == [0, 1]
            assert reader.ends() == {at: (await desk.log.bounds([at]))[at].end}
            assert await reader.fetch([at], max_records=10, wait_s=0) == []
            with pytest.raises(ConfigurationError, match="nowhere"):
                await log.bounds([TopicPartition("nowhere", 0)])
            await log.close()
            gone = RemoteLog("memory:", Holder(1, "here", "test", "now", 1, "secret"))
            with pytest.raises(LogUnavailable, match="doesn't answer on its control port"):
                await gone.topics()
            await gone.close()

    asyncio.run(run())
