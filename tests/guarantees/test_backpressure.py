"""A slow agent on a topic of a million records: what is read ahead, and so the worker's memory, stays bounded."""

from __future__ import annotations

from pathlib import Path

from streams.connectors.embedded import EmbeddedLog
from tests.guarantees.support import lag, rows, send, with_log, working

RECORDS = 1_000_000
GROWTH_BYTES = 100 * 2**20
"""A million records in memory as objects are more than twice of it; the log's own write buffers are in it."""


def test_a_slow_agent_on_a_million_records_keeps_the_memory_of_the_worker_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    numbers = [("k", number, number) for number in range(RECORDS)]
    with_log(path, lambda log: send(log, "numbers", numbers, 1))
    with working("slow.py", path) as worker:
        worker.until_working()
        before = worker.memory_bytes()
        peak = before
        for _ in range(60):
            worker.until_commits(1)
            peak = max(peak, worker.memory_bytes())
        worker.kill()
    assert peak - before < GROWTH_BYTES, f"from {before >> 20} MB to {peak >> 20} MB"

    async def check(log: EmbeddedLog) -> None:
        done = [number for _, number in await rows(log, "done")]
        assert done == list(range(len(done)))
        assert await lag(log, "slow", "numbers") == RECORDS - len(done) > RECORDS // 2

    with_log(path, check)
    print(f"memory grew from {before >> 20} MB to {peak >> 20} MB")
