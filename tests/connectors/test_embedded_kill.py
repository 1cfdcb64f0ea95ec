"""kill -9 at any moment: every commit that was acknowledged is there, and no commit is there in part.

This file is also the program that is killed: several tasks commit without end, each commit writes to both partitions,
and the number of each commit that returned is printed.  Maintenance runs beside it.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.connectors.embedded import EmbeddedConfig, EmbeddedLog
from streams.core.log import Append, Commit, TopicSpec
from streams.core.record import Position, Records, TopicPartition
from streams.testing.log_contract import read_all, task_ref
from tests.stages import rounds

ORDERS = [TopicPartition("orders", 0), TopicPartition("orders", 1)]
COUNTS = TopicPartition("counts", 0)
TASKS = 3
RECORDS = 40
ROOT = Path(__file__).resolve().parents[2]
KILLS = rounds(2, 5)


def config(path: str, durable: bool) -> EmbeddedConfig:
    return EmbeddedConfig(path, durable=durable, compaction_min_bytes=1, tombstone_retention_ms=0)


def commit_of(task: int, number: int) -> Commit:
    """Records by which it can be told from both partitions and from the checkpoint how far the task has come."""
    keys: list[bytes | None] = [b"%d" % task] * RECORDS
    values: list[bytes | None] = [b"%d %d %d" % (task, number, index) for index in range(RECORDS)]
    times = [number] * RECORDS
    counts: list[bytes | None] = [b"%d" % number, None if number % 2 else b"%d" % number]
    return Commit(
        b"%d" % number,
        [
            Append(ORDERS[0], Records(keys, values, times)),
            Append(COUNTS, Records([b"last-%d" % task, b"even-%d" % task], counts, [number] * 2)),
            Append(ORDERS[1], Records(keys, values, times)),
        ],
    )


async def commit_until_killed(path: str, durable: bool) -> None:
    log = EmbeddedLog(config(path, durable))
    await log.open()
    await log.create_topics([TopicSpec("orders", partitions=2), TopicSpec("counts", kind="changelog", compact=True)])

    async def work(task: int) -> None:
        writer = await log.fence(task_ref(task))
        number = int(writer.checkpoint or b"0")
        while True:
            number += 1
            await writer.commit(commit_of(task, number))
            print(task, number, flush=True)
            await asyncio.sleep(0)

    async def maintain() -> None:
        while True:
            await log.maintain(time.time_ns() // 1_000_000)
            await asyncio.sleep(0)

    await asyncio.gather(maintain(), *(work(task) for task in range(TASKS)))


def run_and_kill(path: Path, durable: bool, chance: random.Random) -> dict[int, int]:
    """Run the program, kill it somewhere, and return the last commit that it reported of each task."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.connectors.test_embedded_kill", str(path), str(int(durable))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    try:
        for _ in range(TASKS + chance.randrange(60)):
            lines.append(process.stdout.readline())
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=chance.random() * 0.02)  # the moment is the point: anywhere in a commit
    finally:
        process.kill()
        rest, _ = process.communicate()
    # A last line that was cut off has no end, and its commit was not reported.
    lines += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    reported: dict[int, int] = {}
    for line in lines:
        task, number = map(int, line.split())
        reported[task] = max(number, reported.get(task, 0))
    return reported


async def check(path: Path, durable: bool, reported: dict[int, int]) -> None:
    log = EmbeddedLog(config(str(path), durable))
    await log.open()
    reached = {task: int(await log.checkpoint(task_ref(task)) or b"0") for task in range(TASKS)}
    for task, number in reported.items():
        assert reached[task] >= number, "an acknowledged commit is gone"
        assert reached[task] <= number + 1, "a commit was begun before the one before it was acknowledged"
    for at in ORDERS:
        found: dict[int, list[bytes]] = {task: [] for task in range(TASKS)}
        for batch in await read_all(log, at, Position.at(0)):
            for value in batch.records.values:
                assert value is not None
                found[int(value.split()[0])].append(value)
        for task, values in found.items():
            commits = [commit_of(task, number) for number in range(1, reached[task] + 1)]
            assert values == [value for commit in commits for value in commit.appends[0].records.values]
    last: dict[bytes | None, bytes | None] = {}
    for batch in await read_all(log, COUNTS):
        last.update(zip(batch.records.keys, batch.records.values))
    for task, number in reached.items():
        if number:
            assert last[b"last-%d" % task] == b"%d" % number
            assert last.get(b"even-%d" % task) == (None if number % 2 else b"%d" % number)
    await log.close()


@pytest.mark.parametrize("durable", [True, False])
def test_after_kill_9_every_acknowledged_commit_is_there_whole(tmp_path: Path, durable: bool) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    path = tmp_path / "log"
    for _ in range(KILLS):
        reported = run_and_kill(path, durable, chance)
        assert reported
        asyncio.run(check(path, durable, reported))


if __name__ == "__main__":
    asyncio.run(commit_until_killed(sys.argv[1], bool(int(sys.argv[2]))))
