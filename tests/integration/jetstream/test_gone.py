"""Streams that somebody deletes, makes anew or purges: one line that says what is gone and what can be done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.names import CATALOG, app_stream, log_subject, pos_subject
from streams.connectors.jetstream.writer import JetStreamTaskWriter
from streams.core.log import Commit, TopicSpec
from streams.core.record import START, Position, TopicPartition
from streams.errors import CommitUnknown, ConfigurationError, DataError, LogCorrupt, LogUnavailable, TopicRecreated
from streams.testing.log_scenarios import append, fetch, task_ref, values_of
from tests.brokers.nats.server import NatsServer

NOW_MS = 1_900_000_000_000
PATIENCE_S = 120.0


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[JetStreamLog]:
    log = JetStreamLog(url)
    await log.open()
    try:
        yield log
    finally:
        await log.close()


def play(scene: Callable[[JetStreamLog], Awaitable[None]], url: str) -> None:
    async def run() -> None:
        async with opened(url) as log:
            await scene(log)

    asyncio.run(run())


@pytest.fixture
def group(unique: Callable[[str], str]) -> str:
    return unique("gone")


async def begun(log: JetStreamLog, group: str) -> TopicPartition:
    """An app that has committed an output and some state."""
    out, state = TopicPartition(f"{group}-out", 0), TopicPartition(f"{group}.state", 0)
    await log.create_topics([TopicSpec(out.topic), TopicSpec(state.topic, kind="changelog", compact=True, owner=group)])
    owner = await log.fence(task_ref(1, group))
    await owner.commit(Commit(b"1", [append(out, b"1"), append(state, b"s")]))
    assert await values_of(log, out) == [b"1"]
    return out


async def at_last(log: JetStreamLog, at: TopicPartition) -> list[bytes | None]:
    """What a topic holds once it has noticed that the stream that it takes in is another one: that may take a while."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(LogUnavailable):
                return await values_of(log, at)


async def server_says(log: JetStreamLog, what: str, **request: object) -> None:
    await Api(log._connection).call(what, request or None)


# ── the stream of an app ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("made_anew", [False, True], ids=["deleted", "made anew"])
def test_an_app_whose_stream_is_gone_does_not_begin_again_in_silence(
    nats: NatsServer, group: str, made_anew: bool
) -> None:
    async def scene(log: JetStreamLog) -> None:
        out = await begun(log, group)
        await server_says(log, f"STREAM.DELETE.{app_stream(group)}")
        if made_anew:
            await server_says(
                log, f"STREAM.CREATE.{app_stream(group)}", name=app_stream(group), subjects=[f"S.{group}.>"]
            )
        async with opened(nats.url) as later:
            with pytest.raises(LogCorrupt, match=rf"S-{group} is .*nats stream restore.*streams reset"):
                await later.fence(task_ref(1, group))
            with pytest.raises(LogCorrupt, match=rf"S-{group} is "):
                await later.create_topics([TopicSpec(f"{group}.more", kind="repartition", owner=group)])
            # What `streams reset` does.
            assert await later.checkpoint(task_ref(1, group)) is None
            await later.forget([task_ref(1, group)])
            if made_anew:
                with pytest.raises(ConfigurationError, match=r"made by something else.*delete it"):
                    await later.fence(task_ref(1, group))
                return
            owner = await later.fence(task_ref(1, group))
            assert owner.checkpoint is None
            await owner.commit(Commit(b"1", [append(out, b"again")]))
            assert await at_last(later, out) == [b"1", b"again"]

    play(scene, nats.url)


