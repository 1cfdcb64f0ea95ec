"""Stores that don't fit the log any more: one older than a compaction, and one newer than a log that lost its tail."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from streams.connectors.embedded import EmbeddedLog
from streams.core.record import TopicPartition
from tests.guarantees.support import finish, raw_rows, rows, send, with_log

CHANGELOG = TopicPartition("names.names.changelog", 0)
COMPACT_AT_ONCE = "?tombstone_retention_ms=0&compaction_min_bytes=1"


def obey(path: Path, *commands: dict[str, Any], settings: str = "") -> str:
    """Have the worker carry out commands; returns what it said."""
    with_log(path, lambda log: send(log, "commands", [("k", command, 1) for command in commands], 1), settings)
    return finish("names.py", path, settings=settings)


def table(path: Path, settings: str = "") -> tuple[dict[str, str], str]:
    """The table as the app itself sees it, and what the worker said."""
    said = obey(path, {"list": True}, settings=settings)
    return with_log(path, lambda log: rows(log, "answers"), settings)[-1][1], said


def setting(first: int, count: int, to: str) -> list[dict[str, Any]]:
    return [{"set": f"name-{number:03}", "to": to} for number in range(first, first + count)]


def test_a_key_that_was_deleted_and_compacted_away_does_not_come_back_with_an_old_store(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "old-store"
    obey(path, *setting(0, 100, "here"))
    shutil.copytree(path / "state", old)
    obey(path, *({"delete": f"name-{number:03}"} for number in range(50)))

    async def compact(log: EmbeddedLog) -> None:
        for _ in range(3):
            await log.maintain(time.time_ns() // 1_000_000 + 1000)
        left = {key for key, _ in await raw_rows(log, CHANGELOG.topic)}
        assert b"name-000" not in left, "the tombstone is still there: nothing is tested"
        assert b"name-099" in left
        assert log.compaction_floor(CHANGELOG).offset() > 100

    with_log(path, compact, COMPACT_AT_ONCE)
    shutil.rmtree(path / "state")
    shutil.copytree(old, path / "state")
    found, said = table(path)
    assert found == {f"name-{number:03}": "here" for number in range(50, 100)}
    assert "set aside and rebuilt" in said


def test_a_store_from_before_a_compaction_that_dropped_nothing_of_its_future_is_simply_resumed(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "old-store"
    obey(path, *setting(0, 100, "here"))
    shutil.copytree(path / "state", old)
    obey(path, {"delete": "name-000"}, *setting(1, 10, "there"))
    shutil.rmtree(path / "state")
    shutil.copytree(old, path / "state")
    found, said = table(path)
    assert found == {f"name-{number:03}": "there" if number < 11 else "here" for number in range(1, 100)}
    assert "set aside" not in said


def test_a_store_that_knows_more_than_a_log_which_lost_its_tail_is_rebuilt(tmp_path: Path) -> None:
    relaxed = "?durable=false"
    path, old = tmp_path / "log", tmp_path / "old-log"
    obey(path, *setting(0, 100, "here"), settings=relaxed)
    # As after a power failure: what was not on the disk yet is gone, from the log and from its witness alike.
    shutil.copytree(path, old, ignore=shutil.ignore_patterns("state", "*.lock"))
    obey(path, *setting(50, 100, "lost"), settings=relaxed)
    assert len(table(path, relaxed)[0]) == 150
    for name in ("db", "acknowledged"):
        if (path / name).is_dir():
            shutil.rmtree(path / name)
            shutil.copytree(old / name, path / name)
        else:
            shutil.copy2(old / name, path / name)
    obey(path, *setting(90, 20, "anew"), settings=relaxed)
    found, _ = table(path, relaxed)
    assert found == {f"name-{number:03}": "anew" if number >= 90 else "here" for number in range(110)}


def test_the_store_of_a_lost_tail_is_set_aside_with_one_line_that_says_so(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "old-log"
    obey(path, *setting(0, 10, "here"))
    shutil.copytree(path, old, ignore=shutil.ignore_patterns("state", "*.lock"))
    obey(path, *setting(10, 10, "lost"))
    obey(path, *setting(20, 10, "lost"))
    for name in ("db", "acknowledged"):
        shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()
        shutil.copytree(old / name, path / name) if (old / name).is_dir() else shutil.copy2(old / name, path / name)
    found, said = table(path)
    assert found == {f"name-{number:03}": "here" for number in range(10)}
    lines = [line for line in said.splitlines() if "set aside and rebuilt" in line]
    assert len(lines) == 1, said
