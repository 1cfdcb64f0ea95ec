"""What a NATS server sends, taken apart in batches.

What must live here: the parser and what it makes.  What must not: connections (``client``).

nats-py's parser makes tasks and objects for each message, which costs some forty microseconds; ours hands over what one
socket read held as one list.  It stands in the place of the client's own (``Client._ps``, private: the version is
pinned).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import NamedTuple

import nats.errors

from streams.connectors.jetstream.session import Session

__all__ = ["CRLF", "BatchParser", "Handler", "Message"]

CRLF = b"\r\n"
MESSAGES = b"HM"
HMSG = MESSAGES[0]
Handler = Callable[[list["Message"]], None]


class Message(NamedTuple):
    """A message as it came.  ``head``: the block of headers, with its first line; b"" for none."""

    subject: bytes
    reply: bytes
    head: bytes
    payload: bytes


_make = tuple.__new__


class BatchParser:
    """Takes socket reads apart; messages of our subscriptions go to their handlers, a list for each read."""

    def __init__(self, client: Session) -> None:
        self._client = client
        self._rest = b""
        self.handlers: dict[bytes, Handler] = {}

    def reset(self) -> None:
        self._rest = b""

    async def parse(self, data: bytes = b"") -> None:
        found: dict[bytes, list[Message]] = {}
        try:
            await self._part(self._rest + data if self._rest else bytes(data), found)
        except (ValueError, IndexError) as error:  # no server of NATS wrote that
            raise nats.errors.ProtocolError from error
        for sid, messages in found.items():
            handler = self.handlers.get(sid)
            if handler is not None:
                handler(messages)

    async def _part(self, data: bytes, found: dict[bytes, list[Message]]) -> None:
        """Act on what isn't a message, and put messages where their subscription's are."""
        start, end = 0, len(data)
        last, messages = b"", list[Message]()
        while start < end:
            line_end = data.find(CRLF, start)
            if line_end < 0:
                break
            kind = data[start]
            if kind in MESSAGES:
                words = data[start:line_end].split()
                body = line_end + 2
                split, stop = body, body + int(words[-1])
                if stop + 2 > end:
                    break
                if kind == HMSG:
                    split += int(words[-2])
                    reply = words[3] if len(words) == 6 else b""
                else:
                    reply = words[3] if len(words) == 5 else b""
                # Half of the price of Message(...), which is most of what a message costs here.
                message = _make(Message, (words[1], reply, data[body:split], data[split:stop]))
                if words[2] == last:
                    messages.append(message)
                elif words[2] in self.handlers:
                    last = words[2]
                    messages = found.setdefault(last, [])
                    messages.append(message)
                else:
                    await self._client._process_msg(
                        int(words[2]),
                        message.subject,
                        message.reply,
                        message.payload,
                        message.head or None,  # type: ignore[arg-type]  # as its own parser calls it
                    )
                start = stop + 2
                continue
            await self._control(data[start:line_end])
            start = line_end + 2
        self._rest = data[start:]

    async def _control(self, line: bytes) -> None:
        client = self._client
        if line == b"PING":
            await client._process_ping()
        elif line == b"PONG":
            # nats-py answers whoever pinged, and fails as a reader where that one has given up.
            if client._pongs and client._pongs[0].done():
                client._pongs[0] = asyncio.get_running_loop().create_future()
            await client._process_pong()
        elif line.startswith(b"INFO "):
            await client._process_info(json.loads(line[5:]))
        elif line.startswith(b"-ERR"):
            await client.said(line[4:].decode(errors="replace"))
        elif line not in (b"+OK", b""):
            raise nats.errors.ProtocolError("nats: unknown protocol")
