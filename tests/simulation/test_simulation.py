"""The simulation of a cluster: many seeds pass, a seed repeats exactly, a failure names its seed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from zlib import crc32

import pytest

from streams.dsl.app import App
from streams.testing import (
    Client,
    Simulation,
    SimulationFailed,
    all_faults,
    at_least_once,
    crashes,
    duplicates,
    exactly_once,
    no_faults,
    reorders,
    torn_writes,
)
from streams.testing.sim_app import make_app, workload
from streams.testing.sim_oracle import Outcome
from streams.testing.simulate import main
from tests.simulation import words


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_passes(seed: int) -> None:
    report = Simulation(make_app, workload, seed=seed, faults=all_faults).check(exactly_once)
    assert report.commits > 0
    assert report.outcome.outputs["settled"], "a run without outputs proves nothing"


@pytest.mark.parametrize("seed", [3, 7])
def test_two_runs_of_a_seed_are_the_same_run(seed: int) -> None:
    one = Simulation(make_app, workload, seed=seed, faults=all_faults).run()
    two = Simulation(make_app, workload, seed=seed, faults=all_faults).run()
    assert one.trace == two.trace
    assert one.outcome == two.outcome
    assert one.trace != Simulation(make_app, workload, seed=seed + 1, faults=all_faults).run().trace


FINGERPRINT = """
from zlib import crc32
from streams.testing import Simulation, all_faults
from streams.testing.sim_app import make_app, workload
report = Simulation(make_app, workload, seed=5, faults=all_faults).run()
print(crc32(repr((report.trace, report.outcome.outputs)).encode()))
"""


def test_a_seed_is_the_same_run_in_another_process_with_another_hash_seed() -> None:
    report = Simulation(make_app, workload, seed=5, faults=all_faults).run()
    here = crc32(repr((report.trace, report.outcome.outputs)).encode())
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        there = subprocess.run(
            [sys.executable, "-c", FINGERPRINT], env=environment, capture_output=True, text=True, check=True
        )
        assert int(there.stdout) == here


def test_a_failure_names_its_seed_and_how_to_repeat_it() -> None:
    def never(expected: Outcome, found: Outcome) -> list[str]:
        return ["this is never right"]

    with pytest.raises(SimulationFailed) as caught:
        Simulation(make_app, workload, seed=7, faults=crashes | duplicates).check(never)
    assert caught.value.seed == 7
    assert str(caught.value).startswith("seed 7: this is never right")
    assert "Simulation(…, seed=7, faults=crashes | duplicates)" in str(caught.value)


def test_the_command_runs_seeds_and_says_what_struck(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--from", "40", "--faults", "crashes,moves"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 seeds from 40: 0 failed")


def test_the_command_runs_fresh_seeds_for_some_time_and_says_where_it_began(capsys: pytest.CaptureFixture[str]) -> None:
    rows = "tests.simulation.words:make_app"
    arguments = ["--minutes", "0.0001", "--processes", "1", "--faults", "moves", "--app", rows]
    assert main(arguments) == 0
    said = re.fullmatch(
        r"0.0001 minutes of seeds from (\d+)\n(\d+) seeds from (\d+): 0 failed; .*\n", capsys.readouterr().out
    )
    assert said is not None
    assert said[1] == said[3]
    assert int(said[1]) >= 10**6


def test_the_command_refuses_a_fault_that_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--faults", "gremlins"])
    assert ended.value.code == 2
    assert "gremlins" in capsys.readouterr().err


# ── apps of users ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_app_itself_is_simulated_on_one_worker_and_rows_are_a_workload() -> None:
    rows = [("words", key, number) for number, key in enumerate("abcabcaab")]
    report = Simulation(words.make_app(), rows, seed=1, faults=crashes | torn_writes | reorders).check(exactly_once)
    assert report.outcome.tables == {"counted": {"a": 4, "b": 3, "c": 2}}
    assert [value for value, _ in report.outcome.outputs["counts"][b"a"]] == [b"1", b"2", b"3", b"4"]
    assert {who.partition(".")[0] for _, who, *_ in report.trace} & {"worker1", "worker2"} == set()


def test_an_app_that_asks_for_at_least_once_may_repeat_outputs_and_nothing_else() -> None:
    def make() -> App:
        app = App("relaxed", guarantee="at_least_once", commit_interval="20ms")
        app.stream("words", idle_after=None).count(name="counted").to("counts")
        return app

    rows = [("words", key, number) for number, key in enumerate("abcabcaab" * 3)]
    repeated = 0
    for seed in range(12):
        report = Simulation(make, rows, seed=seed).check(at_least_once)
        repeated += len(report.outcome.outputs["counts"][b"a"]) > 4 * 3
    assert repeated, "nothing was repeated, so nothing was tried"


def test_a_mistake_in_the_app_is_found_that_only_a_crash_shows() -> None:
    def make() -> App:
        app = App("forgetful", commit_interval="20ms")
        seen: list[int] = []  # lives in the process, and dies with it

        @app.agent(app.stream("words", idle_after=None), name="count", sinks=["counts"])
        async def count(words: AsyncIterator[int]) -> AsyncIterator[int]:
            async for word in words:
                seen.append(word)
                yield len(seen)

        return app

    rows = [("words", "a", number) for number in range(20)]
    Simulation(make, rows, seed=0, faults=no_faults).check(exactly_once)
    failures = []
    for seed in range(10):
        try:
            Simulation(make, rows, seed=seed, faults=crashes).check(exactly_once)
        except SimulationFailed as failure:
            failures.append(str(failure))
    assert any("topic counts" in words for words in failures)


def test_what_the_workload_finds_wrong_fails_the_run() -> None:
    async def wrong(client: Client) -> None:
        await client.send("words", 1, key="a")
        raise AssertionError("the answer was not what was asked for")

    with pytest.raises(SimulationFailed, match="the answer was not what was asked for"):
        Simulation(words.make_app, wrong, seed=1, faults=no_faults).check()


def test_an_app_that_never_gets_done_is_reported_and_not_waited_for() -> None:
    def make() -> App:
        app = App("circle", commit_interval="20ms")
        app.stream("words", idle_after=None).map(lambda word: word).to("words")
        return app

    with pytest.raises(SimulationFailed, match="isn't done"):
        Simulation(make, [("words", "a", 1)], seed=1, faults=no_faults).check()
