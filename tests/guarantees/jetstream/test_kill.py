"""Workers and the server are killed in mid-work: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import asyncio
import json
import random
import urllib.request
from pathlib import Path
from typing import Any

from streams.connectors.jetstream.log import JetStreamLog
from tests.brokers.nats.server import NatsServer
from tests.guarantees.jetstream.pipeline import APP, PACE, Pipeline
from tests.guarantees.kafka.fleet import Fleet, FleetWorker, paused, some_time
from tests.stages import rounds

KILLS = rounds(3, 6)
STANDBY_KILLS = rounds(2, 4)
PAUSES, MOST_PAUSES = 3, 12
BACKLOG = 3_000
WITH_STANDBYS = APP.parents[1] / "kafka" / "apps" / "standby_pipeline.py"
FENCED = r"task pipeline\.(?!control).*another owner has taken over; nothing was stored"
EAGER = "compaction_min_bytes=20000"


def fleet_of(server: NatsServer, folder: Path, app: Path = APP) -> Fleet:
    return Fleet(app, "", folder, env=PACE, log=f"{server.url}?session_timeout_ms=2000&{EAGER}")


def test_every_result_is_there_exactly_once_whoever_of_three_workers_is_killed(
    nats_own: NatsServer, tmp_path: Path, chance: random.Random
) -> None:
    pipeline = Pipeline(nats_own.url, chance)
    with fleet_of(nats_own, tmp_path) as fleet:
        fleet.start_all(3)
        for _ in range(KILLS):
            came_to = pipeline.look()
            pipeline.send(BACKLOG)
            fleet.until(lambda: pipeline.look() > came_to, "the workers to come forward")  # noqa: B023
            fleet.until(some_time(chance, 0.0, 0.5), "the moment to kill")
            for number in chance.sample(range(3), chance.choice([1, 1, 2])):
                fleet.kill(number)
                fleet.start(number)
        pipeline.finish(fleet)


def test_every_result_is_there_exactly_once_however_often_the_server_is_killed(
    nats_own: NatsServer, tmp_path: Path, chance: random.Random
) -> None:
    pipeline = Pipeline(nats_own.url, chance)
    with fleet_of(nats_own, tmp_path) as fleet:
        fleet.start_all(3)
        for _ in range(KILLS):
            came_to = pipeline.look()
            pipeline.send(BACKLOG)
            fleet.until(lambda: pipeline.look() > came_to, "the workers to come forward")  # noqa: B023
            fleet.until(some_time(chance, 0.0, 0.5), "the moment to kill")
            nats_own.kill()
            nats_own.start()
        pipeline.finish(fleet)


def members(server: NatsServer) -> int:
    """How many workers the server knows of."""

    async def ask() -> int:
        log = JetStreamLog(server.url)
        await log.open()
        try:
            return len(await log.members("pipeline"))
        finally:
            await log.close()

    return asyncio.run(ask())


def test_a_worker_that_stood_still_while_others_took_over_changes_nothing(
    nats_own: NatsServer, tmp_path: Path, chance: random.Random
) -> None:
    pipeline = Pipeline(nats_own.url, chance)
    with fleet_of(nats_own, tmp_path) as fleet:
        fleet.start_all(2)
        for turn in range(MOST_PAUSES):
            if turn >= PAUSES and fleet.lines(FENCED):
                break  # a sleeper that wakes between two commits hears of its end in another way
            zombie, other = fleet.running[turn % 2], fleet.running[1 - turn % 2]
            came_to = pipeline.look()
            pipeline.send(BACKLOG)
            fleet.until(lambda: pipeline.look() > came_to, "the workers to come forward")  # noqa: B023
            fleet.until(some_time(chance, 0.0, 0.3), "the moment to pause")
            its_own = running(zombie)
            with paused(zombie):
                fleet.until(lambda: members(nats_own) == 1, "the session of the one that sleeps to end")
                came_to = pipeline.look()
                pipeline.send(BACKLOG)
                fleet.until(lambda: pipeline.look() > came_to, "results of the one that took over")  # noqa: B023
                fleet.until(lambda: running(other) >= its_own, "it to hold the tasks of the one that sleeps")  # noqa: B023
            fleet.until(lambda: members(nats_own) == 2, "the one that slept to join again")
            fleet.all_work()
        pipeline.finish(fleet)
        assert fleet.lines(FENCED), "no zombie was ever fenced at a task of its own"


def tasks_of(worker: FleetWorker) -> list[dict[str, Any]]:
    """What a worker says of its tasks."""
    if not worker.address:
        return []
    with urllib.request.urlopen(f"{worker.address}/tasks", timeout=60) as answer:
        found: list[dict[str, Any]] = json.load(answer)
        return found


def running(worker: FleetWorker) -> set[str]:
    return {each["task"] for each in tasks_of(worker) if each["phase"] == "running"}


def test_every_result_is_there_exactly_once_when_standbys_take_over_from_workers_that_are_killed_or_leave(
    nats_own: NatsServer, tmp_path: Path, chance: random.Random
) -> None:
    pipeline = Pipeline(nats_own.url, chance)
    with fleet_of(nats_own, tmp_path, WITH_STANDBYS) as fleet:
        fleet.start_all(3)
        for turn in range(STANDBY_KILLS):
            came_to = pipeline.look()
            pipeline.send(BACKLOG)
            fleet.until(lambda: pipeline.look() > came_to, "the workers to come forward")  # noqa: B023
            fleet.until(lambda: any(map(follows, fleet.running.values())), "a standby that has caught up")
            number = chance.randrange(3)
            if turn % 2:
                worker = fleet.running.pop(number)
                worker.ask_to_leave()
                worker.left()
            else:
                fleet.kill(number)
            fleet.until(some_time(chance, 0.0, 3.0), "the moment to come back")
            fleet.start(number)
            fleet.all_work()
        pipeline.finish(fleet)


def follows(worker: FleetWorker) -> bool:
    return any(each["phase"] == "standby" and each["ready"] for each in tasks_of(worker))
