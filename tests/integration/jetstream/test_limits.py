"""Limits of the server: a commit is refused whole, and goes on when there is room; what is too large isn't sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import nats as nats_py
import pytest

from streams.connectors.jetstream.compaction import Policy, compact
from streams.connectors.jetstream.foreign import ForeignJetStream
from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.names import app_stream
from streams.connectors.log_sink import sink_on
from streams.core.log import Append, Commit, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.errors import ConfigurationError, DataError, LogUnavailable
from streams.testing.log_scenarios import append, task_ref, values_of
from tests.brokers.nats.server import NatsServer

PATIENCE_S = 60.0
GROUP = "limits"
OUT, INNER = TopicPartition("limits-out", 0), TopicPartition(f"{GROUP}.inner", 0)


def test_a_limit_of_the_stream_of_an_app_refuses_a_commit_whole(nats: NatsServer) -> None:
    async def run() -> None:
        log = JetStreamLog(nats.url)
        await log.open()
        await log.create_topics([TopicSpec(OUT.topic), TopicSpec(INNER.topic, kind="repartition", owner=GROUP)])
        writer = await log.fence(task_ref(1, GROUP))
        await writer.commit(Commit(b"1", [append(OUT, b"1"), append(INNER, b"1")]))
        config = (await log._api.call(f"STREAM.INFO.{app_stream(GROUP)}"))["config"]
        await log._api.call(f"STREAM.UPDATE.{app_stream(GROUP)}", {**config, "max_bytes": 100_000})
        with pytest.raises(LogUnavailable, match=r"nothing was stored: maximum bytes exceeded"):
            await writer.commit(Commit(b"2", [append(OUT, *[bytes(9_000)] * 30), append(INNER, b"2")]))
        await log._api.call(f"STREAM.UPDATE.{app_stream(GROUP)}", {**config, "max_bytes": -1})
        writer = await log.fence(task_ref(1, GROUP))
        assert writer.checkpoint == b"1"
        await writer.commit(Commit(b"2", [append(OUT, b"2"), append(INNER, b"2")]))
        assert await values_of(log, OUT) == [b"1", b"2"]
        assert await values_of(log, INNER) == [b"1", b"2"]
        await log.close()

    asyncio.run(run())


def test_a_server_whose_storage_is_used_up_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "nats.conf").write_text("jetstream { max_file_store: 3MB }\n")
    server = NatsServer(tmp_path, "-c", str(tmp_path / "nats.conf"))
    server.start()

    async def run() -> None:
        log = JetStreamLog(server.url)
        await log.open()
        await log.create_topics([TopicSpec(OUT.topic)])

        async def append_on() -> None:
            for _ in range(40):
                await log.append([append(OUT, bytes(200_000))])

        with pytest.raises(
            LogUnavailable, match=r"nothing was stored: .*max_file_store used up; make room, and start it"
        ):
            await append_on()
        await log.close()

    try:
        asyncio.run(run())
    finally:
        server.kill()


# ── max_payload ───────────────────────────────────────────────────────────────────────────────────────────────────────

MOST = 65_536


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that takes 64 kB a message, and hangs up on whoever sends more."""
    folder = tmp_path_factory.mktemp("narrow")
    (folder / "nats.conf").write_text(f"max_payload: {MOST}\n")
    server = NatsServer(folder, "-c", str(folder / "nats.conf"))
    server.start()
    yield server
    server.kill()


def on(server: NatsServer, scene: Callable[[JetStreamLog], Awaitable[None]]) -> None:
    async def run() -> None:
        log = JetStreamLog(server.url)
        await log.open()
        async with asyncio.timeout(PATIENCE_S):
            await scene(log)
        assert log._connection.reconnects == 0, "the server hung up"
        await log.close()

    asyncio.run(run())


