"""``streams worker`` with gates at the steps of a commit, and with a rule of the protocol broken on purpose.

    python -m tests.guarantees.kafka.hooked worker -A … --log …

SABOTAGE: the name of a function below that breaks a rule; none for the product as it is.
GATES: a folder.  A task waits at a step as long as the file ``<task>.<step>`` is there, and says so by
``<task>.<step>.reached``, which holds the number of its process.

=========  ==========================================================================
``begin``  before anything of a commit is sent that holds results
``end``    everything is sent but the end of the transaction
``claim``  half of a claim is done: fenced, but the checkpoint isn't read (sound)
``retry``  an end of unknown outcome, before the sabotage ``guess`` tries again
=========  ==========================================================================

Nothing here runs in the product; where a name of it that is patched is gone, the worker doesn't start.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from streams.cli import main
from streams.connectors.kafka import checkpoints, log, producer, wire, writer
from streams.connectors.kafka.reader import KafkaReader
from streams.connectors.kafka.writer import KafkaTaskWriter
from streams.core.record import Position, TopicPartition
from streams.core.watermark import MARK_HEADER
from streams.errors import CommitUnknown

GATES = Path(os.environ["GATES"])
POLL_S = 0.01


def short(task: str) -> str:
    return task.rpartition(".")[2]


def say(task: str, step: str) -> None:
    there = GATES / f"{short(task)}.{step}.reached"
    there.with_suffix(f".{os.getpid()}").write_text(str(os.getpid()))
    there.with_suffix(f".{os.getpid()}").rename(there)


async def gate(task: str, step: str) -> None:
    closed = GATES / f"{short(task)}.{step}"
    if closed.exists():
        say(task, step)
        while closed.exists():  # noqa: ASYNC110 - it is another process that opens it
            await asyncio.sleep(POLL_S)


def passes_on(append: Any) -> bool:
    """Whether it holds results, and not only watermarks or changes of a table."""
    records = append.records
    if append.partition.topic.endswith(".changelog"):
        return False
    headers = records.headers or [None] * len(records)
    return any(all(name != MARK_HEADER for name, _ in each or ()) for each in headers)


def add_gates() -> None:
    transaction, end, last = KafkaTaskWriter._transaction, KafkaTaskWriter._end, checkpoints.last_checkpoint

    async def gated_transaction(self: Any, appends: Any, *args: Any) -> Any:
        say(self._task.name, "runs")
        self.held = any(passes_on(append) for append in appends)
        if self.held:
            await gate(self._task.name, "begin")
        return await transaction(self, appends, *args)

    async def gated_end(self: Any) -> None:
        if self.held:
            await gate(self._task.name, "end")
        try:
            await end(self)
        except CommitUnknown:
            say(self._task.name, "unknown")
            raise

    async def gated_last(cluster: Any, offsets: Any, task: Any) -> Any:
        await gate(task.name, "claim")
        return await last(cluster, offsets, task)

    replace(KafkaTaskWriter, "_transaction", gated_transaction)
    replace(KafkaTaskWriter, "_end", gated_end)
    replace(writer, "last_checkpoint", gated_last)


def replace(where: Any, name: str, by: Any) -> None:
    assert hasattr(where, name), f"{where} has no {name} any more: mend tests/guarantees/kafka/hooked.py"
    setattr(where, name, by)


# ── rules, broken ───────────────────────────────────────────────────────────────────────────────────────────────────


def shared_checkpoints() -> None:
    """Rule 2: all tasks keep their checkpoints in one partition, and a claim reads what readers can see of it."""

    def shared(task: Any) -> TopicPartition:
        return TopicPartition(checkpoints.slots_topic(task.group), 0)

    async def last(cluster: Any, offsets: Any, task: Any) -> bytes | None:
        at = shared(task)
        found: bytes | None = None
        start = (await offsets.bounds([at]))[at].start.offset()
        there = KafkaReader(cluster, offsets, {at: Position.at(start)}, max_wait_ms=50)
        position = start
        try:
            while at not in there.ends() or position < there.ends()[at].offset():
                for batch in await there.fetch([at], max_records=1000, wait_s=0.2):
                    position = batch.next_offset
                    for key, value in zip(batch.records.keys, batch.records.values, strict=True):
                        found = value if key == task.name.encode() else found
        finally:
            await there.close()
        return found

    for module in (checkpoints, writer):
        replace(module, "checkpoint_partition", shared)
    for module in (writer, log):
        replace(module, "last_checkpoint", last)


def positions_first() -> None:
    """Rule 1: the checkpoint is read before the former owner is fenced."""

    async def fence(cluster: Any, offsets: Any, task: Any, check: Any) -> KafkaTaskWriter:
        lane = cluster.lane(f"task {task.name}")
        checkpoint = await checkpoints.last_checkpoint(cluster, offsets, task)
        await gate(task.name, "claim")
        session = await producer.open_session(cluster, lane, task.name)
        return KafkaTaskWriter(cluster, task, lane, session, checkpoint, check)

    replace(log, "fence", fence)


def guess() -> None:
    """Rule 4: an end of unknown outcome is taken for a failure, and done again with the same producer."""
    transaction = KafkaTaskWriter._transaction

    async def twice(self: Any, *args: Any) -> Any:
        try:
            return await transaction(self, *args)
        except CommitUnknown:
            await gate(self._task.name, "retry")
            return await transaction(self, *args)

    replace(KafkaTaskWriter, "_transaction", twice)


def dirty_reads() -> None:
    """Tasks see what isn't committed, and what was aborted; only checkpoints are read as they should be."""
    build = wire.FetchByIdRequest.build

    def dirty(self: Any, kind: Any) -> Any:
        committed = any(topic.endswith(".checkpoints") for topic, *_ in self._partitions)
        replace(wire, "READ_COMMITTED", int(committed))
        return build(self, kind)

    replace(wire.FetchByIdRequest, "build", dirty)


RULES = {each.__name__: each for each in (shared_checkpoints, positions_first, guess, dirty_reads)}

if __name__ == "__main__":
    add_gates()
    if name := os.environ.get("SABOTAGE"):
        RULES[name]()
    main()
