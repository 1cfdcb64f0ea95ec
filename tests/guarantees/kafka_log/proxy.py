"""A bad network before a Kafka broker: it loses, delays, doubles and cuts chosen requests and answers.

What must live here: frames (kafka.apache.org/protocol: length, then API key, version, correlation id) and what is done
to them.  What must not: what a client is expected to make of it.

What it does is what TCP can do to a client.  Within a connection nothing is overtaken: where one request is lost or
late, all behind it are.  A request that was on its way arrives even if its sender has hung up meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from tests.brokers.kafka.proxied import ProxiedKafka

PRODUCE, FETCH, LIST_OFFSETS, METADATA, FIND_COORDINATOR = 0, 1, 2, 3, 10
INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT = 22, 24, 25, 26, 28

HANGING_S = 2.0
"""How long the broker may take over what it was sent by a client that has gone."""

Kind = Literal["lose request", "lose answer", "cut before", "cut after", "late request", "late answer", "twice"]
KINDS: tuple[Kind, ...] = (
    "lose request",
    "lose answer",
    "cut before",
    "cut after",
    "late request",
    "late answer",
    "twice",
)


@dataclass(slots=True)
class Fault:
    """Befalls one request of an API, the first after ``skip`` others, and its answer.

    lose …: nothing more comes through in that direction.  cut before, after: the client is hung up on, before the
    broker sees the request or once it has carried it out.  late …: by ``delay_s``, and all behind it.  twice: the
    broker gets it twice at once; its second answer is dropped.
    """

    api: int
    kind: Kind
    delay_s: float = 0.0
    skip: int = 0
    struck: bool = False


class _Link:
    """One connection of a client, and one of ours to the broker for it."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.client = client
        self.broker = broker
        self.expected: deque[Fault | None] = deque()  # for each answer to come, what is to befall it
        self.deaf = False

    async def forward(self, reader: asyncio.StreamReader) -> None:
        async for frame in _frames(reader):
            fault = self.proxy.take(int.from_bytes(frame[4:6]))
            match fault.kind if fault is not None else None:
                case "lose request":
                    self.deaf = True
                case "cut before":
                    self.client.close()
                    return
                case "late request":
                    assert fault is not None
                    await asyncio.sleep(fault.delay_s)
                case "twice":
                    self._pass_on(frame, None)
            if not self.deaf:
                self._pass_on(frame, fault)

    def _pass_on(self, frame: bytes, fault: Fault | None) -> None:
        self.expected.append(fault)
        self.broker.write(frame)

    async def back(self, reader: asyncio.StreamReader) -> None:
        mute = False
        async for frame in _frames(reader):
            fault = self.expected.popleft() if self.expected else None
            match fault.kind if fault is not None else None:
                case "lose answer":
                    mute = True
                case "cut after":
                    self.client.close()
                    mute = True
                case "late answer":
                    assert fault is not None
                    await asyncio.sleep(fault.delay_s)
                case "twice":
                    continue
            if not mute and not self.client.is_closing():
                self.client.write(frame)
        self.client.close()  # the broker has hung up


class Proxy:
    """Stands before a ``ProxiedKafka`` while the ``async with`` block is entered."""

    def __init__(self, broker: ProxiedKafka) -> None:
        self._broker = broker
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.faults: list[Fault] = []

    def take(self, api: int) -> Fault | None:
        """The fault that a request meets; each befalls one."""
        for fault in self.faults:
            if fault.api == api and not fault.struck:
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.struck = True
                return fault
        return None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._broker.proxy_port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def delivered(self) -> None:
        """Wait until what was late has arrived, and the broker has answered it or hung up."""
        await asyncio.sleep(max((fault.delay_s for fault in self.faults if fault.struck), default=0.0))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.ensure_future(self._serve(reader, writer))
        self._links.add(link)

        def over(link: asyncio.Task[None]) -> None:
            self._links.discard(link)
            writer.close()  # also when it had no time to begin

        link.add_done_callback(over)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                await self._relay(reader, writer)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            await _closed(writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self._broker.upstream_port)
        link = _Link(self, writer, to_broker)
        back = asyncio.ensure_future(link.back(from_broker))
        try:
            await link.forward(reader)
            if to_broker.can_write_eof():  # the client has gone; what it sent is still carried out
                to_broker.write_eof()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(back), HANGING_S)
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            await _closed(to_broker)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):  # reset by the other side: closed all the same
        await writer.wait_closed()


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Whole frames with their lengths, until the end."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readexactly(4)
            yield head + await reader.readexactly(int.from_bytes(head))


__all__ = [
    "ADD_OFFSETS",
    "ADD_PARTITIONS",
    "END_TXN",
    "FETCH",
    "FIND_COORDINATOR",
    "INIT_PRODUCER_ID",
    "KINDS",
    "LIST_OFFSETS",
    "METADATA",
    "PRODUCE",
    "TXN_OFFSET_COMMIT",
    "Fault",
    "Kind",
    "Proxy",
]
