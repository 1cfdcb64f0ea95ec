"""The write path of the log, and its life: open, write, sync, recover, close.

What must live here: the order of things between the event loop, the database and the threads.  What must not: the
``Log`` protocol (``log``), reading (``reader``), removing (``maintenance``).

    write      on the event loop, in one step: check, pack, one WriteBatch, new ends          written
    synced     group commit in the sync thread (``flusher``)                                   visible, acknowledged
    recover    after a failed write or sync, with the next write: close, open, load anew

Everything is written from the event loop's thread, so offsets, generations and numbers need no lock.  In durable
mode readers see what has been synced, so nobody acts on a record that a power failure could take back; in relaxed
mode they see what has been written.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from msgspec import structs
from rocksdict import WriteBatch

from streams.connectors.embedded.blocks import pack
from streams.connectors.embedded.catalog import (
    Mark,
    Partition,
    Topic,
    checkpoint_key,
    decode_count,
    encode_count,
    generation_key,
    load_partition,
    load_topics,
)
from streams.connectors.embedded.config import EmbeddedConfig
from streams.connectors.embedded.flusher import Flusher
from streams.connectors.embedded.lock import DirectoryLock
from streams.connectors.embedded.retention import MARKS_MAX, thinned, wants_mark
from streams.connectors.embedded.storage import Storage
from streams.connectors.memory.rules import check_lengths
from streams.core.log import Append
from streams.core.record import Position, TopicPartition
from streams.errors import ConfigurationError, DataError, Fenced, LogUnavailable, TopicRecreated

__all__ = ["Engine"]

T = TypeVar("T")
_LOCK_ATTEMPTS = 10
_LOCK_WAIT_S = 0.05


class Engine:
    """One embedded log while it is open, on one event loop.

    stepping: held by whoever reads the database in a thread to write what comes of it, and by whoever takes away
        what is read there.  ``ready`` may need it: never call that while holding it.
    incarnation: how often the database was opened; what was read before the last time may no longer hold.
    """

    def __init__(self, config: EmbeddedConfig, now_ms: Callable[[], int]) -> None:
        self.config = config
        self.now_ms = now_ms
        self.storage = Storage(config)
        self.topics: dict[str, Topic] = {}
        self.incarnation = 0
        self.lock = DirectoryLock(config.path)
        self.stepping = asyncio.Lock()
        self._recovering = asyncio.Lock()
        self._generations: dict[str, int] = {}
        self._closed = True
        self._sync_thread: ThreadPoolExecutor | None = None
        self._side_thread: ThreadPoolExecutor | None = None
        self._flusher: Flusher | None = None

    async def open(self) -> None:
        """Take the lock, open the database, load the catalog.  Whatever fails, the lock is free again."""
        assert self._closed, "the log is open already"
        self._make_directory()
        await self._acquire()
        self._side_thread = ThreadPoolExecutor(1, thread_name_prefix="log-side")
        self._sync_thread = ThreadPoolExecutor(1, thread_name_prefix="log-sync")
        self._flusher = Flusher(self.config.url, self._sync_thread, self.storage.sync, lambda: self.storage.number)
        try:
            await self.in_thread(self.storage.open)
            await self.in_thread(self._load)
        except BaseException:
            await self._release()
            raise
        self._closed = False

    def _make_directory(self) -> None:
        try:
            os.makedirs(self.config.path, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"{self.config.url}: the directory can't be created ({error.strerror}: {error.filename}); choose one "
                f"that can be written"
            ) from error

    async def _acquire(self) -> None:
        # Somebody who only asks who holds the log has the lock for a moment: one refusal says nothing yet.
        for _ in range(_LOCK_ATTEMPTS):
            if self.lock.acquire():
                return
            await asyncio.sleep(_LOCK_WAIT_S)
        raise self.lock.refuse(self.config.url)

    def _load(self) -> None:
        with self.storage.faults:
            self.topics = load_topics(self.storage.db)

    async def close(self) -> None:
        """Wait for what is on its way, close the database, release the lock.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        for topic in self.topics.values():
            for partition in topic.partitions:
                partition.wake()  # a waiting fetch would wait for a log that is gone
        self.storage.interrupt()
        try:
            assert self._flusher is not None
            await self._flusher.idle()
        finally:
            await self._release()

    async def _release(self) -> None:
        try:
            await self.in_thread(self._shut)
        finally:
            for thread in (self._sync_thread, self._side_thread):
                assert thread is not None
                thread.shutdown(wait=False)

    def _shut(self) -> None:
        # In one go in the thread: a cancelled close must not free the lock of a database that is still open.
        try:
            self.storage.close()
        finally:
            self.lock.release()

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run ``call`` beside the event loop, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._side_thread, call)

    @property
    def is_closed(self) -> bool:
        return self._closed

    def check_open(self) -> None:
        if self._closed:
            raise LogUnavailable(f"{self.config.url}: the log is closed; open it again")

    async def ready(self) -> None:
        """Before a write: see that the log takes one.  Raises LogUnavailable or LogCorrupt if it can't."""
        self.check_open()
        if self.storage.failure is not None:
            await self._recover()

    async def readable(self) -> None:
        """Before a read: the same for reading, which goes on for as long as the database is open."""
        self.check_open()
        if not self.storage.is_open:
            await self._recover()

    async def _recover(self) -> None:
        """Open the database anew and take up what it holds: nothing that was acknowledged is missing."""
        async with self._recovering:
            if self.storage.failure is None:
                return
            assert self._flusher is not None
            await self._flusher.idle()
            async with self.stepping:
                self.check_open()
                self.incarnation += 1
                await self.in_thread(self.storage.reopen)
                self._generations.clear()
                with self.storage.faults:
                    for topic in self.topics.values():
                        for partition in topic.partitions:
                            load_partition(self.storage.db, partition)
                            partition.wake()

    def partition(self, at: TopicPartition) -> Partition:
        topic = self.topics.get(at.topic)
        if topic is None:
            raise ConfigurationError(f"{self.config.url}: there is no topic {at.topic!r}; create it first")
        if not 0 <= at.partition < len(topic.partitions):
            raise ConfigurationError(
                f"{self.config.url}: {at} doesn't exist; {at.topic!r} has {len(topic.partitions)} partitions"
            )
        return topic.partitions[at.partition]

    def generation(self, task: str) -> int:
        """How often ``task`` has been fenced; 0 for one that never was."""
        known = self._generations.get(task)
        if known is None:
            with self.storage.faults:
                known = decode_count(self.storage.db.get(generation_key(task)))
            self._generations[task] = known
        return known

    def stored_checkpoint(self, task: str) -> bytes | None:
        with self.storage.faults:
            stored: bytes | None = self.storage.db.get(checkpoint_key(task))
        return stored

    async def fence(self, task: str) -> tuple[int, bytes | None]:
        """Raise the generation of ``task``; the new one, and the checkpoint that no former owner can change."""
        await self.ready()
        generation = self.generation(task) + 1
        batch = WriteBatch(raw_mode=True)
        batch.put(generation_key(task), encode_count(generation))
        checkpoint = self.stored_checkpoint(task)
        self.storage.write(batch)
        self._generations[task] = generation
        await self.synced({})
        return generation, checkpoint

    async def forget(self, tasks: Iterable[str]) -> None:
        """Drop the checkpoints of ``tasks`` and fence their owners, as one write."""
        await self.ready()
        batch = WriteBatch(raw_mode=True)
        generations = {task: self.generation(task) + 1 for task in tasks}
        for task, generation in generations.items():
            # The generation stays: one that starts again at 1 could be that of an owner from before.
            batch.put(generation_key(task), encode_count(generation))
            batch.delete(checkpoint_key(task))
        self.storage.write(batch)
        self._generations.update(generations)
        await self.synced({})

    async def write_records(
        self, appends: Sequence[Append], *, task: str | None = None, generation: int = 0, checkpoint: bytes = b""
    ) -> dict[TopicPartition, Position]:
        """One write of records, and for a task of its checkpoint; see ``TaskWriter.commit`` for what it raises."""
        await self.ready()
        if task is not None and self.generation(task) != generation:
            raise Fenced(f"{self.config.url}: task {task!r} was taken over by another owner; nothing was stored")
        batch = WriteBatch(raw_mode=True)
        written = _Pending(self.config, batch, self.now_ms)
        for append in appends:
            if append.records.values:
                written.add(self.partition(append.partition), append)
        if task is not None:
            batch.put(checkpoint_key(task), checkpoint)
        written.seal()
        self.storage.write(batch)
        await self.synced(written.apply())
        return {partition.at: Position.at(end) for partition, end in written.ends.items()}

    async def synced(self, ends: Mapping[Partition, int]) -> None:
        """Return once all that was written is acknowledged and ``ends`` are visible.  Raises CommitUnknown."""
        if not self.config.durable:
            for partition, end in ends.items():
                partition.show(end)
            return
        if not ends and self.storage.synced_number == self.storage.number:
            return
        assert self._flusher is not None
        await self._flusher.submit(ends)

    def write_soon(self, batch: WriteBatch) -> None:
        """Write what may be lost without harm: it is durable with the next sync, in order."""
        self.storage.write(batch)


