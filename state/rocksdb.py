"""A store in RocksDB: one database per task, one column family, raw bytes.

What must live here: opening, reading, writing and setting aside such a store.  What must not: the form of a write
(``state.sst``), RocksDB's words for what went wrong (``state.faults``), any knowledge of what the bytes mean.

    <path>/db        the database; its LOCK file keeps everybody else out while it is open
    <path>/ingest    files on their way into the database, removed once they are in, or at the next open
    <path>/discard   a database that was cleared and is being removed

Each write is a WriteBatch that goes to RocksDB's log without fsync, or one sorted file that is ingested; both hold
the state entry.  After ``kill -9`` the store stands at its last whole write.  After a power failure it may stand at
an earlier one: the changelog replays the rest.  No write bypasses RocksDB's log, since a lost memtable would take
older writes with it while a newer ingested file stayed.

Memory: all stores of a process share one block cache, to which indexes, filters and memtables are charged.  A file
that is ingested has one filter, which has to fit into a part of the cache: ``load`` some million entries at a time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

import msgspec
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompactionStyle,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    ReadOptions,
    WriteBufferManager,
)

from streams.core.store import Changes, StoreState
from streams.errors import StoreCorrupt
from streams.state.faults import StoreFaults
from streams.state.sst import STATE_KEY, changes_batch, entries_batch, write_changes_file, write_entries_file

__all__ = ["RocksOptions", "RocksStore", "destroy", "set_aside"]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(StoreState).decode


@dataclass(frozen=True, slots=True)
class RocksOptions:
    """Sizes and thresholds.  The shared sizes hold for all stores of the process that name the same ones.

    cache_bytes: shared; blocks, indexes, filters and memtables together.
    memtables_bytes: shared; beyond it the largest memtable is flushed.
    write_buffer_bytes: the memtable of one store; there are two, one being flushed.
    ingest_min_changes: from so many puts and deletes on ``apply`` ingests a file.
    ingest_min_entries: the same for ``load``.
    """

    cache_bytes: int = 128 * 2**20
    memtables_bytes: int = 64 * 2**20
    write_buffer_bytes: int = 16 * 2**20
    block_bytes: int = 4096
    open_files_max: int = 256
    ingest_min_changes: int = 20_000
    ingest_min_entries: int = 5_000


@cache
def _shared_memory(cache_bytes: int, memtables_bytes: int) -> tuple[Cache, WriteBufferManager]:
    # The default cache is cut into 64 parts, and a filter of a megabyte throws out all else in its part: reads then
    # take seven times as long.  The charge 0 lets this kind find its own table size.
    blocks = Cache.new_hyper_clock_cache(cache_bytes, 0)
    return blocks, WriteBufferManager.new_write_buffer_manager_with_cache(memtables_bytes, False, blocks)


def _rocksdb_options(options: RocksOptions) -> Options:
    blocks, memtables = _shared_memory(options.cache_bytes, options.memtables_bytes)
    table = BlockBasedOptions()
    table.set_block_cache(blocks)
    table.set_block_size(options.block_bytes)
    table.set_bloom_filter(10, False)
    table.set_format_version(5)
    # Else indexes and filters live outside of the cache and grow with the number of keys.
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    rocksdb = Options(raw_mode=True)
    rocksdb.create_if_missing(True)
    rocksdb.set_block_based_table_factory(table)
    rocksdb.set_write_buffer_manager(memtables)
    rocksdb.set_write_buffer_size(options.write_buffer_bytes)
    rocksdb.set_max_write_buffer_number(2)
    rocksdb.set_compression_type(DBCompressionType.lz4())
    # Rewrites less than levels do when each commit is a file that spans all keys: a quarter less time a change.
    rocksdb.set_compaction_style(DBCompactionStyle.universal())
    rocksdb.set_max_background_jobs(2)
    rocksdb.set_max_open_files(options.open_files_max)
    # RocksDB's own diagnostics: bounded, and no thread that wakes up to write them.
    rocksdb.set_keep_log_file_num(2)
    rocksdb.set_max_log_file_size(2**20)
    rocksdb.set_stats_dump_period_sec(0)
    rocksdb.set_stats_persist_period_sec(0)
    return rocksdb


class RocksStore:
    """The ``Store`` of a task on disk.  Keys and values must be ``bytes``; raw mode refuses everything else.

    Opening creates what is missing.  It raises StoreLocked while another store is open at ``path``,
    ConfigurationError where the directory can't be written, StoreCorrupt where the files don't read back (then
    ``set_aside`` the path and open again), StoreUnavailable on a full disk.  After StoreCorrupt or
    StoreUnavailable from a write, close the store: RocksDB takes no more writes until it is opened again.
    """

    def __init__(self, path: str | os.PathLike[str], options: RocksOptions | None = None) -> None:
        self.path = os.fspath(path)
        self._options = options or RocksOptions()
        self._rocksdb_options = _rocksdb_options(self._options)
        self._database = os.path.join(self.path, "db")
        self._ingest_dir = os.path.join(self.path, "ingest")
        self._discard_dir = os.path.join(self.path, "discard")
        self._faults = StoreFaults(self.path)
        self._scans: WeakSet[Generator[tuple[bytes, bytes], None, None]] = WeakSet()
        self._files_written = 0
        self._open()

    def _open(self) -> None:
        with StoreFaults(self.path, opening=True):
            os.makedirs(self.path, exist_ok=True)
            self._db = Rdict(self._database, self._rocksdb_options)
        try:
            with StoreFaults(self.path, opening=True):
                # Only now, with the lock: before it these may be the files of a process that has the store open.
                for leftover in (self._ingest_dir, self._discard_dir):
                    if os.path.exists(leftover):
                        shutil.rmtree(leftover)
                os.mkdir(self._ingest_dir)
                self._state = self._stored_state()
        except BaseException:
            self._db.close()
            raise

    def _stored_state(self) -> StoreState | None:
        stored: bytes | None = self._db.get(STATE_KEY)
        try:
            return None if stored is None else _decode(stored)
        except msgspec.MsgspecError as error:
            raise StoreCorrupt(
                f"{self.path}: the state entry doesn't read back ({error}); it has to be rebuilt from the changelog"
            ) from error

    @property
    def state(self) -> StoreState | None:
        return self._state

    def get(self, key: bytes) -> bytes | None:
        with self._faults:
            return cast("bytes | None", self._db.get(key))

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        wanted: Any = keys if isinstance(keys, list) else list(keys)
        with self._faults:
            return cast("list[bytes | None]", self._db.get(wanted))

    def scan(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        entries = self._scan(first, end, reverse)
        self._scans.add(entries)
        return entries

    def _scan(self, first: bytes, end: bytes, reverse: bool) -> Generator[tuple[bytes, bytes], None, None]:
        if first >= end:
            return
        with self._faults:
            options = ReadOptions()
            # The upper bound is excluded, forwards and backwards.  The setter of the lower one sets the upper one.
            options.set_iterate_upper_bound(end)
            found = self._db.iter(options)
            valid: Callable[[], bool] = found.valid
            key: Callable[[], Any] = found.key
            value: Callable[[], Any] = found.value
            if reverse:
                found.seek_to_last()
                while valid() and (at := key()) >= first:
                    yield at, value()
                    found.prev()
            else:
                found.seek(first)
                while valid():
                    yield key(), value()
                    found.next()
            # At a block that doesn't read back the iteration just ends; only the status tells it from the end.
            found.status()

    def apply(self, changes: Mapping[bytes, Changes], state: StoreState) -> None:
        _check_prefixes(changes)
        encoded = _encode(state)
        size = sum(len(change.puts) + len(change.deletes) for change in changes.values())
        if size >= self._options.ingest_min_changes and not any(change.ranges for change in changes.values()):
            self._ingest(lambda path: write_changes_file(path, self._rocksdb_options, changes, encoded))
        else:
            with self._faults:
                self._db.write(changes_batch(changes, encoded))
        self._state = state

    def load(self, prefix: bytes, entries: Mapping[bytes, bytes | None], state: StoreState) -> None:
        _check_prefixes((prefix,))
        encoded = _encode(state)
        if len(entries) >= self._options.ingest_min_entries:
            self._ingest(lambda path: write_entries_file(path, self._rocksdb_options, prefix, entries, encoded))
        else:
            with self._faults:
                self._db.write(entries_batch(prefix, entries, encoded))
        self._state = state

    def _ingest(self, write: Callable[[str], None]) -> None:
        """Have ``write`` fill a file and take it into the database as one."""
        self._files_written += 1
        path = os.path.join(self._ingest_dir, f"{self._files_written}.sst")
        options = IngestExternalFileOptions()
        options.set_move_files(True)
        try:
            with self._faults:
                write(path)
                self._db.ingest_external_file([path], options)
        finally:
            Path(path).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything, state included; the space is free when it returns.  Open scans end."""
        self._shut()
        with StoreFaults(self.path, opening=True):
            os.rename(self._database, self._discard_dir)
        self._open()

    def close(self) -> None:
        self._shut()

    def _shut(self) -> None:
        # An iterator that outlives the database keeps its lock, and the store couldn't be opened again.
        for entries in list(self._scans):
            entries.close()
        self._scans.clear()
        try:
            self._db.close()
        except DbClosedError:
            pass
        except Exception as error:
            # Closing flushes.  On a full disk that fails, but the lock is released all the same and nothing is lost:
            # the write that met the full disk has raised, and what came before it is in RocksDB's log.
            if type(error) is not Exception:
                raise