def test_a_worker_whose_stream_is_deleted_meanwhile_stops_with_what_is_gone(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        out = await begun(log, group)
        owner = await log.fence(task_ref(1, group))
        await server_says(log, f"STREAM.DELETE.{app_stream(group)}")
        with pytest.raises((CommitUnknown, LogUnavailable)):
            await owner.commit(Commit(b"2", [append(out, b"2")]))
        with pytest.raises(LogCorrupt, match=rf"S-{group} is gone"):  # what a driver does next
            await log.fence(task_ref(1, group))

    play(scene, nats.url)


def test_a_stream_that_was_purged_is_not_taken_for_a_new_one(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        await begun(log, group)
        owner = await log.fence(task_ref(1, group))
        other = await log.fence(task_ref(2, group))
        await server_says(log, f"STREAM.PURGE.{app_stream(group)}", filter=pos_subject(group, 1))
        with pytest.raises(Exception, match="another owner"):
            await owner.commit(Commit(b"2"))
        with pytest.raises(LogCorrupt, match=r"checkpoint of task .* is gone .*purged.*streams reset"):
            await log.fence(task_ref(1, group))
        await other.commit(Commit(b"other"))
        await log.forget([task_ref(2, group)])  # `streams reset` forgets those whose checkpoints are there
        for number in (1, 2):
            assert (await log.fence(task_ref(number, group))).checkpoint is None

    play(scene, nats.url)


def test_a_reader_of_an_internal_topic_that_was_purged_says_that_its_tail_is_gone(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        await begun(log, group)
        state = TopicPartition(f"{group}.state", 0)
        end = (await log.bounds([state]))[state].end
        await server_says(log, f"STREAM.PURGE.{app_stream(group)}", filter=log_subject(group, *state))
        reader = log.reader({state: end})
        with pytest.raises(DataError, match="lost its tail or was replaced"):
            await fetch(reader, state)
        await reader.close()

    play(scene, nats.url)


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [("max_age", 3_600_000_000_000, "0"), ("max_msgs_per_subject", 1, "-1"), ("discard", "old", "new")],
)
def test_an_app_s_stream_that_would_lose_what_isn_t_read_is_refused_with_both_values(
    nats: NatsServer, group: str, setting: str, value: object, wanted: str
) -> None:
    async def scene(log: JetStreamLog) -> None:
        await begun(log, group)
        stream = await log._api.stream(app_stream(group))
        assert stream is not None
        await server_says(log, f"STREAM.UPDATE.{app_stream(group)}", **{**stream["config"], setting: value})
        with pytest.raises(
            ConfigurationError, match=rf"stream S-{group} has {setting}={value}, where .* needs {setting}={wanted}: "
        ):
            await log.fence(task_ref(1, group))

    play(scene, nats.url)


def test_a_checkpoint_that_somebody_claims_meanwhile_is_forgotten_all_the_same(
    nats: NatsServer, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_ref(1, group)

    async def scene(log: JetStreamLog) -> None:
        await begun(log, group)
        forget, others = JetStreamTaskWriter.forget, 2

        async def overtaken(writer: JetStreamTaskWriter) -> bool:
            nonlocal others
            if others:
                others -= 1
                await log.fence(task)
            return await forget(writer)

        monkeypatch.setattr(JetStreamTaskWriter, "forget", overtaken)
        await log.forget([task])
        assert await log.checkpoint(task) is None
        others = 1_000
        await (await log.fence(task)).commit(Commit(b"2"))
        with pytest.raises(LogUnavailable, match="is not forgotten: others keep claiming it"):
            await log.forget([task])

    play(scene, nats.url)


# ── the stream of a topic ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("made_anew", [False, True], ids=["deleted", "made anew"])
def test_a_reader_of_a_topic_that_is_deleted_meanwhile_says_so(nats: NatsServer, group: str, made_anew: bool) -> None:
    async def scene(log: JetStreamLog) -> None:
        at = TopicPartition(group, 0)
        await log.create_topics([TopicSpec(group)])
        await log.append([append(at, b"1")])
        reader = log.reader({at: START})
        assert await fetch(reader, at)
        async with opened(nats.url) as other:
            await other.delete_topics([group])
            if made_anew:
                await other.create_topics([TopicSpec(group)])
        kind, words = (TopicRecreated, "created again") if made_anew else (ConfigurationError, r"no topic .*create it")

        async def read_on() -> None:
            while True:
                await fetch(reader, at)

        with pytest.raises(kind, match=words):
            await read_on()
        await reader.close()

    play(scene, nats.url)


def test_what_is_written_to_a_topic_that_was_deleted_waits_for_it_and_is_told_of(
    nats: NatsServer, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(log: JetStreamLog) -> None:
        out = await begun(log, group)
        owner = await log.fence(task_ref(1, group))
        await server_says(log, f"STREAM.DELETE.{out.topic}")
        await owner.commit(Commit(b"2", [append(out, b"2")]))
        await log.maintain(NOW_MS)
        assert f"topic {out.topic} is gone; what app {group} writes to it waits" in caplog.text
        assert "create the topic again" in caplog.text
        async with opened(nats.url) as later:
            await later.create_topics([TopicSpec(out.topic)])
            owner = await later.fence(task_ref(1, group))
            await owner.commit(Commit(b"3", [append(out, b"3")]))
            assert (await values_of(later, out))[-2:] == [b"2", b"3"]

    caplog.set_level(logging.WARNING, "streams")
    play(scene, nats.url)


def test_a_position_beyond_the_end_of_a_topic_that_was_purged_and_emptied_is_kept(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        at = TopicPartition(group, 0)
        await log.create_topics([TopicSpec(group)])
        await log.append([append(at, b"1", b"2")])
        await server_says(log, f"STREAM.PURGE.{group}")
        reader = log.reader({at: Position.at(3)})  # everything was read before
        await log.append([append(at, b"3")])
        assert [batch.records.values for batch in await fetch(reader, at)] == [[b"3"]]
        await reader.close()

    play(scene, nats.url)


# ── what apps share ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_internal_topics_whose_catalog_is_gone_are_other_ones_when_they_are_made_anew(
    nats_own: NatsServer, group: str
) -> None:
    async def scene(log: JetStreamLog) -> None:
        await begun(log, group)
        topic = f"{group}.state"
        before = (await log.topics([topic]))[topic].identity
        await server_says(log, f"STREAM.DELETE.{CATALOG}")
        async with opened(nats_own.url) as later:
            assert later.identity != log.identity
            assert await later.topics([topic]) == {}
            await later.create_topics([TopicSpec(topic, kind="changelog", compact=True, owner=group)])
            assert (await later.topics([topic]))[topic].identity != before  # so the core says TopicRecreated
            assert (await later.fence(task_ref(1, group))).checkpoint == b"1"

    play(scene, nats_own.url)


@pytest.mark.parametrize("name", ["S-shop", "S-=group", "S-"])
def test_a_topic_that_is_called_as_a_stream_of_an_app_is_refused(nats: NatsServer, group: str, name: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        await log.fence(task_ref(1, "shop"))
        if name != "S-=group":  # its equals sign is escaped in the name of a stream
            with pytest.raises(ConfigurationError, match="choose a name that doesn't begin so"):
                await log.create_topics([TopicSpec(name)])
        assert await log.topics([name]) == {}
        assert not [each for each in await log.topics() if each.startswith("S-")]

    play(scene, nats.url)
