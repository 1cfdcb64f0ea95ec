"""KV buckets and object stores as sources, tables and targets of apps on another log; nats-py is the other side."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.api import ObjectMeta

from streams.connectors.jetstream.foreign import ForeignJetStream
from streams.connectors.log_sink import sink_on
from streams.core.log import Append, TopicSpec
from streams.core.record import Position, Records, TopicPartition
from streams.errors import ConfigurationError, DataError, LogCorrupt
from streams.testing.log_scenarios import task_ref
from streams.testing.source_contract import batches
from tests.brokers.nats.server import NatsServer
from tests.guarantees.support import opened as on_disk

APP = Path(__file__).with_name("bucket_app.py")
PATIENCE_S = 120.0
PRICES = TopicPartition("prices", 0)
PAPERS = TopicPartition("papers", 0)
Scenario = Callable[[JetStreamContext, ForeignJetStream], Coroutine[Any, Any, None]]


def run(server: NatsServer, scheme: str, scenario: Scenario, settings: str = "") -> None:
    async def opened() -> None:
        client = await nats.connect(server.url)
        log = ForeignJetStream(f"{scheme}://{server.url.removeprefix('nats://')}{settings}")
        await log.open()
        try:
            await scenario(client.jetstream(timeout=30), log)
        finally:
            await log.close()
            await client.close()

    asyncio.run(opened())


async def pairs(
    log: ForeignJetStream, at: TopicPartition, since: Position | None = None
) -> list[tuple[bytes | None, bytes | None]]:
    return [
        pair
        for batch in await batches(log, at, since)
        for pair in zip(batch.records.keys, batch.records.values, strict=True)
    ]


def records(at: TopicPartition, *given: tuple[bytes, bytes | None]) -> list[Append]:
    keys, values = [key for key, _ in given], [value for _, value in given]
    return [Append(at, Records(list(keys), list(values), [1000] * len(given)))]


# ── KV ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bucket_begins_with_its_values_and_goes_on_with_its_changes(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        bucket = await stream.create_key_value(bucket="prices", history=5)
        await bucket.put("apple", b"1")
        await bucket.put("apple", b"2")
        await bucket.put("pear.green", b"3")
        await bucket.put("fig", b"4")
        await bucket.delete("fig")
        assert await pairs(log, PRICES) == [(b"apple", b"2"), (b"pear.green", b"3"), (b"fig", None)]
        end = (await log.bounds([PRICES]))[PRICES].end
        await bucket.purge("apple")
        await bucket.put("pear.green", b"5")
        await bucket.put("pear.green", b"6")
        assert await pairs(log, PRICES, end) == [(b"apple", None), (b"pear.green", b"5"), (b"pear.green", b"6")]

    run(nats_own, "nats-kv", scenario)


def test_a_bucket_can_be_read_with_its_history(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        bucket = await stream.create_key_value(bucket="prices", history=5)
        await bucket.put("apple", b"1")
        await bucket.put("apple", b"2")
        assert await pairs(log, PRICES) == [(b"apple", b"1"), (b"apple", b"2")]

    run(nats_own, "nats-kv", scenario, "?start=earliest")


def test_what_is_written_to_a_bucket_are_its_values(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        bucket = await stream.create_key_value(bucket="prices")
        await log.create_topics([TopicSpec("prices")])
        writer = await sink_on(log, "prices").fence(task_ref(0))
        await writer.deliver(records(PRICES, (b"apple", b"1"), (b"fig", b"2"), (b"apple", b"3")), b"p")
        await writer.deliver(records(PRICES, (b"fig", None), (b"a b", b"4")), b"q")
        assert (await bucket.get("apple")).value == b"3"
        with pytest.raises(nats.js.errors.KeyNotFoundError):
            await bucket.get("fig")
        assert (await bucket.get("a=20b")).value == b"4"
        # Read back, the key is the one that it was written with.
        assert await pairs(log, PRICES) == [(b"apple", b"3"), (b"fig", None), (b"a b", b"4")]

    run(nats_own, "nats-kv", scenario)


def test_a_value_that_somebody_else_has_written_since_isn_t_overwritten_by_a_repetition(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        bucket = await stream.create_key_value(bucket="prices")
        await log.create_topics([TopicSpec("prices")])
        writer = await sink_on(log, "prices").fence(task_ref(0))
        await writer.deliver(records(PRICES, (b"apple", b"1")), b"")
        stale = writer._held.position  # type: ignore[attr-defined]
        # The next owner knows only of the position before: as if it had died before it noted the new one.
        await bucket.put("apple", b"theirs")
        owner = await sink_on(log, "prices").fence(task_ref(0))
        assert owner.delivered == stale == b""
        assert (await bucket.get("apple")).value == b"theirs"

    run(nats_own, "nats-kv", scenario)


# ── objects ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_object_is_a_record_with_its_content(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        store = await stream.create_object_store("papers")
        large = bytes(range(256)) * 2_000
        await store.put("large", large)
        await store.put("small", b"old")
        await store.put("small", b"new", meta=ObjectMeta(name="small", description="new", headers={"X-By": "us"}))
        await store.put("gone", b"x")
        await store.delete("gone")
        await store.put("empty", b"")
        assert await pairs(log, PAPERS) == [(b"large", large), (b"small", b"new"), (b"gone", None), (b"empty", b"")]
        (small,) = [
            dict(headers or ())
            for batch in await batches(log, PAPERS)
            for key, headers in zip(batch.records.keys, batch.records.headers or (), strict=True)
            if key == b"small"
        ]
        assert small["Nats-Object-Size"] == b"3"
        assert small["Nats-Object-Digest"].startswith(b"SHA-256=")

    run(nats_own, "nats-object", scenario)


def test_an_object_above_the_limit_and_one_with_a_wrong_digest_are_reported(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        store = await stream.create_object_store("papers")
        await store.put("large", b"x" * 101)
        with pytest.raises(DataError, match="object 'large' has 101 bytes, and max_object_bytes is 100"):
            await pairs(log, PAPERS)
        await store.delete("large")
        info = await store.put("torn", b"right")
        await stream.purge_stream("OBJ_papers", subject=f"$O.papers.C.{info.nuid}")
        await stream.publish(f"$O.papers.C.{info.nuid}", b"wrong")
        with pytest.raises(LogCorrupt, match="the content of object 'torn' isn't what its digest says"):
            await pairs(log, PAPERS)

    run(nats_own, "nats-object", scenario, "?max_object_bytes=100")


def test_what_is_written_to_an_object_store_are_objects(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        store = await stream.create_object_store("papers")
        await log.create_topics([TopicSpec("papers")])
        writer = await sink_on(log, "papers").fence(task_ref(0))
        large = bytes(range(256)) * 2_000
        await writer.deliver(records(PAPERS, (b"one", large), (b"two", b"2"), (b"three", b"3")), b"p")
        await writer.deliver(records(PAPERS, (b"two", b"again"), (b"three", None)), b"q")
        assert (await store.get("one")).data == large
        assert (await store.get("two")).data == b"again"
        with pytest.raises(nats.js.errors.ObjectNotFoundError):
            await store.get("three")
        assert await pairs(log, PAPERS) == [(b"one", large), (b"two", b"again"), (b"three", None)]
        # Of what was replaced and deleted no chunk is left.
        chunks = (await stream.stream_info("OBJ_papers", subjects_filter="$O.papers.C.>")).state.subjects
        assert len(chunks or {}) == 2

    run(nats_own, "nats-object", scenario)


def test_a_bucket_that_isn_t_there_is_no_topic_to_be_made(nats_own: NatsServer) -> None:
    async def scenario(stream: JetStreamContext, log: ForeignJetStream) -> None:
        with pytest.raises(ConfigurationError, match="there is no stream 'KV_prices'; create it first"):
            await log.create_topics([TopicSpec("prices")])

    run(nats_own, "nats-kv", scenario)


# ── an app ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_app_joins_with_a_bucket_and_writes_to_a_bucket_and_an_object_store(
    nats_own: NatsServer, tmp_path: Path
) -> None:
    place = nats_own.url.removeprefix("nats://")

    def work() -> None:
        command = [
            sys.executable,
            "-m",
            "streams",
            "worker",
            "-A",
            f"{APP}:app",
            "--log",
            f"embedded:{tmp_path / 'log'}",
        ]
        done = subprocess.run(
            [*command, "--until-idle"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NATS": place},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    async def order(*orders: tuple[bytes, bytes]) -> None:
        async with on_disk(tmp_path / "log") as log:
            await log.create_topics([TopicSpec("orders")])
            await log.append(records(TopicPartition("orders", 0), *orders))

    async def bills(prices: dict[str, bytes | None]) -> dict[str, bytes]:
        client = await nats.connect(nats_own.url)
        stream = client.jetstream(timeout=30)
        try:
            bucket = await stream.key_value("prices")
            for key, price in prices.items():
                await (bucket.delete(key) if price is None else bucket.put(key, price))
            found = await stream.key_value("bills")
            keys = await found.keys() if (await found.status()).values else []
            return {key: (await found.get(key)).value or b"" for key in keys}
        finally:
            await client.close()

    async def make() -> None:
        client = await nats.connect(nats_own.url)
        stream = client.jetstream(timeout=30)
        for name in ("prices", "bills"):
            await stream.create_key_value(bucket=name)
        await stream.create_object_store("papers")
        await client.close()

    asyncio.run(make())
    assert asyncio.run(bills({"apple": b"3", "fig": b"5"})) == {}
    work()  # the table is filled before anything is looked up in it
    asyncio.run(order((b"apple", b"2"), (b"pear", b"1")))
    work()
    assert asyncio.run(bills({"apple": b"4", "fig": None, "pear": b"7"})) == {"apple": b"6"}
    work()
    asyncio.run(order((b"apple", b"10"), (b"fig", b"10"), (b"pear", b"10")))
    work()
    assert asyncio.run(bills({})) == {"apple": b"40", "pear": b"70"}

    async def papers() -> dict[str, bytes]:
        client = await nats.connect(nats_own.url)
        store = await client.jetstream(timeout=30).object_store("papers")
        found = {each.name: (await store.get(each.name)).data or b"" for each in await store.list()}
        await client.close()
        return found

    assert asyncio.run(papers()) == {"apple": b"40", "pear": b"70"}
