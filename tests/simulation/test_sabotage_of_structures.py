"""The simulator bites where structures change their ways: horizons, generations, memories, slices, trims.

As ``test_sabotage``: the real engine with one thing broken, and the first of a hundred seeds that notices.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush, nsmallest
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import pytest

from streams.core.plan import Captured
from streams.core.record import Bounds, Fetched, Position, TopicPartition
from streams.core.state import KeyedState
from streams.core.task import Task
from streams.dsl.app import App
from streams.operators.batching import _BatchingWork
from streams.operators.timers import Timers
from streams.runtime import housekeeping
from streams.runtime.agents import _Memory
from streams.runtime.requests import Requests
from streams.testing import sim_app, sim_errands
from streams.testing.faults import Faults, all_faults, draw_thresholds, duplicates, moves, no_faults
from streams.testing.sim_log import SimLog, SimWriter
from streams.testing.simulation import Simulation, SimulationFailed

pytestmark = pytest.mark.slow

HUNDRED = 100
"""Seeds of which one has to notice."""


def caught(module: Any, faults: Faults = all_faults, *, known: int = 0) -> str:
    """What the first of a hundred seeds says that notices.  known: one that did, and so the first that is tried."""
    make_app: Callable[[], App] = module.make_app
    thresholds: Callable[[Random], Any] = getattr(module, "thresholds", draw_thresholds)
    for number in range(HUNDRED):
        seed = (known + number) % HUNDRED
        try:
            Simulation(
                make_app, module.workload, seed=seed, faults=faults, thresholds=thresholds, check_always=False
            ).check()
        except SimulationFailed as failure:
            print(f"caught by seed {seed}")
            return str(failure).splitlines()[0]
    pytest.fail(f"not caught within {HUNDRED} seeds")


def test_a_heap_of_timers_that_forgets_its_horizon_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self: Timers, entry: bytes) -> None:
        self._due.put(entry, True)
        if self._horizon is None or entry < self._horizon:
            heappush(self._near, entry)
            if len(self._near) > 4 * self._at_once:
                self._near = nsmallest(self._at_once, self._near)

    monkeypatch.setattr(Timers, "_put", put)
    assert "topic sessions-closed" in caught(sim_app)


def test_a_batch_that_numbers_its_values_from_0_after_a_restart_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = _BatchingWork.__init__

    def init(self: _BatchingWork, *about: Any) -> None:
        sound(self, *about)
        self._first = 0

    monkeypatch.setattr(_BatchingWork, "__init__", init)
    assert "topic by-" in caught(sim_errands, known=6)


def test_a_batch_that_loses_a_value_when_its_time_is_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = _BatchingWork._send

    def send(self: _BatchingWork) -> None:
        if len(self._waiting) > 1 and len(self._waiting) < self._node.count:
            self._waiting = self._waiting[:-1]
        sound(self)

    monkeypatch.setattr(_BatchingWork, "_send", send)
    assert "topic by-handful" in caught(sim_errands)


def test_a_last_answer_that_is_dropped_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Requests.answer
    monkeypatch.setattr(
        Requests, "answer", lambda self, answers: sound(self, answers[:-1] if len(answers) > 2 else answers)
    )
    assert "got no answer" in caught(sim_app, no_faults)


@pytest.mark.parametrize("counter", ["_next", "_oldest"])
def test_a_memory_of_requests_that_grows_over_restarts_is_caught(counter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = _Memory.__init__

    def init(self: _Memory, work: Any) -> None:
        sound(self, work)
        setattr(self, counter, 0 if counter == "_next" else self._next)

    monkeypatch.setattr(_Memory, "__init__", init)
    assert "agent settle remembers" in caught(sim_app, known=5)


def test_trimming_up_to_uncommitted_positions_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = housekeeping.consumed

    def consumed(worker: Any) -> dict[TopicPartition, Position]:
        found = sound(worker)
        tasks = [driver.task for driver in worker.drivers.values() if driver.task is not None]
        found.update(
            {each.partition: each.position for task in tasks for each in task.inputs if each.partition in found}
        )
        return found

    monkeypatch.setattr("streams.runtime.worker.consumed", consumed)
    assert "PositionLost" in caught(sim_app, known=5)


def test_a_watermark_of_an_input_from_before_the_commit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # A unit test has it as well: tests/runtime/test_saved_watermarks.py.
    sound, last = Task.capture, WeakKeyDictionary[Task, dict[str, Any]]()

    def capture(self: Task, now_ms: int) -> Captured:
        captured = sound(self, now_ms)
        made, before = captured.checkpoint, last.get(self, self.checkpoint.inputs)
        last[self] = made.inputs
        captured.checkpoint = msgspec.structs.replace(made, inputs=before)
        return captured

    monkeypatch.setattr(Task, "capture", capture)
    caught(sim_app, known=16)


def test_an_eviction_that_takes_stored_keys_for_absent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def applied(self: KeyedState[Any]) -> None:
        self._floor = b""
        if len(self.values) > self._budget.entries:
            self._older, self.values = self.values, {}

    monkeypatch.setattr(KeyedState, "applied", applied)
    caught(sim_errands)


def test_a_delivery_that_takes_what_its_reader_repeats_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fetched, "since", lambda self, position: self)
    assert "topic shipments" in caught(sim_errands, duplicates)


def test_ends_of_changelogs_from_before_the_fence_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # A unit test has it as well: tests/runtime/test_restore.py.
    sound = SimLog.fence
    before: dict[tuple[str, TopicPartition], int] = {}

    async def fence(self: SimLog, task: Any) -> SimWriter:
        changelogs = [topic for topic in self.server.broker.topics.values() if topic.spec.kind == "changelog"]
        seen = {(self.process.name, each.at): each.end for topic in changelogs for each in topic.partitions}
        writer = await sound(self, task)
        before.update({key: end for key, end in seen.items() if _belongs(key[1], task.name)})
        return writer

    def _belongs(at: TopicPartition, task: str) -> bool:
        return task.rpartition("-")[2] == str(at.partition)

    bounds = SimLog.bounds

    async def bounds_of(self: SimLog, partitions: Any) -> dict[TopicPartition, Bounds]:
        return {
            at: Bounds(each.start, Position.at(max(each.start.offset(), before.get((self.process.name, at), 2**60))))
            if (self.process.name, at) in before
            else each
            for at, each in (await bounds(self, partitions)).items()
        }

    monkeypatch.setattr(SimLog, "fence", fence)
    monkeypatch.setattr(SimLog, "bounds", bounds_of)
    caught(sim_app, moves, known=24)
