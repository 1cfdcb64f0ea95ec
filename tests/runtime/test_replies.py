"""Replies between workers by the log: sent together, heard by who asked, and survived troubles."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from streams.connectors.memory.log import MemoryLog
from streams.core.log import Append
from streams.core.record import Bounds, Positions, Records, TopicPartition
from streams.errors import DataError, LogUnavailable
from streams.operators.agent import Reply, Request
from streams.runtime.clock import SystemClock
from streams.runtime.replies import Replies, partition_of, replies_topic

TOPIC = replies_topic("app")


class Tricky(MemoryLog):
    """Counts appends, refuses some of them, and can't be reached for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.appended: list[Sequence[Append]] = []
        self.outages = 0
        self.too_large = b"\xff"

    async def append(self, appends: Sequence[Append]) -> Positions:
        if self.outages > 0:
            self.outages -= 1
            raise LogUnavailable("the log is away")
        if any(value is not None and self.too_large in value for each in appends for value in each.records.values):
            raise DataError("a record is too large")
        self.appended.append(appends)
        return await super().append(appends)


class Asker:
    """A worker that waits for replies."""

    def __init__(self, log: MemoryLog, name: str) -> None:
        self.name = name
        self.heard: dict[str, Reply] = {}
        self.changed = asyncio.Event()
        self.replies = Replies(log, SystemClock(), TOPIC, name, self.hear)

    def hear(self, request_id: str, reply: Reply) -> None:
        assert request_id not in self.heard
        self.heard[request_id] = reply
        self.changed.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.heard) < count:
                self.changed.clear()
                await self.changed.wait()


async def opened() -> Tricky:
    log = Tricky()
    await log.open()
    await log.create_topics([TOPIC])
    return log


def test_the_replies_of_a_commit_are_one_append_and_each_reaches_its_asker() -> None:
    async def scenario() -> None:
        log = await opened()
        askers = [Asker(log, f"worker {number}") for number in range(20)]  # more than partitions: some share one
        for asker in askers:
            await asker.replies.listen()
        sender = Asker(log, "sender")
        sender.replies.send([(Request(f"of {each.name}", each.name), Reply([each.name])) for each in askers])
        for asker in askers:
            await asker.until(1)
            assert asker.heard == {f"of {asker.name}": Reply([asker.name])}
        assert len(log.appended) == 1
        for asker in (*askers, sender):
            await asker.replies.close()

    asyncio.run(scenario())


def test_what_was_said_before_the_first_question_is_not_heard() -> None:
    async def scenario() -> None:
        log = await opened()
        asker = Asker(log, "one")
        asker.replies.send([(Request("early", "one"), Reply([1]))])
        await asker.replies.close()
        later = Asker(log, "one")
        await later.replies.listen()
        later.replies.send([(Request("late", "one"), Reply([2]))])
        await later.until(1)
        assert later.heard == {"late": Reply([2])}
        await later.replies.close()

    asyncio.run(scenario())


def test_one_reply_that_the_log_refuses_becomes_an_error_and_the_others_get_through() -> None:
    async def scenario() -> None:
        log = await opened()
        asker = Asker(log, "one")
        await asker.replies.listen()
        sent = [Reply([1]), Reply([log.too_large]), Reply([3])]
        asker.replies.send([(Request(str(number), "one"), reply) for number, reply in enumerate(sent)])
        await asker.until(3)
        assert (asker.heard["0"], asker.heard["2"]) == (Reply([1]), Reply([3]))
        assert asker.heard["1"].error == "the reply can't be sent: a record is too large"
        await asker.replies.close()

    asyncio.run(scenario())


def test_an_outage_is_waited_out_and_then_given_up_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        log = await opened()
        asker = Asker(log, "one")
        await asker.replies.listen()
        log.outages = 2
        asker.replies.send([(Request("a", "one"), Reply([1]))])
        await asker.until(1)
        log.outages = 100
        asker.replies.send([(Request("b", "one"), Reply([2]))])
        await asker.replies.close()
        assert set(asker.heard) == {"a"}

    asyncio.run(scenario())
    assert "1 replies couldn't be sent" in caplog.text


def test_a_listener_goes_on_where_it_was_after_an_outage() -> None:
    class Flaky(Tricky):
        def __init__(self) -> None:
            super().__init__()
            self.read = 0

        def reader(self, positions: Positions) -> Any:
            inner = super().reader(positions)
            log = self

            class Reader:
                async def fetch(self, partitions: Collection[TopicPartition], **how: Any) -> Any:
                    log.read += 1
                    if log.read % 2 == 0:
                        raise LogUnavailable("the log is away")
                    return await inner.fetch(partitions, **how)

                def ends(self) -> Positions:
                    return inner.ends()

                async def close(self) -> None:
                    await inner.close()

            return Reader()

    async def scenario() -> None:
        log = Flaky()
        await log.open()
        await log.create_topics([TOPIC])
        asker = Asker(log, "one")
        await asker.replies.listen()
        for number in range(3):
            asker.replies.send([(Request(str(number), "one"), Reply([number]))])
            await asker.until(number + 1)
        assert log.read > 2
        await asker.replies.close()

    asyncio.run(scenario())


def test_who_cant_listen_is_told_why_and_may_try_again() -> None:
    class Away(Tricky):
        async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
            if self.outages > 0:
                self.outages -= 1
                raise LogUnavailable("the log is away")
            return await super().bounds(partitions)

    async def scenario() -> None:
        log = Away()
        await log.open()
        await log.create_topics([TOPIC])
        log.outages = 1
        asker = Asker(log, "one")
        with pytest.raises(LogUnavailable, match="the log is away"):
            await asker.replies.listen()
        await asker.replies.listen()
        asker.replies.send([(Request("a", "one"), Reply([1]))])
        await asker.until(1)
        await asker.replies.close()

    asyncio.run(scenario())


def test_a_record_that_is_no_reply_is_passed_over() -> None:
    async def scenario() -> None:
        log = await opened()
        asker = Asker(log, "one")
        await asker.replies.listen()
        at = partition_of(TOPIC, "one")
        junk = Records(
            [b"one", None, b"one"], [b"\xc1junk", b"x", None], [1, 1, 1], [(("streams.reply", b"a"),), None, None]
        )
        await log.append([Append(at, junk)])
        asker.replies.send([(Request("b", "one"), Reply([1]))])
        await asker.until(1)
        assert asker.heard == {"b": Reply([1])}
        await asker.replies.close()

    asyncio.run(scenario())
