"""What a worker and ``streams doctor`` say of a power failure, by what real servers are set to."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.connectors.jetstream.durability import _Sync, describe
from streams.connectors.jetstream.log import JetStreamLog
from streams.core.telling import PowerFailure
from tests.brokers.nats.server import NatsServer
from tests.brokers.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
WORDCOUNT = ROOT / "examples" / "wordcount.py"
PATIENCE_S = 120
Start = Callable[..., NatsServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server with a configuration."""
    servers: list[NatsServer] = []

    def start_it(config: str, *options: str) -> NatsServer:
        file = tmp_path / "server.conf"
        file.write_text(config)
        servers.append(NatsServer(tmp_path / "server", "-c", str(file), *options))
        servers[-1].start()
        return servers[-1]

    yield start_it
    for each in servers:
        each.kill()


def told(url: str) -> PowerFailure:
    async def run() -> PowerFailure:
        log = JetStreamLog(url)
        await log.open()
        try:
            return await log.power_failure("wordcount")
        finally:
            await log.close()

    return asyncio.run(run())


def ran(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    around = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")}
    return subprocess.run(
        [sys.executable, "-m", "streams", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**around, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )


def test_where_it_cannot_be_read_the_default_is_assumed_and_said_to_be(start: Start, tmp_path: Path) -> None:
    server = start("debug: false\n")
    said = told(server.url)
    assert not said.safe
    assert "nats-server 2." in said.text
    assert f"at 127.0.0.1:{server.port} acknowledges before fsync" in said.text
    assert "could lose commits of up to the last 2m (sync_interval: 2m is assumed" in said.text
    assert "monitor_url=http://<server>:8222 lets us read it; replicas=1)" in said.text
    worker = ran(tmp_path, "worker", "-A", str(WORDCOUNT), "--log", server.url, "--until-idle")
    assert worker.returncode == 0, worker.stderr
    [line] = [line for line in worker.stderr.splitlines() if "power failure" in line]
    assert line == f"streams: warning: {said.text}"
    gone = told(f"{server.url}?monitor_url=http://127.0.0.1:{free_port()}")
    assert "can't be read: [Errno" in gone.text


def test_it_is_read_from_the_monitoring_port_and_a_server_that_always_syncs_loses_nothing(
    start: Start, tmp_path: Path
) -> None:
    port = free_port()
    server = start("jetstream { sync_interval: always }\n", "-m", str(port))
    url = f"{server.url}?monitor_url=http://127.0.0.1:{port}"
    said = told(url)
    assert said.safe
    assert "sync_interval: always, replicas=1" in said.text
    doctor = ran(tmp_path, "doctor", "--log", url, "--json")
    checks = {check["name"]: check for check in json.loads(doctor.stdout)}
    assert checks["power failure"] == {"name": "power failure", "result": "ok", "text": said.text}
    worker = ran(tmp_path, "worker", "-A", str(WORDCOUNT), "--log", url, "--until-idle")
    assert worker.returncode == 0, worker.stderr
    assert [line for line in worker.stderr.splitlines() if "power failure" in line] == [f"streams: {said.text}"]


def test_it_is_asked_of_the_server_where_the_account_may(start: Start, tmp_path: Path) -> None:
    server = start(
        'jetstream { sync_interval: "10s" }\n'
        "accounts {\n"
        '  SYS { users: [ {user: s, password: s} ], exports: [ {service: "$SYS.REQ.SERVER.*.VARZ"} ] }\n'
        "  A { jetstream: enabled, users: [ {user: a, password: a} ],\n"
        '      imports: [ {service: {account: SYS, subject: "$SYS.REQ.SERVER.*.VARZ"}} ] }\n'
        '  B { jetstream: enabled, users: [ {user: b, password: b, permissions: { publish: {deny: "$SYS.>"} } } ] }\n'
        "}\nsystem_account: SYS\n"
    )
    at = f"127.0.0.1:{server.port}"
    said = told(f"nats://a:a@{at}")
    assert "up to the last 10s (sync_interval: 10s, from its varz; replicas=1)" in said.text
    # A question that isn't allowed is no failure of anything else.
    assert "sync_interval: 2m is assumed" in told(f"nats://b:b@{at}").text
    doctor = ran(tmp_path, "doctor", "--log", f"nats://a:a@{at}")
    assert f"warn  power failure: {said.text}" in doctor.stdout.splitlines()
    assert doctor.returncode == 0


def test_replicas_are_named_with_what_they_cover() -> None:
    said = describe("nats-server", _Sync(False, 120_000, "its varz"), 3)
    assert "of more than one of the 3 servers, or of one while another lags," in said.text
    assert "replicas=3" in said.text
