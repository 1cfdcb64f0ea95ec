"""The simulator bites: each way to break a commit is found within 100 seeds, and within a handful in fact.

Every test runs the real engine with one thing broken, by a subclass or a patch, and asks for the first seed that
notices.  The checks that run all along are off unless the test is about them: the verdict alone has to see it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from streams.core import task as task_module
from streams.core.checkpoint import Checkpoint, encode_checkpoint
from streams.core.inputs import Input
from streams.core.log import Append, Commit, TaskRef
from streams.core.plan import changelog_records
from streams.core.record import START, Fetched, Position, Positions, Records, TopicPartition
from streams.core.recovery import Resume
from streams.core.store import Changes
from streams.core.task import Task
from streams.errors import CommitUnknown
from streams.runtime import restore, standby
from streams.runtime.driver import Driver
from streams.runtime.restore import Copy
from streams.testing.faults import crashes, delays, duplicates, lost_tail, moves, torn_writes, zombies
from streams.testing.sim_app import make_app, workload
from streams.testing.sim_log import SimLog, SimWriter
from streams.testing.sim_server import Request, Server
from streams.testing.simulation import Simulation, SimulationFailed

pytestmark = pytest.mark.slow

BOUND = 100
"""What the project promises."""

PROMISES = ("topic ", "table ", "task ", "Broken", "SimulationStuck")
"""What a broken promise begins with; an error of another kind would be a mistake in the sabotage."""


def first_caught(**settings: Any) -> tuple[int, str]:
    """The first seed that notices, and what it says."""
    settings.setdefault("check_always", False)
    for seed in range(BOUND):
        try:
            Simulation(make_app, workload, seed=seed, **settings).check()
        except SimulationFailed as failure:
            first_line = str(failure).splitlines()[0].partition(": ")[2]
            if not first_line.startswith(PROMISES):
                raise
            return seed, str(failure)
    pytest.fail(f"not caught within {BOUND} seeds")


class BrokenLog(SimLog):
    """A client whose writers are broken."""

    writer: type[SimWriter] = SimWriter

    async def fence(self, task: TaskRef) -> SimWriter:
        sound = await super().fence(task)
        return self.writer(self, task.name, sound._generation, sound.checkpoint)


def log_with(broken: type[SimWriter]) -> type[BrokenLog]:
    return type("Log", (BrokenLog,), {"writer": broken})


def ends_guessed(log: SimLog, appends: list[Append]) -> dict[TopicPartition, Position]:
    broker = log.network.server.broker
    return {each.partition: Position.at(broker.partition(each.partition).end + len(each.records)) for each in appends}


# ── commits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class PositionFirst(SimWriter):
    async def commit(self, commit: Commit) -> Positions:
        ends = await super().commit(Commit(commit.checkpoint))
        return await self._log.append(commit.appends) if commit.appends else ends


class EffectsFirst(SimWriter):
    async def commit(self, commit: Commit) -> Positions:
        ends = await self._log.append(commit.appends) if commit.appends else {}
        await super().commit(Commit(commit.checkpoint))
        return ends


class UnknownIsSuccess(SimWriter):
    async def commit(self, commit: Commit) -> Positions:
        try:
            return await super().commit(commit)
        except CommitUnknown:
            self._useless = ""
            return ends_guessed(self._log, list(commit.appends))


class UnknownIsFailure(SimWriter):
    async def commit(self, commit: Commit) -> Positions:
        while True:
            try:
                return await super().commit(commit)
            except CommitUnknown:
                self._useless = ""


@pytest.mark.parametrize("broken", [PositionFirst, EffectsFirst, UnknownIsSuccess, UnknownIsFailure])
def test_a_broken_commit_is_caught(broken: type[SimWriter]) -> None:
    seed, words = first_caught(make_log=log_with(broken))
    assert f"seed={seed}" in words


class NoFence(Server):
    def admit(self, task: str, generation: int) -> None:
        return None


class NoSequence(Server):
    def commit(self, request: Request) -> dict[TopicPartition, Position]:
        self._answers.pop((request.task, request.generation), None)
        return super().commit(request)


class OneCheckpointForAll(Server):
    """Tasks of one subtopology share the place where their checkpoints are kept."""

    def fence(self, task: str) -> tuple[int, bytes | None]:
        generation, own = super().fence(task)
        shared = self.broker.tasks.get(f"shared {task.rpartition('-')[0]}")
        return generation, shared.checkpoint if shared is not None else own

    def commit(self, request: Request) -> dict[TopicPartition, Position]:
        ends = super().commit(request)
        name = f"shared {request.task.rpartition('-')[0]}"
        if "-" in request.task:
            self.broker.fence(name)
            self.broker.tasks[name].checkpoint = request.commit.checkpoint
        return ends


@pytest.mark.parametrize("server", [NoFence, NoSequence, OneCheckpointForAll])
def test_a_log_that_does_not_keep_its_promises_is_caught(server: type[Server]) -> None:
    seed, words = first_caught(make_server=server)
    assert f"seed={seed}" in words


# ── stores ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class StateFirst(Driver):
    """Applies state to the store, and then commits."""

    async def _commit(self, task: Task) -> None:
        services, writer = self._services, self._writer
        assert writer is not None
        captured = task.capture(services.clock.now_ms())
        ends = {}
        for each in captured.appends:
            bounds = await services.log.bounds([each.partition])
            ends[each.partition] = Position.at(bounds[each.partition].end.offset() + len(each.records))
        task.committed(captured, ends)
        await asyncio.sleep(0.01)
        await writer.commit(Commit(encode_checkpoint(captured.checkpoint), captured.appends, captured.positions))
        self._commits += 1
        self._commit_at = None


def test_state_before_its_commit_is_caught_at_once_by_the_checks_that_run_all_along() -> None:
    _, words = first_caught(make_driver=StateFirst, check_always=True)
    assert "ahead of the log" in words


def test_state_before_its_commit_is_caught_by_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the identity of commits in place the store is rebuilt, and all is well again: so that is broken too.
    monkeypatch.setattr(Checkpoint, "made", lambda self, *identity: True)
    first_caught(make_driver=StateFirst)


def test_an_old_store_that_is_taken_for_new_after_a_lost_tail_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoint, "made", lambda self, *identity: True)
    first_caught(faults=lost_tail | moves)


def test_a_store_that_is_not_restored_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "resolve_recovery", lambda store, checkpoint, changelogs, **_: Resume())
    first_caught()


def test_a_store_that_missed_deletes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimLog, "compaction_floor", lambda self, partition: START)
    first_caught()


def test_a_standby_that_misses_a_record_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Copy):
        def take(self, name: str, batch: Fetched) -> None:
            kept = Records(batch.records.keys[1:], batch.records.values[1:], batch.records.timestamps[1:])
            super().take(name, replace(batch, records=kept))

    def open_forgetful(*about: Any) -> Any:
        copy, since = restore.open_copy(*about)
        return Forgetful(copy.store, copy.positions, copy.floors, copy.as_of_ms), since

    monkeypatch.setattr(standby, "open_copy", open_forgetful)
    first_caught(standbys=True)


def test_a_slice_whose_cursor_is_lost_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a closing window has emitted is the cursor of its closing: it has to be gone from the changelog as well.
    def changelog(taken: Sequence[tuple[bytes, Changes]], now_ms: int) -> Records:
        kept = [(sub, Changes(puts=each.puts) if each.ranges else each) for sub, each in taken]
        return changelog_records(kept, now_ms)

    monkeypatch.setattr(task_module, "changelog_records", changelog)
    first_caught(faults=crashes | moves)


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_records_that_are_taken_twice_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Input.accept

    def accept(self: Input, fetched: Fetched) -> None:
        before = self.buffered
        self.buffered = START
        sound(self, fetched)
        self.buffered = self.buffered if self.buffered.reached(before) else before

    monkeypatch.setattr(Input, "accept", accept)
    first_caught(faults=duplicates)


def test_the_sound_engine_passes_where_the_broken_ones_fail() -> None:
    for faults in (lost_tail | moves, duplicates | delays, torn_writes | crashes, zombies | moves):
        Simulation(make_app, workload, seed=0, faults=faults).check()
