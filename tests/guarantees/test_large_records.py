"""A record of 64 MB goes through; one above the limit meets the error policy, which names the setting."""

from __future__ import annotations

from pathlib import Path

from streams.connectors.embedded import EmbeddedLog
from streams.core.record import TopicPartition
from streams.testing.log_contract import read_all
from tests.guarantees.support import error_line, finish, raw_rows, send, with_log, working

LARGE = bytes(range(256)) * (64 * 2**20 // 256)
TOO_LARGE = b"double" + bytes(70 * 2**20)


def treated(path: Path) -> list[bytes | None]:
    async def read(log: EmbeddedLog) -> list[bytes | None]:
        return [value for _, value in await raw_rows(log, "treated")]

    return with_log(path, read)


def test_a_record_of_64_mb_goes_through_a_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with_log(path, lambda log: send(log, "blobs", [("k", b"ab", 1), ("k", LARGE, 2), ("k", b"cd", 3)], 1))
    finish("blobs.py", path)
    assert treated(path) == [b"ba", LARGE[::-1], b"dc"]


def test_a_result_above_the_limit_meets_the_policy_and_the_setting_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with_log(path, lambda log: send(log, "blobs", [("k", b"ab", 1), ("k", TOO_LARGE, 2), ("k", b"cd", 3)], 1))
    with working("blobs.py", path, "--until-idle") as worker:
        assert worker.wait() == 1, worker.stderr
        line = error_line(worker)
    assert "max_record_bytes" in line, line
    assert "blobs[0]@1" in line, line
    assert "Traceback" not in line
    finish("blobs.py", path, POLICY="dead_letter")
    assert treated(path) == [b"ba", b"dc"]

    async def letters(log: EmbeddedLog) -> None:
        batches = await read_all(log, TopicPartition("blobs.dead-letters", 0))
        assert [value for batch in batches for value in batch.records.values] == [TOO_LARGE]
        assert b"max_record_bytes" in dict((batches[0].records.headers or [()])[0] or ())["streams.error"]

    with_log(path, letters)
