"""How a change set becomes one write of RocksDB: a WriteBatch, or one sorted file that is ingested.

What must live here: the order and the form of what is written.  What must not: an open database, its options.

Both forms are all or nothing and carry the state entry with the data.  A batch costs about 0.9 µs a key and goes
through log and memtable; a file costs about 0.1 µs a key but an fsync and a flush of the memtable, so it pays
from some thousand keys on.  rocksdict's file writer has no range deletes, so change sets with ranges go as a batch.

    batch:  ranges, single deletes, puts, state      later entries win, so puts survive ranges of the same set
    file:   state, then each prefix's keys ascending, a key once
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from operator import itemgetter

from rocksdict import Options, SstFileWriter, WriteBatch

from streams.core.store import Changes

__all__ = ["STATE_KEY", "changes_batch", "entries_batch", "write_changes_file", "write_entries_file"]

STATE_KEY = b"\x00\x00state"
"""Where the encoded StoreState lies: under prefix 0, which sorts before the prefix of every named state."""

_key = itemgetter(0)


def changes_batch(changes: Mapping[bytes, Changes], state: bytes) -> WriteBatch:
    """One batch for ``apply``: what it clears first, then what it writes."""
    batch = WriteBatch(raw_mode=True)
    delete, delete_range, put = batch.delete, batch.delete_range, batch.put
    for prefix in sorted(changes):
        change = changes[prefix]
        deletes = change.deletes
        if change.ranges:
            deletes = sorted(deletes)
            for first, end in change.ranges:
                # RocksDB writes a reversed range to its log, then refuses it at every later open: the store is lost.
                if first < end:
                    delete_range(prefix + first, prefix + end)
                    del deletes[bisect_left(deletes, first) : bisect_left(deletes, end)]
        for key in deletes:
            delete(prefix + key)
        for key, value in change.puts:
            put(prefix + key, value)
    put(STATE_KEY, state)
    return batch


def entries_batch(prefix: bytes, entries: Mapping[bytes, bytes | None], state: bytes) -> WriteBatch:
    """One batch for ``load``, in order of the keys, which RocksDB takes faster."""
    batch = WriteBatch(raw_mode=True)
    for key in sorted(entries):
        value = entries[key]
        if value is None:
            batch.delete(prefix + key)
        else:
            batch.put(prefix + key, value)
    batch.put(STATE_KEY, state)
    return batch


def write_changes_file(path: str, options: Options, changes: Mapping[bytes, Changes], state: bytes) -> None:
    """Write ``changes``, which must have no ranges, and ``state`` to a file to be ingested."""
    writer = SstFileWriter(options)
    writer.open(path)
    writer[STATE_KEY] = state
    for prefix in sorted(changes):
        change = changes[prefix]
        assert not change.ranges, "a range delete can't be written to a file"
        if not change.deletes:
            for key, value in change.puts:
                writer[prefix + key] = value
            continue
        merged: list[tuple[bytes, bytes | None]] = [*change.puts]
        # A file holds a key once; a put beside a delete of the same key wins, as in a batch.
        merged.extend((key, None) for key in set(change.deletes).difference(map(_key, change.puts)))
        merged.sort(key=_key)
        for key, kept in merged:
            if kept is None:
                del writer[prefix + key]
            else:
                writer[prefix + key] = kept
    writer.finish()


def write_entries_file(
    path: str, options: Options, prefix: bytes, entries: Mapping[bytes, bytes | None], state: bytes
) -> None:
    """Write what ``load`` was given to a file to be ingested."""
    writer = SstFileWriter(options)
    writer.open(path)
    writer[STATE_KEY] = state
    # Pairs, so that no value is looked up by its key again, which for random keys costs more than the sort.
    ordered = sorted(entries.items(), key=_key)
    keys = [prefix + key for key, _ in ordered]
    values = [value for _, value in ordered]
    if None not in values:
        deque(map(writer.__setitem__, keys, values), maxlen=0)  # restores wait for this loop: none in Python
    else:
        for key, value in zip(keys, values):
            if value is None:
                del writer[key]
            else:
                writer[key] = value
    writer.finish()
