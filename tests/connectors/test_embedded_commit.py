"""Writing to the embedded log: group commit, what readers see when, failures of the disk, sizes, settings."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from streams.connectors.embedded import EmbeddedConfig, EmbeddedLog, parse_url
from streams.core.log import Commit, TopicSpec
from streams.core.record import START, Position, TopicPartition
from streams.errors import CommitUnknown, ConfigurationError, DataError, Fenced, LogUnavailable
from streams.testing.log_contract import append, fetch, task_ref, values_of

T = TypeVar("T")
ORDERS = TopicPartition("orders", 0)


def run(path: Path, work: Callable[[EmbeddedLog], Awaitable[T]], **settings: bool | int) -> T:
    """Run ``work`` on an open log with the topic orders."""

    async def main() -> T:
        log = EmbeddedLog(EmbeddedConfig(str(path), **settings))  # type: ignore[arg-type]
        await log.open()
        try:
            await log.create_topics([TopicSpec("orders")])
            return await work(log)
        finally:
            await log.close()

    return asyncio.run(main())


class Syncs:
    """Stands between the log and its storage's ``sync``: counts, holds it up, or lets it fail."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._storage = log._engine.storage
        flusher = log._engine._flusher
        assert flusher is not None
        flusher._sync = self._sync
        self.count = 0
        self.begun = asyncio.Event()
        self.may_end = threading.Event()
        self.may_end.set()
        self.error: LogUnavailable | None = None
        self._loop = asyncio.get_running_loop()

    def _sync(self, number: int) -> None:
        self.count += 1
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self.may_end.wait(60)
        if self.error is not None:
            self._storage.failure = self.error
            raise self.error
        self._storage.sync(number)


