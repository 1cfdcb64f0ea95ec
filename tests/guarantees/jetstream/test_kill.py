"""Workers and the server are killed in mid-work: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import random
from pathlib import Path

from tests.brokers.nats.server import NatsServer
from tests.guarantees.jetstream.pipeline import APP, PACE, Pipeline
from tests.guarantees.kafka.fleet import Fleet, paused, some_time

KILLS = 6
BACKLOG = 3_000
EAGER = "compaction_min_bytes=20000"


def fleet_of(server: NatsServer, folder: Path) -> Fleet:
    return Fleet(APP, "", folder, env=PACE, log=f"{server.url}?session_timeout_ms=2000&{EAGER}")


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
        fleet.start_all(2)
        for _ in range(KILLS):
            came_to = pipeline.look()
            pipeline.send(BACKLOG)
            fleet.until(lambda: pipeline.look() > came_to, "the workers to come forward")  # noqa: B023
            fleet.until(some_time(chance, 0.0, 0.5), "the moment to kill")
            nats_own.kill()
            nats_own.start()
        pipeline.finish(fleet)


def test_a_worker_that_stood_still_while_others_took_over_changes_nothing(
    nats_own: NatsServer, tmp_path: Path, chance: random.Random
) -> None:
    pipeline = Pipeline(nats_own.url, chance)
    with fleet_of(nats_own, tmp_path) as fleet:
        fleet.start_all(3)
        for _ in range(3):
            pipeline.send(BACKLOG)
            came_to = pipeline.look()
            with paused(fleet.running[chance.randrange(3)]):
                fleet.until(some_time(chance, 3.0, 4.0), "the others to take over")
            fleet.until(lambda: pipeline.look() > came_to, "the workers to come forward")  # noqa: B023
        pipeline.finish(fleet)
