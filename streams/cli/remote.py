"""The log of another process, by its control endpoint: what a tool needs of ``Log``, over HTTP on the loopback address.

What must live here: calling.  What must not: the messages (``runtime.wire``), deciding whom to call (``cli.access``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from streams import errors
from streams.connectors.embedded.lock import Holder
from streams.connectors.memory.rules import partition_for
from streams.core.log import Append, TaskRef, TopicInfo, TopicSpec
from streams.core.record import Bounds, Fetched, Position, Positions, TopicPartition
from streams.errors import LogUnavailable, StreamsError
from streams.runtime import wire

__all__ = ["RemoteLog", "RemoteReader", "raised"]

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60


class RemoteReader:
    """A ``Reader`` whose position is kept here: each fetch is a request of its own."""

    def __init__(self, log: RemoteLog, positions: Positions) -> None:
        self._log = log
        self._positions = dict(positions)
        self._ends: dict[TopicPartition, Position] = {}

    async def fetch(
        self, partitions: Collection[TopicPartition], *, max_records: int, wait_s: float
    ) -> Sequence[Fetched]:
        wanted = {at: self._positions[at] for at in partitions}
        request = wire.FetchRequest(wire.to_pairs(wanted), max_records, wait_s)
        reply = wire.decode(await self._log.post("/log/fetch", request), type=wire.FetchReply)
        self._ends.update(wire.from_pairs(reply.ends))
        found = [each.fetched() for each in reply.batches]
        for batch in found:
            self._positions[batch.partition] = self._positions[batch.partition].advanced(batch.lane, batch.next_offset)
        return found

    def ends(self) -> Positions:
        return self._ends

    async def close(self) -> None:
        return None


class RemoteLog:
    """The log that ``holder`` has open."""

    def __init__(self, url: str, holder: Holder) -> None:
        import aiohttp  # here: a tool that opens the log itself does without

        assert holder.port is not None
        self.url = url
        self.holder = holder
        self._failures = (aiohttp.ClientError, TimeoutError)
        self._session = aiohttp.ClientSession(
            base_url=f"http://127.0.0.1:{holder.port}",
            headers={"Authorization": f"Bearer {holder.token}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S),
        )

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        await self._session.close()

    # ── calling ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def get(self, path: str, **query: str) -> bytes:
        return await self._call("GET", path, params=query)

    async def post(self, path: str, message: Any) -> bytes:
        return await self._call("POST", path, data=wire.encode(message))

    async def _call(self, method: str, path: str, **given: Any) -> bytes:
        try:
            async with self._session.request(method, path, **given) as response:
                body = await response.read()
        except self._failures as error:
            raise LogUnavailable(
                f"{self.url}: {self.holder.describe()} holds the log and doesn't answer on its control port "
                f"({type(error).__name__}); it may be stopping or busy: try again, or stop it"
            ) from error
        if response.status != 200:
            raise raised(body, response.status)
        return body

    # ── of Log ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def holding(self) -> wire.Holding:
        return wire.decode(await self.get("/log"), type=wire.Holding)

    async def topics(self, names: Collection[str] | None = None) -> Mapping[str, TopicInfo]:
        found = wire.decode(await self.get("/log/topics"), type=wire.Topics)
        return {name: info for name, info in found.items() if names is None or name in names}

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        await self.post("/log/topics", list(specs))

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        return dict(wire.decode(await self.post("/log/bounds", list(partitions)), type=wire.BoundsReply))

    def reader(self, positions: Positions) -> RemoteReader:
        return RemoteReader(self, positions)

    async def append(self, appends: Sequence[Append]) -> Positions:
        return wire.from_pairs(wire.decode(await self.post("/log/append", list(appends)), type=wire.Pairs))

    async def checkpoint(self, task: TaskRef) -> bytes | None:
        return wire.decode(await self.post("/log/checkpoint", task), type=bytes | None)

    def partition_for(self, key: bytes, partitions: int) -> int:
        return partition_for(key, partitions)


def raised(body: bytes, status: int) -> StreamsError:
    """The error that the other side answered with, as the same class where its message is all it needs."""
    try:
        told = msgspec.json.decode(body, type=dict[str, str])
    except msgspec.MsgspecError:
        return LogUnavailable(f"the worker that holds the log answered with HTTP status {status}")
    kind = getattr(errors, told.get("error", ""), StreamsError)
    message = told.get("message", f"HTTP status {status}")
    if isinstance(kind, type) and issubclass(kind, StreamsError) and "__init__" not in vars(kind):
        return kind(message)
    return StreamsError(message)