def test_commits_that_wait_together_share_one_sync(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        writers = await asyncio.gather(*(log.fence(task_ref(number)) for number in range(50)))
        syncs = Syncs(log)
        await asyncio.gather(*(writer.commit(Commit(b"one", [append(ORDERS, b"1")])) for writer in writers))
        assert syncs.count == 1
        for writer in writers[:3]:
            await writer.commit(Commit(b"two"))
        assert syncs.count == 4

    run(tmp_path, work)


def test_readers_see_a_commit_only_once_it_cannot_be_lost_any_more(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        writer = await log.fence(task_ref(0))
        reader = log.reader({ORDERS: START})
        syncs = Syncs(log)
        syncs.may_end.clear()
        committing = asyncio.create_task(writer.commit(Commit(b"one", [append(ORDERS, b"1")])))
        await syncs.begun.wait()
        assert list(await reader.fetch([ORDERS], max_records=10, wait_s=0)) == []
        assert reader.ends()[ORDERS] == (await log.bounds([ORDERS]))[ORDERS].end == Position.at(0)
        assert not committing.done()
        syncs.may_end.set()
        assert await committing == {ORDERS: Position.at(1)}
        assert [batch.records.values for batch in await fetch(reader, ORDERS)] == [[b"1"]]
        await reader.close()

    run(tmp_path, work)


def test_a_relaxed_log_shows_a_commit_at_once_and_syncs_with_its_maintenance(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        syncs = Syncs(log)
        await log.append([append(ORDERS, b"1")])
        assert await values_of(log, ORDERS) == [b"1"]
        assert syncs.count == 0
        storage = log._engine.storage
        assert storage.synced_number < storage.number
        await log.maintain(0)
        assert storage.synced_number == storage.number

    run(tmp_path, work, durable=False)


def test_a_sync_that_fails_leaves_the_outcome_unknown_and_the_log_tells_it_afterwards(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        stale = await log.fence(task_ref(0))
        await stale.commit(Commit(b"one", [append(ORDERS, b"1")]))
        syncs = Syncs(log)
        syncs.error = LogUnavailable("the disk gave up")
        with pytest.raises(CommitUnknown, match="the disk gave up"):
            await stale.commit(Commit(b"two", [append(ORDERS, b"2")]))
        with pytest.raises(Fenced):  # committing the same again could store it twice
            await stale.commit(Commit(b"two", [append(ORDERS, b"2")]))
        syncs.error = None
        writer = await log.fence(task_ref(0))
        assert writer.checkpoint in (b"one", b"two")
        assert await values_of(log, ORDERS) == ([b"1"] if writer.checkpoint == b"one" else [b"1", b"2"])
        await writer.commit(Commit(b"three", [append(ORDERS, b"3")]))
        assert (await values_of(log, ORDERS))[-1] == b"3"

    run(tmp_path, work)


def test_a_commit_that_is_cancelled_while_it_is_synced_is_stored_all_the_same(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        writer = await log.fence(task_ref(0))
        syncs = Syncs(log)
        syncs.may_end.clear()
        committing = asyncio.create_task(writer.commit(Commit(b"one", [append(ORDERS, b"1")])))
        await syncs.begun.wait()
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
        with pytest.raises(Fenced):
            await writer.commit(Commit(b"two"))
        syncs.may_end.set()
        assert (await log.fence(task_ref(0))).checkpoint == b"one"
        assert await values_of(log, ORDERS) == [b"1"]

    run(tmp_path, work)


def test_a_log_that_is_closed_during_a_commit_finishes_it(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        writer = await log.fence(task_ref(0))
        syncs = Syncs(log)
        syncs.may_end.clear()
        committing = asyncio.create_task(writer.commit(Commit(b"one", [append(ORDERS, b"1")])))
        await syncs.begun.wait()
        closing = asyncio.create_task(log.close())
        await asyncio.sleep(0)
        syncs.may_end.set()
        assert await committing == {ORDERS: Position.at(1)}
        await closing

    run(tmp_path, work)
    run(tmp_path, lambda log: _expect(log, [b"1"]))


async def _expect(log: EmbeddedLog, values: list[bytes]) -> None:
    assert await values_of(log, ORDERS) == values


def test_a_refused_commit_leaves_its_writer_of_use(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        writer = await log.fence(task_ref(0))
        with pytest.raises(DataError, match="max_record_bytes=1000"):
            await writer.commit(Commit(b"one", [append(ORDERS, b"small", bytes(2000))]))
        with pytest.raises(DataError, match="max_commit_bytes=5000"):
            await writer.commit(Commit(b"one", [append(ORDERS, *[bytes(900)] * 10)]))
        await writer.commit(Commit(b"two", [append(ORDERS, b"2")]))
        assert await values_of(log, ORDERS) == [b"2"]

    run(tmp_path, work, max_record_bytes=1000, max_commit_bytes=5000)


def test_a_record_of_64_mb_comes_back(tmp_path: Path) -> None:
    value = bytes(range(256)) * (64 * 2**20 // 256)

    async def work(log: EmbeddedLog) -> None:
        writer = await log.fence(task_ref(0))
        await writer.commit(Commit(b"one", [append(ORDERS, b"before", value, b"after")]))

    async def look(log: EmbeddedLog) -> None:
        reader = log.reader({ORDERS: START})
        found: list[bytes | None] = []
        while len(found) < 3:
            for batch in await fetch(reader, ORDERS):
                found += batch.records.values
        assert found[0] == b"before"
        assert found[1] == value
        assert found[2] == b"after"
        await reader.close()

    run(tmp_path, work)
    run(tmp_path, look)


def test_large_records_share_a_fetch_fairly(tmp_path: Path) -> None:
    async def work(log: EmbeddedLog) -> None:
        await log.create_topics([TopicSpec("large", partitions=40)])
        partitions = [TopicPartition("large", number) for number in range(40)]
        await log.append([append(at, *[bytes(900_000)] * 3) for at in partitions])
        reader = log.reader(dict.fromkeys(partitions, START))
        seen: dict[TopicPartition, int] = dict.fromkeys(partitions, 0)
        for _ in range(6):
            batches = await fetch(reader, *partitions)
            size = sum(batch.records.size_bytes() for batch in batches)
            assert size < 20_000_000, "a fetch takes memory without bound"
            for batch in batches:
                seen[batch.partition] += 1
            assert max(seen.values()) <= min(seen.values()) + 1, "a partition was left out while others had two turns"
        assert min(seen.values()) >= 1
        await reader.close()

    run(tmp_path, work)


def test_a_url_carries_the_settings() -> None:
    assert parse_url("embedded:./data") == EmbeddedConfig("./data")
    assert parse_url("embedded:/var/lib/shop?durable=false") == EmbeddedConfig("/var/lib/shop", durable=False)
    assert parse_url("embedded:///var/lib/my%20shop?accept_loss=1&max_record_bytes=1000") == EmbeddedConfig(
        "/var/lib/my shop", accept_loss=True, max_record_bytes=1000
    )
    assert EmbeddedLog("embedded:./data?durable=no").url == "embedded:./data"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("embedded:", "directory"),
        ("embedded:?durable=false", "directory"),
        ("embedded", "embedded:./directory"),
        ("kafka://localhost", "embedded:./directory"),
        ("embedded:./data?durabel=false", "durabel.*durable"),
        ("embedded:./data?durable=maybe", "durable='maybe' is not true or false"),
        ("embedded:./data?max_record_bytes=1MB", "max_record_bytes='1MB' is not a whole number"),
        ("embedded:./data?max_record_bytes=-1", "max_record_bytes"),
        ("embedded:./data?path=x", "path"),
    ],
)
def test_a_url_that_is_not_understood_says_what(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        parse_url(url)
