"""What ingress does with a message that the log can't hold, with a log that fails, and with a transport that doesn't
answer at a stop.  In virtual time, on a log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from streams import App
from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog
from streams.core.capability import Derived, Guarantee, Limits
from streams.core.edge import Received
from streams.core.log import TaskRef, TopicSpec
from streams.core.policy import Action
from streams.core.record import Records, TopicPartition
from streams.dsl.foreign import Journal
from streams.errors import DataError, LogUnavailable
from streams.runtime.clock import SystemClock
from streams.runtime.ingress import Ingress
from streams.runtime.stopping import LET_GO_S
from streams.runtime.worker import Worker
from streams.testing.driver import MemoryStores
from tests.runtime.test_egress_errors import run, until
from tests.runtime.transport import Transport

AT = TopicPartition("shop.readings.journal", 0)
JOURNAL = Journal(
    TopicSpec(AT.topic, 1, "journal"), TopicSpec("readings", 1, location="fake://there", address="readings")
)
MOST = 1000


class Edge(Transport):
    """One whose intakes hand out ``come``, as it is filled.  hangs: receiving takes for ever, and gives nothing."""

    def __init__(self, come: Sequence[bytes] = ()) -> None:
        super().__init__(come)
        self.hangs = False
        self.at_end: list[bytes] = []
        self.acknowledged = 0
        self.lost = 0
        self.in_ = Guarantee.AT_LEAST_ONCE

    def guarantee(self, *, written: bool) -> Derived:
        return Derived(self.in_, "")

    async def intake(self, source: TopicSpec, group: str, partition: int, state: bytes | None) -> Intake:  # type: ignore[override]
        return Intake(self)


class Intake:
    def __init__(self, edge: Edge) -> None:
        self.edge = edge

    @property
    def lost(self) -> int:
        return self.edge.lost

    async def receive(self, *, max_records: int, max_bytes: int, wait_s: float) -> Received | None:
        some, self.edge.come = self.edge.come, []
        if some:
            return Received(Records([b"here"] * len(some), list(some), [5] * len(some)))
        if self.edge.hangs:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(wait_s)
        return None

    async def stored(self) -> None:
        self.edge.acknowledged += 1

    async def end(self) -> None:
        self.edge.hangs = False
        self.edge.come += self.edge.at_end

    async def close(self) -> None: ...


async def ingress_on(edge: Edge) -> tuple[Ingress, MemoryLog]:
    log = MemoryLog(MemoryBroker(), limits=Limits(max_record_bytes=MOST))
    await log.open()
    await log.create_topics([JOURNAL.topic])
    return Ingress(TaskRef("shop", 1, f"{AT.topic}-0"), log, edge, JOURNAL, 0, 1), log


def journaled(log: MemoryLog, at: TopicPartition = AT) -> list[bytes | None]:
    return list(log.broker.partition(at).values)


def test_a_message_that_the_log_can_t_hold_is_an_error_that_is_acknowledged_by_nobody() -> None:
    async def work() -> None:
        edge = Edge([b"1", bytes(MOST + 1), b"3"])
        ingress, log = await ingress_on(edge)
        with pytest.raises(
            DataError, match=r"fake://there: a message of 1005 bytes came under 'here', .* at most 1000"
        ):
            await ingress.run()
        assert (journaled(log), edge.acknowledged) == ([], 0)

    run(work())


def test_where_it_is_skipped_it_is_counted_said_and_acknowledged_and_the_others_are_stored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        edge = Edge([b"1", bytes(MOST + 1), b"3"])
        ingress, log = await ingress_on(edge)
        counts: list[int] = []
        ingress.skipped = counts.append
        running = asyncio.create_task(ingress.run())
        await until(lambda: ingress.caught_up)
        edge.come = [bytes(MOST + 2)]
        await until(lambda: len(counts) == 2)
        ingress.stop()
        await running
        assert (journaled(log), counts, edge.acknowledged, ingress.received) == ([b"1", b"3"], [1, 1], 2, 2)

    run(work())
    assert "a message of 1005 bytes came under 'here', and the log takes records of at most 1000; it is skipped" in (
        caplog.text
    )


@pytest.mark.parametrize("policy", ["skip", "dead_letter"])
def test_a_stream_that_goes_on_after_errors_goes_on_after_a_message_that_is_too_large(policy: Action) -> None:
    async def work() -> None:
        log = MemoryLog(MemoryBroker(), limits=Limits(max_record_bytes=MOST))
        await log.open()
        app = App("shop", commit_interval="20ms")
        app.stream(app.topic("nats://there/numbers", value=int), on_error=policy).to("seen")
        edge = Edge([b"1", bytes(MOST + 1), b"3"])
        async with Worker(app, log, MemoryStores(), SystemClock(), connect_edge=edge).working() as worker:
            await until(lambda: worker.caught_up and len(journaled(log, TopicPartition("seen", 0))) == 2)
            worker.check()
            [task] = worker.ingresses
            skipped = worker.metrics.registry.get_sample_value("streams_skipped_total", {"app": "shop", "task": task})
            assert skipped == 1

    asyncio.run(asyncio.wait_for(work(), 60))


@pytest.mark.parametrize(("heard", "ends_after_s"), [(True, LET_GO_S), (False, 0.0)])
def test_a_transport_that_doesn_t_answer_holds_up_a_stop_for_seconds_and_while_it_connects_for_none(
    heard: bool, ends_after_s: float
) -> None:
    async def work() -> None:
        edge = Edge([b"1"] if heard else [])
        edge.hangs = True
        edge.at_end = [b"2"]
        ingress, log = await ingress_on(edge)
        running = asyncio.create_task(ingress.run())
        await until(lambda: edge.acknowledged == heard and not ingress.connecting)
        assert ingress.phase == ("receiving" if heard else "connecting")
        stopped_at = asyncio.get_running_loop().time()
        ingress.stop()
        ingress.stop()
        await running
        assert asyncio.get_running_loop().time() - stopped_at == pytest.approx(ends_after_s, abs=0.01)
        assert journaled(log) == ([b"1", b"2"] if heard else [b"2"]), "what has come is stored all the same"

    run(work())


@pytest.mark.parametrize(("guarantee", "dropped"), [(Guarantee.AT_MOST_ONCE, [2, 3]), (Guarantee.EXACTLY_ONCE, [3])])
def test_what_nobody_sends_again_is_counted_when_the_log_fails(
    guarantee: Guarantee, dropped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        edge = Edge()
        edge.in_ = guarantee
        ingress, _ = await ingress_on(edge)
        counts: list[int] = []
        ingress._dropped = counts.append
        running = asyncio.create_task(ingress.run())
        await until(lambda: ingress.caught_up)

        async def away(*_: object) -> None:
            edge.lost += 3  # meanwhile
            raise LogUnavailable("the log is away")

        monkeypatch.setattr("streams.connectors.memory.log.MemoryTaskWriter.commit", away)
        edge.come = [b"1", b"2"]
        await until(lambda: 3 in counts)
        ingress.stop()
        await running
        assert counts == dropped
        assert ingress.lost == sum(dropped)

    run(work())


def test_what_stood_still_before_a_new_beginning_is_not_taken_for_caught_up() -> None:
    async def work() -> None:
        edge = Edge()
        ingress, log = await ingress_on(edge)
        running = asyncio.create_task(ingress.run())
        await until(lambda: ingress.caught_up)
        edge.hangs = True
        await log.fence(TaskRef("shop", 1, f"{AT.topic}-0"))
        edge.come = [b"1"]
        await until(lambda: ingress.connecting)
        await until(lambda: not ingress.connecting)
        assert not ingress.caught_up
        ingress.stop()
        await running

    run(work())
