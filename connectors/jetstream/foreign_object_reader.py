"""Reading an object store: a record for each object, with its content.

What must live here: putting content to what ``foreign_reader`` reads of objects.  What must not: the store's form
(``foreign_objects``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.foreign_config import ForeignConfig
from streams.connectors.jetstream.foreign_objects import content_of, object_record
from streams.connectors.jetstream.foreign_reader import ForeignReader
from streams.core.record import Fetched, Headers, Positions, Records, TopicPartition
from streams.errors import DataError

__all__ = ["ObjectReader"]

OBJECTS_AT_ONCE = 16


class ObjectReader:
    """A ``Reader`` of the objects of buckets."""

    def __init__(self, api: Api, config: ForeignConfig, reader: ForeignReader) -> None:
        self._api = api
        self._config = config
        self._reader = reader

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        most = min(max_records, OBJECTS_AT_ONCE)
        found = await self._reader.fetch(partitions, max_records=most, wait_s=wait_s)
        return [await self._whole(batch) for batch in found]

    def ends(self) -> Positions:
        return self._reader.ends()

    async def close(self) -> None:
        await self._reader.close()

    async def _whole(self, batch: Fetched) -> Fetched:
        """A batch with contents.  An object that was replaced since is left out: what replaced it comes later."""
        topic, offsets, records = batch.partition.topic, [], Records(headers=[])
        kept: list[Headers | None] = []
        for row, offset in enumerate(batch.offsets):
            where = f"{self._config.shown}/{topic}, message {offset}"
            key, about, headers = object_record(batch.records.values[row], where)
            content: bytes | None = None
            if not about.get("deleted"):
                if about.get("size", 0) > self._config.max_object_bytes:
                    raise DataError(
                        f"{where}: object {about['name']!r} has {about['size']} bytes, and max_object_bytes is "
                        f"{self._config.max_object_bytes}; give the topic's URL a larger one"
                    )
                content = await content_of(self._api, self._config.stream(topic), topic, about, where)
                if content is None:
                    continue
            offsets.append(offset)
            records.keys.append(key)
            records.values.append(content)
            records.timestamps.append(batch.records.timestamps[row])
            own = batch.records.headers[row] if batch.records.headers is not None else None
            kept.append((*(own or ()), *headers))
        records.headers = kept
        return Fetched(batch.partition, offsets, records, batch.next_offset, batch.lane)
