"""An app on JetStream, from the command line to messages that any client reads."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import nats as client
import pytest

from streams.connectors.jetstream.compaction import Policy, compact
from streams.connectors.jetstream.log import JetStreamLog
from streams.core.record import TopicPartition
from streams.testing.log_scenarios import append, entries_of
from tests.brokers.nats.server import NatsServer

ROOT = Path(__file__).resolve().parents[3]
WORDCOUNT = ROOT / "examples" / "wordcount.py"
PATIENCE_S = 120


def streams(url: str, folder: Path, *words: str, given: str = "", ends_well: bool = True) -> str:
    """What the command line says; it has to end well, or not."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "streams", *words, "--log", url],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode == 0) is ends_well, done.stderr
    return done.stdout + done.stderr


async def counts_of(url: str) -> list[tuple[str, int]]:
    """The messages of topic ``counts``, by a client that isn't ours."""
    connection = await client.connect(url)
    stream = connection.jetstream()
    found = []
    for seq in range(1, (await stream.stream_info("counts")).state.last_seq + 1):
        message = await stream.get_msg("counts", seq)
        assert message.headers is not None
        found.append((message.headers["Streams-Key"], int(message.data or b"")))
    await connection.close()
    return found


def lines_of(chance: random.Random, count: int) -> list[str]:
    return [" ".join(chance.choices("abcdefgh", k=6)) for _ in range(count)]


@pytest.fixture
def url(nats_own: NatsServer) -> str:
    return nats_own.url


def test_words_are_counted_exactly_though_the_store_is_lost_and_its_changelog_was_compacted(
    url: str, tmp_path: Path
) -> None:
    chance = random.Random(3)
    lines = lines_of(chance, 300)
    expected: Counter[str] = Counter()
    for turn in range(3):
        part = lines[turn * 100 : turn * 100 + 100]
        streams(url, tmp_path / "sender", "send", "lines", "-A", str(WORDCOUNT), given="\n".join(part))
        # Each worker has a folder of its own: what the former ones had stored is gone.
        said = streams(url, tmp_path / f"worker-{turn}", "worker", "-A", str(WORDCOUNT), "--until-idle")
        assert "everything is processed and committed" in said
        expected.update(word for line in part for word in line.split())
        assert asyncio.run(compacted(url)) == expected
    found = asyncio.run(counts_of(url))
    seen: Counter[str] = Counter()
    for word, count in found:
        seen[word] += 1
        assert count == seen[word], "each word is counted up by ones, in order"
    assert seen == expected


async def compacted(url: str) -> dict[str, int]:
    """The table on the log, once its changelog is compacted."""
    log = JetStreamLog(url)
    await log.open()
    try:
        topics = [name for name in await log.topics() if name.endswith(".changelog")]
        assert len(topics) == 1
        table: dict[str, int] = {}
        info = (await log.topics(topics))[topics[0]]
        for number in range(info.spec.partitions):
            at = TopicPartition(topics[0], number)
            async for _ in compact(log._api, log._topics, at, 1_900_000_000_000, Policy(min_bytes=1)):
                pass
            manifest = (await log._topics.manifest(at))[1]
            assert manifest is not None, "nothing was compacted"
            assert manifest.upto > 0
            entries = await entries_of(log, at)
            table.update({(key or b"").decode(): msgspec.msgpack.decode(value or b"") for key, value in entries})
        return table
    finally:
        await log.close()


def test_an_app_whose_stream_was_deleted_says_so_in_one_line_and_starts_over_when_it_is_told_to(
    url: str, tmp_path: Path
) -> None:
    async def delete() -> None:
        connection = await client.connect(url)
        await connection.jetstream().delete_stream("S-wordcount")
        await connection.close()

    streams(url, tmp_path, "send", "lines", "-A", str(WORDCOUNT), given="a b a")
    streams(url, tmp_path, "worker", "-A", str(WORDCOUNT), "--until-idle")
    assert asyncio.run(counts_of(url)) == [("a", 1), ("b", 1), ("a", 2)]
    asyncio.run(delete())
    said = streams(url, tmp_path, "worker", "-A", str(WORDCOUNT), "--until-idle", ends_well=False)
    lines = [line for line in said.splitlines() if "error" in line]
    assert len(lines) == 1, said
    assert "stream S-wordcount is gone" in lines[0]
    assert "streams reset" in lines[0]
    assert len(asyncio.run(counts_of(url))) == 3
    streams(url, tmp_path, "reset", "-A", str(WORDCOUNT), "--yes")
    streams(url, tmp_path, "worker", "-A", str(WORDCOUNT), "--until-idle")


def test_lag_counts_messages_and_topics_are_of_the_kind_that_they_are(url: str, tmp_path: Path) -> None:
    def lags() -> dict[tuple[str, int], int]:
        said = streams(url, tmp_path, "lag", "-A", str(WORDCOUNT), "--json")
        rows = json.loads(said.splitlines()[0])
        return {(row["topic"], row["partition"]): row["lag"] for row in rows}

    streams(url, tmp_path, "send", "lines", "-A", str(WORDCOUNT), given="a b a")
    streams(url, tmp_path, "worker", "-A", str(WORDCOUNT), "--until-idle")
    words = "wordcount.lines.by-key.repartition"
    assert lags() == {("lines", 0): 0, (words, 0): 0}
    streams(url, tmp_path, "send", "lines", "-A", str(WORDCOUNT), given="c\nd\ne")
    assert lags() == {("lines", 0): 3, (words, 0): 0}
    asyncio.run(append_block(url, words))
    assert lags() == {("lines", 0): 3, (words, 0): 1}, "of an internal topic the blocks are counted"
    shown = json.loads(streams(url, tmp_path, "topics", "--all", "--json").splitlines()[0])
    assert {each["topic"]: each["kind"] for each in shown} == {
        "lines": "user",
        "counts": "user",
        words: "repartition",
        "wordcount.lines.by-key.count.changelog": "changelog",
    }


async def append_block(url: str, topic: str) -> None:
    log = JetStreamLog(url)
    await log.open()
    await log.append([append(TopicPartition(topic, 0), b"x", b"y")])
    await log.close()
