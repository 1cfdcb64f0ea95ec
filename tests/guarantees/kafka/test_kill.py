"""Workers that share an app's tasks are killed, leave and join: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from tests.brokers.kafka.broker import KafkaBroker
from tests.guarantees.kafka.fleet import Fleet, FleetWorker, some_time
from tests.guarantees.kafka.pipeline import APP, PACE, WITH_STANDBYS, Pipeline
from tests.stages import rounds

KILLS = rounds(3, 6)
BACKLOG = 6_000
STORM_S = float(os.environ.get("STORM_S") or rounds(20, 60))
"""How long workers join and leave."""
MOST = 4


def test_three_workers_come_to_every_result_exactly_once_whoever_of_them_is_killed(
    kafka_own: KafkaBroker, tmp_path: Path, chance: random.Random
) -> None:
    pipeline = Pipeline(kafka_own.bootstrap, chance)
    pipeline.send(2 * BACKLOG)
    at_work = 0
    with Fleet(APP, kafka_own.bootstrap, tmp_path, env=PACE) as fleet:
        fleet.start_all(3)
        for _ in range(KILLS):
            came_to = pipeline.done()
            pipeline.top_up(BACKLOG)
            fleet.until(lambda: pipeline.done() > came_to, "the workers to come forward")  # noqa: B023
            fleet.until(some_time(chance, 0.0, 0.3), "the moment to kill")
            at_work += pipeline.left() > 0
            for number in chance.sample(range(3), chance.choice([1, 1, 2])):
                fleet.kill(number)
                fleet.start(number)
        assert at_work >= KILLS // 3, (
            f"only in {at_work} of {KILLS} rounds there was work left when workers were killed"
        )
        pipeline.finish(fleet)
    print(f"{pipeline.sent} events, {pipeline.verifier.total()} results, {at_work} of {KILLS} kills in mid-work")


def test_a_storm_of_workers_that_join_leave_and_die_under_load_with_standbys_loses_nothing_and_doubles_nothing(
    kafka_own: KafkaBroker, tmp_path: Path, chance: random.Random
) -> None:
    pipeline = Pipeline(kafka_own.bootstrap, chance)
    pipeline.send(BACKLOG)
    did: dict[str, int] = {"join": 0, "leave": 0, "die": 0}
    leaving: list[FleetWorker] = []
    with Fleet(WITH_STANDBYS, kafka_own.bootstrap, tmp_path, together=True, env=PACE) as fleet:
        fleet.start_all(2)
        over = time.monotonic() + STORM_S
        while time.monotonic() < over or min(did.values()) < 3:
            what = chance.choice(["join", "join", "leave", "die"])
            here = sorted(fleet.running)
            if what == "join" and len(here) < MOST:
                fleet.start(min(set(range(MOST + len(leaving))) - set(here) - {each.number for each in leaving}))
            elif what == "leave" and len(here) > 1:
                worker = fleet.running[chance.choice(here)]
                fleet.until(lambda: worker.works, "a worker to work before it is asked to leave")  # noqa: B023
                leaving.append(fleet.running.pop(worker.number))
                worker.ask_to_leave()
            elif what == "die" and len(here) > 1:
                fleet.kill(chance.choice(here))
            else:
                continue
            did[what] += 1
            for worker in [each for each in leaving if not each.alive]:
                worker.left()
                leaving.remove(worker)
            fleet.until(some_time(chance, 0.1, 1.2), "the next moment")
            pipeline.top_up(BACKLOG)
        for worker in leaving:
            worker.left()
        pipeline.finish(fleet)
    print(f"{did}: {pipeline.sent} events, {pipeline.verifier.total()} results")
