"""The database under the log: opening it safely, writing, syncing, and knowing when it has lost something.

What must live here: RocksDB's options, the order of opening, the number of the last write.  What must not: topics,
tasks, asyncio.

    <directory>/log.lock        who has it open (``lock``)
    <directory>/acknowledged    up to which write callers were told that it is safe (``witness``)
    <directory>/db              the database

Each write is one WriteBatch and carries its number.  RocksDB's own log is recovered up to the first record that
doesn't read back (point in time): a torn write at the end, which nobody was told of, is dropped.  Whether enough
came back says the witness; whether nothing is missing in the middle (a table that a damaged manifest has forgotten)
say stones, keys that are set every so often so that each table holds at least one.  Both are checked read-only
first, since opening a database for writing removes the files that its manifest doesn't name.

A write holds the interpreter lock but goes to the page cache only; the fsync of RocksDB's log releases it and runs
in a thread.  Memory: four write buffers of 16 MB and the block cache.  Values are not compressed (at these sizes it
costs more than all the rest of an append).
"""

from __future__ import annotations

import os
import shutil
import uuid
from struct import Struct

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    CompactOptions,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteBatch,
)

from streams.connectors.embedded import witness
from streams.connectors.embedded.config import EmbeddedConfig
from streams.connectors.embedded.faults import Faults
from streams.connectors.embedded.witness import Witness, read_witness
from streams.errors import LogCorrupt, LogUnavailable, StreamsError

__all__ = ["META", "Storage"]

META = b"\0\0\0\0"
"""Prefix of everything that isn't a block: topic numbers start at 1."""

_IDENTITY = META + b"i"
_NUMBER = META + b"s"
_STONE = META + b"w"
_U64 = Struct(">Q")
_STATE = Struct(">QQ")

STONE_BYTES = 2 * 2**20
"""Written between two stones: far less than a write buffer, with its overhead, holds."""
STONES_KEPT = 128
"""More than lie in RocksDB's own logs, in front of which a hole would end."""

WRITE_BUFFER_BYTES = 16 * 2**20
WRITE_BUFFERS_MAX = 4
BLOCK_CACHE_BYTES = 16 * 2**20
OPEN_FILES_MAX = 512


def _options(*, create: bool) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    table.set_block_size(32 * 1024)
    # A reader asks for exact keys: the filter spares a look into each of the young files.
    table.set_bloom_filter(10, False)
    table.set_format_version(5)
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.set_block_based_table_factory(table)
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_compression_type(DBCompressionType.none())
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX)
    # Keys only ever grow within a partition, so young files seldom hide one another and merging them early only
    # writes everything once more.  A write that RocksDB slows down would hold up the whole process: never here.
    options.set_level_zero_file_num_compaction_trigger(16)
    options.set_level_zero_slowdown_writes_trigger(64)
    options.set_level_zero_stop_writes_trigger(128)
    options.set_max_bytes_for_level_base(512 * 2**20)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_max_background_jobs(2)
    options.set_max_open_files(OPEN_FILES_MAX)
    # RocksDB's own diagnostics: bounded, and no thread that wakes up to write them.
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(2**20)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


