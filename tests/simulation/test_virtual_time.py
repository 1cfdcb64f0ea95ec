"""The loop of virtual time."""

from __future__ import annotations

import asyncio

from streams.testing.loop import VirtualLoop

END_S = 1.1
JUST_BEFORE_S = 1.0999999999999999


def test_whoever_begins_something_and_waits_for_next_to_nothing_gets_there() -> None:
    loop = VirtualLoop()

    async def scenario() -> int:
        await asyncio.sleep(JUST_BEFORE_S)
        never = loop.create_future()
        waits = 0
        while loop.time() < END_S and waits < 1000:
            begun = asyncio.ensure_future(asyncio.sleep(0))
            await asyncio.wait([never], timeout=END_S - loop.time())
            await begun
            waits += 1
        return waits

    try:
        assert loop.run_until_complete(scenario()) < 1000
    finally:
        loop.close()
