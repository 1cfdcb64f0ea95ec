"""The contract of a sink, as tests that the author of one subclasses: delivering to what is outside of the log.

What must live here: what a delivery task relies on (protocol 17).  What must not: anything of one target.  Needs
pytest.

    class TestMySink(SinkContract):
        @asynccontextmanager
        async def sinks(self):
            yield sink, read            # an open sink whose target has the topic "alerts" with one partition, and
                                        # async read(): the values that the target has, in order
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from streams.core.log import Append, Sink
from streams.core.record import Records, TopicPartition
from streams.errors import Fenced
from streams.testing.log_scenarios import task_ref

__all__ = ["ALERTS", "Read", "SinkContract"]

Read = Callable[[], Awaitable[list[bytes | None]]]

ALERTS = TopicPartition("alerts", 0)


def alerts(*values: bytes) -> list[Append]:
    return [Append(ALERTS, Records([b"key"] * len(values), list(values), [1000] * len(values)))]


class SinkContract:
    """Subclass it and implement ``sinks``; pytest does the rest."""

    def sinks(self) -> AbstractAsyncContextManager[tuple[Sink, Read]]:
        """A new sink, open, and what reads its target."""
        raise NotImplementedError

    def run(self, scenario: Callable[[Sink, Read], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with self.sinks() as (sink, read):
                await scenario(sink, read)

        asyncio.run(opened())

    def test_a_target_that_was_never_delivered_to_has_no_position(self) -> None:
        async def scenario(sink: Sink, read: Read) -> None:
            writer = await sink.fence(task_ref(0))
            assert writer.delivered is None
            await writer.close()

        self.run(scenario)

    def test_what_is_delivered_arrives_in_order(self) -> None:
        async def scenario(sink: Sink, read: Read) -> None:
            writer = await sink.fence(task_ref(0))
            await writer.deliver(alerts(b"1", b"2"), b"after 2")
            await writer.deliver(alerts(b"3"), b"after 3")
            assert await read() == [b"1", b"2", b"3"]
            await writer.close()

        self.run(scenario)

    def test_the_position_is_read_from_the_target_by_the_next_owner(self) -> None:
        async def scenario(sink: Sink, read: Read) -> None:
            writer = await sink.fence(task_ref(0))
            await writer.deliver(alerts(b"1"), b"after 1")
            await writer.close()
            assert (await sink.fence(task_ref(0))).delivered == b"after 1"

        self.run(scenario)

    def test_a_stale_owner_delivers_nothing(self) -> None:
        async def scenario(sink: Sink, read: Read) -> None:
            if not sink.capabilities.fences:
                pytest.skip("it declares that it doesn't fence")
            stale = await sink.fence(task_ref(0))
            await stale.deliver(alerts(b"1"), b"after 1")
            owner = await sink.fence(task_ref(0))
            with pytest.raises(Fenced):
                await stale.deliver(alerts(b"2"), b"after 2")
            assert owner.delivered == b"after 1"
            await owner.deliver(alerts(b"2"), b"after 2")
            assert await read() == [b"1", b"2"]

        self.run(scenario)

    def test_the_positions_of_two_deliveries_are_kept_apart(self) -> None:
        async def scenario(sink: Sink, read: Read) -> None:
            one, other = await sink.fence(task_ref(1)), await sink.fence(task_ref(2))
            await one.deliver(alerts(b"1"), b"one")
            await other.deliver(alerts(b"2"), b"other")
            assert ((await sink.fence(task_ref(1))).delivered, (await sink.fence(task_ref(2))).delivered) == (
                b"one",
                b"other",
            )

        self.run(scenario)
