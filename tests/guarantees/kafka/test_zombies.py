"""A worker stands still for longer than its session: its tasks move, and when it wakes up it writes nothing."""

from __future__ import annotations

import random
from pathlib import Path

from tests.brokers.kafka.broker import KafkaBroker
from tests.guarantees.kafka.fleet import Fleet, paused, some_time
from tests.guarantees.kafka.pipeline import APP, PACE, Pipeline
from tests.guarantees.kafka.verifier import members
from tests.guarantees.outages.watch import ask

BACKLOG = 3_000
WORKERS = 3
PAUSES = 3
MOST_PAUSES = 30
OUT = "this worker is out"
FENCED = "another owner has taken over"


def struck(fleet: Fleet) -> list[str]:
    """The lines of workers that were fenced at a task of their own."""
    return [line for line in fleet.lines(FENCED) if "pipeline.control" not in line]


def test_a_worker_that_slept_while_its_tasks_moved_writes_nothing_and_then_joins_again(
    kafka_own: KafkaBroker, tmp_path: Path, chance: random.Random
) -> None:
    pipeline = Pipeline(kafka_own.bootstrap, chance)
    with Fleet(APP, kafka_own.bootstrap, tmp_path, env=PACE) as fleet:
        fleet.start_all(WORKERS)
        turn = 0
        # One that fell asleep right behind a commit of each task may let go of them before it writes again.
        while turn < PAUSES or not struck(fleet):
            assert turn < MOST_PAUSES, "no zombie was ever fenced at a task of its own"
            zombie = fleet.running[turn % WORKERS]
            fleet.until(lambda: ask(zombie).tasks, f"{zombie} to have tasks that can move")  # noqa: B023
            told = zombie.said.count(OUT)
            came_to = pipeline.done()
            pipeline.send(BACKLOG)
            fleet.until(lambda: pipeline.done() > came_to, "the workers to come forward")  # noqa: B023
            fleet.until(some_time(chance, 0.0, 0.3), "the moment to pause")
            with paused(zombie):
                fleet.until(
                    lambda: members(kafka_own.bootstrap, "pipeline") == WORKERS - 1,
                    "the session of the one that sleeps to end",
                )
                came_to = pipeline.verifier.look().total()
                pipeline.send(BACKLOG)
                fleet.until(lambda: pipeline.left() == 0, "the others to take over from the one that sleeps")
                fleet.until(lambda: pipeline.verifier.look().total() > came_to, "results of its tasks")  # noqa: B023
                pipeline.send(BACKLOG)
            fleet.until(lambda: zombie.said.count(OUT) > told, f"{zombie} to notice")  # noqa: B023
            fleet.until(lambda: pipeline.left() == 0, "the rest")
            turn += 1
        # It has joined again: alone, it does what is left.
        pipeline.send(BACKLOG)
        awake = fleet.running.pop((turn - 1) % WORKERS)
        fleet.stop_all()
        fleet.running[awake.number] = awake
        pipeline.finish(fleet)
        fenced = struck(fleet)
    print(f"{pipeline.sent} events, {pipeline.verifier.total()} results; fenced: {len(fenced)} times")
