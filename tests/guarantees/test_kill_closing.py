"""One window of 100,000 keys closes while the worker is killed again and again: each result leaves once."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from streams.connectors.embedded import EmbeddedLog
from tests.guarantees.support import finish, rows, send, send_watermark, with_log, working

HOUR = 3_600_000
KEYS = 100_000
SMALL_COMMITS = "?max_commit_bytes=600000&max_record_bytes=50000"
"""A commit holds a part of the window only: it closes in slices."""


def test_a_window_of_100_000_keys_that_closes_under_kill_9_emits_each_result_once(
    tmp_path: Path, chance: random.Random
) -> None:
    path = tmp_path / "log"

    async def fill(log: EmbeddedLog) -> None:
        await send(log, "readings", [(f"key-{n:06}", n, n % HOUR) for n in range(KEYS)], 2)

    with_log(path, fill)
    finish("closing.py", path)

    async def close(log: EmbeddedLog) -> None:
        assert "hourly" in await log.topics()
        assert await rows(log, "hourly") == [], "the window closed before its time"
        await send_watermark(log, "readings", 2, HOUR)

    with_log(path, close)
    left_after = []
    while True:
        with working("closing.py", path, settings=SMALL_COMMITS) as worker:
            worker.until_working()
            worker.until_commits(4 + chance.randrange(20))
            worker.kill()
        left_after.append(len(with_log(path, lambda log: rows(log, "hourly"))))
        print(left_after[-1], "results are out", flush=True)
        if left_after[-1] == KEYS:
            break
    # The two tasks that close it need some dozen commits: the kills came in between.
    assert len(left_after) > 2, left_after
    assert left_after == sorted(left_after)
    finish("closing.py", path)

    async def check(log: EmbeddedLog) -> None:
        found = await rows(log, "hourly")
        assert Counter(key for key, _ in found) == {f"key-{n:06}": 1 for n in range(KEYS)}
        for key, value in found:
            assert value == {"n": 1, "total": int(key[4:]), "window_start": 0, "window_end": HOUR}

    with_log(path, check)
