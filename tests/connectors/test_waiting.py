"""A loop that waits always gives others their turn, also when all of its steps fail at once."""

from __future__ import annotations

import asyncio
from typing import Any

from streams.connectors.jetstream.membership import JetStreamMembership
from streams.connectors.waiting import Wake
from streams.core.membership import Member, TaskRef, Wanted
from streams.errors import LogUnavailable

SPINS = 10_000
PATIENCE_S = 120.0


def test_a_wake_up_that_is_there_already_ends_one_wait_which_suspends_all_the_same() -> None:
    async def main() -> None:
        wake, turns = Wake(), 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        others = asyncio.create_task(other())
        for number in range(1, 10):
            wake.set()
            wake.set()
            await wake.wait(PATIENCE_S)
            assert turns >= number, "a wait ran on without a turn for the other"
        waiting = asyncio.create_task(wake.wait(PATIENCE_S))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done(), "a wake-up was there for two waits"
        wake.set()
        await waiting
        others.cancel()

    asyncio.run(main())


def test_after_a_failure_no_wake_up_ends_the_pause() -> None:
    async def main() -> None:
        wake, loop = Wake(), asyncio.get_running_loop()
        began = loop.time()
        wake.set()
        await wake.wait(0.2, least_s=0.1)
        assert loop.time() >= began + 0.1

    asyncio.run(main())


def test_after_a_failure_others_that_are_heard_end_the_pause() -> None:
    async def main() -> None:
        wake = Wake()
        async with asyncio.timeout(PATIENCE_S):
            waiting = asyncio.create_task(wake.wait(3600, least_s=3600))
            await asyncio.sleep(0)
            wake.set_by_others()
            await waiting

    asyncio.run(main())


class Away:
    """A connection to a server that is away: whatever is asked fails at once, without a turn for anybody else."""

    url = "nats://away"

    def __init__(self) -> None:
        self.asked = 0
        self.connection = self

    async def subscribe(self, subject: str, handler: Any) -> Away:
        return self

    async def close(self) -> None:
        """As a subscription."""

    async def write(self, data: bytes) -> None:
        """Nobody hears it."""

    async def publish(self, *_: Any, **__: Any) -> int:
        self.asked += 1
        assert self.asked < SPINS, "it asks again and again, and nobody else has a turn"
        raise LogUnavailable("not connected")


def test_a_membership_whose_server_is_away_leaves_the_loop_to_others_whatever_wakes_it() -> None:
    async def main() -> None:
        away = Away()
        wanted = Wanted([TaskRef("app", 1, "app.lines-0")])
        times: dict[str, Any] = {"session_s": 3600, "beat_s": 600.0}  # the pause is longer than any test
        membership = JetStreamMembership(away, "app", Member(), wanted, **times)  # type: ignore[arg-type]
        following = asyncio.ensure_future(anext(aiter(membership.assignments())))
        for _ in range(1000):
            membership.report((), ())  # as tasks do that stop, one after the other
            await asyncio.sleep(0)
        assert not following.done(), following
        assert away.asked == 1
        following.cancel()
        await membership.close()

    asyncio.run(main())
