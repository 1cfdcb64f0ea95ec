"""The ways in which a network is away: it refuses, resets, closes one half, delays, swallows.

What must live here: what TCP can do to a client, as a state of the whole network.  What must not: brokers, or what is
expected of a client.

=============  ================================================  ==================================================
state          connections that are there                        those that come meanwhile
=============  ================================================  ==================================================
``refuse``     are closed                                        find nobody
``reset``      are reset                                         are taken, and reset
``half-close`` the client reads an end; nobody reads from it     the same
``delay``      each chunk takes its time, either way             the same
``swallow``    nothing comes through any more, for ever          are taken, and nothing ever comes through
=============  ================================================  ==================================================

As after a real outage of a network, a connection that it has swallowed or half closed stays as it is when the network
is back: only new ones work.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Literal, get_args

from tests.guarantees.relay import Link, Relay, Way

__all__ = ["STATES", "Network", "State"]

State = Literal["refuse", "reset", "half-close", "delay", "swallow"]
STATES: tuple[State, ...] = get_args(State)
DELAY_S = 0.4
"""Of each chunk, either way: a request and its answer take twice that."""
AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets."""


class Network(Relay):
    """In order, until it is told to be in a ``State``; ``None`` is in order again."""

    def __init__(self, front: int, behind: int) -> None:
        super().__init__(front, behind)
        self._state: State | None = None
        self._lost: set[Link] = set()

    def turn(self, state: State | None) -> None:
        """It is so when this returns."""
        self.asked(self._turn(state))

    async def _turn(self, state: State | None) -> None:
        self._state = state
        if state == "refuse":
            self.refuse()
        else:
            await self.listen()
        for link in list(self.links):
            self._befall(link)
        while state == "refuse" and self.links:  # noqa: ASYNC110 - each goes in a turn or two
            await asyncio.sleep(0.001)

    def _befall(self, link: Link) -> None:
        match self._state:
            case "refuse":
                link.done.set()
            case "reset":
                connection: socket.socket = link.client.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
                link.client.transport.abort()
                link.done.set()
            case "half-close":
                self._lost.add(link)
                if not link.client.is_closing():
                    link.client.write_eof()
            case "swallow":
                self._lost.add(link)

    # ── as of Relay ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def opened(self, link: Link) -> bool:
        self._befall(link)
        return self._state in (None, "delay")

    async def passes(self, link: Link, way: Way, chunk: bytes) -> bool:
        if self._state == "delay":
            await asyncio.sleep(DELAY_S)
        return link not in self._lost

    def ended(self, link: Link, way: Way) -> None:
        # A lost connection ends when the client gives it up, whatever the broker does.
        if way == "request" or link not in self._lost:
            self._lost.discard(link)
            link.done.set()
