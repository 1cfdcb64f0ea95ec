"""kill -9 at many random moments: a pipeline of many stages comes to every result exactly once.

Between the lives of the worker more events are sent, so that each life dies with work before it.  In the end the
output topics and the tables are compared with plain Python over the same events.
"""

from __future__ import annotations

import random
import signal
from itertools import pairwise
from pathlib import Path

from tests.guarantees.pipeline_oracle import Feed
from tests.guarantees.support import killed_at_random, wait_for, with_log, working
from tests.stages import rounds

KILLS = rounds(12, 50)
KILLS_AT_LEAST_ONCE = rounds(4, 8)


def live_and_die(feed: Feed, chance: random.Random, kills: int, **env: str) -> None:
    """So many lives of a worker, each killed at its work."""
    came_to = []
    for _ in range(kills):
        with working("pipeline.py", feed.path, **env) as worker:
            worker.until_working()
            killed_at_random(worker, chance, commits=60)
        done, left = feed.top_up()
        assert left > 0, "the worker had nothing left to do when it was killed"
        came_to.append(done)
    assert came_to == sorted(came_to), "the worker went back behind what it had committed"
    moved = sum(after > before for before, after in pairwise([0, *came_to]))
    assert moved >= kills // 4, f"only {moved} of {kills} lives came forward: {came_to}"
    print(f"{moved} of {kills} lives came forward, to {came_to[-1]} of {feed.sent} events")


def test_after_kills_at_random_moments_every_result_of_a_pipeline_is_there_exactly_once(
    tmp_path: Path, chance: random.Random
) -> None:
    feed = Feed(tmp_path / "log", chance, backlog=60_000)
    live_and_die(feed, chance, KILLS)
    feed.end()
    with_log(feed.path, feed.oracle.check)


def test_at_least_once_loses_nothing_under_kill_9_and_keeps_its_state_exactly(
    tmp_path: Path, chance: random.Random
) -> None:
    feed = Feed(tmp_path / "log", chance, backlog=60_000)
    live_and_die(feed, chance, KILLS_AT_LEAST_ONCE, AT_LEAST_ONCE="1")
    feed.end(AT_LEAST_ONCE="1")
    with_log(feed.path, feed.oracle.check_repeated)


def test_sigterm_in_the_middle_of_work_leaves_soon_and_well_and_nothing_is_done_twice(
    tmp_path: Path, chance: random.Random
) -> None:
    feed = Feed(tmp_path / "log", chance, backlog=60_000)
    for _ in range(4):
        with working("pipeline.py", feed.path) as worker:
            worker.until_working()
            worker.until_commits(1 + chance.randrange(40))
            worker.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not worker.alive, "the worker to leave", timeout_s=120)
            assert worker.process.returncode == 0, f"it took longer than it may, and gave up: {worker.stderr}"
        _, left = feed.top_up()
        assert left > 0, "the worker had nothing left to do when it was stopped"
    feed.end()
    with_log(feed.path, feed.oracle.check)