def _check_prefixes(prefixes: Sequence[bytes] | Mapping[bytes, Changes]) -> None:
    # The store's own entry lies under prefix 0, and a file is only sorted if no prefix begins with another.
    before = b""
    for prefix in sorted(prefixes):
        if len(prefix) < 2 or prefix[:2] in (b"\x00\x00", b"\xff\xff"):
            raise ValueError(f"prefix {prefix!r}: it begins with two bytes from 0x0001 to 0xfffe, those of a state")
        if before and prefix.startswith(before):
            raise ValueError(f"prefix {prefix!r} begins with the prefix {before!r}: their keys would mix")
        before = prefix


def set_aside(path: str | os.PathLike[str]) -> Path:
    """Move the closed store at ``path`` out of the way and return where it is now; ``path`` is free for a new one.

    For stores that aren't an ancestor of the log's checkpoint or don't read back (protocol 7).  Only the store
    that was set aside last is kept, so that a store which fails again and again doesn't fill the disk.
    """
    store = Path(path)
    with StoreFaults(str(store), opening=True):
        earlier = sorted(store.parent.glob(f"{store.name}.aside-*"), key=_aside_number)
        target = store.with_name(f"{store.name}.aside-{_aside_number(earlier[-1]) + 1 if earlier else 1}")
        os.rename(store, target)
        for old in earlier:
            shutil.rmtree(old)
    return target


def _aside_number(path: Path) -> int:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def destroy(path: str | os.PathLike[str]) -> None:
    """Remove the closed store at ``path`` with all its files; nothing happens where there is none."""
    with StoreFaults(os.fspath(path), opening=True):
        if os.path.exists(path):
            shutil.rmtree(path)
