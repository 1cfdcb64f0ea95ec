"""The rules of a commit, one by one: each at the step where it counts, and with it broken, where the verifier must see.

Workers are held at a step of a commit by gates (``hooked``), so that what happens to them there is no matter of luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers.kafka.broker import KafkaBroker
from tests.guarantees.kafka.fleet import SETTINGS, Fleet, FleetWorker, paused
from tests.guarantees.kafka.ledger import APP, Gates, Ledger
from tests.guarantees.kafka.verifier import hanging, members

HOOKED = ("-m", "tests.guarantees.kafka.hooked")
TASKS = ("events-0", "events-1", "accounts-0", "accounts-1")
FENCED = "another owner has taken over"
TIMED_OUT = "the broker timed the transaction out"


class Scene:
    """An app, its workers and the gates in them."""

    def __init__(self, ledger: Ledger, fleet: Fleet, gates: Gates) -> None:
        self.ledger, self.fleet, self.gates = ledger, fleet, gates

    def until(self, condition: Callable[[], object], what: str) -> None:
        self.fleet.until(condition, what, timeout_s=40)

    def apart_from(self, task: str, *others: str) -> FleetWorker:
        """A worker that runs one of the other tasks, and not this one; waits until there is one."""

        def runs(each: str) -> FleetWorker:
            return self.gates.at(each, "runs", self.fleet)

        self.until(lambda: any(runs(each) is not runs(task) for each in others), "the workers to share the tasks")
        return next(worker for each in others if (worker := runs(each)) is not runs(task))

    def verdict(self, sabotage: str) -> None:
        """Nothing is lost and nothing is there twice; with a rule broken, the verifier has to see that."""
        if sabotage:
            self.until(self.ledger.often, f"the verifier to see results twice, with a rule broken ({sabotage})")
            print(f"{sabotage}: {self.ledger.verdict():.200}…, as it should be seen")
            return
        self.until(self.ledger.done, "all results")
        self.fleet.stop_all()
        problem = self.ledger.verdict()
        assert not problem, problem
        assert not hanging(self.ledger.bootstrap, [f"{self.ledger.name}.posted"])


@contextmanager
def scene(
    broker: KafkaBroker, name: str, directory: Path, workers: int, *, sabotage: str = "", settings: str = SETTINGS
) -> Iterator[Scene]:
    """The app at work, with everything done that was sent so far."""
    ledger, gates = Ledger(broker, name), Gates(directory / "gates")
    env = {"APP": name, "GATES": str(gates.folder), "SABOTAGE": sabotage}
    ledger.send(2)
    with Fleet(APP, broker.bootstrap, directory, settings=settings, program=HOOKED, env=env) as fleet:
        fleet.start_all(workers)
        fleet.until(ledger.done, "the first results")
        # A task that is still to be moved would be held at a gate on its way, and its worker with it.
        fleet.until(
            lambda: set(gates.shares(TASKS).values()) == {len(TASKS) // workers}, "the tasks to be shared evenly"
        )
        yield Scene(ledger, fleet, gates)


@pytest.mark.parametrize("sabotage", ["", "shared_checkpoints"])
def test_a_task_that_dies_while_another_one_holds_a_transaction_open_is_found_at_its_last_commit(
    kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path, sabotage: str
) -> None:
    with scene(kafka, unique("open"), tmp_path, 2, sabotage=sabotage) as at:
        holder = "accounts-0"
        at.gates.close(holder, "end")
        at.ledger.send(1)
        at.until(at.gates.reached(holder, "end"), "the one to hold its transaction open")
        at.ledger.send(1)
        at.until(lambda: at.ledger.posted(1) == at.ledger.wanted(1), "the others to commit beside it")
        dies = at.apart_from(holder, "accounts-1", "events-0")
        at.fleet.kill(dies.number)
        at.ledger.send(1)
        at.until(lambda: at.ledger.posted(1) >= at.ledger.wanted(1), "the tasks of the dead to be taken over")
        assert at.ledger.posted(0) < at.ledger.wanted(0), "the transaction was to be open all the while"
        at.gates.open(holder, "end")
        at.verdict(sabotage)


@pytest.mark.parametrize("sabotage", ["", "positions_first"])
def test_an_owner_that_wakes_up_during_a_claim_can_commit_nothing_that_the_claim_has_not_read(
    kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path, sabotage: str
) -> None:
    with scene(kafka, unique("claim"), tmp_path, 2, sabotage=sabotage) as at:
        task = "accounts-1"
        at.gates.close(task, "begin")
        at.ledger.send(1)
        at.until(at.gates.reached(task, "begin"), "the owner to come to its commit")
        owner, before = at.gates.at(task, "begin", at.fleet), at.ledger.posted(1)
        with paused(owner):
            at.gates.close(task, "claim")
            at.until(at.gates.reached(task, "claim"), "the task to be claimed by the other worker")
            assert at.gates.at(task, "claim", at.fleet) is not owner
        at.gates.open(task, "begin")
        at.until(lambda: at.ledger.posted(1) > before or FENCED in owner.said, "the commit of the one that woke up")
        if not sabotage:
            assert at.ledger.posted(1) == before, "it committed after it was fenced"
        at.gates.open(task, "claim")
        at.verdict(sabotage)


@pytest.mark.parametrize("sabotage", ["", "guess"])
def test_a_commit_whose_end_was_not_answered_is_looked_up_and_not_done_again(
    kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path, sabotage: str
) -> None:
    patient = "session_timeout_ms=10000&heartbeat_interval_ms=500&transaction_timeout_ms=20000&request_timeout_ms=1500"
    with scene(kafka, unique("unknown"), tmp_path, 1, sabotage=sabotage, settings=patient) as at:
        task = "accounts-1"
        at.gates.close(task, "end")
        at.gates.close(task, "retry")
        at.ledger.send(1)
        at.until(at.gates.reached(task, "end"), "the task to come to the end of its transaction")
        before = at.ledger.posted(1)
        kafka.pause()
        try:
            at.gates.open(task, "end")
            at.until(at.gates.reached(task, "unknown"), "the end to stay without an answer")
        finally:
            kafka.resume()
        at.until(lambda: at.ledger.posted(1) > before, "the broker to carry it out all the same")
        at.gates.open(task, "retry")
        at.ledger.send(1)
        at.verdict(sabotage)


@pytest.mark.parametrize("sabotage", ["", "dirty_reads"])
def test_what_a_worker_had_sent_without_an_end_when_it_died_is_never_read(
    kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path, sabotage: str
) -> None:
    with scene(kafka, unique("torn"), tmp_path, 2, sabotage=sabotage) as at:
        task = "events-0"
        at.gates.close(task, "end")
        at.ledger.send(1)
        at.until(at.gates.reached(task, "end"), "the task to come to the end of its transaction")
        at.fleet.kill(at.gates.at(task, "end", at.fleet).number)
        at.gates.open(task, "end")
        at.verdict(sabotage)


def test_a_transaction_that_the_broker_timed_out_is_done_again_from_the_last_commit(
    kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path
) -> None:
    hasty = "session_timeout_ms=10000&heartbeat_interval_ms=500&transaction_timeout_ms=2000"
    with scene(kafka, unique("late"), tmp_path, 1, settings=hasty) as at:
        task, out = "accounts-1", [f"{at.ledger.name}.posted"]
        at.gates.close(task, "end")
        at.ledger.send(1)
        at.until(at.gates.reached(task, "end"), "the task to come to the end of its transaction")
        at.until(lambda: hanging(kafka.bootstrap, out), "the verifier to see that its transaction is open")
        at.until(lambda: not hanging(kafka.bootstrap, out), "the broker to end it")
        assert at.ledger.posted(1) < at.ledger.wanted(1), "the broker ended it by a commit"
        at.gates.open(task, "end")
        at.until(lambda: at.fleet.lines(f"{task}.*{TIMED_OUT}"), "the task to be told")
        at.verdict("")


def test_a_worker_that_is_stopped_while_it_lets_go_of_a_task_waits_for_that_task_s_commit(
    kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path
) -> None:
    with scene(kafka, unique("let-go"), tmp_path, 1) as at:
        task, worker = "accounts-1", at.fleet.running[0]
        at.gates.close(task, "begin")
        at.ledger.send(1)
        at.until(at.gates.reached(task, "begin"), "the task to come to its commit")
        with paused(worker):
            at.until(lambda: not members(kafka.bootstrap, at.ledger.name), "its session to end")
        at.until(lambda: "this worker is out" in worker.said, "the worker to hear of it, and to stop its tasks")
        worker.ask_to_leave()
        at.until(lambda: "committing and leaving" in worker.said, "the worker to hear that it has to stop")
        at.gates.open(task, "begin")
        del at.fleet.running[0]
        worker.left()
        assert at.ledger.posted(1) == at.ledger.wanted(1), "the commit that was on its way is lost"
