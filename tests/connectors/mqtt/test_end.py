"""What has come by the time that an intake is told to end is handed out, and acknowledged."""

from __future__ import annotations

import asyncio

import pytest

from streams.connectors.mqtt.intake import MqttIntake
from streams.connectors.mqtt.packets import Disconnect, Puback, Publish, Pubrec
from tests.connectors.mqtt.fake import Peer, broker
from tests.connectors.mqtt.test_edge import PATIENCE_S, Journal, edge_at, intake_at, welcome


async def first(intake: MqttIntake) -> list[bytes | None]:
    """The first messages, at most 10: the others have come by then, and wait."""
    while True:
        received = await intake.receive(max_records=10, max_bytes=10_000, wait_s=0.1)
        if received is not None:
            await intake.stored()
            if len(received.records):
                return received.records.values


async def rest(intake: MqttIntake) -> list[bytes | None]:
    found: list[bytes | None] = []
    while (received := await intake.receive(max_records=10, max_bytes=10_000, wait_s=0.0)) is not None:
        found += received.records.values
        await intake.stored()
    return found


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_has_come_before_the_end_is_handed_out_and_acknowledged(qos: int) -> None:
    messages = [Publish("in/1", b"%d" % number, qos, packet_id=number + 1 if qos else 0) for number in range(50)]
    answers: list[int] = []

    async def behave(peer: Peer) -> None:
        await welcome(peer, present=False)
        await peer.say(*messages)
        while not isinstance(packet := await peer.read(), Disconnect):
            if isinstance(packet, Puback | Pubrec):
                answers.append(packet.packet_id)

    async def main() -> None:
        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            intake = await intake_at(edge_at(config, f"qos={qos}"))
            found = await first(intake)
            await intake.end()
            found += await rest(intake)
            await intake.close()
            assert found == [message.payload for message in messages]

    asyncio.run(main())
    assert answers == ([message.packet_id for message in messages] if qos else [])


def test_what_comes_after_the_end_waits_for_who_is_next() -> None:
    ended = asyncio.Event()

    async def behave(peer: Peer) -> None:
        await welcome(peer, present=False)
        await peer.say(Publish("in/1", b"before", 1, packet_id=1))
        await ended.wait()
        await peer.say(Publish("in/1", b"after", 1, packet_id=2))
        answers = []
        while not isinstance(packet := await peer.read(), Disconnect):
            answers += [packet.packet_id] if isinstance(packet, Puback) else []
        assert answers == [1]

    async def main() -> None:
        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            intake = await intake_at(edge_at(config, "qos=1"))
            assert await first(intake) == [b"before"]
            await intake.end()
            ended.set()
            assert intake._connection is not None
            while not intake._connection._events:  # noqa: ASYNC110  # it has come, and nobody has looked
                await asyncio.sleep(0)
            assert await rest(intake) == []
            await intake.close()

    asyncio.run(main())


def test_who_is_told_to_end_before_it_has_connected_connects_no_more() -> None:
    async def behave(peer: Peer) -> None:
        raise AssertionError("it connected")

    async def main() -> None:
        async with broker(behave) as config, asyncio.timeout(PATIENCE_S):
            intake, journal = await intake_at(edge_at(config, "qos=1")), Journal()
            assert await journal.store(intake) is not None, "that it is about to connect"
            await intake.stored()
            await intake.end()
            assert await rest(intake) == []
            await intake.close()

    asyncio.run(main())
