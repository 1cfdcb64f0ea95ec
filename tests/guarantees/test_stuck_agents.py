"""Agents that wait for one another, or for nothing: an error within the deadline, and no hang, in a real worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guarantees.support import error_line, send, with_log, working


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        ("asks itself", ["agent myself", "calls[0]@0", "so it could never answer"]),
        ("ask each other", ["agent first", "calls[0]@0", "so it could never answer"]),
        ("never returns", ["agent silent", "calls[0]@0", "within 1 s", "'k'"]),
    ],
)
def test_an_agent_that_cannot_come_to_an_end_fails_the_worker_with_its_name_and_record(
    tmp_path: Path, scenario: str, says: list[str]
) -> None:
    path = tmp_path / "log"
    with_log(path, lambda log: send(log, "calls", [("k", 1, 1)], 1))
    with working("stuck.py", path, SCENARIO=scenario) as worker:
        assert worker.wait() == 1, worker.stderr
        line = error_line(worker)
    for words in says:
        assert words in line, line