class Storage:
    """One open database.  ``write`` is for one thread only; ``sync`` and reads may run beside it.

    number, synced_number: of the last write, and of the last one that is known to be durable.
    failure: why the last write or sync failed.  Until ``reopen`` succeeds no write is taken.
    """

    def __init__(self, config: EmbeddedConfig) -> None:
        self._config = config
        self.faults = Faults(config.url)
        self._database = os.path.join(config.path, "db")
        self._witness_path = os.path.join(config.path, witness.FILE_NAME)
        self._db: Rdict | None = None
        self._witness: Witness | None = None
        self.identity = ""
        self.number = 0
        self.synced_number = 0
        self._stone = 0
        self._bytes_since_stone = STONE_BYTES
        self._reclaiming = False
        self.failure: StreamsError | None = None

    @property
    def db(self) -> Rdict:
        if self._db is None:
            raise self.failure or LogUnavailable(f"{self._config.url}: the log is closed; open it again")
        return self._db

    @property
    def is_open(self) -> bool:
        return self._db is not None

    def open(self) -> None:
        """Open or create the database.  Blocks.  The caller holds the lock of the directory.

        Raises LogCorrupt, having changed nothing, where acknowledged writes are missing or files are damaged.
        """
        acknowledged = self._acknowledged()
        created = not os.path.exists(os.path.join(self._database, "CURRENT"))
        if created and (acknowledged is not None or self._has_data()):
            raise LogCorrupt(
                f"{self._config.url}: the log doesn't read back (the file db/CURRENT is missing); restore its "
                f"directory from a backup, or move the directory away to start anew"
            )
        lost = not created and self._lost_writes(acknowledged)
        with self.faults:
            db = Rdict(self._database, _options(create=created))
        self._db = db
        try:
            with self.faults:
                identity: bytes | None = db.get(_IDENTITY)
                if identity is None or lost:
                    # What comes after a loss is another history: stores that knew the lost tail must not fit it.
                    identity = uuid.uuid4().hex.encode()
                    db[_IDENTITY] = identity
                    db[_NUMBER] = db.get(_NUMBER) or _STATE.pack(0, 0)
                db.flush_wal(True)
                self.identity = identity.decode()
                stored: bytes = db.get(_NUMBER) or b""
                self.number, self._stone = _STATE.unpack(stored)
                # The first write sets one: whatever was flushed when the log was closed has its own.
                self._bytes_since_stone = STONE_BYTES
                self._witness = Witness(self._witness_path, self.number)
                self.synced_number = self.number
        except BaseException:
            self._close_database()
            raise

    def _has_data(self) -> bool:
        # Creating a database where one has only lost its CURRENT file would remove the rest of it.
        if not os.path.isdir(self._database):
            return False
        return any(name.endswith((".sst", ".log")) for name in os.listdir(self._database))

    def _acknowledged(self) -> int | None:
        try:
            with self.faults:
                return read_witness(self._witness_path)
        except ValueError as error:
            if self._config.accept_loss:
                return None
            raise self._corrupt(f"the file {witness.FILE_NAME!r} is damaged: {error}") from error

    def _lost_writes(self, acknowledged: int | None) -> bool:
        """Look at the database without changing it.  True if writes are missing and the loss is accepted."""
        with self.faults:
            db = self._read_only()
            try:
                found: bytes | None = db.get(_NUMBER)
                number, stone = _STATE.unpack(found) if found is not None else (0, 0)
                missing = [
                    index
                    for index in range(max(1, stone - STONES_KEPT + 1), stone + 1)
                    if db.get(_STONE + _U64.pack(index)) is None
                ]
            finally:
                db.close()
        if acknowledged is not None and number < acknowledged:
            what = f"it ends at write {number}, but write {acknowledged} was acknowledged"
        elif missing:
            what = f"it goes up to write {number}, but earlier ones are missing"
        else:
            return False
        if self._config.accept_loss:
            return True
        raise self._corrupt(f"{what}: a file was cut off, replaced or removed")

    def _read_only(self) -> Rdict:
        return Rdict(self._database, _options(create=False), access_type=AccessType.read_only(False))

    def _corrupt(self, what: str) -> LogCorrupt:
        url = self._config.url
        return LogCorrupt(
            f"{url}: the log doesn't read back ({what}); restore its directory from a backup, or open it once as "
            f"'{url}?accept_loss=true' to go on with what is left"
        )

    def write(self, batch: WriteBatch) -> int:
        """Write ``batch`` as one and return its number.  Not durable before ``sync``.

        Raises LogUnavailable or LogCorrupt; then nothing of it is stored, and ``failure`` is set.
        """
        if self.failure is not None:
            raise self.failure
        stone = self._stone
        size_bytes = self._bytes_since_stone + batch.size_in_bytes()
        if size_bytes >= STONE_BYTES:
            size_bytes = 0
            stone += 1
            batch.put(_STONE + _U64.pack(stone), b"")
            if stone > STONES_KEPT:
                batch.delete(_STONE + _U64.pack(stone - STONES_KEPT))
        batch.put(_NUMBER, _STATE.pack(self.number + 1, stone))
        try:
            with self.faults:
                self.db.write(batch)
        except StreamsError as error:
            self.failure = error
            raise
        self.number += 1
        self._stone, self._bytes_since_stone = stone, size_bytes
        return self.number

    def sync(self, number: int) -> None:
        """Make every write up to ``number`` durable and have it witnessed.  Blocks for an fsync; any thread.

        After an error it isn't known what is durable, and ``failure`` is set.
        """
        try:
            with self.faults:
                self.db.flush_wal(True)
                assert self._witness is not None
                self._witness.write(number)
                self.synced_number = number
        except StreamsError as error:
            self.failure = error
            raise

    def reopen(self) -> None:
        """After a failure: close, and open again from what is on disk.  Blocks.

        A full disk is told before closing, or else the database is opened for reading only: reading goes on.
        """
        self._require_space()
        identity = self.identity
        self._close_database()
        try:
            self.open()
        except StreamsError as error:
            self.failure = error
            if isinstance(error, LogUnavailable):
                with self.faults:
                    self._db = self._read_only()
            raise
        if self.identity != identity:
            self._close_database()
            raise self._corrupt("its directory was replaced while it was open")
        self.failure = None

    def _require_space(self) -> None:
        # Recovery writes what RocksDB's log holds into tables before it removes the log.
        with self.faults:
            logs = [entry.stat().st_size for entry in os.scandir(self._database) if entry.name.endswith(".log")]
            free = shutil.disk_usage(self._database).free
        needed = sum(logs) + 2**20
        if free < needed:
            self.failure = LogUnavailable(
                f"{self._config.url}: the disk is full: {free} bytes are free and {needed} are needed to go on; "
                f"free space, then the log takes writes again"
            )
            raise self.failure

    def reclaim(self, first: bytes, end: bytes) -> None:
        """Give the space of removed keys in [first, end) back to the disk.  Blocks; any thread."""
        options = CompactOptions()
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        # Else RocksDB's own merging waits for this one, and young files pile up until writes are held up.
        options.set_exclusive_manual_compaction(False)
        self._reclaiming = True
        try:
            with self.faults:
                self.db.compact_range(first, end, options)
        finally:
            self._reclaiming = False

    def interrupt(self) -> None:
        """Before closing: have ``reclaim`` return early, with an error.  Nothing is lost by it."""
        if self._reclaiming and self._db is not None:
            self._db.cancel_all_background(False)

    def close(self) -> None:
        """Sync and close.  Blocks.  Never raises for a full disk: what was acknowledged is in RocksDB's log."""
        if self._db is not None and self.failure is None:
            try:
                self.sync(self.number)
            except StreamsError as error:
                self.failure = error
        self._close_database()

    def _close_database(self) -> None:
        db, self._db = self._db, None
        if self._witness is not None:
            self._witness.close()
            self._witness = None
        if db is None:
            return
        try:
            db.close()
        except Exception as error:
            # Closing flushes.  On a full disk that fails, but the database is closed all the same.
            if type(error) is not Exception:
                raise
