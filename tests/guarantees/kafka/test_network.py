"""Requests and answers are lost, with their connections: what was carried out isn't done again."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.brokers.kafka.proxied import ProxiedKafka
from tests.guarantees.kafka.fleet import Fleet, some_time
from tests.guarantees.kafka.pipeline import PACE, TALKING, Pipeline
from tests.guarantees.kafka.rough_network import FAULTS, RoughNetwork

BACKLOG = 4_000
ROUGH_S = 8.0
PATIENCE_S = 240.0
UNKNOWN = "it may have been carried out"


@pytest.mark.usefixtures("kafka_jars")
def test_requests_and_answers_that_are_lost_with_their_connections_lose_and_double_no_result(
    tmp_path: Path, chance: random.Random
) -> None:
    broker = ProxiedKafka()
    with broker, RoughNetwork(broker, chance) as network:
        pipeline = Pipeline(broker.bootstrap, chance)
        pipeline.send(BACKLOG)
        with Fleet(TALKING, broker.proxied, tmp_path, env=PACE) as fleet:
            fleet.start_all(2)
            over = time.monotonic() + ROUGH_S
            # Until a commit has met it as well: nothing hangs on most answers.
            while (
                time.monotonic() < over
                or min(network.happened[fault] for fault in FAULTS) < 3
                or not fleet.lines(UNKNOWN)
            ):
                assert time.monotonic() < over + PATIENCE_S, f"no commit was left unknown by {dict(network.happened)}"
                network.trouble()
                fleet.until(some_time(chance, 0.0, 0.3), "the next trouble")
                pipeline.top_up(BACKLOG)
            pipeline.finish(fleet)
            unknown = fleet.lines(UNKNOWN)
    print(f"{dict(network.happened)}: {pipeline.sent} events, {pipeline.verifier.total()} results")
    print(f"{len(unknown)} commits of unknown outcome")
