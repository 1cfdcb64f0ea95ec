"""Compaction: the last record of each key moves from the log of a partition to its snapshot.

What must live here: when it is due, and doing it.  What must not: the form of snapshots (``snapshots``).

    list the snapshots there are ──▶ read the manifest
      ──▶ read a stretch of the log from ``upto`` on: the last record of each key
      ──▶ write a new snapshot: of the old one what the log doesn't replace, then what the log has
      ──▶ replace the manifest, if it is still the one that was read
      ──▶ purge the log below it, and the snapshots listed

Up to the manifest nothing has changed, and behind it only rubbish is left: it is purged by the next pass.  Of two that
compact one partition at once, one loses at the manifest; since a pass lists before it reads the manifest, it never
purges blocks of a later one.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.chains import last_link
from streams.connectors.jetstream.messages import BLOCK_PLACES, MAX_BLOCK_BYTES, MAX_BLOCK_RECORDS, room
from streams.connectors.jetstream.names import snapshot_subject
from streams.connectors.jetstream.reader import JetStreamReader
from streams.connectors.jetstream.snapshots import Manifest, SnapshotBlock, encode, next_block
from streams.connectors.jetstream.topics import Topics
from streams.core.record import Headers, Position, TopicPartition
from streams.errors import LogUnavailable

__all__ = ["Policy", "compact", "is_due"]

STRETCH_BYTES = 64 * 2**20
"""Of keys and values that one pass takes from the log: it holds them in memory."""
Entry = tuple[int, bytes | None, bytes | None, int, Headers | None, int | None]
"""Offset, key, value, timestamp, headers, and of a tombstone when it came into a snapshot."""


@dataclass(frozen=True, slots=True)
class Policy:
    """min_bytes: of the log that a pass is worth.  tombstones_ms: for how long deletes stay in snapshots."""

    min_bytes: int = 8 * 2**20
    tombstones_ms: int = 24 * 3600 * 1000


def is_due(manifest: Manifest | None, total: int, now_ms: int, policy: Policy) -> bool:
    """True when the log has grown to twice the snapshot, so that each byte is rewritten a bounded number of times; or
    when deletes may go, at most once in their time."""
    grown = total - (manifest.total if manifest is not None else 0)
    if grown >= max(policy.min_bytes, 1) and grown >= 2 * (manifest.size_bytes if manifest is not None else 0):
        return True
    if manifest is None or manifest.oldest_tombstone_ms is None:
        return False
    return now_ms - max(manifest.oldest_tombstone_ms, manifest.made_ms) >= policy.tombstones_ms


@dataclass(slots=True)
class _Written:
    """A snapshot on its way."""

    id: str
    entries: list[Entry] = field(default_factory=list)
    entry_bytes: int = 0
    blocks: int = 0
    size_bytes: int = 0
    floor: int = 0
    oldest_ms: int | None = None


async def compact(
    api: Api, topics: Topics, at: TopicPartition, now_ms: int, policy: Policy
) -> AsyncGenerator[None, None]:
    """A pass over a partition, if it is due; yields after each bounded piece of work.  May be left at any time."""
    place = await topics.place(at)
    owner = topics.owner(at)
    listed = await api.subjects(place.stream, snapshot_subject(owner, *at, "*"))
    seq, old = await topics.manifest(at)
    end = await last_link(api, place)
    if not end.seq or not is_due(old, end.total, now_ms, policy):
        return
    latest: dict[bytes | int, Entry] = {}
    since = upto = old.upto if old is not None else 0
    goal = (end.seq + 1) * BLOCK_PLACES
    async for entries, reached in _stretch(api, topics, at, since, goal):
        upto = reached
        for entry in entries:
            key = entry[1]
            # Records without a key aren't replaced by any: the offset is a key of their own.
            latest[key if key is not None else entry[0]] = entry
        yield
    new = _Written(secrets.token_hex(8), floor=old.floor if old is not None else 0)
    subject = snapshot_subject(owner, *at, new.id)
    if old is not None:
        from_seq = 1
        for number in range(old.blocks):
            found = await next_block(api, place.stream, snapshot_subject(owner, *at, old.id), from_seq, number)
            if found is None:
                return  # another pass was quicker
            from_seq, block = found
            _merge(new, block, latest, now_ms - policy.tombstones_ms)
            await _write(api, new, subject, whole=False)
            yield
    for entry in sorted(latest.values(), key=lambda each: each[0]):
        _add(new, (*entry[:5], now_ms if entry[2] is None else None))
        if new.entry_bytes >= MAX_BLOCK_BYTES:
            await _write(api, new, subject, whole=False)
            yield
    await _write(api, new, subject, whole=True)
    total = end.total if upto >= goal else (old.total if old is not None else 0) + STRETCH_BYTES
    manifest = Manifest(
        1, upto, new.floor, new.id, new.blocks, new.size_bytes, min(total, end.total), new.oldest_ms, now_ms
    )
    if await api.publish(snapshot_subject(owner, *at), encode(manifest), after=seq) is None:
        await api.purge(place.stream, subject)
        return
    topics.floors[at] = manifest.floor
    yield
    last = (await last_link(api, place)).seq
    await api.purge(place.stream, place.subject, before=min(upto // BLOCK_PLACES, last))
    for rubbish in listed:
        await api.purge(place.stream, rubbish)
    await api.purge(place.stream, snapshot_subject(owner, *at), keep=1)


async def _stretch(
    api: Api, topics: Topics, at: TopicPartition, since: int, end: int
) -> AsyncGenerator[tuple[list[Entry], int], None]:
    """The log from ``since`` to ``end``, or as much as a pass may hold: entries, and how far that is."""
    reader = JetStreamReader(api, topics, {at: Position.at(since)})
    taken = 0
    try:
        while since < end and taken < STRETCH_BYTES:
            fetched = await reader.fetch([at], max_records=MAX_BLOCK_RECORDS, wait_s=api.connection.timeout_s)
            if not fetched:
                raise LogUnavailable(f"{api.connection.url}: {at}: nothing comes from the log; compaction is put off")
            for batch in fetched:
                records = batch.records
                headers = records.headers if records.headers is not None else [None] * len(records)
                columns = (batch.offsets, records.keys, records.values, records.timestamps, headers)
                since = batch.next_offset
                taken += records.size_bytes()
                yield [(*row, None) for row in zip(*columns, strict=True)], since
    finally:
        await reader.close()


def _merge(new: _Written, block: SnapshotBlock, latest: dict[bytes | int, Entry], drop_before_ms: int) -> None:
    """What of the old snapshot isn't replaced, without deletes that are old enough."""
    since = dict(block.tombstones)
    headers = block.headers if block.headers is not None else [None] * len(block.offsets)
    columns = (block.offsets, block.keys, block.values, block.timestamps, headers)
    for index, (offset, key, value, timestamp, header) in enumerate(zip(*columns, strict=True)):
        if key in latest:
            continue
        if value is None and since[index] <= drop_before_ms:
            new.floor = max(new.floor, (offset // BLOCK_PLACES + 1) * BLOCK_PLACES)
            continue
        _add(new, (offset, key, value, timestamp, header, since.get(index)))


def _add(new: _Written, entry: Entry) -> None:
    new.entries.append(entry)
    new.entry_bytes += len(entry[1] or b"") + len(entry[2] or b"") + 24
    if entry[5] is not None:
        new.oldest_ms = min(new.oldest_ms if new.oldest_ms is not None else entry[5], entry[5])


async def _write(api: Api, new: _Written, subject: str, *, whole: bool) -> None:
    """Store what is enough for a block; ``whole``: everything."""
    most = min(MAX_BLOCK_BYTES, room(api.connection.max_payload))
    while new.entries and (whole or new.entry_bytes >= most or len(new.entries) >= MAX_BLOCK_RECORDS):
        size, count = 0, 0
        for entry in new.entries[:MAX_BLOCK_RECORDS]:
            size += len(entry[1] or b"") + len(entry[2] or b"") + 24
            if count and size > most:
                break
            count += 1
        part, new.entries = new.entries[:count], new.entries[count:]
        new.entry_bytes = sum(len(entry[1] or b"") + len(entry[2] or b"") + 24 for entry in new.entries)
        headers = [entry[4] for entry in part]
        block = SnapshotBlock(
            new.blocks,
            [entry[0] for entry in part],
            [entry[1] for entry in part],
            [entry[2] for entry in part],
            [entry[3] for entry in part],
            headers if any(headers) else None,
            [(index, entry[5]) for index, entry in enumerate(part) if entry[5] is not None],
        )
        payload = encode(block)
        await api.publish(subject, payload)
        new.blocks += 1
        new.size_bytes += len(payload)
