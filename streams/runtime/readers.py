"""One reader over several logs: for tasks whose inputs don't all lie on the app's own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from streams.core.log import Reader, Source
from streams.core.record import Fetched, Position, Positions, TopicPartition


def open_reader(sources: Mapping[str, Source], own: Source, positions: Positions) -> Reader:
    """A reader of ``positions``; ``sources`` names, by topic, the foreign log that holds it."""
    parts: dict[int, tuple[Source, dict[TopicPartition, Position]]] = {}
    for at, position in positions.items():
        source = sources.get(at.topic, own)
        parts.setdefault(id(source), (source, {}))[1][at] = position
    readers = [source.reader(part) for source, part in parts.values()]
    if len(readers) == 1:
        return readers[0]
    return Readers(dict(zip(readers, (frozenset(part) for _, part in parts.values()), strict=True)))


class Readers:
    """Waits on all its readers at once.  A fetch that is under way is kept for the next call, so nothing is lost."""

    def __init__(self, parts: Mapping[Reader, frozenset[TopicPartition]]) -> None:
        self._parts = parts
        self._under_way: dict[Reader, asyncio.Task[Sequence[Fetched]]] = {}

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        wanted = set(partitions)
        for reader, held in self._parts.items():
            mine = held & wanted
            if mine and reader not in self._under_way:
                fetching = reader.fetch(mine, max_records=max_records, wait_s=wait_s)
                self._under_way[reader] = asyncio.ensure_future(fetching)
        if not self._under_way:
            return []
        await asyncio.wait(self._under_way.values(), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        found: list[Fetched] = []
        for reader, task in list(self._under_way.items()):
            if task.done():
                del self._under_way[reader]
                found.extend(task.result())
        return found

    def ends(self) -> Positions:
        return {at: end for reader in self._parts for at, end in reader.ends().items()}

    async def close(self) -> None:
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        for reader in self._parts:
            await reader.close()
