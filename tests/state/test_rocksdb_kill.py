"""kill -9 at any moment of a write: after opening again the store stands at one whole commit, and a late one.

This file is also the program that is killed: it commits without end and prints the number of each commit that
returned.  What the store holds after commit n follows from n, so any torn write shows.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from streams.core.store import Changes, StoreState, prefix_bytes
from streams.state.rocksdb import RocksStore
from streams.testing.store_contract import contents
from tests.stages import rounds

ROOT = Path(__file__).resolve().parents[2]
KILLS = rounds(2, 12)
DATA, WINDOWS = prefix_bytes(1), prefix_bytes(2)


def commit(number: int, count: int, *, ranges: bool) -> dict[bytes, Changes]:
    """Commit ``number`` rewrites ``count`` keys, adds one, deletes one, and moves a window of ten keys on."""
    value = b"%d" % number
    puts = [(b"key-%08d" % index, value) for index in range(count)]
    opened = [(b"%08d-%d" % (number, index), value) for index in range(10)]
    closed = [(b"%08d" % (number - 1), b"%08d" % number)]
    return {
        DATA: Changes(puts=[*puts, (b"only-%08d" % number, value)], deletes=[b"only-%08d" % (number - 1)]),
        WINDOWS: Changes(puts=opened, ranges=closed)
        if ranges
        else Changes(puts=opened, deletes=[b"%08d-%d" % (number - 1, index) for index in range(10)]),
    }


def after_commit(number: int, count: int) -> dict[bytes, bytes]:
    """All that the store holds after commit ``number``."""
    value = b"%d" % number
    return {
        **{DATA + b"key-%08d" % index: value for index in range(count)},
        DATA + b"only-%08d" % number: value,
        **{WINDOWS + b"%08d-%d" % (number, index): value for index in range(10)},
    }


def commit_until_killed(path: str, count: int, *, ranges: bool, load: bool) -> None:
    store = RocksStore(path)
    number = store.state.number if store.state is not None else 0
    while True:
        number += 1
        state = StoreState(log_id="log", epoch=1, number=number)
        if load:
            store.load(DATA, {b"key-%08d" % index: b"%d" % number for index in range(count)}, state)
        else:
            store.apply(commit(number, count, ranges=ranges), state)
        print(number, flush=True)


def run_and_kill(path: Path, count: int, kind: str, chance: random.Random) -> int:
    """Let the program make a few commits, kill it somewhere in a later one, and return the last it reported."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.state.test_rocksdb_kill", str(path), str(count), kind],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        first = int(process.stdout.readline())
        for _ in range(chance.randrange(3)):
            process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=chance.random() * 0.1)  # the moment is the point: anywhere in a commit
    finally:
        process.kill()
        rest, _ = process.communicate()
    # A last line that was cut off has no end, and its commit was not reported.
    whole = [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    return whole[-1] if whole else first


@pytest.mark.guarantee
@pytest.mark.parametrize(("kind", "count"), [("batch", 200), ("ranges", 200), ("ranges", 25_000), ("file", 25_000)])
def test_kill_9_in_the_middle_of_apply_leaves_one_whole_commit(tmp_path: Path, kind: str, count: int) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    path = tmp_path / "store"
    for _ in range(KILLS):
        reported = run_and_kill(path, count, kind, chance)
        store = RocksStore(path)
        assert store.state is not None
        assert store.state.number >= reported, f"seed {seed}"
        assert contents(store) == after_commit(store.state.number, count), f"seed {seed}"
        store.close()


@pytest.mark.guarantee
@pytest.mark.parametrize("count", [500, 20_000])
def test_kill_9_in_the_middle_of_a_restore_leaves_one_whole_load(tmp_path: Path, count: int) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    path = tmp_path / "store"
    for _ in range(KILLS):
        reported = run_and_kill(path, count, "load", chance)
        store = RocksStore(path)
        assert store.state is not None
        assert store.state.number >= reported, f"seed {seed}"
        assert set(contents(store).values()) == {b"%d" % store.state.number}, f"seed {seed}"
        assert len(contents(store)) == count
        store.close()


if __name__ == "__main__":
    where, keys, how = sys.argv[1:]
    commit_until_killed(where, int(keys), ranges=how == "ranges", load=how == "load")