def test_a_record_may_be_as_large_as_the_server_s_max_payload_allows(
    narrow: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(log: JetStreamLog) -> None:
        await log.create_topics([TopicSpec(OUT.topic), TopicSpec(INNER.topic, kind="repartition", owner=GROUP)])
        most = log.limits.max_record_bytes
        assert most == MOST - 4096
        largest = most - len("key")
        assert f"max_payload is {MOST} bytes, so that a record may have {most} at most" in caplog.text
        writer = await log.fence(task_ref(1, GROUP))
        for at in (OUT, INNER):
            above = (
                rf"{most + 1} bytes, above the log's max_record_bytes={most}; .*raise the server's max_payload={MOST}"
            )
            with pytest.raises(DataError, match=above):
                await writer.commit(Commit(b"no", [append(at, bytes(largest + 1))]))
            with pytest.raises(DataError, match=rf"max_payload={MOST}"):
                await log.append([append(at, bytes(largest + 1))])
        values = [bytes(largest), *[bytes(9_000)] * 30]
        await writer.commit(Commit(b"1", [append(OUT, *values), append(INNER, *values)]))
        await writer.commit(Commit(b"2", [append(OUT, *[bytes(largest)] * 2, *[b"spilled"] * 1_200)]))
        await log.append([append(INNER, *values)])
        assert await values_of(log, OUT) == [*values, *[bytes(largest)] * 2, *[b"spilled"] * 1_200]
        assert await values_of(log, INNER) == values * 2

    on(narrow, scene)


def test_what_headers_make_too_large_is_refused_before_the_server_hangs_up(narrow: NatsServer) -> None:
    async def scene(log: JetStreamLog) -> None:
        await log.create_topics([TopicSpec(OUT.topic)])
        key = b"\r\n" * (log.limits.max_record_bytes // 2)  # it goes as base64
        writer = await log.fence(task_ref(2, GROUP))
        with pytest.raises(DataError, match=rf"the server takes {MOST} \(max_payload\)"):
            await writer.commit(Commit(b"1", [Append(OUT, Records([key], [b""], [0]))]))

    on(narrow, scene)


def test_a_checkpoint_above_max_payload_is_a_clear_error(narrow: NatsServer) -> None:
    async def scene(log: JetStreamLog) -> None:
        writer = await log.fence(task_ref(3, GROUP))
        await writer.commit(Commit(bytes(MOST - 5_000)))
        with pytest.raises(ConfigurationError, match=rf"its checkpoint has .*takes messages of {MOST} \(max_payload\)"):
            await writer.commit(Commit(bytes(MOST)))
        assert len((await log.fence(task_ref(3, GROUP))).checkpoint or b"") == MOST - 5_000

    on(narrow, scene)


def test_snapshots_fit_into_the_server_s_max_payload(narrow: NatsServer) -> None:
    state = TopicPartition(f"{GROUP}.state", 0)

    async def scene(log: JetStreamLog) -> None:
        await log.create_topics([TopicSpec(state.topic, kind="changelog", compact=True, owner=GROUP)])
        writer = await log.fence(task_ref(4, GROUP))
        keys = [b"%d" % number for number in range(60)]
        for turn in range(3):
            records = Records(list(keys), [b"%d" % turn + bytes(5_000) for _ in keys], [0] * len(keys))
            await writer.commit(Commit(b"%d" % turn, [Append(state, records)]))
        async for _ in compact(log._api, log._topics, state, 1_900_000_000_000, Policy(min_bytes=1)):
            pass
        assert (await log._topics.manifest(state))[1] is not None
        assert [value and value[:1] for value in await values_of(log, state)] == [b"2"] * len(keys)

    on(narrow, scene)


def test_what_is_too_large_for_the_server_of_a_stream_of_others_is_refused_before_it_is_sent(
    narrow: NatsServer,
) -> None:
    async def run() -> None:
        client = await nats_py.connect(narrow.url)
        await client.jetstream(timeout=30).add_stream(name="TARGET", subjects=["target"])
        at = TopicPartition("TARGET", 0)
        log = ForeignJetStream(narrow.url.replace("nats://", "jetstream://"))
        await log.open()
        await log.create_topics([TopicSpec(at.topic)])
        for size, fits in ((MOST - 300, True), (MOST - 20, False), (2 * MOST, False)):
            writer = await sink_on(log, at.topic).fence(task_ref(5, GROUP))
            sending = writer.deliver([Append(at, Records([None], [bytes(size)], [1]))], b"%d" % size)
            if fits:
                await sending
                continue
            with pytest.raises(DataError, match=rf"delivery .* to stream TARGET: .*takes {MOST} \(max_payload\)"):
                await sending
        assert (await sink_on(log, at.topic).fence(task_ref(5, GROUP))).delivered == b"%d" % (MOST - 300)
        assert log._connection.reconnects == 0, "the server hung up"
        await log.close()
        await client.close()

    asyncio.run(run())
