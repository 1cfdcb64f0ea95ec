"""The stream of notes beside streams of others: what happens when somebody removes it."""

from __future__ import annotations

import asyncio

import nats as nats_py
import pytest

from streams.connectors.jetstream.foreign import ForeignJetStream
from streams.errors import DataError
from streams.testing.log_scenarios import append
from tests.brokers.nats.server import NatsServer
from tests.runtime.test_delivery import BOX, OUTBOX, deliver, opened


def test_a_delivery_does_not_begin_again_in_silence_when_the_stream_of_notes_is_gone(nats_own: NatsServer) -> None:
    async def run() -> None:
        client = await nats_py.connect(nats_own.url)
        stream = client.jetstream(timeout=30)
        await stream.add_stream(name="alerts", subjects=["a"])
        log, target = await opened(), ForeignJetStream(nats_own.url.replace("nats://", "jetstream://"))
        await target.open()
        await log.create_topics([OUTBOX.topic])
        await log.append([append(BOX, b"1", b"2")])
        await deliver(log, target)
        await stream.delete_stream("S-=out")
        with pytest.raises(DataError, match=r"knows of no delivery to alerts.*S-=out.*backup.*streams reset"):
            await deliver(log, target)
        assert (await stream.stream_info("alerts")).state.messages == 2
        await target.close()
        await log.close()
        await client.close()

    asyncio.run(run())
