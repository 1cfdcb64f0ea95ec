"""Three servers hold every stream three times; the one that leads is killed under the workers, again and again."""

from __future__ import annotations

import random
from pathlib import Path

from tests.brokers.nats.cluster import META, NatsCluster
from tests.guarantees.jetstream.pipeline import APP, PACE, RESULTS, Pipeline
from tests.guarantees.kafka.fleet import Fleet, some_time
from tests.stages import rounds

BACKLOG = 2_000
LEADERS = ["S-pipeline", META, "settled"]
"""What the server that is killed leads, kill by kill."""
LEADER_KILLS = rounds(1, len(LEADERS))
PATIENCE_S = 180.0


def test_every_result_is_there_exactly_once_when_leaders_of_three_servers_are_killed(
    tmp_path: Path, chance: random.Random
) -> None:
    with NatsCluster(tmp_path / "servers") as cluster:
        url = f"{cluster.url}?replicas=3&session_timeout_ms=3000"
        pipeline = Pipeline(url, chance)
        with Fleet(APP, "", tmp_path, env=PACE, log=url) as fleet:
            fleet.start_all(3)
            for leads in chance.sample(LEADERS, LEADER_KILLS):
                came_to = pipeline.look()
                pipeline.send(BACKLOG)
                fleet.until(lambda: pipeline.look() > came_to, "the workers to come forward")  # noqa: B023
                fleet.until(some_time(chance, 0.0, 0.5), "the moment to kill")
                victim = cluster.leader_of(leads)
                cluster.kill(victim)
                number = chance.randrange(3)
                fleet.kill(number)
                fleet.start(number)
                pipeline.send(BACKLOG)
                came_to = pipeline.look()
                fleet.until(lambda: pipeline.look() > came_to, "going on with two", timeout_s=PATIENCE_S)  # noqa: B023
                cluster.start(victim)
                cluster.until_whole(["S-pipeline", "S-=catalog", "S-=group", "events", *RESULTS])
            pipeline.finish(fleet)
