"""Files of the embedded log that are cut off, garbled or gone: told at once or when read, never a silent loss."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from rocksdict import WriteBatch

from streams.connectors.embedded import EmbeddedConfig, EmbeddedLog
from streams.core.log import Commit, TopicSpec
from streams.core.record import Position, TopicPartition
from streams.errors import DataError, LogCorrupt
from streams.testing.log_contract import append, numbered, read_all, task_ref, values_of

T = TypeVar("T")
ORDERS = TopicPartition("orders", 0)


def open_and(path: Path, work: Callable[[EmbeddedLog], Awaitable[T]], **settings: bool) -> T:
    async def main() -> T:
        log = EmbeddedLog(EmbeddedConfig(str(path), **settings))
        await log.open()
        try:
            return await work(log)
        finally:
            await log.close()

    return asyncio.run(main())


async def opening(log: EmbeddedLog) -> str:
    return log.identity


async def orders(log: EmbeddedLog) -> list[bytes | None]:
    return await values_of(log, ORDERS)


def make_log(path: Path) -> str:
    """A log with 30 commits of one record in three files of its own; its identity."""

    async def work(log: EmbeddedLog) -> str:
        await log.create_topics([TopicSpec("orders")])
        writer = await log.fence(task_ref(0))
        start = int(writer.checkpoint or b"0")
        for number in range(start, start + 10):
            await writer.commit(Commit(b"%d" % (number + 1), [append(ORDERS, b"%d" % number)]))
        return log.identity

    for _ in range(3):
        identity = open_and(path, work)
    return identity


def copy_while_open(path: Path, target: Path, unacknowledged: int = 0) -> None:
    """Commit ten more records and copy the files as they are then, as if the process had been killed."""

    async def work(log: EmbeddedLog) -> None:
        writer = await log.fence(task_ref(0))
        start = int(writer.checkpoint or b"0")
        for number in range(start, start + 10):
            await writer.commit(Commit(b"%d" % (number + 1), [append(ORDERS, b"%d" % number)]))
        for _ in range(unacknowledged):
            batch = WriteBatch(raw_mode=True)
            batch.put(b"\0\0\0\0x", bytes(1000))
            log._engine.storage.write(batch)
        shutil.copytree(path, target)

    open_and(path, work)


def files(path: Path, suffix: str) -> list[Path]:
    found = sorted(file for file in (path / "db").iterdir() if file.name.endswith(suffix))
    assert found, f"there is no {suffix} file"
    return found


def cut(file: Path, size: int) -> None:
    os.truncate(file, size)


def garble(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for index in range(len(content) // 4, len(content) * 3 // 4):
        content[index] ^= 0x55
    file.write_bytes(content)


def contents(path: Path) -> dict[str, bytes]:
    """What must not change by merely looking: everything but RocksDB's own diagnostics."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith(("LOG", "log.lock"))
    }


def test_a_write_that_was_torn_before_it_was_acknowledged_is_dropped(tmp_path: Path) -> None:
    make_log(tmp_path / "log")
    copy_while_open(tmp_path / "log", tmp_path / "torn", unacknowledged=1)
    wal = files(tmp_path / "torn", ".log")[-1]
    cut(wal, wal.stat().st_size - 1)
    assert open_and(tmp_path / "torn", orders) == numbered(0, 40)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_log_file_that_was_cut_off_is_told_from_one_that_was_never_longer(tmp_path: Path, share: float) -> None:
    make_log(tmp_path / "log")
    copy_while_open(tmp_path / "log", tmp_path / "cut")
    wal = files(tmp_path / "cut", ".log")[-1]
    whole = wal.read_bytes()
    cut(wal, int(len(whole) * share))
    before = contents(tmp_path / "cut")
    with pytest.raises(LogCorrupt, match=r"acknowledged.*restore its directory from a backup") as refused:
        open_and(tmp_path / "cut", opening)
    assert "\n" not in str(refused.value)
    assert contents(tmp_path / "cut") == before, "a damaged log was changed by looking at it"
    wal.write_bytes(whole)
    assert open_and(tmp_path / "cut", orders) == numbered(0, 40)


def test_a_log_file_that_was_garbled_is_noticed(tmp_path: Path) -> None:
    make_log(tmp_path / "log")
    copy_while_open(tmp_path / "log", tmp_path / "bad")
    garble(files(tmp_path / "bad", ".log")[-1])
    with pytest.raises(LogCorrupt):
        open_and(tmp_path / "bad", opening)


def test_a_loss_can_be_accepted_and_makes_it_another_log(tmp_path: Path) -> None:
    identity = make_log(tmp_path / "log")
    copy_while_open(tmp_path / "log", tmp_path / "cut")
    cut(files(tmp_path / "cut", ".log")[-1], 0)
    with pytest.raises(LogCorrupt, match="accept_loss=true"):
        open_and(tmp_path / "cut", opening)
    anew = open_and(tmp_path / "cut", opening, accept_loss=True)
    assert anew != identity, "a store that knows the lost tail would take what comes next for it"
    assert open_and(tmp_path / "cut", opening) == anew
    assert open_and(tmp_path / "cut", orders) == numbered(0, 30)

    async def beyond(log: EmbeddedLog) -> None:
        with pytest.raises(DataError, match=r"stands at 40 but the log ends at 30"):
            await log.reader({ORDERS: Position.at(40)}).fetch([ORDERS], max_records=1, wait_s=0)

    open_and(tmp_path / "cut", beyond)


def test_accepting_a_loss_where_there_is_none_changes_nothing(tmp_path: Path) -> None:
    identity = make_log(tmp_path / "log")
    assert open_and(tmp_path / "log", opening, accept_loss=True) == identity
    assert open_and(tmp_path / "log", orders) == numbered(0, 30)