class _Pending:
    """The records of one write on their way into its batch; nothing is changed before ``apply``."""

    def __init__(self, config: EmbeddedConfig, batch: WriteBatch, now_ms: Callable[[], int]) -> None:
        self._config = config
        self._batch = batch
        self._now_ms = now_ms()
        self._size_bytes = 0
        self.ends: dict[Partition, int] = {}
        self._totals: dict[Partition, tuple[int, int]] = {}
        self._marks: dict[Partition, list[Mark]] = {}

    def add(self, partition: Partition, append: Append) -> None:
        """Pack ``append`` behind what the partition holds; raises DataError for what is too large."""
        check_lengths(append.partition, append.records)
        if partition.deleted:
            raise TopicRecreated(f"{append.partition}: the topic was deleted; start the task again")
        base = self.ends.get(partition, partition.end)
        total_bytes, append_ms = self._totals.get(
            partition, (partition.total_bytes, max(self._now_ms, partition.last_append_ms))
        )
        topic = partition.topic
        for at, value in pack(
            append.partition, append.records, base, append_ms, total_bytes, self._config.max_record_bytes
        ):
            self._batch.put(partition.key(at), value)
            self._mark(partition, at, append_ms, total_bytes)
            total_bytes += len(value)
            self._size_bytes += len(value)
        if self._size_bytes > self._config.max_commit_bytes + self._config.max_record_bytes:
            raise DataError(
                f"{self._config.url}: {self._size_bytes} bytes in one write to {topic.spec.name!r} and others, more "
                f"than one record above max_commit_bytes={self._config.max_commit_bytes}; let one record expand to "
                f"less, or raise max_commit_bytes in the log's URL"
            )
        self.ends[partition] = base + len(append.records)
        self._totals[partition] = (total_bytes, append_ms)

    def _mark(self, partition: Partition, at: int, append_ms: int, bytes_before: int) -> None:
        marks = self._marks.get(partition, partition.meta.marks)
        last = marks[-1] if marks else None
        if wants_mark(partition.topic.spec, last, append_ms, bytes_before):
            marks = [*marks, Mark(at, append_ms, bytes_before)]
            self._marks[partition] = marks if len(marks) <= MARKS_MAX else thinned(marks)

    def seal(self) -> None:
        """Put what changes beside the blocks into the batch, behind the last ``add``."""
        for partition, marks in self._marks.items():
            self._batch.put(*partition.meta_entry(structs.replace(partition.meta, marks=marks)))

    def apply(self) -> Mapping[Partition, int]:
        """The write is stored: move the partitions on."""
        for partition, (total_bytes, append_ms) in self._totals.items():
            partition.end = self.ends[partition]
            partition.total_bytes = total_bytes
            partition.last_append_ms = append_ms
        for partition, marks in self._marks.items():
            partition.meta.marks = marks
        return self.ends
