"""How long tests took, so that a parallel run begins with the longest: what is begun last should not be.

What must live here: the record, the order by it, and how the record is made.  What must not: anything a test needs.

    pytest -n 3 --dist load --maxschedchunk 1 -m 'integration or guarantee or slow' --record-durations

runs tests and writes ``durations.json`` anew for them: whole seconds of those that took one or more.  It needn't be
right, only about so: an old record costs some seconds, and no test.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

__all__ = ["Recorder", "longest_first"]

ROOT = Path(__file__).resolve().parents[1]
RECORD = Path(__file__).with_suffix(".json")


def known() -> dict[str, int]:
    """Test id → seconds; nothing of a test that takes less than one."""
    found: dict[str, int] = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    return found


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests, if this is one of several processes that share them.

    By powers of two, and within one as they were: neighbours use the same broker, and would start it anew for each of
    them if they were told apart by a second.
    """
    if os.environ.get("PYTEST_XDIST_WORKER"):
        durations = known()
        items.sort(key=lambda item: -durations.get(item.nodeid, 0).bit_length())


class Recorder:
    """A plugin that writes the record when all tests have run."""

    def __init__(self) -> None:
        self._took_s: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._took_s[report.nodeid] += report.duration  # type: ignore[assignment]  # seconds, in parts

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):
            return  # the process that has handed out the tests hears of all of them
        record = known() | {test: round(took_s) for test, took_s in self._took_s.items()}
        record = {test: s for test, s in sorted(record.items()) if s and (ROOT / test.partition("::")[0]).is_file()}
        RECORD.write_text(json.dumps(record, indent=0, ensure_ascii=False) + "\n")
