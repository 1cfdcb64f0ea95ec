"""What an app has published goes out again only where nobody can know that it arrived: through errors and stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from streams import App
from streams.connectors.memory.broker import MemoryBroker
from streams.connectors.memory.log import MemoryLog
from streams.connectors.mqtt.config import MqttConfig
from streams.connectors.mqtt.errors import ConnectionLost, Unsendable
from streams.connectors.mqtt.packets import Connack, Puback, Publish
from streams.core.record import Records
from streams.runtime.clock import SystemClock
from streams.runtime.worker import Worker
from streams.testing.driver import MemoryStores
from tests.connectors.mqtt.fake import Peer, broker
from tests.connectors.mqtt.test_edge import PATIENCE_S, edge_at, heard, keeper, outlet_at


@asynccontextmanager
async def publishing(config: MqttConfig, settings: str, count: int) -> AsyncIterator[Worker]:
    """An app that publishes so many numbers."""
    app = App("shop", partitions=1)
    app.stream("readings", value=int).to(app.topic(f"{config.shown}/out?{settings}", value=int))
    log = MemoryLog(MemoryBroker())
    await log.open()
    async with asyncio.timeout(PATIENCE_S), Worker(app, log, MemoryStores(), SystemClock()).working() as worker:
        await app.topic("readings", value=int).send_many([(None, number) for number in range(count)])
        yield worker


def test_a_message_that_makes_the_broker_hang_up_sends_nothing_before_it_again() -> None:
    acknowledged: list[int] = []
    tries = 0
    twice = asyncio.Event()

    async def behave(peer: Peer) -> None:
        nonlocal tries
        await peer.accept()
        while isinstance(packet := await heard(peer), Publish):
            if packet.payload == b"2500":  # as brokers of 3.1.1 do with what is too large for them
                tries += 1
                if tries == 2:
                    twice.set()
                return
            acknowledged.append(int(packet.payload))
            await peer.say(Puback(packet.packet_id))

    async def main() -> None:
        async with broker(behave) as config, publishing(config, "qos=1", 2501):
            await twice.wait()
        assert acknowledged[:1000] == list(range(1000))
        assert acknowledged.count(0) == acknowledged.count(1500) == 1
        assert set(acknowledged) == set(range(2500))

    asyncio.run(main())


def test_at_qos_0_nothing_goes_out_twice_when_the_connection_is_lost() -> None:
    came: list[int] = []
    connections = 0
    all_came = asyncio.Event()

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.accept()
        while isinstance(packet := await heard(peer), Publish):
            came.append(int(packet.payload))
            if connections == 2 and len(came) == 500:  # the first one was the look at the start
                return
            if came[-1] == 1199:
                all_came.set()

    async def main() -> None:
        async with broker(behave) as config, publishing(config, "qos=0", 1200):
            await all_came.wait()
        assert len(came) == len(set(came))
        assert came == sorted(came)

    asyncio.run(main())


def test_a_broker_that_never_acknowledges_holds_up_no_rebalance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.runtime.egress.LET_GO_S", 0.2)
    came = asyncio.Event()

    async def behave(peer: Peer) -> None:
        await peer.accept()
        while True:
            if isinstance(await heard(peer), Publish):
                came.set()

    async def main() -> None:
        async with broker(behave) as config, publishing(config, "qos=1", 5) as worker:
            await came.wait()
            [name] = worker.deliveries
            worker._stop(name)
            done, _ = await asyncio.wait({worker._running[name]}, timeout=5)
            assert done

    asyncio.run(main())


def test_a_broker_that_never_answers_connect_holds_up_no_stop_at_all() -> None:
    connections = 0
    asked = asyncio.Event()

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await peer.accept()
        else:
            await peer.read()
            asked.set()
        await peer.ended()

    async def main() -> None:
        async with broker(behave) as config, publishing(config, "qos=2&answer_timeout_s=60", 1) as worker:
            await asked.wait()
            [name] = worker.deliveries
            worker._stop(name)
            done, _ = await asyncio.wait({worker._running[name]}, timeout=2)
            assert done

    asyncio.run(main())


async def _acknowledge(peer: Peer, came: list[bytes]) -> None:
    while isinstance(packet := await heard(peer), Publish):
        came.append(packet.payload)
        await peer.say(Puback(packet.packet_id))


def test_what_stands_before_a_message_that_the_broker_doesn_t_take_is_waited_for() -> None:
    came: list[bytes] = []

    async def behave(peer: Peer) -> None:
        await peer.accept(Connack(properties={"maximum_packet_size": 1000}))
        await _acknowledge(peer, came)

    async def main() -> None:
        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            outlet = await outlet_at(edge_at(config, "qos=1"))
            with pytest.raises(Unsendable):
                await outlet.send(Records([b"a"] * 3, [b"1", b"2", bytes(2000)], [0] * 3), keeper([]))
            assert (came, outlet.sent) == ([b"1", b"2"], 2)
            with pytest.raises(Unsendable):
                await outlet.send(Records([b"a"] * 2, [bytes(2000), b"4"], [0] * 2), keeper([]))
            assert outlet.sent == 0
            await outlet.close()

    asyncio.run(main())


@pytest.mark.parametrize(("answered", "sent"), [((2, 1), 2), ((3, 2), 0), ((1, 3), 1)])
def test_what_is_acknowledged_without_a_gap_needs_not_be_sent_again(answered: tuple[int, ...], sent: int) -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept()
        packets = [await heard(peer) for _ in range(3)]
        for number in answered:
            packet = packets[number - 1]
            assert isinstance(packet, Publish)
            await peer.say(Puback(packet.packet_id))

    async def main() -> None:
        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            outlet = await outlet_at(edge_at(config, "qos=1"))
            with pytest.raises(ConnectionLost):
                await outlet.send(Records([b"a"] * 3, [b"1", b"2", b"3"], [0] * 3), keeper([]))
            assert outlet.sent == sent
            await outlet.close()

    asyncio.run(main())
