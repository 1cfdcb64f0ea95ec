"""What only this log does: outputs above the limit of a batch, chains of blocks, snapshots; on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from streams.connectors.jetstream import compaction, writer
from streams.connectors.jetstream import reader as reading
from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.compaction import Policy
from streams.connectors.jetstream.log import JetStreamLog
from streams.connectors.jetstream.names import app_stream, log_subject, pos_subject, snapshot_subject, spill_subject
from streams.core.log import Append, Commit, TopicSpec
from streams.core.record import START, Records, TopicPartition
from streams.errors import ConfigurationError, LogCorrupt, LogUnavailable, PositionLost
from streams.testing.log_scenarios import append, entries_of, fetch, numbered, records, task_ref, values_of
from tests.brokers.nats.server import NatsServer

EAGER = Policy(min_bytes=1)
NOW_MS = 1_900_000_000_000


class Cut(Exception):
    """Stands for the death of a process."""


@asynccontextmanager
async def opened(url: str, policy: Policy = EAGER) -> AsyncGenerator[JetStreamLog]:
    log = JetStreamLog(url, compaction=policy)
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
    return unique("writing")


# ── outputs above the limit ───────────────────────────────────────────────────────────────────────────────────────────


async def topics_of(log: JetStreamLog, group: str) -> tuple[TopicPartition, TopicPartition, TopicPartition]:
    out, state = f"{group}.out", f"{group}.state"
    await log.create_topics(
        [TopicSpec(out, partitions=2), TopicSpec(state, kind="changelog", compact=True, owner=group)]
    )
    return TopicPartition(out, 0), TopicPartition(out, 1), TopicPartition(state, 0)


def test_a_commit_of_more_outputs_than_a_batch_holds_arrives_whole_and_in_order(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        first, second, state = await topics_of(log, group)
        owner = await log.fence(task_ref(1, group))
        await owner.commit(Commit(b"1", [append(first, b"before")]))
        await owner.commit(
            Commit(b"2", [append(first, *numbered(0, 2500)), append(second, *numbered(0, 1100)), append(state, b"s")])
        )
        await owner.commit(Commit(b"3", [append(first, b"after")]))
        assert await values_of(log, first) == [b"before", *numbered(0, 2500), b"after"]
        assert await values_of(log, second) == numbered(0, 1100)
        assert await values_of(log, state) == [b"s"]
        left = await Api(log._connection).subjects(app_stream(group), spill_subject(group, 1))
        assert left == [], "what was unpacked is freed"

    play(scene, nats.url)


@pytest.mark.parametrize("after", range(5))
def test_an_owner_that_dies_while_it_unpacks_is_followed_by_one_that_goes_on_there(
    nats: NatsServer, group: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(log: JetStreamLog) -> None:
        first, second, _ = await topics_of(log, group)
        owner = await log.fence(task_ref(1, group))
        sent = 0
        send = writer.JetStreamTaskWriter._send

        async def cut_off(self: writer.JetStreamTaskWriter, messages: list[writer.Message]) -> int:
            nonlocal sent
            sent += 1
            if sent > after + 1:
                raise Cut
            return await send(self, messages)

        monkeypatch.setattr(writer.JetStreamTaskWriter, "_send", cut_off)
        with pytest.raises(Cut):
            await owner.commit(Commit(b"1", [append(first, *numbered(0, 2500)), append(second, *numbered(0, 950))]))
        monkeypatch.undo()
        again = await log.fence(task_ref(1, group))
        assert again.checkpoint == b"1"
        await again.commit(Commit(b"2", [append(first, b"after")]))
        assert await values_of(log, first) == [*numbered(0, 2500), b"after"]
        assert await values_of(log, second) == numbered(0, 950)

    play(scene, nats.url)


# ── compaction ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def filled(log: JetStreamLog, group: str, turns: int) -> TopicPartition:
    """A changelog with ten keys, written over and over by a task."""
    *_, state = await topics_of(log, group)
    owner = await log.fence(task_ref(1, group))
    for turn in range(turns):
        await owner.commit(Commit(b"%d" % turn, [turn_of(state, turn)]))
    return state


def turn_of(at: TopicPartition, turn: int) -> Append:
    keys: list[bytes | None] = [b"key-%d" % number for number in range(10)]
    return Append(at, records(*[b"%d-%d" % (turn, number) for number in range(10)], keys=keys))


def last_turn(turn: int) -> list[tuple[bytes | None, bytes | None]]:
    return [(b"key-%d" % number, b"%d-%d" % (turn, number)) for number in range(10)]


async def count_of(log: JetStreamLog, group: str, subject: str) -> int:
    answer = await Api(log._connection).call(f"STREAM.INFO.{app_stream(group)}", {"subjects_filter": subject})
    return sum((answer["state"].get("subjects") or {}).values())


@pytest.mark.parametrize("cut_at", range(1, 7))
def test_compaction_that_is_cut_off_anywhere_changes_nothing_that_a_reader_sees(
    nats: NatsServer, group: str, cut_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(log: JetStreamLog) -> None:
        state = await filled(log, group, 5)
        await log.maintain(NOW_MS)
        owner = await log.fence(task_ref(1, group))
        for turn in range(5, 8):
            await owner.commit(Commit(b"%d" % turn, [turn_of(state, turn)]))
        steps = 0
        for name in ("publish", "purge"):

            async def counted(self: Api, *args: object, _real: object = getattr(Api, name), **more: object) -> object:
                nonlocal steps
                steps += 1
                if steps == cut_at:
                    raise Cut
                return await _real(self, *args, **more)  # type: ignore[operator]

            monkeypatch.setattr(Api, name, counted)
        try:
            async for _ in compaction.compact(log._api, log._topics, state, NOW_MS, EAGER):
                pass
        except Cut:
            pass
        monkeypatch.undo()
        assert dict(await entries_of(log, state)) == dict(last_turn(7))
        async for _ in compaction.compact(log._api, log._topics, state, NOW_MS, EAGER):
            pass
        for turn in range(8, 16):
            await owner.commit(Commit(b"%d" % turn, [turn_of(state, turn)]))
        async for _ in compaction.compact(log._api, log._topics, state, NOW_MS, EAGER):
            pass
        assert await entries_of(log, state) == last_turn(15)
        snapshots = await log._api.subjects(app_stream(group), snapshot_subject(group, *state, "*"))
        assert len(snapshots) == 1, "rubbish of a pass that was cut off is purged by the next one"
        assert await count_of(log, group, log_subject(group, *state)) == 1

    play(scene, nats.url)


def test_of_two_that_compact_a_partition_at_once_one_gives_way(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        state = await filled(log, group, 6)
        passes = [compaction.compact(log._api, log._topics, state, NOW_MS, EAGER) for _ in range(2)]
        while passes:
            for each in list(passes):
                if await anext(each, "over") == "over":
                    passes.remove(each)
        assert await entries_of(log, state) == last_turn(5)
        assert len(await log._api.subjects(app_stream(group), snapshot_subject(group, *state, "*"))) == 1

    play(scene, nats.url)


def test_a_reader_that_compaction_overtakes_goes_on_in_the_snapshot(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        state = await filled(log, group, 3)
        reader = log.reader({state: START})
        seen: dict[bytes | None, bytes | None] = {}
        position = START
        batch = (await fetch(reader, state))[0]  # its consumer stands at the first block now
        seen.update(zip(batch.records.keys, batch.records.values))
        position = position.advanced(0, batch.next_offset)
        owner = await log.fence(task_ref(1, group))
        for turn in range(3, 60):
            await owner.commit(Commit(b"%d" % turn, [turn_of(state, turn)]))
        await log.maintain(NOW_MS)
        for turn in range(60, 63):
            await owner.commit(Commit(b"%d" % turn, [turn_of(state, turn)]))
        end = (await log.bounds([state]))[state].end
        while not position.reached(end):
            for batch in await fetch(reader, state):
                assert all(offset >= position.offset() for offset in batch.offsets)
                position = position.advanced(0, batch.next_offset)
                seen.update(zip(batch.records.keys, batch.records.values))
        assert seen == dict(last_turn(62))
        await reader.close()

    play(scene, nats.url)


def test_blocks_that_somebody_removed_are_missed_and_not_passed_over(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        state = await filled(log, group, 5)
        last = (await log.bounds([state]))[state].end.offset() // 2**20 - 1
        await log._api.purge(app_stream(group), log_subject(group, *state), before=last)
        reader = log.reader({state: START})
        with pytest.raises(LogCorrupt, match="are gone"):
            await fetch(reader, state)
        await reader.close()

    play(scene, nats.url)


def test_a_large_snapshot_is_written_and_read_in_blocks(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        *_, state = await topics_of(log, group)
        owner = await log.fence(task_ref(1, group))
        for turn in range(3):
            keys: list[bytes | None] = [b"%06d" % number for number in range(turn * 1000, turn * 1000 + 5000)]
            values: list[bytes | None] = [b"%d" % turn + bytes(300)] * 5000
            await owner.commit(Commit(b"%d" % turn, [Append(state, Records(keys, values, [turn] * 5000))]))
        whole = dict(await entries_of(log, state))
        while True:
            before = await count_of(log, group, log_subject(group, *state))
            await log.maintain(NOW_MS)
            if before == 1:
                break
        assert await count_of(log, group, snapshot_subject(group, *state, "*")) > 4
        entries = await entries_of(log, state)
        assert len(entries) == len(whole) == 7000
        assert dict(entries) == whole

    play(scene, nats.url)


# ── upkeep, the start, and what a person has to mend ──────────────────────────────────────────────────────────────────


def test_former_checkpoints_and_outputs_that_were_taken_in_are_freed(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        first, *_ = await topics_of(log, group)
        owner = await log.fence(task_ref(1, group))
        for turn in range(20):
            await owner.commit(Commit(b"%d" % turn, [append(first, b"%d" % turn)]))
        assert await values_of(log, first) == numbered(0, 20)  # so they were taken in
        for minute in range(3):
            await log.maintain(NOW_MS + minute * 60_000)
        assert await count_of(log, group, pos_subject(group, 1)) == 1
        assert await count_of(log, group, f"S.{group}.out.>") == 0
        await owner.commit(Commit(b"20", [append(first, b"20")]))
        assert await values_of(log, first) == numbered(0, 21)
        assert (await log.fence(task_ref(1, group))).checkpoint == b"20"

    play(scene, nats.url)


def test_former_checkpoints_are_freed_while_tasks_come_and_commit(
    nats: NatsServer, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(log: JetStreamLog) -> None:
        purge, freed, coming = log._api.purge, list[str](), [101, 102, 103]

        async def purge_amid_claims(stream: str, subject: str, **which: int) -> None:
            freed.append(subject)
            if coming:  # in the midst of the walk another task moves here, and commits
                owner = await log.fence(task_ref(coming.pop(), group))
                await owner.commit(Commit(b"2"))
            await purge(stream, subject, **which)

        owners = [await log.fence(task_ref(slot, group)) for slot in range(5)]
        for owner in owners:
            await owner.commit(Commit(b"1"))
        monkeypatch.setattr(log._api, "purge", purge_amid_claims)
        await log.maintain(NOW_MS)
        assert sorted(freed) == [pos_subject(group, slot) for slot in range(5)]
        for owner in owners:
            await owner.close()
        freed.clear()
        await log.maintain(NOW_MS + 60_000)
        assert sorted(freed) == [pos_subject(group, slot) for slot in (101, 102, 103)], "those that are new"
        for slot in (*range(5), 101, 102, 103):
            assert await count_of(log, group, pos_subject(group, slot)) == 1
        freed.clear()
        await log.maintain(NOW_MS + 120_000)
        assert freed == [], "of tasks that don't commit here any more there is nothing to free, for ever"

    play(scene, nats.url)


def test_a_log_that_nobody_answers_for_is_named(unique: Callable[[str], str]) -> None:
    with pytest.raises(LogUnavailable, match=r"nats://127.0.0.1:9: can't connect"):
        asyncio.run(JetStreamLog("nats://127.0.0.1:9").open())


def test_a_server_without_jetstream_is_refused_with_what_to_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = NatsServer(tmp_path_factory.mktemp("bare"), jetstream=False)
    server.start()
    try:
        with pytest.raises(ConfigurationError, match="JetStream"):
            asyncio.run(JetStreamLog(server.url).open())
    finally:
        server.kill()


def test_a_wrong_password_is_one_clear_line_that_doesn_t_show_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = NatsServer(tmp_path_factory.mktemp("closed"), "--user", "shop", "--pass", "right")
    server.start()
    place = server.url.removeprefix("nats://")
    try:
        with pytest.raises(ConfigurationError, match="refused the login") as refused:
            asyncio.run(JetStreamLog(f"nats://shop:wrong@{place}").open())
        assert "wrong" not in str(refused.value)

        async def right() -> None:
            async with opened(f"nats://shop:right@{place}") as log:
                assert "right" not in log.url
                assert await log.topics() == {}

        asyncio.run(right())
    finally:
        server.kill()


def test_a_topic_at_its_limit_holds_nothing_up_and_loses_nothing(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        first, *_ = await topics_of(log, group)
        api, name = log._api, first.topic.replace(".", "=2E")
        config = (await api.call(f"STREAM.INFO.{name}"))["config"]
        await api.call(f"STREAM.UPDATE.{name}", {**config, "max_msgs": 5, "discard": "new"})
        owner = await log.fence(task_ref(1, group))
        await owner.commit(Commit(b"1", [append(first, *numbered(0, 20))]))
        config = (await api.call(f"STREAM.INFO.{name}"))["config"]
        await api.call(f"STREAM.UPDATE.{name}", {**config, "max_msgs": -1})
        assert await values_of(log, first) == numbered(0, 20)

    play(scene, nats.url)


def test_workers_that_start_at_once_make_one_topic_of_each_name(nats: NatsServer, group: str) -> None:
    async def run() -> None:
        specs = [TopicSpec(f"{group}.0", owner=group), TopicSpec(f"{group}.1", kind="repartition", owner=group)]
        async with opened(nats.url) as first, opened(nats.url) as second, opened(nats.url) as third:
            logs = [first, second, third]
            await asyncio.gather(*(log.create_topics(specs) for log in logs))
            known = [{spec.name: log._topics._known[spec.name].identity for spec in specs} for log in logs]
            assert known[0] == known[1] == known[2]

    asyncio.run(run())


def test_a_reader_that_retention_overtakes_says_so_and_passes_over_nothing(
    nats: NatsServer, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PULL_RECORDS", 2)

    async def scene(log: JetStreamLog) -> None:
        await log.create_topics([TopicSpec(group, retention_bytes=20_000)])
        at = TopicPartition(group, 0)
        await log.append([append(at, b"0")])
        reader = log.reader({at: START})
        await fetch(reader, at)  # what follows has room for two messages
        for number in range(1, 50):
            await log.append([append(at, b"%d" % number + bytes(2000))])
        seen = 0

        async def read_on() -> None:
            nonlocal seen
            while True:
                seen += sum(map(len, await fetch(reader, at)))

        with pytest.raises(PositionLost) as lost:
            await read_on()
        assert lost.value.position == 2 + seen
        assert lost.value.first == (await log.bounds([at]))[at].start.offset()
        await reader.close()

    play(scene, nats.url)


def test_a_topic_that_is_created_anew_takes_in_nothing_of_the_old_one(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        first, *_ = await topics_of(log, group)
        owner = await log.fence(task_ref(1, group))
        await owner.commit(Commit(b"1", [append(first, b"old")]))
        assert await values_of(log, first) == [b"old"]
        await log.delete_topics([first.topic])
        await topics_of(log, group)
        await owner.commit(Commit(b"2", [append(first, b"new")]))
        assert await values_of(log, first) == [b"new"]

    play(scene, nats.url)


def test_a_topic_that_was_cut_off_from_its_app_is_mended_and_gets_what_it_missed(nats: NatsServer, group: str) -> None:
    async def scene(log: JetStreamLog) -> None:
        first, *_ = await topics_of(log, group)
        owner = await log.fence(task_ref(1, group))
        await owner.commit(Commit(b"1", [append(first, b"1")]))
        assert await values_of(log, first) == [b"1"]
        name = first.topic.replace(".", "=2E")
        config = (await log._api.call(f"STREAM.INFO.{name}"))["config"]
        await log._api.call(f"STREAM.UPDATE.{name}", {**config, "sources": []})
        await owner.commit(Commit(b"2", [append(first, b"2")]))
        await log.maintain(NOW_MS)
        await owner.commit(Commit(b"3", [append(first, b"3")]))
        assert await values_of(log, first) == [b"1", b"2", b"3"]

    play(scene, nats.url)


def test_the_position_in_a_partition_that_gets_nothing_is_not_left_behind_by_retention(
    nats_own: NatsServer, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LOOK_S", 0.0)

    async def scene(log: JetStreamLog) -> None:
        await log.create_topics([TopicSpec(group, partitions=2, retention_bytes=20_000)])
        quiet, busy = TopicPartition(group, 0), TopicPartition(group, 1)
        await log.append([append(quiet, b"0")])
        reader = log.reader({quiet: START})
        position = START
        for batch in await fetch(reader, quiet):
            position = position.advanced(0, batch.next_offset)
        for number in range(50):
            await log.append([append(busy, b"%d" % number + bytes(2000))])
        start = (await log.bounds([quiet]))[quiet].start
        assert not position.reached(start)
        while not position.reached(start):
            for batch in await fetch(reader, quiet):
                assert len(batch) == 0
                position = position.advanced(0, batch.next_offset)
        await log.append([append(quiet, b"1")])
        nats_own.kill()  # with it the consumer of the reader: it is made anew, at its position
        nats_own.start()
        seen: list[bytes | None] = []
        while not seen:
            with suppress(LogUnavailable):
                for batch in await fetch(reader, quiet):
                    seen.extend(batch.records.values)
        assert seen == [b"1"]
        await reader.close()

    play(scene, nats_own.url)
