"""Three servers are restarted one after the other, as for a new version: each announces it, and the workers move."""

from __future__ import annotations

import json
import random
import re
import signal
import urllib.request
from pathlib import Path

from tests.brokers.nats.cluster import NatsCluster
from tests.brokers.ports import free_port
from tests.guarantees.jetstream.pipeline import APP, PACE, RESULTS, Pipeline
from tests.guarantees.kafka.fleet import Fleet

BACKLOG = 1_000
WORKERS = 2
PATIENCE_S = 180.0
CONFIG = 'lame_duck_grace_period: "100s"\nlame_duck_duration: "200s"\n'
"""Nobody is thrown out by then: who has left has done so of his own accord."""


def workers_on(port: int) -> int:
    """How many connections of workers a server has."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/connz?limit=1000", timeout=60) as answer:
        return sum(each.get("name") == "streams" for each in json.load(answer)["connections"])


def test_workers_leave_a_server_that_is_about_to_stop_and_nothing_is_lost_or_twice(
    tmp_path: Path, chance: random.Random
) -> None:
    (tmp_path / "server.conf").write_text(CONFIG)
    cluster = NatsCluster(tmp_path / "servers")
    monitors = {name: free_port() for name in cluster.servers}
    for name, server in cluster.servers.items():
        server._options = (*server._options, "-c", str(tmp_path / "server.conf"), "-m", str(monitors[name]))
    with cluster:
        url = f"{cluster.url}?replicas=3"
        pipeline = Pipeline(url, chance)
        with Fleet(APP, "", tmp_path, env=PACE, log=url) as fleet:
            fleet.start_all(WORKERS)
            for name, server in cluster.servers.items():
                pipeline.send(BACKLOG)
                came_to = pipeline.look()
                fleet.until(lambda: pipeline.look() > came_to, "the workers to come forward")  # noqa: B023
                pipeline.send(BACKLOG)
                server._signal(signal.SIGUSR2)
                fleet.until(lambda: workers_on(monitors[name]) == 0, "all workers to leave", timeout_s=PATIENCE_S)  # noqa: B023
                cluster.kill(name)
                cluster.start(name)
                cluster.until_whole(["S-pipeline", "S-=catalog", "S-=group", "events", *RESULTS])
            said = "".join(worker.said for worker in fleet.running.values())
            pipeline.finish(fleet)
    lost = re.findall(r"lost the connection to \S+ \((.*?)\)", said)
    assert len(lost) >= WORKERS, "each was on one of the servers at least"
    assert set(lost) == {"it is about to stop"}
