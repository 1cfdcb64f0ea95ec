"""Apps with edges on an embedded log: what tools say of them, what starts over, and what is refused."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streams import App
from streams.cli.load import load_app
from streams.connectors.registry import open_log
from streams.core.log import Log
from streams.core.record import TopicPartition
from streams.errors import ConfigurationError, StreamsError, TopologyChanged
from streams.runtime.clock import SystemClock
from streams.runtime.housekeeping import consumed
from streams.runtime.status import Status
from streams.runtime.worker import Worker
from streams.testing.driver import MemoryStores
from streams.testing.source_contract import values
from tests.runtime.transport import Transport

Call = Callable[..., subprocess.CompletedProcess[str]]
PATIENCE_S = 60.0
NOWHERE = "nats://user:secret@127.0.0.1:1"

RELAY = """\
from streams import App

app = App("relay", partitions=2, commit_interval="20ms", log="embedded:./data")
numbers = app.stream(app.topic("nats://user:secret@127.0.0.1:1/numbers.*", value=int), on_error="dead_letter")
numbers.to("seen")
numbers.map(lambda number: -number).to(app.topic("nats://127.0.0.1:1/negated.{key}", value=int))
"""


def work(app: App, transport: Transport, done: Callable[[Worker], bool], **settings: Any) -> dict[str, Any]:
    """Run a worker until everything is done; what was there to be said of it then."""

    async def run() -> dict[str, Any]:
        log = open_log("embedded:./data")
        await log.open()
        try:
            worker = Worker(app, log, MemoryStores(), SystemClock(), connect_edge=transport, **settings)
            status = Status(worker, 0.0)
            async with asyncio.timeout(PATIENCE_S), worker.working():
                status.working = True
                while not done(worker):
                    worker.check()
                    status.health()
                    await asyncio.sleep(0.02)
                await log.trim(consumed(worker))
                return {"health": status.health(), "tasks": status.tasks()}
        finally:
            await log.close()

    return asyncio.run(run())


def on_log(look: Callable[[Log], Any]) -> Any:
    async def run() -> Any:
        log = open_log("embedded:./data")
        await log.open()
        try:
            return await look(log)
        finally:
            await log.close()

    return asyncio.run(run())


def stored(topic: str, partition: int = 0) -> list[bytes | None]:
    found: list[bytes | None] = on_log(lambda log: values(log, TopicPartition(topic, partition)))
    return found


def error(ran: subprocess.CompletedProcess[str], status: int = 2) -> str:
    assert ran.returncode == status, ran.stderr
    [line] = ran.stderr.splitlines()
    return line


@pytest.fixture
def relay(project: Path) -> str:
    (project / "relay.py").write_text(RELAY)
    return "relay"


def test_the_tools_know_journals_and_tasks_at_edges(call: Call, relay: str) -> None:
    transport = Transport([b"1", b"x", b"3"])
    said = work(load_app(relay), transport, lambda worker: worker.caught_up and len(transport.out) == 2)
    assert said["health"].status == "ok"
    assert said["health"].tasks["relay.numbers.any.journal-0"] == "receiving"
    [ingress] = [task for task in said["tasks"] if task["task"] == "relay.numbers.any.journal-0"]
    assert (ingress["received"], ingress["lost"]) == (3, 0)
    everything = {each["topic"]: each for each in json.loads(call("topics", "-A", relay, "--all", "--json").stdout)}
    assert everything["relay.numbers.any.journal"]["kind"] == "journal"
    assert everything["relay.numbers.any.journal"]["offsets"] == 0, "what was read is trimmed"
    assert "relay.numbers.any.journal" not in call("topics", "-A", relay).stdout
    lag = {row["task"]: row for row in json.loads(call("lag", "-A", relay, "--json").stdout)}
    assert (lag["relay.numbers.any-0"]["position"], lag["relay.numbers.any-0"]["lag"]) == (3, 0)
    for picture in ("--svg", "-"), ("--mermaid",), ():
        drawn = call("topology", "-A", relay, *picture).stdout
        assert "nats://user@127.0.0.1:1/numbers.*" in drawn
        assert "numbers.any.journal" in drawn
        assert "secret" not in drawn


def test_a_message_that_does_not_decode_is_set_aside_with_its_place_in_the_journal(call: Call, relay: str) -> None:
    transport = Transport([b"1", b"x", b"3"])
    work(load_app(relay), transport, lambda worker: worker.caught_up and len(transport.out) == 2)
    [line] = call("tail", "numbers.any.dead-letters", "-A", relay, "--json").stdout.splitlines()
    letter = json.loads(line)
    assert (letter["key"], letter["value"]) == ("k", "x")
    where = {name: letter["headers"][f"streams.{name}"] for name in ("topic", "partition", "offset")}
    assert where == {"topic": "relay.numbers.any.journal", "partition": 0, "offset": 1}


def test_topics_at_an_edge_are_not_sent_to_by_hand(call: Call, relay: str) -> None:
    work(load_app(relay), Transport(), lambda worker: worker.caught_up)
    line = error(call("send", "negated.key", "5", "-A", relay))
    assert "isn't on the app's log but at nats://127.0.0.1:1/negated.{key}" in line
    assert "secret" not in error(call("send", "numbers.any", "5", "-A", relay))
    assert set(on_log(lambda log: log.topics())) & {"negated.key", "numbers.any"} == set()


def test_a_worker_whose_transport_is_not_there_says_so_in_one_line(call: Call, relay: str) -> None:
    assert "nats://127.0.0.1:1: can't connect: " in error(call("worker", "-A", relay, "-q"), status=1)


# ── starting over, and what changes ─────────────────────────────────────────────────────────────────────────────────


def test_a_reset_reads_what_is_left_of_a_journal_again(call: Call, relay: str) -> None:
    transport = Transport([b"1", b"2"])
    unread = App("relay", partitions=2)
    unread.stream(unread.topic(f"{NOWHERE}/numbers.*", value=int)).map(_fails).to("seen")
    with pytest.raises(StreamsError):
        work(unread, transport, lambda worker: False)
    assert stored("relay.numbers.any.journal") == [b"1", b"2"]
    assert call("reset", "-A", relay, "--yes").returncode == 0
    assert stored("relay.numbers.any.journal") == [b"1", b"2"]
    work(load_app(relay), transport, lambda worker: worker.caught_up and len(transport.out) == 2)
    assert transport.out == [b"-1", b"-2"]


def _fails(number: int) -> int:
    raise ValueError("not today")


def relay_with(partitions: int = 1, version: int = 1, subject: str = "numbers.*") -> App:
    app = App("relay", version=version)
    app.stream(app.topic(f"{NOWHERE}/{subject}", value=int, partitions=partitions)).to("seen")
    return app


def test_partitions_of_a_source_at_an_edge_change_by_a_reset_that_says_what_is_lost(
    call: Call, project: Path, relay: str
) -> None:
    work(relay_with(), Transport([b"1"]), lambda worker: worker.caught_up)
    with pytest.raises(TopologyChanged, match="had 1 partitions and would have 3"):
        work(relay_with(3), Transport(), lambda worker: worker.caught_up)
    (project / "relay.py").write_text(RELAY.replace('numbers.*", value=int', 'numbers.*", value=int, partitions=3'))
    ran = call("reset", "-A", relay, "--yes")
    assert ran.returncode == 0
    assert "relay.numbers.any.journal" in ran.stderr
    assert "nobody can send it again" in ran.stderr
    transport = Transport([b"7"])
    work(load_app(relay), transport, lambda worker: worker.caught_up and len(transport.out) == 1)


def test_the_journal_of_a_source_that_is_gone_is_removed_by_a_new_version_only_and_told(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work(relay_with(), Transport([b"1"]), lambda worker: worker.caught_up)
    with pytest.raises(TopologyChanged, match=r"relay\.numbers\.any\.journal is gone, with the records in it"):
        work(relay_with(subject="others.*"), Transport(), lambda worker: worker.caught_up)
    assert "relay.numbers.any.journal" in on_log(lambda log: log.topics())
    with caplog.at_level("WARNING", "streams"):
        work(relay_with(subject="others.*", version=2), Transport(), lambda worker: worker.caught_up)
    assert "relay.numbers.any.journal is gone, with the records in it that nobody read yet" in caplog.text
    assert "relay.numbers.any.journal" not in on_log(lambda log: log.topics())


def test_two_apps_on_one_log_each_have_a_journal_and_a_group_of_their_own(project: Path) -> None:
    groups: list[str] = []
    for name in ("one", "two"):
        app = App(name)
        app.stream(app.topic(f"{NOWHERE}/numbers.*", value=int)).to("seen")
        transport = Transport([b"1"])
        work(app, transport, lambda worker: worker.caught_up)
        groups += transport.groups
    assert len(set(groups)) == 2
    identity = on_log(_identity)
    assert all(group.startswith(f"{identity}.") for group in groups), "the same app on another log has another group"
    assert stored("seen") == [b"1", b"1"]


async def _identity(log: Log) -> str:
    return log.identity


def test_a_pattern_takes_in_no_journal(project: Path) -> None:
    work(relay_with(), Transport([b"1"]), lambda worker: worker.caught_up)
    app = App("other")
    app.stream(re.compile(".*(any|seen).*"), value=int).to("all")
    work(app, Transport(), lambda worker: worker.caught_up)
    assert stored("all") == [b"1"], "what is in seen, and not what is in the journal"


# ── ways to use one ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_subject_feeds_several_streams_and_a_table_from_one_journal(project: Path) -> None:
    app = App("shop", commit_interval="20ms")
    prices = app.topic(f"{NOWHERE}/prices", key=str, value=int)
    app.stream(prices).to("first")
    app.stream(prices).map(lambda price: price + 1).to("second")
    app.stream(prices).to_table(app.table("prices", key=str, value=int))
    assert len(app.build().journals) == 1
    work(app, Transport([b"1", b"2"]), lambda worker: worker.caught_up)
    assert stored("first") == [b"1", b"2"]
    assert stored("second") == [b"2", b"3"]


def test_an_agent_may_write_to_an_edge(project: Path) -> None:
    app = App("shop", commit_interval="20ms")
    alerts = app.topic(f"{NOWHERE}/alerts.{{key}}", value=int)

    @app.agent(app.topic(f"{NOWHERE}/orders", value=int), sinks=[alerts])
    async def double(events: Any) -> Any:
        async for event in events:
            yield event * 2

    transport = Transport([b"4"])
    work(app, transport, lambda worker: worker.caught_up and bool(transport.out))
    assert transport.out == [b"8"]


def test_dead_letters_may_go_to_an_edge(project: Path) -> None:
    app = App("shop", commit_interval="20ms")
    orders = app.topic(f"{NOWHERE}/orders", value=int)
    app.stream(orders, on_error="dead_letter", dead_letters=f"{NOWHERE}/failed.{{key}}").to("seen")
    transport = Transport([b"1", b"x"])
    work(app, transport, lambda worker: worker.caught_up and bool(transport.out))
    assert transport.out == [b"x"]
    assert stored("seen") == [b"1"]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (f"{NOWHERE}/a.*", f"{NOWHERE}/a.any", r"'a\.any' \('a\.\*' and 'a\.any'\) is declared on"),
        (f"{NOWHERE}/a", "nats://there/a", "on nats://user@127.0.0.1:1 and nats://there; .* label='a-2'"),
        (f"{NOWHERE}/a", "a", "on nats://user@127.0.0.1:1 and the app's own log"),
    ],
)
def test_two_addresses_of_one_name_are_refused_by_what_they_are(first: str, second: str, said: str) -> None:
    app = App("shop")
    app.topic(first, value=int)
    with pytest.raises(ConfigurationError, match=said):
        app.topic(second, value=int)


@pytest.mark.parametrize(
    "setting", [{"retention": "1h"}, {"compact": True}, {"timestamps": "append"}, {"config": {"a": 1}}]
)
def test_a_transport_is_given_no_settings_of_a_log(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(setting))} is a setting of topics on a log"):
        App("shop").topic(f"{NOWHERE}/orders", **setting)


# ── transports that don't answer ──────────────────────────────────────────────────────────────────────────────────────


def test_an_ingress_that_connects_for_too_long_is_told_and_holds_up_no_stop(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transport = Transport()
    transport.silent.clear()
    with caplog.at_level("WARNING", "streams"):
        said = work(
            relay_with(),
            transport,
            lambda worker: bool(transport.groups) and all(driver.task for driver in worker.drivers.values()),
        )
    assert said["health"].tasks["relay.numbers.any.journal-0"] == "connecting"
    assert "didn't stop within" not in caplog.text


def test_health_names_an_ingress_that_finds_nobody(project: Path) -> None:
    transport = Transport()
    transport.silent.clear()
    looks = 0

    def twice(worker: Worker) -> bool:
        nonlocal looks
        looks += bool(transport.groups)
        return looks > 3

    health = work(relay_with(), transport, twice)["health"]
    assert health.status == "stuck"
    assert any("relay.numbers.any.journal-0 has been connecting for" in line for line in health.problems)


def test_a_transport_that_hangs_in_sending_is_cut_off_at_a_stop_and_gets_it_again(
    project: Path, relay: str, caplog: pytest.LogCaptureFixture
) -> None:
    transport = Transport([b"1"])
    transport.swallows = True
    with caplog.at_level("WARNING", "streams"):
        work(load_app(relay), transport, lambda worker: bool(transport.out), shutdown_timeout_s=1.0)
    assert "didn't stop within 1 s" in caplog.text
    transport.swallows = False
    work(load_app(relay), transport, lambda worker: worker.caught_up and len(transport.out) == 2)
    assert transport.out == [b"-1", b"-1"]