@pytest.mark.parametrize("suffix", [".sst", "CURRENT"])
def test_a_file_that_is_gone_is_told_when_opening_and_nothing_else_is_removed(tmp_path: Path, suffix: str) -> None:
    make_log(tmp_path / "log")
    copy_while_open(tmp_path / "log", tmp_path / "bad")
    file = files(tmp_path / "bad", suffix)[0]
    kept = file.read_bytes()
    file.unlink()
    before = contents(tmp_path / "bad")
    with pytest.raises(LogCorrupt, match="restore its directory from a backup"):
        open_and(tmp_path / "bad", opening)
    assert contents(tmp_path / "bad") == before
    file.write_bytes(kept)
    assert open_and(tmp_path / "bad", orders) == numbered(0, 40)


def test_a_manifest_that_was_cut_off_is_told_before_the_files_it_forgot_are_removed(tmp_path: Path) -> None:
    async def fill(log: EmbeddedLog) -> None:
        await log.create_topics([TopicSpec("orders")])
        for _ in range(60):  # several tables are added to the manifest while the log is open
            await log.append([append(ORDERS, *[bytes(1000)] * 1000)])
        shutil.copytree(tmp_path / "log", tmp_path / "whole")

    open_and(tmp_path / "log", fill)
    manifest = next(file for file in (tmp_path / "whole" / "db").iterdir() if file.name.startswith("MANIFEST"))
    told = 0
    for size in range(0, manifest.stat().st_size, 61):
        shutil.copytree(tmp_path / "whole", tmp_path / "bad")
        cut(tmp_path / "bad" / "db" / manifest.name, size)
        before = contents(tmp_path / "bad")
        try:
            open_and(tmp_path / "bad", opening)
        except LogCorrupt:
            told += 1
            assert contents(tmp_path / "bad") == before, "a damaged log was changed by looking at it"
        else:
            found = open_and(tmp_path / "bad", orders)
            assert len(found) == 60_000, "records are gone, and opening the log didn't say so"
        shutil.rmtree(tmp_path / "bad")
    assert told


def test_a_table_that_was_cut_off_is_told_when_opening(tmp_path: Path) -> None:
    make_log(tmp_path / "log")
    table = files(tmp_path / "log", ".sst")[0]
    cut(table, table.stat().st_size // 2)
    with pytest.raises(LogCorrupt, match="restore its directory from a backup"):
        open_and(tmp_path / "log", opening)


def test_a_table_that_was_garbled_is_told_at_the_latest_when_it_is_read(tmp_path: Path) -> None:
    async def fill(log: EmbeddedLog) -> None:
        await log.create_topics([TopicSpec("orders")])
        for _ in range(30):
            await log.append([append(ORDERS, *[os.urandom(500) for _ in range(1000)])])

    open_and(tmp_path / "log", fill)
    garble(max(files(tmp_path / "log", ".sst"), key=lambda file: file.stat().st_size))
    with pytest.raises(LogCorrupt) as refused:
        open_and(tmp_path / "log", lambda log: read_all(log, ORDERS))
    assert "\n" not in str(refused.value)


def test_a_block_that_is_missing_is_told_from_a_gap(tmp_path: Path) -> None:
    make_log(tmp_path / "log")

    async def remove_one(log: EmbeddedLog) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.delete(log._engine.partition(ORDERS).key(7))
        log._engine.storage.write(batch)

    open_and(tmp_path / "log", remove_one)
    with pytest.raises(LogCorrupt, match=r"orders\[0\]@7 is missing"):
        open_and(tmp_path / "log", orders)


def test_a_block_that_is_no_block_is_an_error_with_its_place(tmp_path: Path) -> None:
    make_log(tmp_path / "log")

    async def overwrite_one(log: EmbeddedLog) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.put(log._engine.partition(ORDERS).key(7), b"no block")
        log._engine.storage.write(batch)

    open_and(tmp_path / "log", overwrite_one)
    with pytest.raises(LogCorrupt, match=r"orders\[0\]@7"):
        open_and(tmp_path / "log", orders)


@pytest.mark.parametrize("content", [b"", b"x" * 1024, bytes(1024)])
def test_a_garbled_witness_is_told_and_can_be_passed_over(tmp_path: Path, content: bytes) -> None:
    identity = make_log(tmp_path / "log")
    (tmp_path / "log" / "acknowledged").write_bytes(content)
    with pytest.raises(LogCorrupt, match="acknowledged"):
        open_and(tmp_path / "log", opening)
    assert open_and(tmp_path / "log", opening, accept_loss=True) == identity
    assert open_and(tmp_path / "log", orders) == numbered(0, 30)


def test_one_torn_slot_of_the_witness_is_no_damage(tmp_path: Path) -> None:
    make_log(tmp_path / "log")
    for slot in (0, 512):
        content = bytearray((tmp_path / "log" / "acknowledged").read_bytes())
        content[slot : slot + 12] = b"torn by fate"
        (tmp_path / "log" / "acknowledged").write_bytes(content)
        assert open_and(tmp_path / "log", orders) == numbered(0, 30)


def test_a_creation_that_was_cut_off_starts_over(tmp_path: Path) -> None:
    make_log(tmp_path / "log")
    # As it is before the identity is written: a database without a witness and without the first write.
    (tmp_path / "fresh" / "db").mkdir(parents=True)
    assert open_and(tmp_path / "fresh", opening)
    (tmp_path / "log" / "acknowledged").unlink()
    assert open_and(tmp_path / "log", orders) == numbered(0, 30)
